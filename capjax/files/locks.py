"""A lock between processes, by a file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_at_a_time(file: str | os.PathLike, waiting: str) -> Iterator[None]:
    """Lets one process in at a time; another one prints `waiting` and waits.

    The system frees the lock when its process ends, in whatever way.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no such locks: there, start one process at a time.
        yield
        return
    with open(file, "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(waiting, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)
