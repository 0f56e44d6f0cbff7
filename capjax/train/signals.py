"""Graceful stops at SIGTERM and SIGINT; the same command continues the run."""

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

from capjax.parallel.deadline import deadline
from capjax.parallel.signals import at_once

T = TypeVar("T")

# EX_TEMPFAIL of sysexits.h: not an error, run the same command again.
EXIT_STATUS = 75
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(BaseException):
    """A signal stopped the run before its end; the message says at which step.

    As KeyboardInterrupt, it is no Exception, which a reader may take for a damage of its file.
    """


class Interruption:
    """Context manager that catches the first SIGTERM or SIGINT; a second one ends the process.

    Before `poll` is called, the signal raises Interrupted anywhere in the program, so all files
    written until then must tolerate that. Afterwards the program must check `requested`. Only the
    main thread of a process can catch signals; in other threads this does nothing.

    When nested, the inner one catches the signal and tells the outer one on exit.

    As long as nothing is to be saved, the process ends with EXIT_STATUS if it takes too long: a
    compilation can take minutes.

    Attributes:
      requested: True once the signal was received.
      saves: True once there is something to save, which takes as long as it takes.
    """

    def __init__(self):
        self.requested = self.saves = False
        self._deadline = deadline(self._end)
        self._polled = False
        self._before = {}

    def poll(self) -> None:
        """Makes the signal set `requested` without raising Interrupted."""
        self._polled = True

    def watch(self, items: Iterable[T]) -> Iterator[T]:
        """Yields the items; raises Interrupted before the next one once `requested` is True."""
        for item in items:
            if self.requested:
                raise Interrupted
            yield item

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                # Ignored signals stay ignored: a shell ignores SIGINT for its background jobs.
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._take)
        self._deadline.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._deadline.__exit__(*error)
        for number, handler in self._before.items():
            signal.signal(number, handler)
            # The body may have ended without checking `requested`.
            around = getattr(handler, "__self__", None)
            if self.requested and isinstance(around, Interruption):
                around.requested = True

    def _end(self, _: int) -> None:
        if not self.saves:
            os.write(2, b"stopped before there was anything to save\n")
            os._exit(EXIT_STATUS)

    def _take(self, number: int, frame: object) -> None:
        self.requested = True
        for other in self._before:
            signal.signal(other, at_once())
        # Not print: the signal may have interrupted one.
        os.write(2, f"\n{signal.Signals(number).name}: stopping; once more ends at once\n".encode())
        if not self._polled:
            raise Interrupted
