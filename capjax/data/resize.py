"""How an image becomes the square input of an encoder; configs import this, and no NumPy."""

import dataclasses
from typing import Literal, get_args

from capjax.parts.types import Side, SideOrZero

Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]


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

    def seen(self, width: int, height: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of the part that the crop keeps, in the image's pixels."""
        resized, corner = self.place(width, height)
        scales = width / resized[0], height / resized[1]
        first = (round(at * scale) for at, scale in zip(corner, scales, strict=True))
        last = (round((at + self.size) * scale) for at, scale in zip(corner, scales, strict=True))
        return *first, *last
