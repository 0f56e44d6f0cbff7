"""EfficientNet-B0's weights, Keras's."""

import re
from typing import Any

import numpy as np

from capjax.models.encoders.efficientnet_b0 import IMAGENET_MEAN, IMAGENET_STD, EfficientNetB0
from capjax.pretrained.keras.download import download
from capjax.pretrained.keras.files import Layers, load_keras

_URL = "https://storage.googleapis.com/keras-applications/efficientnetb0_notop.h5"
# As keras.applications.efficientnet has it: half a download is told from a whole one.
_MD5 = "50bc09e76180e00e4465e1a485ddc09d"


def load_efficientnet_b0(encoder: EfficientNetB0, weights: str, image_size: int) -> dict[str, Any]:
    """Reads the variables of an encoder; see `load_keras`."""
    return load_keras(encoder, weights, image_size, imagenet_file, _rename)


def imagenet_file(*_: Any) -> str:
    """Returns the file of the ImageNet weights, which it downloads where it is missing.

    Raises:
      WeightsError: the download failed.
    """
    return download(_URL, file_hash=_MD5)


def _rename(layers: Layers, _: str) -> Layers:
    """Layers with the pixels' statistics as the encoder wants them, by the encoder's name."""
    found = {}
    for name, arrays in layers.items():
        # Keras counts its layers without a name on where several models are built in one process.
        if re.fullmatch(r"normalization(_\d+)?", name):
            found["normalization"] = _statistics(*arrays[:2])
        else:
            found[name] = arrays
    return found


def _statistics(mean: np.ndarray, variance: np.ndarray) -> list[np.ndarray]:
    """Mean and variance of pixels; a third array, how many they were taken of, says nothing.

    In the ImageNet file the standard deviation stands for the variance. Keras mends that by a
    second division by its root, in a layer that no file holds and that only `weights="imagenet"`
    adds (tensorflow/tensorflow#49930), so it is known by the mean here.
    """
    is_imagenet = mean.shape == IMAGENET_MEAN.shape and np.allclose(mean, IMAGENET_MEAN, atol=1e-4)
    return [mean, variance * IMAGENET_STD if is_imagenet else variance]
