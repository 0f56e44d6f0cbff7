"""MobileNetV3's weights, Keras's."""

from typing import Any

from capjax.models.encoders.mobilenet_v3 import MobileNetV3
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.keras.download import download
from capjax.pretrained.keras.files import Layers, load_keras

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
    """Reads the variables of an encoder; see `load_keras`."""
    return load_keras(encoder, weights, image_size, imagenet_file, _rename)


def imagenet_file(encoder: MobileNetV3, _: int = 0) -> str:
    """Returns the file of ImageNet weights of the encoder's size and width.

    Raises:
      WeightsError: there are none of this width, or the download failed.
    """
    size, alpha = encoder.size, encoder.alpha
    if (size, alpha) not in _MD5:
        alphas = sorted({alpha for _, alpha in _MD5})
        raise WeightsError(f"there are ImageNet weights for alpha {alphas}, not {alpha}")
    name = f"weights_mobilenet_v3_{size}_224_{float(alpha)}_float_no_top_v2.h5"
    return download(_URL + name, file_hash=_MD5[size, alpha])


def _rename(layers: Layers, _: str) -> Layers:
    """Layers without the classifier's, by the names of today's Keras.

    Keras 2, which wrote the ImageNet weights, called `expanded_conv_1_expand_bn`
    "expanded_conv_1/expand/BatchNorm" and `conv_1` "Conv_1".
    """
    named = {
        name.replace("/BatchNorm", "_bn").replace("/", "_").lower(): arrays
        for name, arrays in layers.items()
    }
    return {name: arrays for name, arrays in named.items() if name not in _CLASSIFIER}
