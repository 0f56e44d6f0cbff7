"""Random crops and flips of training images: a pure function of the seed and the position.

The position is that of an image in the endless stream of `batches`. So the draw depends neither on
the batch size and the number of hosts, nor on the step at which a run resumed.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from capjax.data.batches import AUGMENTATION, generator
from capjax.parts.types import PositiveShare

# Width over height of a crop, and the number of tries, as in torchvision's RandomResizedCrop.
_RATIOS = (3 / 4, 4 / 3)
_TRIES = 10


@dataclass(frozen=True)
class Augmentation:
    """Random crops and flips; by default none.

    Attributes:
      crop_area: least share of an image's area in a crop; 1 does not crop.
      flip: whether half of the images are flipped left to right.

    Raises:
      ValueError: `crop_area` is not in (0, 1].
    """

    crop_area: PositiveShare = 1.0
    flip: bool = False

    def __post_init__(self):
        if not 0 < self.crop_area <= 1:
            raise ValueError(
                f"config.dataset.crop_area must be above 0 and at most 1, not {self.crop_area}"
            )


class View(NamedTuple):
    """The crop and flip of an image.

    Attributes:
      crop: (left, top, right, bottom) in pixels; None for the whole image.
      flip: whether it is flipped left to right.
    """

    crop: tuple[int, int, int, int] | None
    flip: bool


def draw_view(
    augmentation: Augmentation, seed: int, position: int, image_size: tuple[int, int]
) -> View:
    """Draws the crop and flip of the image at one position.

    Args:
      augmentation: the allowed crops and flips.
      seed: of the run.
      position: see `batches.BatchPlan`.
      image_size: width and height of the upright image in pixels.
    """
    random = generator(seed, AUGMENTATION, position)
    # Before the crop, which draws a varying number of random numbers.
    flip = random.random() < 0.5
    crop = None
    if augmentation.crop_area < 1:
        crop = _draw_crop(random, image_size, augmentation.crop_area)
    return View(crop, augmentation.flip and flip)


def _draw_crop(
    random: np.random.Generator, image_size: tuple[int, int], crop_area: float
) -> tuple[int, int, int, int]:
    """Draws a random crop (Szegedy et al., 2015, section 6), as torchvision does.

    The share of the area is uniform in [crop_area, 1] and the aspect ratio log-uniform; a crop
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
    """The largest central crop with an allowed aspect ratio."""
    w = min(width, round(height * _RATIOS[1]))
    h = min(height, round(width / _RATIOS[0]))
    return _box((width - w) // 2, (height - h) // 2, w, h)


def _box(left: int, top: int, width: int, height: int) -> tuple[int, int, int, int]:
    return left, top, left + width, top + height
