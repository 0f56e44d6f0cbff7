"""Folders of published checkpoints: a config, one of several kinds of weights, and the hub's own.

Nothing in them is executed.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import serialization, traverse_util

from capjax.files.small import read_small
from capjax.files.text import parse_json
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.torch_files import read_tensors
from capjax.pretrained.weights import blamed

CONFIGS = ("config.json", "preprocessor_config.json", "processor_config.json")
# Best first. An index names the files that the tensors are spread over.
WEIGHTS = (
    ("model.safetensors",),
    ("model.safetensors.index.json", "model-*.safetensors"),
    ("flax_model.msgpack",),
    ("pytorch_model.bin",),
    ("pytorch_model.bin.index.json", "pytorch_model-*.bin"),
)


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """Reads the object in a JSON file.

    Raises:
      WeightsError: there is no such file, or it holds something else.
    """
    try:
        found = parse_json(read_small(path))
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such file; a checkpoint's folder has one") from error
    except OSError as error:
        raise WeightsError(f"{path}: can't be read: {error.strerror}") from error
    except ValueError as error:
        raise WeightsError(f"{path}: is no JSON file, or a damaged one: {error}") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{path}: should hold a JSON object, and holds {type(found).__name__}")
    return found


def weights_file(folder: str | os.PathLike) -> str:
    """Returns the file of a folder's weights, or the index of several; the best of several kinds.

    Raises:
      WeightsError: it has none.
    """
    for name, *_ in WEIGHTS:
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            return path
    raise WeightsError(f"{folder}: has no weights: none of {', '.join(w[0] for w in WEIGHTS)}")


def read_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the tensors of a file, or of all files that an index names, as torch lays them out.

    Args:
      path: `.safetensors`, `.bin`, `.pt`, `.pth`, `.msgpack` (of Flax) or `.index.json`.

    Raises:
      WeightsError: a file is missing, damaged or something else.
    """
    path = os.fspath(path)
    if path.endswith(".index.json"):
        return _read_sharded(path)
    if path.endswith(".msgpack"):
        return _read_msgpack(path)
    return read_tensors(path)


def _read_sharded(path: str) -> dict[str, np.ndarray]:
    where = read_json(path).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(n, str) for n in where.values()):
        raise WeightsError(f"{path}: has no weight_map, which says where each tensor is")
    tensors: dict[str, np.ndarray] = {}
    for name in sorted(set(where.values())):
        # A name that leaves the folder would read what is no part of the checkpoint.
        if os.path.basename(name) != name:
            raise WeightsError(f"{path}: names {name!r}, which is not beside it")
        tensors |= read_tensors(os.path.join(os.path.dirname(path), name))
    missing = sorted(where.keys() - tensors.keys())
    if missing:
        raise WeightsError(f"{path}: names {missing[0]}, which {where[missing[0]]} does not have")
    return tensors


def _read_msgpack(path: str) -> dict[str, np.ndarray]:
    if not os.path.isfile(path):
        raise WeightsError(f"{path}: no such weights file")
    with blamed(path, "is no msgpack file of Flax, or a damaged one"):
        tree = serialization.msgpack_restore(Path(path).read_bytes())
        flat = traverse_util.flatten_dict(tree, sep="/")
        if not all(isinstance(array, np.ndarray) for array in flat.values()):
            raise WeightsError(f"{path}: holds more than named arrays")
        return as_torch(flat)


def as_torch(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays named and laid out by Flax, as torch has them: "a/b/kernel" becomes "a.b.weight".

    Attention's kernels may have an axis of heads: [in, heads, out], or [heads, in, out] for "out".
    """
    found = {}
    for name, array in arrays.items():
        *at, last = name.split("/")
        if last == "kernel" and array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)
        elif last == "kernel" and array.ndim >= 2:
            outputs = array.shape[-1] if at[-1:] == ["out"] else np.prod(array.shape[1:])
            array = array.reshape(-1, outputs).T
        elif last == "bias":
            array = array.reshape(-1)
        last = "weight" if last in ("kernel", "scale", "embedding") else last
        found[".".join([*at, last])] = array
    return found


def is_hub_name(source: str) -> bool:
    """Whether it looks like "organisation/name"."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source) is not None


def folder_and_file(
    source: str | os.PathLike, *, weights: bool, files: Sequence[str] = CONFIGS
) -> tuple[str, str | None]:
    """Returns the folder of a source, and the file of weights in it that it names, if it names one.

    Args:
      source: a folder, a file in one, or a name on huggingface.co, "organisation/name".
      weights: as of `download_folder`.
      files: as of `download_folder`.

    Raises:
      WeightsError: there is no such source, or it could not be had.
    """
    source = os.path.expanduser(os.fspath(source))
    if os.path.isdir(source):
        return source, None
    if os.path.isfile(source):
        return os.path.dirname(source), source
    if not os.path.exists(source) and is_hub_name(source):
        return download_folder(source, weights=weights, files=files), None
    raise WeightsError(
        f"{source}: no such weights file or folder, and no name of huggingface.co, which has the "
        "form organisation/name"
    )


def download_folder(name: str, *, weights: bool, files: Sequence[str] = CONFIGS) -> str:
    """Returns the folder of a checkpoint of huggingface.co; fetches what is missing.

    Args:
      name: "organisation/name".
      weights: whether its weights are needed, too, of which one kind is fetched.
      files: its other files, those of them that it has.

    Raises:
      WeightsError: huggingface_hub is not installed, or the download failed, or it has no weights;
        says what would work.
    """
    instead = (
        f"download huggingface.co/{name} elsewhere (config.json, preprocessor_config.json and "
        "model.safetensors) and give its folder in place of the name"
    )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise WeightsError(
            f"huggingface_hub, which downloads {name}, is not installed: {error}. Install it (pip "
            f"install huggingface_hub), or {instead}"
        ) from error
    try:
        for kind in WEIGHTS if weights else ((),):
            folder = snapshot_download(name, allow_patterns=[*files, *kind])
            if kind and os.path.isfile(os.path.join(folder, kind[0])):
                break
    except Exception as error:  # Its HTTP library's kinds, and its own.
        raise WeightsError(
            f"{name}: is no file or folder here, and could not be had from huggingface.co: {error}."
            f" What would work: run once with a network; or {instead}"
        ) from error
    return folder
