"""SIGTERM and SIGINT end a run in good order, to be continued by the same command."""

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

# EX_TEMPFAIL of sysexits.h: nothing is wrong, run the same command again.
EXIT_STATUS = 75
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):
    """A signal ended the run before its end; the message says what was saved."""


class Interruption:
    """Catches the first SIGTERM or SIGINT while it is entered; a second one ends the process.

    Until `poll` is called the signal raises Interrupted where it finds the program, as all that is
    written until then may be cut short anywhere. From then on it is for the program to look. Only a
    process's main thread can catch signals: elsewhere this catches none.

    One within another takes the signal, and the other learns of it at its end.

    Attributes:
      requested: whether the signal has come.
    """

    def __init__(self):
        self.requested = False
        self._polled = False
        self._before = {}

    def poll(self) -> None:
        """From now on the signal sets `requested` and does nothing else."""
        self._polled = True

    def watch(self, items: Iterable[T]) -> Iterator[T]:
        """Yields the items; raises Interrupted between two of them once the signal has come."""
        for item in items:
            if self.requested:
                raise Interrupted
            yield item

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                # Ignored ones stay so: background jobs of a shell are not for its keyboard.
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
            # What it interrupted may have come to its end nevertheless.
            around = getattr(handler, "__self__", None)
            if self.requested and isinstance(around, Interruption):
                around.requested = True

    def _take(self, number: int, frame: object) -> None:
        self.requested = True
        for other in self._before:
            signal.signal(other, signal.SIG_DFL)
        # Not print: the signal may have come inside of one.
        os.write(2, f"\n{signal.Signals(number).name}: leaving; once more ends at once\n".encode())
        if not self._polled:
            raise Interrupted
