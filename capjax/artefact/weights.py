"""The weights of an artefact: their types on disk, and the program's way back to the model's."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from capjax.artefact.choices import Weights

# Names of the scales of int8 tensors.
_SCALE = ":scale"


def store(tensors: Mapping[str, np.ndarray], kind: Weights) -> dict[str, np.ndarray]:
    """Makes the tensors that are stored of the model's, by name.

    Those that are not float32, and with "int8" also vectors, stay as they are. "int8" has a float32
    scale for each channel, so that its largest number is 127: a channel is an index of the last
    axis, and of an embedding a row.
    """
    stored: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        tensor = np.asarray(tensor, order="C")
        if tensor.dtype == np.float32 and kind == "bfloat16":
            stored[name] = tensor.astype(ml_dtypes.bfloat16)
        elif tensor.dtype == np.float32 and kind == "int8" and tensor.ndim > 1:
            channel = 0 if name.endswith("embedding") else tensor.ndim - 1
            others = tuple(axis for axis in range(tensor.ndim) if axis != channel)
            scale = np.abs(tensor).max(axis=others, keepdims=True) / np.float32(127)
            scale = np.where(scale > 0, scale, np.float32(1))
            stored[name] = np.rint(tensor / scale).astype(np.int8)
            stored[name + _SCALE] = scale
        else:
            stored[name] = tensor
    return stored


def restore(stored: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The model's tensors, in a traced program: the inverse of `store`, but for what it rounds."""
    return {
        name: _restore(tensor, stored.get(name + _SCALE))
        for name, tensor in stored.items()
        if not name.endswith(_SCALE)
    }


def _restore(tensor: jax.Array, scale: jax.Array | None) -> jax.Array:
    if scale is not None:
        return tensor.astype(jnp.float32) * scale
    return tensor.astype(jnp.float32) if tensor.dtype == jnp.bfloat16 else tensor
