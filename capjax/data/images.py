"""The one way from bytes to pixels: training, evaluation, cache and command line see the same."""

import dataclasses
import io
import os
import re
import stat
import warnings
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageChops

from capjax.files.errors import ReportedError
from capjax.parts.types import Side, SideOrZero

# Pillow takes headers as they come; a lying one would ask for the whole memory. Half a billion
# bytes decoded are plenty for a photograph, and Pillow's own limit (89 million pixels, where it
# warns) lies above.
MAX_PIXELS = 80_000_000
# The longest file that so many pixels come in: 16-bit colour without compression.
MAX_BYTES = 512 * 2**20

# What photographs come in. Pillow's other readers run more code on unknown bytes than a captioner
# needs (PostScript among it).
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

# How files of these formats begin.
_SIGNATURES = re.compile(
    rb"\xff\xd8\xff|\x89PNG|RIFF....WEBP|GIF8|BM|II[*+]\0|MM\0[*+]|P[1-7]\s", re.DOTALL
)

# What Pillow warns of (odd metadata, a header of many pixels) is no reason to lose a picture, or
# is an error here. As `warnings.filterwarnings` keeps it.
_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)

_PHOTOMETRIC_TAG = 0x0106
_ORIENTATION_TAG = 0x0112
# EXIF 2.32, 4.6.4: how the stored rows and columns lie on the upright picture.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]

# Left, top, right, bottom.
Box = tuple[float, float, float, float]


class ImageError(ReportedError, ValueError):
    """An image that cannot be used; the message names it and says why."""


@dataclasses.dataclass(frozen=True)
class Resize:
    """How a picture of any size becomes the square that an encoder was trained on.

    As it stands: all of the picture, resized to the square whatever its aspect ratio, as in the
    known captioning tutorials.

    Attributes:
      size: side of the square in pixels.
      resize_to: side that the picture is resized to before its centre of `size` is cut out; 0 is
        `size`.
      keep_aspect: whether `resize_to` is the shorter edge; otherwise it is both.
      interpolation: the filter.
      antialias: whether the filter widens where pixels are many, as Pillow's and torchvision's;
        TensorFlow's resize by default does not. "bilinear" may do without.
      round_crop: whether half of an odd margin is rounded half to even, as in torchvision; if not,
        down, as in `transformers`.

    Raises:
      ValueError: a field is out of its range.
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
                f"resize_to={self.resize_to} must be 0, or at least the {self.size} pixels that "
                "are cut out of it"
            )
        allowed = get_args(Interpolation) if self.antialias else ("bilinear",)
        if self.interpolation not in allowed:
            without = "" if self.antialias else " without antialias"
            raise ValueError(
                f"interpolation={self.interpolation!r}{without}; it may be "
                f"{', '.join(map(repr, allowed))}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the pixels."""
        return self.size, self.size, 3

    def place(self, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """For a picture of width x height, its resized (width, height), and (left, top) in that."""
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
        """The part of a picture of width x height that is not cut off, in its whole pixels."""
        resized, corner = self.place(width, height)
        scales = width / resized[0], height / resized[1]
        first = (round(at * scale) for at, scale in zip(corner, scales, strict=True))
        last = (round((at + self.size) * scale) for at, scale in zip(corner, scales, strict=True))
        return *first, *last


def load_pixels(
    image: bytes | str | os.PathLike | Image.Image | np.ndarray,
    resize: Resize | int,
    *,
    name: str | None = None,
    crop: tuple[int, int, int, int] | None = None,
    flip: bool = False,
) -> np.ndarray:
    """The pixels that a model sees: `load_image`, or a part of it, made a square.

    Args:
      image: see `load_image`.
      resize: how; a number is the side of a square as `Resize(side)` makes it.
      name: see `load_image`.
      crop: (left, top, right, bottom) of the part in the upright picture, in pixels, which is
        resized to the square whatever its aspect ratio; None for all.
      flip: whether left and right change places.

    Returns:
      uint8 [size, size, 3].

    Raises:
      ImageError: see `load_image`.
      ValueError: the size is below one, or `crop` does not lie in the picture.
    """
    how = Resize(resize) if isinstance(resize, int) else resize
    picture = load_image(image, name=name)
    resized, corner = ((how.size, how.size), (0, 0)) if crop else how.place(*picture.size)
    box = crop or (0, 0, *picture.size)
    square = _resize(picture, resized, box, how)
    if resized != (how.size, how.size):
        left, top = corner
        square = square.crop((left, top, left + how.size, top + how.size))
    if flip:
        square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # A copy, because the array that Pillow lends is read-only.
    return np.array(square)


def _resize(picture: Image.Image, size: tuple[int, int], box: Box, how: Resize) -> Image.Image:
    """A part of a picture at (width, height)."""
    if how.antialias:
        return picture.resize(size, Image.Resampling[how.interpolation.upper()], box=box)
    # Pillow's transform samples the picture as it is.
    left, top, right, bottom = box
    across, down = (right - left) / size[0], (bottom - top) / size[1]
    affine = (across, 0, left, 0, down, top)
    return picture.transform(size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)


def load_image(
    image: bytes | str | os.PathLike | Image.Image | np.ndarray, *, name: str | None = None
) -> Image.Image:
    """Decodes, turns upright by the EXIF orientation and converts to RGB.

    Transparency is laid over white, 16-bit grey is scaled to 8 bits, CMYK and palettes are
    converted.

    Args:
      image: an encoded file as bytes, a path, a Pillow image, or uint8 [H, W, 3] or [H, W].
      name: what error messages call the image; by default its path or "image bytes".

    Raises:
      ImageError: the image is missing, empty, no image, damaged, too large or of a type or depth
        that is not taken.
    """
    name = name or _default_name(image)
    if _QUIET not in warnings.filters:
        # For the whole process and for good: `catch_warnings` is not for threads.
        warnings.filterwarnings("ignore", module=_QUIET[3].pattern)
    opened = _open(image, name)
    width, height = opened.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name}: {width} x {height} pixels are more than the {MAX_PIXELS} taken")
    try:
        # Decoded first: reading a TIFF turns it by itself and then drops the tag.
        opened.load()
        rgb = _to_rgb(_turn_upright(_as_meant(opened)))
        # Upright now: with its tag it would be turned again by whoever loads it next.
        rgb.info.clear()
        return rgb
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    except Exception as error:  # every format's reader raises its own
        raise ImageError(f"{name}: damaged or truncated image: {error}") from error


def looks_like_image(content: bytes) -> bool:
    """Whether bytes begin as those of an image file do; the rest may be damaged all the same."""
    return _SIGNATURES.match(content) is not None


def _default_name(image) -> str:
    if isinstance(image, str | os.PathLike):
        return os.fspath(image)
    if isinstance(image, Image.Image):
        return getattr(image, "filename", "") or "Pillow image"
    return "image array" if isinstance(image, np.ndarray) else "image bytes"


def _open(image, name: str) -> Image.Image:
    """A Pillow image of which at least the header has been read."""
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray):
        return _from_array(image, name)
    if isinstance(image, str | os.PathLike):
        image = _read_file(image, name)
    if not isinstance(image, bytes | bytearray | memoryview):
        raise ImageError(
            f"{name}: {type(image).__name__} is not taken; give encoded bytes, a path, a Pillow "
            "image, or a uint8 array [H, W, 3] or [H, W]"
        )
    if not image:
        raise ImageError(f"{name}: empty, there are no bytes")
    try:
        return Image.open(io.BytesIO(image), formats=_FORMATS)
    except Image.UnidentifiedImageError:
        raise ImageError(
            f"{name}: not an image of a known format ({', '.join(_FORMATS)})"
        ) from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: more than the {MAX_PIXELS} pixels taken: {error}") from error
    except Exception as error:
        raise ImageError(f"{name}: damaged image header: {error}") from error


def _read_file(path: str | os.PathLike, name: str) -> bytes:
    """The bytes of a file that ends; a pipe or a device need not, and may block when opened."""
    try:
        status = os.stat(path)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise ImageError(f"{name}: cannot be read: a pipe, socket or device is no image file")
        if status.st_size > MAX_BYTES:
            raise ImageError(f"{name}: {status.st_size} bytes are more than the {MAX_BYTES} taken")
        with open(path, "rb") as file:
            return file.read(status.st_size)
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{name}: cannot be read: {reason}") from error


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    if array.dtype != np.uint8 or not shaped or array.size == 0:
        raise ImageError(
            f"{name}: {array.dtype} {list(array.shape)} is not taken; give uint8 [H, W, 3] "
            "or [H, W], not empty"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _as_meant(image: Image.Image) -> Image.Image:
    """Inverts what Pillow gives as a negative; only the file itself says that it is one."""
    # Adobe stores CMYK upside down and marks the file. Pillow takes every JPEG for Adobe's.
    if image.format in ("JPEG", "MPO") and image.mode == "CMYK" and "adobe" not in image.info:
        return ImageChops.invert(image)
    # TIFF 6.0: photometric interpretation 0 has white at 0. Pillow heeds it up to 8 bits.
    if image.format == "TIFF" and image.mode == "I;16" and image.tag_v2.get(_PHOTOMETRIC_TAG) == 0:
        return Image.fromarray(65535 - np.asarray(image))
    return image


def _turn_upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF is no reason to lose the picture
        orientation = 1
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    if image.mode == "F":
        raise ImageError("floating-point pixels have no agreed range; store 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Grey levels 0 to 65535 (modes I;16..., or I from older readers) as 8-bit RGB."""
    levels = np.asarray(image)
    if levels.min() < 0 or levels.max() > 65535:
        raise ImageError("32-bit pixels have no agreed range; store 8 or 16 bits")
    # 65535 = 255 * 257, so both ends stay ends.
    return Image.fromarray(((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)).convert(
        "RGB"
    )
