"""The old name of the command `capjax.cli.convert_tutorial`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("capjax.cli.convert_tutorial", run_name="__main__")
