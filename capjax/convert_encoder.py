"""The old name of `python -m capjax.cli.convert_encoder`."""

from capjax.cli.convert_encoder import main

if __name__ == "__main__":
    main()
