"""Variables of a module as one safetensors file, and their fingerprint."""

import hashlib
import os
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from flax import traverse_util

from capjax.files.atomic import write_atomic
from capjax.pretrained.weights import check_names

# KeyError and AttributeError are of types and nestings that no file of `save_variables` has.
_UNREADABLE = (safetensors.SafetensorError, KeyError, TypeError, AttributeError, ValueError)


# Of the metadata: the fingerprint of what was written.
_SUM = "fingerprint"


def _flat(variables: Any) -> dict[str, Any]:
    return traverse_util.flatten_dict(dict(variables), sep="/")


def save_variables(path: str | os.PathLike, variables: Any) -> None:
    """Writes a tree of arrays atomically, by names such as "params/encoder/Conv1/kernel"."""
    arrays = {name: np.ascontiguousarray(leaf) for name, leaf in _flat(variables).items()}
    write_atomic(path, safetensors.numpy.save(arrays, {_SUM: fingerprint(variables)}))


def load_variables(path: str | os.PathLike) -> dict[str, Any]:
    """Reads what `save_variables` wrote, as NumPy arrays.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is damaged.
    """
    try:
        check_names(path)
        with safetensors.safe_open(path, "numpy") as file:
            written = (file.metadata() or {}).get(_SUM)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        variables = traverse_util.unflatten_dict(arrays, sep="/")
        if written not in (None, fingerprint(variables)):  # Earlier versions wrote none.
            raise ValueError("its values are not those that were written")
        return variables
    except _UNREADABLE as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error


def fingerprint(variables: Any) -> str:
    """Hex sha256 of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, leaf in sorted(_flat(jax.tree.map(np.asarray, dict(variables))).items()):
        digest.update(f"{name} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf))
    return digest.hexdigest()
