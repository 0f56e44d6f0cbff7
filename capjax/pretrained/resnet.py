"""ResNet's weights: files of torchvision and timm, and torchvision's ImageNet weights by name."""

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from capjax.models.resnet import ResNet
from capjax.pretrained.download import download
from capjax.pretrained.torch_files import need_torch, read_tensors
from capjax.pretrained.weights import WeightsError, check_fit, variable_shapes

_URL = "https://download.pytorch.org/models/"
# torchvision's IMAGENET1K_V2; a name ends with the start of the file's sha256.
_FILES = {
    50: "resnet50-11ad3fa6.pth",
    101: "resnet101-cd907fc2.pth",
    152: "resnet152-f82ba261.pth",
}
CACHE = "~/.cache/capjax/weights"

# What torch calls the parts of a convolution or a norm, by what flax calls them.
_PARTS = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def load_resnet(encoder: ResNet, weights: str, image_size: int) -> dict[str, Any]:
    """The variables of an encoder from a file of torchvision or timm.

    Args:
      encoder: gives the shapes.
      weights: "imagenet" for torchvision's IMAGENET1K_V2, or the path of a `.safetensors` or `.pth`
        file of the network (timm's `resnet50`, `101` and `152` have the same names), with or
        without its classifier.
      image_size: side of the images.

    Returns:
      {"params": ..., "batch_stats": ...}, NumPy.

    Raises:
      WeightsError: there are no such weights, or they are another network's.
    """
    like = variable_shapes(encoder, image_size)
    path = os.path.expanduser(imagenet_file(encoder.depth) if weights == "imagenet" else weights)
    return from_torchvision(read_tensors(path), like, path)


def from_torchvision(
    tensors: Mapping[str, np.ndarray], like: Mapping[str, Any], path: str
) -> dict[str, Any]:
    """Tensors by torchvision's names as the variables of a `ResNet`.

    Args:
      tensors: "conv1.weight", "layer1.0.bn1.running_mean", ...; `fc.*`, the classifier, and
        `num_batches_tracked` are left out.
      like: {"params": ..., "batch_stats": ...} with the leaves' shapes.
      path: of the file, for the message.

    Returns:
      {"params": ..., "batch_stats": ...}, NumPy, float32.

    Raises:
      WeightsError: a tensor is missing, misshapen or left over; it is named as in torchvision.
    """
    leaves = traverse_util.flatten_dict(dict(like))
    names = {leaf: _torch_name(*leaf[1:]) for leaf in leaves}
    given = {
        name: array
        for name, array in tensors.items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }
    wanted = {names[leaf]: _torch_shape(leaves[leaf].shape) for leaf in leaves}
    check_fit(given, wanted, path)
    found = {leaf: _to_flax(given[names[leaf]], leaves[leaf].shape) for leaf in leaves}
    return traverse_util.unflatten_dict(found)


def imagenet_file(depth: int) -> str:
    """Where torchvision's ImageNet weights lie; downloaded, whole or not at all, where missing.

    Raises:
      WeightsError: they could not be had; says what would work.
    """
    name, folder = _FILES[depth], Path(CACHE).expanduser()
    path = folder / name
    if path.is_file():
        return str(path)
    need_torch(name)  # Before 100 MB and more are fetched for nothing.
    folder.mkdir(parents=True, exist_ok=True)
    same = f"timm/resnet{depth}.tv2_in1k"
    instead = (
        "a .pth of torchvision or a .safetensors (model.safetensors of huggingface.co/"
        f"{same} holds the same weights): --config.encoder.weights=FILE.safetensors"
    )
    # Beside the place where it will lie, so that the move is within one file system.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temporary:
        found = download(_URL + name, instead, CACHE, cache_subdir=temporary)
        with open(found, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not digest.startswith(Path(name).stem.split("-")[1]):
            raise WeightsError(
                f"{_URL}{name} was downloaded, and is another file (sha256 {digest[:8]}...): "
                f"start again, or give {instead}"
            )
        os.replace(found, path)
    return str(path)


def _torch_name(module: str, part: str) -> str:
    """layer1_0_downsample_bn, mean: layer1.0.downsample.1.running_mean."""
    name = re.sub(r"^(layer\d)_(\d+)_", r"\1.\2.", module)
    name = name.replace("downsample_conv", "downsample.0").replace("downsample_bn", "downsample.1")
    return f"{name}.{_PARTS[part]}"


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of flax's [h, w, I, O], or [I, O] for a 1x1 convolution: torch's [O, I, h, w]."""
    if len(shape) == 1:
        return shape
    *sides, inputs, outputs = shape
    return (outputs, inputs, *(sides or (1, 1)))


def _to_flax(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An array of `_torch_shape(shape)` as one of that shape."""
    if array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)
    return np.ascontiguousarray(array.reshape(shape), np.float32)
