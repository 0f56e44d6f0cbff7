"""The old name of `python -m capjax.cli.export`."""

import sys

from capjax.cli.export import main

if __name__ == "__main__":
    sys.exit(main())
