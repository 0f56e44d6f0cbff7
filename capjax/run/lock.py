"""A file lock that does not wait; the file names the process that holds it."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager


class LockedError(RuntimeError):
    """Another process holds the lock; the message names it."""


@contextmanager
def only_one(file: str) -> Iterator[None]:
    """Holds the lock of a file; the system frees it when the process ends, also when killed.

    Raises:
      LockedError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no fcntl: start one process at a time there.
        yield
        return
    # Not truncated on opening: until the lock is held, the file names another process.
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
