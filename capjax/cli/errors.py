"""Errors reported without a traceback, and how a command ends."""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from typing import NoReturn

from capjax.files.errors import ReportedError
from capjax.parts.registry import PartError

# Exit statuses beside 0: something went wrong, and the command line itself is wrong.
ERROR, USAGE = 1, 2
# What a command can't go on with, each said in one line.
ERRORS = (ReportedError, PartError, OSError)


def fail(message: str, status: int = ERROR) -> NoReturn:
    """Ends the program with `error: ...` on stderr."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


@contextlib.contextmanager
def reported(*more: type[Exception]) -> Iterator[None]:
    """Ends the program with `error: ...` where one of `ERRORS`, or of `more`, is raised."""
    errors: tuple[type[Exception], ...] = (*ERRORS, *more)
    try:
        yield
    except errors as error:
        # A text as status: of several processes, an error of one ends all, see `processes`.
        sys.exit(f"error: {error}")


def leave(status: int | None) -> NoReturn:
    """Ends the program with a status; 128+N is that of signal N."""
    if status and status > 128:
        # Python's own end waits for threads, and one may be in the middle of a download.
        os._exit(status)
    sys.exit(status)


def unread() -> int:
    """The exit status where nobody reads standard output any more, which is closed here."""
    # Python would try once more at its end, and complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE


def error_in(file: str, error: Exception) -> str:
    """An error of a user's Python file and its line; of a ValueError, an answer, its text alone."""
    text = str(error)
    if not isinstance(error, ValueError):
        text = f"{type(error).__name__}: {text}"
    frames = traceback.extract_tb(error.__traceback__)
    same = os.path.abspath(file)
    lines = [frame.lineno for frame in frames if os.path.abspath(frame.filename) == same]
    return f"{text} (line {lines[-1]})" if lines else text
