"""The old name of the command `capjax.cli.show`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("capjax.cli.show", run_name="__main__")
