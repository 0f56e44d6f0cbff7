"""A command as the whole work of a process: its streams, and its end."""

import contextlib
import gc
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

from capjax.cli.errors import ERROR, leave, unread
from capjax.cli.pages import use_large_pages


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Runs a command, and ends the process with its exit status.

    Closed standard streams are those of /dev/null, letters that a terminal lacks are escaped, and
    messages to a standard error that nobody reads any more are dropped.
    """
    use_large_pages()
    _open_streams()
    status: int | str | None
    try:
        status = main()
    except SystemExit as error:
        status = error.code
    except BrokenPipeError:
        status = unread()
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except OSError as error:  # Of standard output; commands report those of files.
        status = f"error: {error}"
    except Exception:
        traceback.print_exc()
        status = ERROR
    if isinstance(status, str):
        print(status, file=sys.stderr)
        status = ERROR
    leave(status)


@contextlib.contextmanager
def starting() -> Iterator[Callable[[], None]]:
    """Without garbage collection until its end, or until a call of what it gives.

    Next to nothing of what is imported, read and traced is garbage, and to find that out takes a
    sixth of the time.
    """
    gc.disable()
    try:
        yield gc.enable
    finally:
        gc.enable()


def _open_streams() -> None:
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                os.fstat(number)
                continue  # Open, and no stream of Python: pythonw.
            # The lowest free number, which a file of the run would get otherwise.
            os.open(os.devnull, os.O_RDWR)
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if isinstance(sys.stderr, io.TextIOWrapper) and sys.stderr is sys.__stderr__:
        encoding = sys.stderr.encoding
        sys.stderr = _Unbroken(sys.stderr.buffer, encoding, "backslashreplace", line_buffering=True)


class _Unbroken(io.TextIOWrapper):
    """A text stream that drops what is written once nobody reads it."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            return self._drop(len(text))

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            self._drop(0)

    def _drop(self, count: int) -> int:
        unread(self)
        return count
