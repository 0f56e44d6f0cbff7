"""The old name of `python -m capjax.cli.show`."""

from capjax.cli.show import main

if __name__ == "__main__":
    main()
