"""The flag --parts: imports a user's Python files and modules, which register parts."""

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable

from capjax.cli.errors import USAGE, error_in, fail

HELP = (
    "your Python file or module that registers decoders, encoders, datasets, objectives or "
    "metrics (capjax.parts), imported before anything else; can be repeated"
)


class _Unusable(ValueError):
    """A file that can't be imported; the message says why."""


def add_parts(parser: argparse.ArgumentParser) -> None:
    """Adds the flag to an argparse command line."""
    parser.add_argument("--parts", action="append", default=[], metavar="FILE_OR_MODULE", help=HELP)


def define_parts() -> None:
    """Defines the flag for an absl command line."""
    from absl import flags  # Imported here, because a served artefact needs none.

    flags.DEFINE_multi_string("parts", [], HELP)


def import_parts(names: Iterable[str]) -> None:
    """Imports files and modules named on the command line, the only place that names any.

    A file's folder, or for a module the current folder, is appended to Python's path, so that they
    can import their neighbours.

    Raises:
      SystemExit: with status 2, after one line on stderr: there is no such file or module, or it
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
                text = "there is no such module; a file must be given with its ending, .py"
            fail(f"--parts {name}: {' '.join(text.split())}", USAGE)


def _module_of(path: str) -> str:
    """The module name of a file whose folder is on Python's path."""
    name, ending = os.path.splitext(os.path.basename(path))
    if ending != ".py" or not name.isidentifier():
        raise _Unusable("must be a module, or a Python file, for example my_parts.py")
    if not os.path.isfile(path):
        raise _Unusable("there is no such file")
    spec = importlib.util.find_spec(name)
    other = spec.origin if spec else None
    if other is None or not os.path.exists(other) or not os.path.samefile(other, path):
        raise _Unusable(f"Python has another module {name!r} ({other}): rename the file")
    return name
