"""Resizing of images to a model's input, exact to the level."""

import dataclasses
import math
from typing import TYPE_CHECKING, Literal, get_args

from capjax.parts.types import Side, SideOrZero

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

# Most pixels of a resized image before its crop.
_MOST_RESIZED = 2**24

Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]

# Left, top, right, bottom.
Box = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Resize:
    """Resizes an image of any size to the square input of an encoder.

    By default the whole image is resized to the square, whatever its aspect ratio, as in the common
    captioning tutorials.

    Attributes:
      size: side of the square in pixels, H = W.
      resize_to: side in pixels before the central square of `size` is cropped; 0 is `size`.
      keep_aspect: whether only the shorter edge is resized to `resize_to`; otherwise both are.
      interpolation: the filter.
      antialias: whether the filter widens when downscaling, as in Pillow and torchvision, but not
        by default in TensorFlow. Must be True for other filters than "bilinear".
      round_crop: whether half of an odd margin is rounded half to even, as in torchvision;
        otherwise down, as in `transformers`.

    Raises:
      ValueError: a field is out of range.
    """

    size: Side
    resize_to: SideOrZero = 0
    keep_aspect: bool = False
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    round_crop: bool = False

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"size must be at least 1 pixel, not {self.size}")
        if self.resize_to and self.resize_to < self.size:
            raise ValueError(
                f"resize_to={self.resize_to} must be 0, or at least the {self.size} pixels of the "
                "crop"
            )
        allowed = get_args(Interpolation) if self.antialias else ("bilinear",)
        if self.interpolation not in allowed:
            without = "" if self.antialias else " without antialias"
            raise ValueError(
                f"interpolation={self.interpolation!r}{without}; it must be "
                f"{', '.join(map(repr, allowed))}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the pixels, (H, W, 3)."""
        return self.size, self.size, 3

    def place(self, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """An image's size (width, height) after resizing, and the (left, top) of the crop in it."""
        side = self.resize_to or self.size
        if not self.keep_aspect:
            resized = side, side
        elif width <= height:
            resized = side, int(side * height / width)
        else:
            resized = int(side * width / height), side
        halve = round if self.round_crop else int
        left, top = (halve((edge - self.size) / 2) for edge in resized)
        return resized, (left, top)

    def box(self, width: int, height: int) -> Box:
        """The part that the crop keeps, in the image's pixels."""
        resized, corner = self.place(width, height)
        scales = width / resized[0], height / resized[1]
        first = (at * scale for at, scale in zip(corner, scales, strict=True))
        last = ((at + self.size) * scale for at, scale in zip(corner, scales, strict=True))
        right, bottom = last
        return *first, min(right, width), min(bottom, height)

    def seen(self, width: int, height: int) -> tuple[int, int, int, int]:
        """`box` in whole pixels, at least one."""
        left, top, right, bottom = map(round, self.box(width, height))
        left, top = min(left, width - 1), min(top, height - 1)
        return left, top, max(right, left + 1), max(bottom, top + 1)


@dataclasses.dataclass(frozen=True)
class Resizes:
    """The squares of several resizes, one after the other in a vector: an ensemble's input.

    Attributes:
      members: the resizes.
    """

    members: tuple["Resize | Resizes", ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the vector."""
        return (sum(math.prod(member.shape) for member in self.members),)

    def seen(self, width: int, height: int) -> tuple[int, int, int, int]:
        """`Resize.seen` of the first."""
        return self.members[0].seen(width, height)


def to_square(
    picture: "Image.Image",
    how: Resize | Resizes,
    *,
    crop: tuple[int, int, int, int] | None = None,
    flip: bool = False,
) -> "np.ndarray":
    """`load_pixels` of an image that is decoded."""
    # Imported here, because configs import this file, and need no NumPy.
    import numpy as np
    from PIL import Image

    if isinstance(how, Resizes):
        squares = [to_square(picture, each, crop=crop, flip=flip) for each in how.members]
        return np.concatenate([square.ravel() for square in squares])
    size = (how.size, how.size)
    resized, (left, top) = (size, (0, 0)) if crop else how.place(*picture.size)
    if math.prod(resized) > _MOST_RESIZED:
        # Of a thin image no more is enlarged than is seen. Not of every image: Pillow rounds the
        # corners of a box, so that some pixels would differ by a level.
        square = _resize(picture, size, how.box(*picture.size), how)
    else:
        square = _resize(picture, resized, crop or (0, 0, *picture.size), how)
        if resized != size:
            square = square.crop((left, top, left + how.size, top + how.size))
    if flip:
        square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # A copy, because Pillow's array is read-only.
    return np.array(square)


def _resize(picture: "Image.Image", size: tuple[int, int], box: Box, how: Resize) -> "Image.Image":
    """Resizes a box of an image to `size`, (width, height)."""
    from PIL import Image

    if how.antialias:
        return picture.resize(size, Image.Resampling[how.interpolation.upper()], box=box)
    # Pillow's transform does not antialias.
    left, top, right, bottom = box
    across, down = (right - left) / size[0], (bottom - top) / size[1]
    affine = (across, 0, left, 0, down, top)
    return picture.transform(size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
