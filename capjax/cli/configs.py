"""Lists the shipped configs, which --config takes by name, or copies them for editing.

capjax configs
capjax configs --to my_project/configs
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence

from capjax.cli.errors import Parser, reported, unread
from capjax.cli.log import show_log
from capjax.cli.process import run_command
from capjax.config import shipped
from capjax.files.atomic import check_local


def copy_configs(to: str) -> None:
    """Copies the files of the shipped configs into a folder.

    Raises:
      FileExistsError: the folder has a file of one of these names.
      OSError: it is a URL.
    """
    check_local(to)
    for name in shipped.files():
        if os.path.lexists(place := os.path.join(to, name)):
            raise FileExistsError(f"{place} exists already: give another folder")
    os.makedirs(to, exist_ok=True)
    for name in shipped.files():
        shutil.copyfile(os.path.join(shipped.folder(), name), os.path.join(to, name))
    print(f"wrote {len(shipped.files())} files to {to}")
    if os.path.basename(os.path.abspath(to)) != "configs":
        print("To use a changed base.py, the folder must be named `configs`")


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the flags, and lists or copies; returns the exit status."""
    show_log()
    parser = Parser(
        prog="capjax configs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--to", metavar="DIR", help="copy them, and their imports, into DIR")
    arguments = parser.parse_args(argv)
    with reported():
        try:
            if arguments.to:
                copy_configs(arguments.to)
            else:
                _list()
        except BrokenPipeError:
            return unread()
    return 0


def _list() -> None:
    summaries = shipped.summaries()
    width = max(map(len, summaries))
    for name, summary in summaries.items():
        print(f"{name:{width}}  {summary}")
    sys.stdout.flush()


if __name__ == "__main__":
    run_command(main)
