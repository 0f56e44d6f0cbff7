"""A lock that one process at a time holds, by a file that names it."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager


class LockedError(RuntimeError):
    """Another process holds the lock; the message says which."""


@contextmanager
def only_one(file: str) -> Iterator[None]:
    """Holds the lock of a file, which the system frees when the process ends in whatever way.

    Raises:
      LockedError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no such locks: there, start one process at a time.
        yield
        return
    # Not truncated: until the lock is held, what it says is another's.
    with open(file, "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise LockedError(lock.read().strip() or "another process") from error
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        yield
