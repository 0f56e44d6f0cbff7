"""Signals that end the process at once, as a second one does and one that finds nothing to save."""

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn


def end_at_signals() -> None:
    """From now on SIGTERM and Ctrl-C end the process at once, with status 128 and their number.

    The kernel drops a signal that has no handler where the process is the first one, as in a
    container.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        # Ignored signals stay ignored: a shell ignores SIGINT for its background jobs.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)


def at_once() -> Callable[[int, FrameType | None], Any] | signal.Handlers:
    """The handler of a signal that ends the process at once, even in a compilation.

    It is the kernel's own, but where it has none, in the first process.
    """
    return _end if os.getpid() == 1 else signal.SIG_DFL


def _end(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(128 + number)
