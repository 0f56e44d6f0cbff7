"""Keras's InceptionV3 with random weights, and its layers by the order of their creation."""

import numpy as np


def random_inception(keras, seed=0):
    """Of any image size; weights and batch statistics random, so that features stay near 1."""
    model = keras.applications.InceptionV3(
        weights=None, include_top=False, input_shape=(None, None, 3)
    )
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        weights = layer.get_weights()
        if len(weights) == 1:
            shape = weights[0].shape
            layer.set_weights([rng.normal(0, np.sqrt(2 / np.prod(shape[:3])), shape)])
        elif len(weights) == 3:
            shape = weights[0].shape
            beta, mean = rng.normal(0, 0.3, (2, *shape))
            layer.set_weights([beta, mean, rng.uniform(0.5, 1.5, shape)])
    return model


def layers_by_creation(model):
    """conv2d, conv2d_1, ... of a fresh process: this model's layers."""
    found = {}
    for kind in ("conv2d", "batch_normalization"):
        layers = [layer for layer in model.layers if layer.name.startswith(kind)]
        # Later models of a process count on, so the first of a model may have any number.
        layers.sort(key=lambda layer: int(layer.name[len(kind) + 1 :] or 0))
        found |= {f"{kind}_{i}" if i else kind: layer for i, layer in enumerate(layers)}
    return found
