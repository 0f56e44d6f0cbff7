"""Whole files or none: what is written for later runs never lies half-written on disk."""

import hashlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from capjax.files.errors import DataError
from capjax.files.text import parse_json

_SUM = "sha256"

# What `mkstemp` makes of the name of one of our files.
_TEMPORARY = re.compile(r"\..+\.(json|jsonl|png|safetensors)\.[a-z0-9_]{8}")


def write_atomic(path: str | os.PathLike, content: bytes) -> None:
    """Writes `content` to `path` so that a reader sees the old file or the whole new one.

    The folder is made where it is missing. The temporary file lies in the same folder, because
    `os.replace` is atomic inside one file system only.

    Raises:
      OSError: the folder cannot be written; it has the path as its `filename`. No temporary file
        is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
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


def write_json(path: str, value: Any, indent: int | None = 1) -> None:
    """Writes JSON atomically, making its folder: readable, or with indent=None on one line."""
    text = json.dumps(value, indent=indent, ensure_ascii=False) + "\n"
    # A path that is not UTF-8 has bytes that Python keeps as half surrogates; JSON escapes them so.
    write_atomic(path, text.encode("utf-8", "backslashreplace"))


def remove_temporary(folder: str | os.PathLike) -> None:
    """Removes what a process that was killed in `write_atomic` left in a folder."""
    for path in Path(folder).glob(".*"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def write_cached(path: str | os.PathLike, content: dict[str, Any]) -> None:
    """Writes JSON values that a dataset's cache keeps, with their checksum.

    Raises:
      DataError: they cannot be written; the message says what would work.
    """
    try:
        write_atomic(path, json.dumps({**content, _SUM: _checksum(content)}).encode())
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error.strerror}; mend that, or set "
            "config.dataset.cache_dir to a folder that can be written, or to '' for none"
        ) from error


def read_cached(path: str | os.PathLike) -> dict[str, Any] | None:
    """What `write_cached` wrote; None where the file is missing, damaged or something else."""
    try:
        content = parse_json(Path(path).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.pop(_SUM, None) != _checksum(content):
        return None
    return content


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
