"""The old name of the command `capjax.cli.export`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("capjax.cli.export", run_name="__main__")
