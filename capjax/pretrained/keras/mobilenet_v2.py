"""MobileNetV2's weights: Keras's files, and its ImageNet weights by name."""

import os
from typing import Any

from capjax.models.encoders.mobilenet_v2 import MobileNetV2
from capjax.pretrained.keras.download import download
from capjax.pretrained.keras.files import read_keras_layers, to_variables
from capjax.pretrained.weights import WeightsError, variable_shapes

# keras.applications.mobilenet_v2 has weights for these alone.
_URL = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
_ALPHAS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
_SIZES = (96, 128, 160, 192, 224)


def load_mobilenet_v2(encoder: MobileNetV2, weights: str, image_size: int) -> dict[str, Any]:
    """The variables of an encoder from a Keras file.

    Args:
      encoder: gives the shapes.
      weights: "imagenet" for the weights that `keras.applications` downloads, or the path of a
        `.h5` or `.weights.h5` file of the network, with or without its classifier.
      image_size: side of the images; ImageNet weights of the nearest training size are taken.

    Returns:
      {"params": ..., "batch_stats": ...}, NumPy.

    Raises:
      WeightsError: there are no such weights, or they are another network's.
    """
    path = imagenet_file(encoder.alpha, image_size) if weights == "imagenet" else weights
    path = os.path.expanduser(path)
    like = variable_shapes(encoder, 32)
    return to_variables(read_keras_layers(path), like, path)


def imagenet_file(alpha: float, image_size: int) -> str:
    """Where Keras keeps its ImageNet weights, without the classifier; downloaded where missing.

    Raises:
      WeightsError: there are none of this width, or the download failed; says what would work.
    """
    if alpha not in _ALPHAS:
        raise WeightsError(f"there are ImageNet weights for alpha {_ALPHAS}, not {alpha}")
    size = min(_SIZES, key=lambda side: abs(side - image_size))
    name = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{float(alpha)}_{size}_no_top.h5"
    return download(_URL + name, "a Keras file: --config.encoder.weights=FILE.weights.h5")
