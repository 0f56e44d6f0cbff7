"""ResNet's weights: files of torchvision and timm, and torchvision's ImageNet weights by name."""

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from capjax.data.resize import Resize
from capjax.models.encoders.resnet import ResNet
from capjax.pretrained import tables
from capjax.pretrained.checkpoint_folders import (
    folder_and_file,
    read_json,
    read_weights,
    weights_file,
)
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.keras.download import download
from capjax.pretrained.preprocessing_file import read_preprocessing
from capjax.pretrained.tables import CONVOLUTION, Row, Table
from capjax.pretrained.torch_files import need_torch
from capjax.pretrained.weights import variable_shapes

_URL = "https://download.pytorch.org/models/"
# torchvision's IMAGENET1K_V2; a name ends with the start of the file's sha256.
_FILES = {
    50: "resnet50-11ad3fa6.pth",
    101: "resnet101-cd907fc2.pth",
    152: "resnet152-f82ba261.pth",
}
CACHE = "~/.cache/capjax/weights"


def _norm(tensors: str, module: str) -> Table:
    """The rows of a batch norm."""
    return (
        Row(f"{tensors}.weight", f"params/{module}/scale"),
        Row(f"{tensors}.bias", f"params/{module}/bias"),
        Row(f"{tensors}.running_mean", f"batch_stats/{module}/mean"),
        Row(f"{tensors}.running_var", f"batch_stats/{module}/var"),
    )


def _convolution(tensors: str, module: str) -> Row:
    return Row(f"{tensors}.weight", f"params/{module}/kernel", CONVOLUTION)


# torchvision's names, which are timm's.
TABLE = (
    _convolution("conv1", "conv1"),
    *_norm("bn1", "bn1"),
    _convolution("layer{}.{}.conv{}", "layer{}_{}_conv{}"),
    *_norm("layer{}.{}.bn{}", "layer{}_{}_bn{}"),
    _convolution("layer{}.{}.downsample.0", "layer{}_{}_downsample_conv"),
    *_norm("layer{}.{}.downsample.1", "layer{}_{}_downsample_bn"),
)


def load_resnet(encoder: ResNet, weights: str, image_size: int) -> dict[str, Any]:
    """Reads the variables of an encoder from a file of torchvision or timm.

    Args:
      encoder: gives the shapes.
      weights: "imagenet" for torchvision's IMAGENET1K_V2; or the path of a `.safetensors` or `.pth`
        file of the network, with or without its classifier; or a folder of timm's `resnet50`, `101`
        or `152`, whose tensors have the same names, or its name on huggingface.co.
      image_size: side of the images.

    Returns:
      {"params": ..., "batch_stats": ...}, NumPy.

    Raises:
      WeightsError: there are no such weights, or they are another network's.
    """
    like = variable_shapes(encoder, image_size)
    path = os.path.expanduser(imagenet_file(encoder.depth) if weights == "imagenet" else weights)
    folder, file = folder_and_file(path, weights=True)
    path = file or weights_file(folder)
    return from_torchvision(read_weights(path), like, path)


def timm_depth(source: str) -> int | None:
    """Reads the layers of a ResNet in timm's folder, or by its name on huggingface.co.

    Returns:
      None where no config.json names a ResNet of timm.

    Raises:
      WeightsError: there is no such source, or config.json is damaged.
    """
    folder, _ = folder_and_file(source, weights=False)
    path = os.path.join(folder, "config.json")
    config = read_json(path) if os.path.isfile(path) else {}
    found = re.fullmatch(r"resnet(\d+)", str(config.get("architecture")))
    return int(found[1]) if found and int(found[1]) in _FILES else None


def timm_resize(source: str) -> Resize:
    """Reads the resizing that timm makes the squares of such a ResNet with.

    Raises:
      WeightsError: as `timm_depth`; or its preprocessing makes no squares.
    """
    folder, _ = folder_and_file(source, weights=False)
    preprocessing = read_preprocessing(folder)
    if preprocessing is None:
        raise WeightsError(f"{source}: its config.json has no pretrained_cfg, timm's preprocessing")
    return preprocessing.as_resize()


def from_torchvision(
    tensors: Mapping[str, np.ndarray], like: Mapping[str, Any], path: str
) -> dict[str, Any]:
    """Turns tensors by torchvision's names into the variables of a `ResNet`.

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
    given = {
        name: array
        for name, array in tensors.items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }
    return tables.read(TABLE, given, like, path)


def imagenet_file(depth: int) -> str:
    """Returns the file of torchvision's ImageNet weights; downloads it, whole or not at all.

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
