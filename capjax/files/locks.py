"""A file lock between processes, which waits."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_at_a_time(file: str | os.PathLike, waiting: str) -> Iterator[None]:
    """Holds the lock of a file; if another process holds it, prints `waiting` and waits.

    The system frees the lock when its process ends, also when it is killed.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no fcntl: start one process at a time there.
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
