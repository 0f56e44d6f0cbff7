"""Python files that a command line names, as FILE or as FILE:ARGUMENT."""

import runpy
from typing import Any, TypeVar

from capjax.cli.errors import error_in
from capjax.files.errors import ReportedError

T = TypeVar("T")


class PythonFileError(ReportedError, ValueError):
    """A file that does not give what it should; the message says why."""


def file_of(source: str) -> str:
    """The path in FILE or FILE:ARGUMENT."""
    return source.partition(":")[0]


def call_in_file(source: str, function: str, kind: type[T], *, like: str) -> T:
    """Runs a Python file and calls a function of it.

    Args:
      source: FILE, or FILE:ARGUMENT to pass the function an argument.
      function: the function's name.
      kind: what it must return.
      like: a file that does so, for the error.

    Raises:
      PythonFileError: the file or the function raises an error, or the function is missing or
        returns something else.
    """
    file, colon, argument = source.partition(":")
    try:
        call: Any = runpy.run_path(file).get(function)
        made = call(*([argument] if colon else [])) if call else None
    except Exception as error:  # A user's file may raise anything.
        raise PythonFileError(error_in(file, error)) from error
    if not isinstance(made, kind):
        what = f"has no {function}()" if call is None else f"returns {made!r:.80}"
        raise PythonFileError(
            f"the file must have a function {function}() that returns a {kind.__name__}, like "
            f"{like}, and this one {what}"
        )
    return made
