"""The old name of `tests.helpers.kill_campaign`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("tests.helpers.kill_campaign", run_name="__main__")
