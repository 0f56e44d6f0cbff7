"""Random crops and flips of training images: a pure function of the seed and the position.

A position is an image's place in the endless stream of `batches`. So what is drawn for it does not
depend on how the stream is cut into batches or spread over hosts, nor on where a run resumed.
"""

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np

from capjax.data.batches import AUGMENTATION, generator
from capjax.parts.types import Range

# Width over height of a crop, and how often one is tried, as in torchvision's RandomResizedCrop.
_RATIOS = (3 / 4, 4 / 3)
_TRIES = 10

CropArea = Annotated[float, Range(math.ulp(0.0), 1.0, "be above 0 and at most 1")]


@dataclass(frozen=True)
class Augmentation:
    """What training may do to an image; as it stands, nothing.

    Attributes:
      crop_area: least share of an image's area that a crop keeps; 1 does not crop.
      flip: whether half of the images are mirrored.

    Raises:
      ValueError: `crop_area` is not in (0, 1].
    """

    crop_area: CropArea = 1.0
    flip: bool = False

    def __post_init__(self):
        if not 0 < self.crop_area <= 1:
            raise ValueError(
                f"config.dataset.crop_area must be above 0 and at most 1, not {self.crop_area}"
            )


class View(NamedTuple):
    """What is seen of an image.

    Attributes:
      crop: (left, top, right, bottom) in pixels; None for all of it.
      flip: whether it is mirrored.
    """

    crop: tuple[int, int, int, int] | None
    flip: bool


def draw_view(
    augmentation: Augmentation, seed: int, position: int, image_size: tuple[int, int]
) -> View:
    """The crop and the flip of the image at one position.

    Args:
      augmentation: what may be done.
      seed: of the run.
      position: see `batches.BatchPlan`.
      image_size: width and height of the upright image in pixels.
    """
    random = generator(seed, AUGMENTATION, position)
    # The flip first, so that a crop, which takes more or fewer numbers, never changes it.
    flip = random.random() < 0.5
    crop = None
    if augmentation.crop_area < 1:
        crop = _draw_crop(random, image_size, augmentation.crop_area)
    return View(crop, augmentation.flip and flip)


def _draw_crop(
    random: np.random.Generator, image_size: tuple[int, int], crop_area: float
) -> tuple[int, int, int, int]:
    """A random part of an image (Szegedy et al., 2015, section 6), as torchvision draws it.

    The share of the area is uniform in [crop_area, 1] and the aspect ratio log-uniform; a part
    that does not fit is drawn again, and after the last try the crop is central.
    """
    width, height = image_size
    for _ in range(_TRIES):
        area = width * height * random.uniform(crop_area, 1)
        ratio = math.exp(random.uniform(*map(math.log, _RATIOS)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.integers(width - w + 1), random.integers(height - h + 1)
            return _box(int(left), int(top), w, h)
    return _central_crop(width, height)


def _central_crop(width: int, height: int) -> tuple[int, int, int, int]:
    """The largest part in the middle whose aspect ratio is allowed."""
    w = min(width, round(height * _RATIOS[1]))
    h = min(height, round(width / _RATIOS[0]))
    return _box((width - w) // 2, (height - h) // 2, w, h)


def _box(left: int, top: int, width: int, height: int) -> tuple[int, int, int, int]:
    return left, top, left + width, top + height
