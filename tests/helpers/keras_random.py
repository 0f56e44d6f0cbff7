"""Random weights and batch statistics for a Keras network, and files of all of Keras's forms."""

import h5py
import numpy as np


def randomize(model, seed=0):
    """Sets all weights of a network so that its features stay of natural size."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        shapes = [weight.shape for weight in layer.get_weights()]
        if layer.name.startswith("normalization"):
            continue
        if len(shapes) == 4:
            scale, variance = rng.uniform(0.5, 1.5, (2, *shapes[0]))
            bias, mean = rng.normal(0, 0.3, (2, *shapes[0]))
            layer.set_weights([scale, bias, mean, variance])
        elif shapes:
            kernel = shapes[0]
            # A depthwise kernel, [h, w, C, 1], sees its own channel alone.
            inputs = np.prod(kernel[:2] if kernel[3:] == (1,) else kernel[:-1])
            biases = [rng.normal(0, 0.5, shape) for shape in shapes[1:]]
            layer.set_weights([rng.normal(0, np.sqrt(1 / inputs), kernel), *biases])


def write_legacy(model, path, *, whole=False):
    """A `.h5` as Keras 2 wrote it: of weights, or of a whole model."""
    from keras.src.legacy.saving import legacy_h5_format

    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights") if whole else file
        legacy_h5_format.save_weights_to_hdf5_group(group, model)
