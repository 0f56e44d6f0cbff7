"""`python -m capjax` is the command `capjax`."""

from capjax.cli.app import main

if __name__ == "__main__":
    main()
