"""Small files of a folder that anybody may have made: settings and tokenizers."""

import errno
import os
import stat

# Of settings: JSON takes twenty times its length in memory, and the longest have 1 MB.
MOST_SETTINGS = 16 * 2**20
# Of a tokenizer; the largest published ones have 35 MB.
MOST_TOKENIZER = 64 * 2**20


def read_small(path: str | os.PathLike, most: int = MOST_SETTINGS) -> bytes:
    """Reads a file whole; raises OSError where it can't be read, and as `check_small`."""
    check_small(path, most)
    with open(path, "rb") as file:
        return file.read()


def check_small(path: str | os.PathLike, most: int) -> None:
    """Raises OSError for more than `most` bytes, and for pipes and devices, which may not end."""
    path = os.fspath(path)
    status = os.stat(path)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise OSError(errno.EINVAL, "a pipe, socket or device, and no file", path)
    if status.st_size > most:
        raise OSError(errno.EFBIG, f"{status.st_size} bytes are more than the {most} taken", path)
