"""Locks between processes, each a file; the system frees one however its process ends."""

import errno
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from filelock import FileLock, Timeout, lock_descriptor

_logger = logging.getLogger(__name__)

# Errors of a platform or file system without locks: there, start one process at a time.
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


@contextmanager
def one_at_a_time(file: str | os.PathLike, waiting: str) -> Iterator[None]:
    """Holds the lock of a file; if another process holds it, logs `waiting` and waits."""
    try:
        held = acquire(file, timeout=0)
    except Timeout:
        _logger.info(waiting)
        held = acquire(file)
    with held:
        yield


def lock_open_file(descriptor: int) -> bool:
    """Locks an open file until it is closed; False if another process holds its lock."""
    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return True


def acquire(
    file: str | os.PathLike,
    *,
    timeout: float = -1,
    on_acquired: Callable[[int], None] | None = None,
) -> AbstractContextManager:
    """Acquires the lock of a file; the context manager returned releases it.

    Args:
      file: created where it is missing; its content is kept.
      timeout: seconds to wait; -1 is for ever.
      on_acquired: called with the file's descriptor when the lock is held.

    Raises:
      filelock.Timeout: another process holds the lock for longer.
    """
    # Without a soft lock, whose file outlives a killed process.
    lock = FileLock(file, fallback_to_soft=False, on_acquired=on_acquired)
    try:
        return lock.acquire(timeout=timeout)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return nullcontext()
