"""Weights of Keras applications, read from Keras's own files as plain arrays.

Two formats: `.weights.h5` of Keras 3, and the legacy `.h5` that `weights="imagenet"` downloads.
Both are HDF5 with arrays only; nothing in them is executed.
"""

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import h5py
import numpy as np
from flax import linen as nn
from flax import traverse_util

from capjax.pretrained.weights import (
    WeightsError,
    blamed,
    check_claim,
    check_fit,
    variable_shapes,
)

# Keras compresses nothing; a file that someone packed again may be somewhat smaller.
_MOST_COMPRESSED = 4

_TAKES = "this encoder takes 'imagenet', or Keras's .h5 or .weights.h5"

# The arrays of each layer that has any, by the layer's name.
Layers = dict[str, list[np.ndarray]]


def load_keras(
    encoder: nn.Module,
    weights: str,
    image_size: int,
    imagenet_file: Callable[[Any, int], str],
    rename: Callable[[Layers, str], Layers] = lambda layers, _: layers,
) -> dict[str, Any]:
    """Reads the variables of an encoder from a Keras file.

    Args:
      encoder: gives the shapes.
      weights: "imagenet" for the weights that `keras.applications` downloads, or the path of a
        `.h5` or `.weights.h5` file of the network, with or without its classifier.
      image_size: side of the images; the weights fit all.
      imagenet_file: from the encoder and the side of the images to the file of its ImageNet
        weights, which it downloads where it is missing.
      rename: gives the layers of a file, whose path it takes, too, the names of the encoder's.

    Returns:
      {"params": ..., "batch_stats": ...}, NumPy.

    Raises:
      WeightsError: there are no such weights, or they are another network's.
      ValueError: the images do not suit the encoder, or its fields are of no network.
    """
    like = variable_shapes(encoder, image_size)
    path = imagenet_file(encoder, image_size) if weights == "imagenet" else weights
    path = os.path.expanduser(path)
    return to_variables(rename(read_keras_layers(path), path), like, path)


def read_keras_layers(path: str | os.PathLike) -> Layers:
    """Reads the arrays of each layer that has any, by the layer's name, in Keras's order.

    Layers of one kind come in the order of the model's `layers`, by which Keras itself loads them.

    Raises:
      WeightsError: there is no such file, or it is none of Keras's, or it does not name its layers.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise WeightsError(f"{path}: no such weights file; {_TAKES}")
    if not path.endswith((".h5", ".hdf5")):
        raise WeightsError(f"{path}: is no file of Keras's weights; {_TAKES}")
    what = (
        "is no HDF5 file of Keras, or a damaged one; if it was downloaded, delete it and start "
        "again"
    )
    with blamed(path, what), h5py.File(path, "r") as file:
        _check_links(file)
        if "layer_names" in file.attrs:
            layers = _read_legacy(file)
        elif "model_weights" in file:  # A whole model, saved as .h5.
            layers = _read_legacy(file["model_weights"])
        elif "layers" in file:
            layers = _read_keras_3(file["layers"], path)
        else:
            raise WeightsError(
                f"{path}: HDF5, but no Keras weights; it has {', '.join(file) or 'nothing'}"
            )
    return {name: arrays for name, arrays in layers.items() if arrays}


def _check_links(file: h5py.File) -> None:
    """Raises WeightsError for a link by path, which may lead to another file."""

    def is_path(name: str, link: Any) -> str | None:
        return None if isinstance(link, h5py.HardLink) else name

    if name := file.visititems_links(is_path):
        raise WeightsError(f"{file.filename}: {name} lies in another file, which is not read")


def _read_legacy(group: h5py.Group) -> Layers:
    arrays = _Arrays(group.file)

    def text(name) -> str:
        return name.decode() if isinstance(name, bytes) else str(name)

    return {
        text(layer): [
            arrays.read(group[text(layer)][text(weight)])
            for weight in group[text(layer)].attrs["weight_names"]
        ]
        for layer in group.attrs["layer_names"]
    }


def _read_keras_3(layers: h5py.Group, path: str) -> Layers:
    def place(group: str) -> tuple[str, int]:
        """Groups are numbered by kind: conv2d, conv2d_1, ..., conv2d_10."""
        kind, number = re.fullmatch(r"(.*?)(?:_(\d+))?", group).groups()
        return kind, int(number or 0)

    found, arrays = {}, _Arrays(layers.file)
    for group in sorted(layers, key=place):
        variables = layers[group]["vars"]
        if not len(variables):
            continue
        name = variables.attrs.get("name")
        if name is None:
            raise WeightsError(
                f"{path}: was saved by a Keras 3 that does not name layers in weights files. "
                "Load it into its model and save_weights again with a newer Keras"
            )
        found[name] = [arrays.read(variables[key]) for key in sorted(variables, key=int)]
    return found


class _Arrays:
    """Reads the numbers of a file's datasets, as long as they are no more than it can hold."""

    def __init__(self, file: h5py.File):
        self._file, self._claimed = file, 0

    def read(self, dataset: h5py.Dataset) -> np.ndarray:
        path = self._file.filename
        if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "fiu":
            raise WeightsError(f"{path}: {dataset.name} holds no numbers")
        if dataset.external or dataset.is_virtual:
            raise WeightsError(f"{path}: {dataset.name} lies in another file, which is not read")
        # A dataset that was never written has any size, and no bytes; a chunk is unpacked whole;
        # and many names may be of one dataset.
        size = max(dataset.size, math.prod(dataset.chunks or ()))
        self._claimed += size * dataset.dtype.itemsize
        check_claim(self._claimed, path, _MOST_COMPRESSED)
        return np.asarray(dataset)


def to_variables(layers: Layers, like: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Puts layers into the variables of a module whose submodules have Keras's names.

    Args:
      layers: from `read_keras_layers`.
      like: {"params": ..., "batch_stats": ...} with the leaves' shapes.
      path: of the file, for the message.

    Raises:
      WeightsError: a layer is missing, misshapen or left over.
    """
    wanted = traverse_util.flatten_dict(dict(like), sep="/")
    given: dict[str, np.ndarray] = {}
    for name, arrays in layers.items():
        if name != "predictions":  # A classifier on top is no part of an encoder.
            given.update(_name_arrays(name, arrays))
    found = {
        name: _to_flax_kernel(array, wanted[name].ndim) if name in wanted else array
        for name, array in given.items()
    }
    check_fit(found, {name: leaf.shape for name, leaf in wanted.items()}, path)
    found = {name: np.asarray(array, np.float32) for name, array in found.items()}
    return traverse_util.unflatten_dict(found, sep="/")


def _name_arrays(layer: str, arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of one Keras layer by the names that flax gives them."""
    if arrays[0].ndim == 1:  # Batch norm: gamma, beta, moving mean, moving variance.
        names = ("params/{}/scale", "params/{}/bias", "batch_stats/{}/mean", "batch_stats/{}/var")
        # With scale=False there is no gamma, and a normalization of pixels has no beta, either.
        names = names[max(0, 4 - len(arrays)) :]
    else:
        names = ("params/{}/kernel", "params/{}/bias")
    if len(arrays) > len(names):
        raise WeightsError(f"layer {layer} has {len(arrays)} arrays and not {len(names)} at most")
    return {name.format(layer): array for name, array in zip(names, arrays, strict=False)}


def _to_flax_kernel(array: np.ndarray, axes: int) -> np.ndarray:
    """Keras's kernels as flax has them.

    A depthwise one, [h, w, C, 1], becomes [h, w, 1, C]; a 1x1 one for a module with a matrix,
    [1, 1, I, O], becomes [I, O].
    """
    if array.ndim == 4 and axes == 2 and array.shape[:2] == (1, 1):
        return array[0, 0]
    depthwise = array.ndim == 4 and array.shape[3] == 1 and array.shape[2] > 1
    return array.transpose(0, 1, 3, 2) if depthwise else array
