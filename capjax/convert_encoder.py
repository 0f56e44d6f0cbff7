"""The old name of the command `capjax.cli.convert_encoder`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("capjax.cli.convert_encoder", run_name="__main__")
