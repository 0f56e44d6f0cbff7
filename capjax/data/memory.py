"""A bound on memory that several threads share."""

import contextlib
import threading
from collections.abc import Iterator


class Memory:
    """A number of bytes; a thread that asks for more than are left waits for the others.

    A thread must not ask again while it holds some, since all could wait for each other.

    Attributes:
      total: the number.
    """

    def __init__(self, total: int):
        self.total = total
        self._held = 0
        self._freed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, count: int) -> Iterator[None]:
        """Holds `count` bytes, at most `total`, in the body."""
        with self._freed:
            self._freed.wait_for(lambda: self._held + count <= self.total)
            self._held += count
        try:
            yield
        finally:
            with self._freed:
                self._held -= count
                self._freed.notify_all()
