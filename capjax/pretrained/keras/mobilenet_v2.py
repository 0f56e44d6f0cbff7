"""MobileNetV2's weights, Keras's."""

from typing import Any

from capjax.models.encoders.mobilenet_v2 import MobileNetV2
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.keras.download import download
from capjax.pretrained.keras.files import load_keras

# keras.applications.mobilenet_v2 has weights for these alone.
_URL = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
_ALPHAS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
_SIZES = (96, 128, 160, 192, 224)


def load_mobilenet_v2(encoder: MobileNetV2, weights: str, image_size: int) -> dict[str, Any]:
    """Reads the variables of an encoder; see `load_keras`."""
    return load_keras(encoder, weights, image_size, imagenet_file)


def imagenet_file(encoder: MobileNetV2, image_size: int) -> str:
    """Returns the file of ImageNet weights of the encoder's width and of the nearest training size.

    Raises:
      WeightsError: there are none of this width, or the download failed.
    """
    if encoder.alpha not in _ALPHAS:
        raise WeightsError(f"there are ImageNet weights for alpha {_ALPHAS}, not {encoder.alpha}")
    size = min(_SIZES, key=lambda side: abs(side - image_size))
    alpha = float(encoder.alpha)
    return download(
        f"{_URL}mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{alpha}_{size}_no_top.h5"
    )
