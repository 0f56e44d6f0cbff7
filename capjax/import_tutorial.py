"""The old name of `python -m capjax.cli.import_tutorial`."""

from capjax.cli.import_tutorial import main

if __name__ == "__main__":
    main()
