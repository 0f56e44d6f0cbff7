"""InceptionV3's weights, Keras's."""

from collections.abc import Iterator
from typing import Any

from capjax.models.encoders.inception_v3 import InceptionV3
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.keras.download import download
from capjax.pretrained.keras.files import Layers, load_keras

_URL = (
    "https://storage.googleapis.com/tensorflow/keras-applications/inception_v3/"
    "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5"
)
# As keras.applications.inception_v3 has it: half a download is told from a whole one.
_MD5 = "bcbd6486424b2319ff4ef7d526e38f63"

# Keras creates the convolutions of a block branch by branch, and keeps them in its files by their
# distance from the output. For each kind of block: which one, by creation, comes next in a file.
_STEM = (0, 1, 2, 3, 4)
_SQUARES = (3, 1, 4, 0, 2, 5, 6)
_SHRINK_SQUARES = (1, 2, 0, 3)
_SEVENS = (4, 5, 1, 6, 2, 7, 0, 3, 8, 9)
_SHRINK_SEVENS = (2, 3, 0, 4, 1, 5)
_FORKS = (4, 1, 5, 2, 3, 6, 7, 0, 8)
_BLOCKS = (
    *(_STEM, *[_SQUARES] * 3, _SHRINK_SQUARES),
    *(*[_SEVENS] * 4, _SHRINK_SEVENS, *[_FORKS] * 2),
)


def load_inception_v3(encoder: InceptionV3, weights: str, image_size: int) -> dict[str, Any]:
    """Reads the variables of an encoder; see `load_keras`."""
    return load_keras(encoder, weights, image_size, imagenet_file, _rename)


def imagenet_file(*_: Any) -> str:
    """Returns the file of the ImageNet weights, which it downloads where it is missing.

    Raises:
      WeightsError: the download failed.
    """
    return download(_URL, file_hash=_MD5)


def _file_order() -> Iterator[int]:
    """Yields the numbers of the convolutions, by their creation, in the order of Keras's files."""
    start = 0
    for block in _BLOCKS:
        yield from (start + place for place in block)
        start += len(block)


def _rename(layers: Layers, path: str) -> Layers:
    """Layers by the names that they have in a fresh process.

    A file's names say nothing: Keras counts on where several models are built in one process, and
    itself loads by order.

    Raises:
      WeightsError: there are not as many layers as in the network.
    """
    order = list(_file_order())
    convolutions = [name for name, arrays in layers.items() if arrays[0].ndim == 4]
    norms = [name for name, arrays in layers.items() if arrays[0].ndim == 1]
    if not len(convolutions) == len(norms) == len(order):
        raise WeightsError(
            f"{path}: has {len(convolutions)} convolutions and {len(norms)} batch norms, and "
            f"InceptionV3 has {len(order)} of each"
        )
    names = {}
    for kind, found in (("conv2d", convolutions), ("batch_normalization", norms)):
        for name, number in zip(found, order, strict=True):
            names[name] = f"{kind}_{number}" if number else kind
    return {names.get(name, name): arrays for name, arrays in layers.items()}
