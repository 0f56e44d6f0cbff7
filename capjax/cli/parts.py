"""--parts: a user's own Python files and modules, whose parts are known by name once imported."""

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable

from absl import flags

from capjax.cli.errors import USAGE, error_in, fail

HELP = (
    "Python file or module of yours, imported before anything else: it registers decoders, "
    "encoders, datasets, objectives or metrics of your own (capjax.parts); may be given again"
)


class _Unusable(ValueError):
    """The message says why a file can't be imported."""


def add_parts(parser: argparse.ArgumentParser) -> None:
    """Adds the flag to an argparse command line."""
    parser.add_argument("--parts", action="append", default=[], metavar="FILE_OR_MODULE", help=HELP)


def define_parts() -> None:
    """Defines the flag of absl."""
    flags.DEFINE_multi_string("parts", [], HELP)


def import_parts(names: Iterable[str]) -> None:
    """Imports files and modules that the user names on the command line; nothing else names any.

    Their folder, which for a module is the current one, is added to the end of Python's path, so
    that they find their neighbours.

    Raises:
      SystemExit: of status 2, after one line on stderr: there is no such file or module, or it
        raises an error.
    """
    for name in names:
        is_file = name.endswith(".py") or os.path.basename(name) != name
        folder = os.path.dirname(os.path.abspath(name)) if is_file else os.getcwd()
        if folder not in sys.path:
            sys.path.append(folder)
        try:
            module = _module_of(name) if is_file else name
            importlib.import_module(module)
        except Exception as error:  # A user's file may raise anything.
            text = error_in(name, error)
            if isinstance(error, ModuleNotFoundError) and error.name == name:
                text = "there is no such module; a file is given with its ending, .py"
            fail(f"--parts {name}: {' '.join(text.split())}", USAGE)


def _module_of(path: str) -> str:
    """The name under which Python finds a file whose folder is on its path."""
    name, ending = os.path.splitext(os.path.basename(path))
    if ending != ".py" or not name.isidentifier():
        raise _Unusable("must be a module, or a Python file such as my_parts.py")
    if not os.path.isfile(path):
        raise _Unusable("there is no such file")
    spec = importlib.util.find_spec(name)
    other = spec.origin if spec else None
    if other is None or not os.path.exists(other) or not os.path.samefile(other, path):
        raise _Unusable(f"Python has another module {name!r} ({other}): rename the file")
    return name
