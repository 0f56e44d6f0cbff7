"""MobileNetV3's weights: Keras's files, and its ImageNet weights by name."""

import os
from typing import Any

from capjax.models.encoders.mobilenet_v3 import MobileNetV3
from capjax.pretrained.keras.download import download
from capjax.pretrained.keras.files import Layers, read_keras_layers, to_variables
from capjax.pretrained.weights import WeightsError, variable_shapes

_URL = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v3/"
# By size and alpha, as keras.applications.mobilenet_v3 has them: half a download is told from a
# whole one.
_MD5 = {
    ("large", 0.75): "40af19a13ebea4e2ee0c676887f69a2e",
    ("large", 1.0): "07fb09a5933dd0c8eaafa16978110389",
    ("small", 0.75): "ebdb5cc8e0b497cd13a7c275d475c819",
    ("small", 1.0): "d3e8ec802a04aa4fc771ee12a9a9b836",
}
_CLASSIFIER = ("conv_2", "logits")


def load_mobilenet_v3(encoder: MobileNetV3, weights: str, image_size: int) -> dict[str, Any]:
    """The variables of an encoder from a Keras file.

    Args:
      encoder: gives the shapes.
      weights: "imagenet" for the weights that `keras.applications` downloads, or the path of a
        `.h5` or `.weights.h5` file of the network, with or without its classifier.
      image_size: side of the images; the weights fit all.

    Returns:
      {"params": ..., "batch_stats": ...}, NumPy.

    Raises:
      WeightsError: there are no such weights, or they are another network's.
      ValueError: there is no MobileNetV3 of the encoder's size.
    """
    like = variable_shapes(encoder, image_size)
    path = imagenet_file(encoder.size, encoder.alpha) if weights == "imagenet" else weights
    path = os.path.expanduser(path)
    return to_variables(_rename(read_keras_layers(path)), like, path)


def imagenet_file(size: str, alpha: float) -> str:
    """Where Keras keeps its ImageNet weights, without the classifier; downloaded where missing.

    Raises:
      WeightsError: there are none of this width, or the download failed; says what would work.
    """
    if (size, alpha) not in _MD5:
        alphas = sorted({alpha for _, alpha in _MD5})
        raise WeightsError(f"there are ImageNet weights for alpha {alphas}, not {alpha}")
    url = f"{_URL}weights_mobilenet_v3_{size}_224_{float(alpha)}_float_no_top_v2.h5"
    instead = "a Keras file: --config.encoder.weights=FILE.weights.h5"
    return download(url, instead, file_hash=_MD5[size, alpha])


def _rename(layers: Layers) -> Layers:
    """Layers without the classifier's, by the names of today's Keras.

    Keras 2, which wrote the ImageNet weights, called `expanded_conv_1_expand_bn`
    "expanded_conv_1/expand/BatchNorm" and `conv_1` "Conv_1".
    """
    named = {
        name.replace("/BatchNorm", "_bn").replace("/", "_").lower(): arrays
        for name, arrays in layers.items()
    }
    return {name: arrays for name, arrays in named.items() if name not in _CLASSIFIER}
