"""Downloads of weights, by Keras's downloader and nothing more of Keras."""

import os
from typing import Any

from capjax.pretrained.errors import WeightsError

KERAS_MODELS = "~/.keras/models"


_KERAS_FILE = "a Keras file: --config.encoder.weights=FILE.weights.h5"


def download(
    url: str, instead: str = _KERAS_FILE, place: str = KERAS_MODELS, **options: Any
) -> str:
    """Returns the path of a URL's file, which it downloads where Keras does not keep it yet.

    Args:
      url: whose last part is the file's name.
      instead: what a user can give without a download, for the messages.
      place: where a file fetched by hand goes, for the messages.
      **options: of `keras.utils.get_file`, such as `cache_subdir` and `file_hash`.

    Raises:
      WeightsError: Keras is not installed, or the download failed; says what would work.
    """
    name = url.rsplit("/", 1)[-1]
    # Keras downloads and nothing more, so that it need not start TensorFlow.
    os.environ.setdefault("KERAS_BACKEND", "jax")
    try:
        from keras.utils import get_file
    except ImportError as error:
        raise WeightsError(
            f"Keras, which downloads the ImageNet weights, is not installed: {error}. Install it "
            f"(pip install keras), or fetch {url} and give --config.encoder.weights=FILE"
        ) from error
    try:
        return get_file(name, url, **{"cache_subdir": "models", **options})
    except Exception as error:  # Keras raises bare Exception where the network fails.
        raise WeightsError(
            f"the ImageNet weights {name} could not be had: {error}. What would work: run once "
            f"with a network; or fetch {url} elsewhere and put it in {place}; or give {instead}"
        ) from error
