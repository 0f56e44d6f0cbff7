"""The old name of `python -m capjax.cli.export`."""

from capjax.cli.export import main

if __name__ == "__main__":
    main()
