"""Decoding and resizing of images, the same for training, evaluation, cache and command line."""

import functools
import importlib
import importlib.util
import io
import os
import re
import stat
import warnings
from typing import Any, TypeGuard

import numpy as np
from PIL import Image, ImageChops, features

from capjax.data.resize import Resize
from capjax.files.errors import ReportedError

# Pillow trusts the size in a header, and a false one would exhaust the memory. This is above any
# photograph and below the 89 million pixels at which Pillow warns.
MAX_PIXELS = 80_000_000
# The largest file of that many pixels: 16-bit colour without compression.
MAX_BYTES = 512 * 2**20

# Formats of photographs and the ends of their files' names. Pillow's other readers, such as
# PostScript's, are a needless risk on untrusted bytes.
_FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
_HEIF = "pillow_heif"

# The first bytes of these formats.
_SIGNATURES = re.compile(
    rb"\xff\xd8\xff|\x89PNG|RIFF....WEBP|GIF8|BM|II[*+]\0|MM\0[*+]|P[1-7]\s|"
    rb"....ftyp(?:avi|hei|hev|mif|msf)",
    re.DOTALL,
)
_HEIC_SIGNATURE = re.compile(rb"....ftyp(?:hei|hev|mif|msf)", re.DOTALL)

# Pillow's warnings (odd metadata, a header of many pixels) are harmless or are errors here. An
# entry of `warnings.filters`.
_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)

_PHOTOMETRIC_TAG = 0x0106
_ORIENTATION_TAG = 0x0112
# EXIF 2.32, 4.6.4: from the stored orientation to the transform that turns an image upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


# An encoded file as bytes, a path, a Pillow image, or uint8 [H, W, 3] or [H, W].
AnyImage = bytes | str | os.PathLike | Image.Image | np.ndarray

# Left, top, right, bottom.
Box = tuple[float, float, float, float]


class ImageError(ReportedError, ValueError):
    """An image that cannot be used; the message names it and the reason."""


def load_pixels(
    image: AnyImage,
    resize: Resize | int,
    *,
    name: str | None = None,
    crop: tuple[int, int, int, int] | None = None,
    flip: bool = False,
) -> np.ndarray:
    """Loads an image and resizes it to a model's input.

    Args:
      image: see `load_image`.
      resize: a `Resize`, or the side of the square for `Resize(side)`.
      name: see `load_image`.
      crop: (left, top, right, bottom) in pixels of the upright image; the crop is resized to the
        square whatever its aspect ratio. None for the whole image.
      flip: whether to flip left and right.

    Returns:
      uint8 [H, W, 3].

    Raises:
      ImageError: see `load_image`.
      ValueError: the size is below 1, or `crop` is not within the image.
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
    # A copy, because Pillow's array is read-only.
    return np.array(square)


def _resize(picture: Image.Image, size: tuple[int, int], box: Box, how: Resize) -> Image.Image:
    """Resizes a box of an image to `size`, (width, height)."""
    if how.antialias:
        return picture.resize(size, Image.Resampling[how.interpolation.upper()], box=box)
    # Pillow's transform does not antialias.
    left, top, right, bottom = box
    across, down = (right - left) / size[0], (bottom - top) / size[1]
    affine = (across, 0, left, 0, down, top)
    return picture.transform(size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)


def load_image(image: AnyImage, *, name: str | None = None) -> Image.Image:
    """Decodes an image, applies its EXIF orientation and converts it to RGB.

    Transparent images are composited over white, 16-bit grey is scaled to 8 bits, CMYK and palettes
    are converted.

    Args:
      image: the image, see `AnyImage`.
      name: the image's name in error messages; by default its path or "image bytes".

    Raises:
      ImageError: the image is missing, empty, not an image, damaged, too large, or of a type or
        depth that is not supported.
    """
    name = name or _default_name(image)
    if _QUIET not in warnings.filters:
        # For the whole process, because `catch_warnings` is not thread-safe.
        warnings.filterwarnings("ignore", module=_QUIET[3].pattern)
    opened = _open(image, name)
    width, height = opened.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name}: {width} x {height} pixels are more than the {MAX_PIXELS} taken")
    try:
        # Decoded first: Pillow turns a TIFF upright while reading and then drops the tag.
        opened.load()
        rgb = _to_rgb(_turn_upright(_invert_negative(opened)))
        # Without the orientation tag, which would turn the upright image again.
        rgb.info.clear()
        return rgb
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    except Exception as error:  # every format's reader raises its own
        raise ImageError(f"{name}: damaged or truncated image: {error}") from error


@functools.cache
def formats() -> dict[str, tuple[str, ...]]:
    """Pillow's names of the formats that can be read here, and the ends of their files' names."""
    found = dict(_FORMATS)
    if features.check("avif"):
        found["AVIF"] = (".avif",)
    if importlib.util.find_spec(_HEIF):
        importlib.import_module(_HEIF).register_heif_opener()
        found["HEIF"] = (".heic", ".heif", ".hif")
    return found


def has_image_name(name: str) -> bool:
    """True for a file name that ends like one of `formats`."""
    return name.lower().endswith(tuple(end for ends in formats().values() for end in ends))


def is_image(value: Any) -> TypeGuard[AnyImage]:
    """True for one image of `load_image`, and False for a list of them or an array [N, H, W, 3]."""
    if isinstance(value, np.ndarray):
        return value.ndim < 4
    return isinstance(value, bytes | bytearray | memoryview | str | os.PathLike | Image.Image)


def looks_like_image(content: bytes) -> bool:
    """True where the first bytes are those of an image format; the rest is not checked."""
    return _SIGNATURES.match(content) is not None


def _default_name(image) -> str:
    if isinstance(image, str | os.PathLike):
        return os.fspath(image)
    if isinstance(image, Image.Image):
        return getattr(image, "filename", "") or "Pillow image"
    return "image array" if isinstance(image, np.ndarray) else "image bytes"


def _open(image, name: str) -> Image.Image:
    """Opens an image and reads at least its header."""
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
        return Image.open(io.BytesIO(image), formats=tuple(formats()))
    except Image.UnidentifiedImageError:
        if _HEIC_SIGNATURE.match(image) and "HEIF" not in formats():
            raise ImageError(
                f"{name}: a HEIC image, which needs a package: pip install pillow-heif"
            ) from None
        raise ImageError(
            f"{name}: not an image of a known format ({', '.join(formats())})"
        ) from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: more than the {MAX_PIXELS} pixels taken: {error}") from error
    except Exception as error:
        raise ImageError(f"{name}: damaged image header: {error}") from error


def _read_file(path: str | os.PathLike, name: str) -> bytes:
    """Reads a regular file; refuses pipes and devices, which can block or be endless."""
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


def _invert_negative(image: Image.Image) -> Image.Image:
    """Inverts images that Pillow decodes as negatives."""
    # Adobe stores CMYK inverted and marks the file. Pillow treats every JPEG as Adobe's.
    if image.format in ("JPEG", "MPO") and image.mode == "CMYK" and "adobe" not in image.info:
        return ImageChops.invert(image)
    # TIFF 6.0: photometric interpretation 0 has white at 0. Pillow applies it up to 8 bits only.
    if image.format == "TIFF" and image.mode == "I;16" and image.tag_v2.get(_PHOTOMETRIC_TAG) == 0:
        return Image.fromarray(65535 - np.asarray(image))
    return image


def _turn_upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # An image with damaged EXIF is used.
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
    # 65535 = 255 * 257, so black stays black and white stays white.
    return Image.fromarray(((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)).convert(
        "RGB"
    )
