"""The old name of `python -m capjax.cli.show`."""

import sys

from capjax.cli.show import main

if __name__ == "__main__":
    sys.exit(main())
