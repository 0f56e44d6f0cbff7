"""Large arrays of a dataset's cache as safetensors files, each with a description and a checksum.

The library that reads weights would hold each array three times to write it, and twice to read it.
Here they are written and read as they are; the library checks what a file says of itself.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors

from capjax.files.atomic import write_cache
from capjax.files.text import parse_json

_DTYPES: dict[str, np.dtype] = {
    "U8": np.dtype(np.uint8),
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
# Of names, shapes and the description; a longer header is no file of ours.
_MOST_HEADER = 2**20


def write_arrays(
    path: str | os.PathLike, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Writes a file atomically.

    Args:
      path: of a `.safetensors` file.
      about: a description, JSON values of less than 1 MB.
      arrays: contiguous, [n] each, of uint8, int32 or int64.

    Raises:
      DataError: the file cannot be written; the message says what would work.
    """
    text = json.dumps(about)
    metadata = {"about": text, "sha256": _checksum(text, arrays)}
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, array in sorted(arrays.items()):
        begin, end = end, end + array.nbytes
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": array.shape,
            "data_offsets": [begin, end],
        }
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)
    data = (array.data for _, array in sorted(arrays.items()))
    write_cache(path, len(content).to_bytes(8, "little"), content, *data)


def read_arrays(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Reads a file of `write_arrays`; None if it is missing, damaged or another file.

    Returns:
      The description and the arrays by name.
    """
    # A pipe may never end.
    if not os.path.isfile(path):
        return None
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _MOST_HEADER:
                return None
            with safetensors.safe_open(path, "numpy") as opened:
                metadata = opened.metadata() or {}
                # By name, which is the order of `write_arrays`; of another, the checksum differs.
                parts = [(name, opened.get_slice(name)) for name in sorted(opened.keys())]
            file.seek(8 + length)
            arrays = {}
            for name, part in parts:
                (count,) = part.get_shape()
                arrays[name] = np.fromfile(file, _DTYPES[part.get_dtype()], count)
        about = parse_json(metadata["about"])
        same = metadata["sha256"] == _checksum(metadata["about"], arrays)
        return (about, arrays) if same and isinstance(about, dict) else None
    # KeyError: other types or metadata. ValueError: other axes, or no JSON.
    except (OSError, KeyError, ValueError, safetensors.SafetensorError):
        return None


def _checksum(about: str, arrays: Mapping[str, np.ndarray]) -> str:
    """Hex sha256 of the description and of the arrays' names, types and values."""
    digest = hashlib.sha256(about.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"\n{name} {array.dtype} {len(array)} ".encode())
        digest.update(array.data)
    return digest.hexdigest()
