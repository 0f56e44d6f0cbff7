"""The variables of any encoder that has other people's weights."""

import importlib
import os
from typing import Any

from flax import linen as nn
from flax import traverse_util

from capjax.models.encoders.vit import ViT
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.saved import read_about, read_saved
from capjax.pretrained.weights import check_finite, check_variables, variable_shapes


def load_encoder(encoder: nn.Module, weights: str, image_size: int) -> dict[str, Any]:
    """Reads the variables of any encoder with published weights.

    Args:
      encoder: gives the shapes; the attribute `loader` of its class names what reads the files,
        "module:function".
      weights: "imagenet", or the path of a file: Keras's `.h5` or `.weights.h5`; for a ResNet
        `.safetensors` or torch's `.pth`, or timm's folder or name on huggingface.co; for a ViT a
        source of `capjax.pretrained.vit`; for each the file that `capjax convert` wrote.
      image_size: side of the images.

    Returns:
      {"params": ..., "batch_stats": ...}, NumPy; a ViT has no "batch_stats".

    Raises:
      WeightsError: there are no such weights, or they do not fit.
    """
    if not getattr(encoder, "loader", ""):
        raise WeightsError(f"{weights}: a {type(encoder).__name__} has no published weights")
    about = read_about(os.path.expanduser(weights))
    if about is None or isinstance(encoder, ViT):
        module, name = encoder.loader.split(":")
        load = getattr(importlib.import_module(module), name)
        variables = load(encoder, weights, image_size)
    else:
        variables = read_saved(os.path.expanduser(weights))
        check_variables(variables, variable_shapes(encoder, image_size), weights)
    # Again, since a user's own loader need not have checked.
    check_finite(traverse_util.flatten_dict(variables, sep="/"), weights)
    return variables
