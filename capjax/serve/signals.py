"""The end by a signal where nothing is to be answered: before the server is ready, or once more."""

import os
import signal
from types import FrameType
from typing import NoReturn


def end_at_signals() -> None:
    """From now on SIGTERM and Ctrl-C end the process at once, with status 128 and their number.

    The kernel drops a signal that has no handler where the process is the first one, as in a
    container.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        # Ignored signals stay ignored: a shell ignores SIGINT for its background jobs.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(128 + number)
