"""Errors reported without a traceback, and the exit of a command."""

import argparse
import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from typing import NoReturn, TextIO

from capjax.files.errors import ReportedError

# Exit statuses: an error, and a wrong command line.
ERROR, USAGE = 1, 2
# Errors reported without a traceback.
ERRORS = (ReportedError, OSError)


def fail(message: str, status: int = ERROR) -> NoReturn:
    """Ends the program with `error: ...` on stderr."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


class Parser(argparse.ArgumentParser):
    """A command line whose errors are one line, without the usage of all flags before it."""

    def error(self, message: str) -> NoReturn:
        """Ends the program with status 2."""
        fail(f"{message}; see {self.prog} --help", USAGE)


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Ends the program with `error: ...` if one of `ERRORS` is raised."""
    try:
        yield
    except BrokenPipeError:  # The reader's choice, and no error.
        raise
    except ERRORS as error:
        # The text is the status, so that `processes` can pass it on to the other processes.
        sys.exit(f"error: {error}")


def leave(status: int | None) -> NoReturn:
    """Ends the program with a status; 128+N means signal N."""
    if status == ERROR or (status and status > 128):
        # sys.exit waits for threads, and one may be in the middle of a download, or wait in vain
        # for another that could not be started.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # A full disk, of which the error was.
                stream.flush()
        os._exit(status)
    sys.exit(status)


def unread(stream: TextIO | None = None) -> int:
    """Discards what else is written to a broken pipe, standard output; returns the exit status."""
    # Otherwise Python flushes it again at exit and prints an error.
    os.dup2(os.open(os.devnull, os.O_WRONLY), (stream or sys.stdout).fileno())
    return 128 + signal.SIGPIPE


def error_in(file: str, error: Exception) -> str:
    """Message of an error in a user's file, with its line, and its type unless ValueError."""
    text = str(error)
    if not isinstance(error, ValueError):
        text = f"{type(error).__name__}: {text}"
    frames = traceback.extract_tb(error.__traceback__)
    same = os.path.abspath(file)
    lines = [frame.lineno for frame in frames if os.path.abspath(frame.filename) == same]
    return f"{text} (line {lines[-1]})" if lines else text
