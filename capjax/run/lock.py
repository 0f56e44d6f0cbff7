"""A file lock that does not wait; the file names the process that holds it."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import Timeout

from capjax.files.locks import acquire


class LockedError(RuntimeError):
    """Another process holds the lock; the message names it."""


@contextmanager
def only_one(file: str) -> Iterator[None]:
    """Holds the lock of a file; the system frees it when the process ends, also when killed.

    Raises:
      LockedError: another process holds it.
    """
    try:
        held = acquire(file, timeout=0, on_acquired=_write_holder)
    except Timeout as error:
        raise LockedError(_read_holder(file) or "another process") from error
    with held:
        yield


def _write_holder(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())


def _read_holder(file: str) -> str:
    try:
        with open(file, encoding="utf-8") as lock:
            return lock.read().strip()
    except OSError:  # Windows lets no other process read a locked file.
        return ""
