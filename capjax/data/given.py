"""Images that are given in Python, one or several."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
from PIL import Image

from capjax.data.images import AnyImage, ImageError
from capjax.data.source import Example


def is_image(value: Any) -> TypeGuard[AnyImage]:
    """True for one image of `load_image`, and False for a list of them or an array [N, H, W, 3].

    Raises:
      ImageError: it is neither.
    """
    if isinstance(value, np.ndarray):
        return value.ndim < 4
    if isinstance(value, bytes | bytearray | memoryview | str | os.PathLike | Image.Image):
        return True
    if isinstance(value, Mapping) or not hasattr(value, "__getitem__"):
        raise ImageError(
            f"the images are of the type {type(value).__name__}: give a path, encoded bytes, a "
            "Pillow image or a uint8 array [H, W, 3], or a list of such"
        )
    return False


class Images:
    """A list of images as a source."""

    name = "the images given"
    fingerprint = ""

    def __init__(self, images: Sequence[Any]):
        self._images = images
        self.selection: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Example:
        return Example(self._images[index], str(index), ())
