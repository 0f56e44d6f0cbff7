"""Keras's networks with random weights, files of all of Keras's forms, its downloader replaced."""

import sys
import types

import h5py
import numpy as np


def randomize(model, seed=0):
    """Sets weights and batch statistics of a network so that its features stay of natural size."""
    rng = np.random.default_rng(seed)
    # Of InceptionV3's norms none scales.
    gain = 2 if model.name.startswith("inception") else 1
    for layer in model.layers:
        shapes = [weight.shape for weight in layer.get_weights()]
        if layer.name.startswith("normalization"):
            continue
        if len(shapes) > 2:  # A batch norm, with or without a scale.
            scale, variance = rng.uniform(0.5, 1.5, (2, *shapes[0]))
            bias, mean = rng.normal(0, 0.3, (2, *shapes[0]))
            layer.set_weights([scale, bias, mean, variance][-len(shapes) :])
        elif shapes:
            kernel = shapes[0]
            # A depthwise kernel, [h, w, C, 1], sees its own channel alone.
            inputs = np.prod(kernel[:2] if kernel[3:] == (1,) else kernel[:-1])
            biases = [rng.normal(0, 0.5, shape) for shape in shapes[1:]]
            layer.set_weights([rng.normal(0, np.sqrt(gain / inputs), kernel), *biases])


def normalization_of(model):
    """EfficientNet's layer of the pixels' statistics."""
    return next(layer for layer in model.layers if layer.name.startswith("normalization"))


def layers_of(model):
    """Every layer with weights by our name, which is Keras's in nearly all cases."""
    layers = [layer for layer in model.layers if layer.get_weights()]
    # Not by the model's name, which a model without its classifier does not inherit.
    if "mixed10" not in {layer.name for layer in model.layers}:
        # Keras numbers the normalization, and applies the activation of a squeeze-and-excite layer
        # of EfficientNet within it.
        names = {x: x.name for x in layers if "_se_" not in x.name}
        return {
            "normalization" if name.startswith("normalization") else name: x
            for x, name in names.items()
        }
    found = {}
    for kind in ("conv2d", "batch_normalization"):
        own = [layer for layer in layers if layer.name.startswith(kind)]
        # Later models of a process count on, so the first of a model may have any number.
        own.sort(key=lambda layer: int(layer.name[len(kind) + 1 :] or 0))
        found |= {f"{kind}_{i}" if i else kind: layer for i, layer in enumerate(own)}
    return found


def write_legacy(model, path, *, whole=False):
    """A `.h5` as Keras 2 wrote it: of weights, or of a whole model."""
    from keras.src.legacy.saving import legacy_h5_format

    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights") if whole else file
        legacy_h5_format.save_weights_to_hdf5_group(group, model)


def fake_keras(monkeypatch, get_file):
    """Puts `get_file` in the place of keras.utils.get_file."""
    utils = types.ModuleType("keras.utils")
    utils.get_file = get_file
    monkeypatch.setitem(sys.modules, "keras.utils", utils)


def requests(monkeypatch, load, kerass, build):
    """What our loader and Keras's own builder ask of the downloader.

    `kerass` is the module of keras.src.applications, `build` builds its network by the name
    "imagenet".
    """
    asked = []

    def get_file(name, origin, **options):
        asked.append((name, origin, options))
        return f"/models/{name}"

    fake_keras(monkeypatch, get_file)
    load()
    monkeypatch.setattr(kerass.file_utils, "get_file", get_file)
    nothing = types.SimpleNamespace(load_weights=lambda _: None)
    monkeypatch.setattr(kerass, "Functional", lambda *_, **__: nothing)
    build()
    return asked
