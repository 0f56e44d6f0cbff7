"""A weights file as Keras 3 writes it, for a MobileNetV2 of a third of the width."""

import h5py
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from capjax.models.encoders.mobilenet_v2 import MobileNetV2

ALPHA = 0.35


def write_small_weights(path):
    """Random weights whose features are of natural size."""
    rng = np.random.default_rng(0)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.uint8)
    like = jax.eval_shape(
        lambda x: MobileNetV2(ALPHA).init(jax.random.key(0), x, train=False), images
    )
    layers = {}
    for (_, layer, name), leaf in traverse_util.flatten_dict(like).items():
        layers.setdefault(layer, {})[name] = leaf.shape
    with h5py.File(path, "w") as file:
        for number, (layer, shapes) in enumerate(layers.items()):
            variables = file.create_group(f"layers/layer_{number}/vars")
            variables.attrs["name"] = layer
            for place, array in enumerate(_arrays(shapes, rng)):
                variables[str(place)] = array.astype(np.float32)


def _arrays(shapes, rng):
    if "kernel" not in shapes:
        size = shapes["scale"]
        return [
            rng.uniform(0.8, 1.2, size),
            rng.normal(0, 0.1, size),
            rng.normal(0, 0.1, size),
            rng.uniform(0.8, 1.2, size),
        ]
    shape = shapes["kernel"]
    if len(shape) == 2:
        shape = (1, 1, *shape)
    kernel = rng.normal(0, np.sqrt(2 / np.prod(shape[:3])), shape)
    depthwise = shape[2] == 1
    return [kernel.transpose(0, 1, 3, 2) if depthwise else kernel]
