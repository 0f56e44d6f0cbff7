"""The old name of the command `capjax.cli.import_tutorial`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("capjax.cli.import_tutorial", run_name="__main__")
