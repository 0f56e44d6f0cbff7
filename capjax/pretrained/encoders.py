"""The variables of any encoder that has other people's weights."""

import os
from typing import Any

import numpy as np
from flax import linen as nn
from flax import traverse_util

from capjax.models.encoders.efficientnet_b0 import EfficientNetB0
from capjax.models.encoders.inception_v3 import InceptionV3
from capjax.models.encoders.mobilenet_v2 import MobileNetV2
from capjax.models.encoders.mobilenet_v3 import MobileNetV3
from capjax.models.encoders.resnet import ResNet
from capjax.models.encoders.vit import ViT
from capjax.pretrained.keras.efficientnet import load_efficientnet_b0
from capjax.pretrained.keras.inception_v3 import load_inception_v3
from capjax.pretrained.keras.mobilenet_v2 import load_mobilenet_v2
from capjax.pretrained.keras.mobilenet_v3 import load_mobilenet_v3
from capjax.pretrained.resnet import load_resnet
from capjax.pretrained.saved import read_about, read_saved
from capjax.pretrained.vit.read import load_vit
from capjax.pretrained.weights import WeightsError, check_variables, variable_shapes

_LOADERS = {
    EfficientNetB0: load_efficientnet_b0,
    InceptionV3: load_inception_v3,
    MobileNetV2: load_mobilenet_v2,
    MobileNetV3: load_mobilenet_v3,
    ResNet: load_resnet,
    ViT: load_vit,
}


def load_encoder(encoder: nn.Module, weights: str, image_size: int) -> dict[str, Any]:
    """The variables of any encoder with published weights.

    Args:
      encoder: gives the shapes, and by its class the kind of file.
      weights: "imagenet", or the path of a file: Keras's `.h5` or `.weights.h5`; for a ResNet
        `.safetensors` or torch's `.pth`, or timm's folder or name on huggingface.co; for a ViT a
        source of `capjax.pretrained.vit`; for each the file that `capjax.convert_encoder` wrote.
      image_size: side of the images.

    Returns:
      {"params": ..., "batch_stats": ...}, NumPy; a ViT has no "batch_stats".

    Raises:
      WeightsError: there are no such weights, or they do not fit.
    """
    about = read_about(os.path.expanduser(weights))
    if about is None or isinstance(encoder, ViT):
        with np.errstate(over="ignore"):  # What is beyond float32 is refused below.
            variables = _LOADERS[type(encoder)](encoder, weights, image_size)
    else:
        variables = read_saved(os.path.expanduser(weights))
        check_variables(variables, variable_shapes(encoder, image_size), weights)
    for name, leaf in traverse_util.flatten_dict(variables, sep="/").items():
        if not np.isfinite(leaf).all():
            raise WeightsError(
                f"{weights}: {name} has numbers that are not finite; fetch the file again"
            )
    return variables
