"""Guards a workdir while it is trained in: one process at a time, and clear errors of its disk."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from capjax.files.atomic import remove_temporary
from capjax.run.workdir import WorkdirError, path
from capjax.train.checkpoint import CheckpointError

_LOCK = "lock"
# Of a disk, whichever file met them.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


@contextmanager
def training_in(directory: str) -> Iterator[None]:
    """Makes the workdir and keeps other processes from training in it.

    Raises:
      WorkdirError: another process trains in it, or it, or what is written while this lasts, can't
        be read or written.
    """
    try:
        os.makedirs(directory, exist_ok=True)
        with _only_one(directory):
            for folder in (directory, path(directory, "figures")):
                remove_temporary(folder)
            yield
    except CheckpointError as error:
        raise WorkdirError(str(error)) from error
    except OSError as error:
        # Errors of other files are other people's to explain.
        if not _is_inside(error.filename, directory) and error.errno not in _DISK:
            raise
        raise WorkdirError(
            f"{error.filename or directory} can't be read or written: {error.strerror}. When that "
            "is mended, the same command continues from the last checkpoint"
        ) from error


def _is_inside(file: str | os.PathLike | int | None, directory: str) -> bool:
    if not isinstance(file, str | os.PathLike):
        return False
    folder = os.path.abspath(directory)
    return os.path.commonpath([os.path.abspath(file), folder]) == folder


@contextmanager
def _only_one(directory: str) -> Iterator[None]:
    """Holds a lock, which the system frees when the process ends in whatever way."""
    try:
        import fcntl
    except ImportError:  # Windows has no such locks: there, start one process at a time.
        yield
        return
    # Not truncated: until the lock is held, what it says is another's.
    with open(path(directory, _LOCK), "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise WorkdirError(
                f"{lock.read().strip() or 'another process'} trains in {directory}: wait for it, "
                "or give another --workdir"
            ) from error
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        yield
