"""Atomic writes: a file on disk is either the old one or the whole new one."""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from capjax.files.errors import DataError
from capjax.files.text import parse_json

_SUM = "sha256"

# Names of temporary files that `mkstemp` makes in `write_atomic`.
_TEMPORARY = re.compile(r"\..+\.(json|jsonl|png|safetensors)\.[a-z0-9_]{8}")


def write_atomic(path: str | os.PathLike, *content: bytes | memoryview) -> None:
    """Writes `content` to `path` so that a reader sees the old file or the whole new one.

    Several parts are written one after the other, so that nobody joins them in memory. The folder
    is made where it is missing. The temporary file lies in the same folder, because `os.replace` is
    atomic inside one file system only.

    Raises:
      OSError: the folder cannot be written, or is not of this machine's file systems; `filename` is
        the path. No temporary file is left.
    """
    check_local(path)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files for the owner alone; a shared cache is read by others.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


def check_local(path: str | os.PathLike) -> None:
    """Raises OSError for a URL, such as gs://bucket/run, of which a local folder would be made."""
    if re.match(r"[a-z][a-z0-9+.-]*://", os.fspath(path), re.IGNORECASE):
        text = "a URL, and files are written to local folders only: copy them there afterwards"
        raise OSError(errno.EINVAL, text, os.fspath(path))


def write_json(path: str, value: Any, indent: int | None = 1) -> None:
    """Writes JSON atomically and makes its folder; indent=None writes one line."""
    text = json.dumps(value, indent=indent, ensure_ascii=False) + "\n"
    # Python keeps the bytes of a path that is not UTF-8 as lone surrogates, which JSON escapes.
    write_atomic(path, text.encode("utf-8", "backslashreplace"))


def remove_temporary(folder: str | os.PathLike) -> None:
    """Removes temporary files that a process killed in `write_atomic` left in a folder."""
    for path in Path(folder).glob(".*"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def write_cached(path: str | os.PathLike, content: dict[str, Any]) -> None:
    """Writes a file of a dataset's cache: JSON values with their checksum.

    Raises:
      DataError: the file cannot be written; the message says what would work.
    """
    write_cache(path, json.dumps({**content, _SUM: _checksum(content)}).encode())


def write_cache(path: str | os.PathLike, *content: bytes | memoryview) -> None:
    """`write_atomic` of a file of a dataset's cache; raises as `write_cached`."""
    try:
        write_atomic(path, *content)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error.strerror}; fix that, or set "
            "config.dataset.cache_dir to a writable folder, or to '' for none"
        ) from error


def read_cached(path: str | os.PathLike) -> dict[str, Any] | None:
    """Reads a file of `write_cached`; None if it is missing, damaged or another file."""
    try:
        content = parse_json(Path(path).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.pop(_SUM, None) != _checksum(content):
        return None
    return content


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def remove_busy(folder: str) -> None:
    """Removes a folder to which threads of a failed write may still be adding files.

    Raises:
      OSError: it can't be removed, or files were added for five seconds.
    """
    for _ in range(50):
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            if not os.path.exists(folder):
                return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            time.sleep(0.1)
        else:
            return
    shutil.rmtree(folder)
