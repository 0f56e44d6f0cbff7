"""Decoding of images by the runner of an artefact: `capjax.data.images` for 8 bits, without capjax.

Writing an artefact puts this file into its runner.py, in the place of the import.
"""

import io
import os
import pathlib
import stat
import struct
from typing import Any

import numpy as np
from PIL import Image, ImageChops, UnidentifiedImageError, features
from PIL.TiffImagePlugin import TiffImageFile

from capjax.data.pnm import fault

# A file is read whole, and Pillow trusts the size in its header.
MAX_BYTES, MAX_PIXELS, MAX_SIDE = 256 * 2**20, 80_000_000, 65_535
# libwebp and libavif keep several copies.
_MAX_COPIED_PIXELS = 48 * 2**20
# libjpeg decodes each scan over all pixels: thousands take hours.
_MAX_SCANS = 100
# Values of a TIFF's tag and bytes of EXIF: Pillow makes some hundred bytes of each.
_MAX_VALUES, _MAX_EXIF = 400_000, 2**20
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# Pixels that are laid over white at once.
_STRIP = 2**20
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
# From the grey levels of 2 and 4 bits to 8 bits, by PNG's layout of pixels.
_TO_8_BITS = {"L;2": 85, "L;4": 17}


class ImageError(ValueError):
    """An image that can't be used; the message names it and says why."""


def open_image(image: Any, name: str = "") -> Image.Image:
    """Decodes an image of 8 bits, turns it upright and makes it RGB, transparent ones over white.

    It takes at most about 1 GB of memory, whatever the image says of itself. Pillow images are
    taken as they are.

    Args:
      image: a path, a file's bytes, a Pillow image, or uint8 [height, width, 3] or [height, width].
      name: in error messages; by default its path.

    Raises:
      ImageError: it can't be used.
    """
    if not name:
        name = os.fspath(image) if isinstance(image, str | os.PathLike) else "the image"
    try:
        picture = _opened(image)
        width, height = picture.size
        copied = picture.format in ("WEBP", "AVIF")
        most = _MAX_COPIED_PIXELS if copied else MAX_PIXELS
        if width * height > most or max(width, height) > MAX_SIDE:
            raise ImageError(
                f"{width} x {height} pixels; at most {most} are taken, and {MAX_SIDE} a side"
            )
        layouts = [str(tile[3]) for tile in getattr(picture, "tile", ())]
        if picture.mode[0] in "IF" or any(";16" in layout for layout in layouts):
            raise ImageError("its pixels have more than 8 bits a channel; save it with 8")
        if isinstance(picture, TiffImageFile):
            across, down = (picture.tag_v2.get(tag, 1) for tag in (322, 323))
            if across * down > MAX_PIXELS:
                raise ImageError(f"its tiles of {across} x {down} pixels are too large")
        if picture.format == "PNG" and "transparency" in picture.info:
            factor = next((_TO_8_BITS[each] for each in layouts if each in _TO_8_BITS), 1)
            if factor > 1:  # Pillow scales the pixels only.
                picture.info["transparency"] *= factor
        # Decoded first: Pillow turns a TIFF upright while reading and then drops the tag.
        picture.load()
        # Adobe stores CMYK inverted and marks the file. Pillow treats every JPEG as Adobe's.
        negative = picture.format in ("JPEG", "MPO") and "adobe" not in picture.info
        if negative and picture.mode == "CMYK":
            picture = ImageChops.invert(picture)
        return _to_rgb(_turn_upright(picture))
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    except UnidentifiedImageError:
        raise ImageError(
            f"{name}: not an image of a known format ({', '.join(_FORMATS)})"
        ) from None
    except Exception as error:  # Every format's reader raises its own.
        raise ImageError(
            f"{name}: can't be read: {getattr(error, 'strerror', '') or error}"
        ) from error


def _opened(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray):
        shaped = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
        if image.dtype != np.uint8 or not shaped or not image.size:
            raise ImageError(f"{image.dtype} {list(image.shape)} is not uint8 [height, width, 3]")
        return Image.fromarray(image)
    path = isinstance(image, str | os.PathLike)
    if path:
        status = os.stat(image)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("is no file, but a folder, a pipe or a device")
        size = status.st_size
    elif isinstance(image, bytes | bytearray | memoryview):
        size = len(image)
    else:
        raise ImageError(f"{type(image).__name__} is no path, bytes, Pillow image or array")
    if size > MAX_BYTES:
        raise ImageError(f"{size} bytes are more than the {MAX_BYTES} taken")
    if not size:
        raise ImageError("empty, there are no bytes")
    content = pathlib.Path(image).read_bytes() if path else bytes(image)
    if content[:2] == b"\xff\xd8" and content.count(b"\xff\xda") > _MAX_SCANS:
        raise ImageError(f"a JPEG of more than {_MAX_SCANS} scans, which takes too long to decode")
    if said := fault(io.BytesIO(content)):
        raise ImageError(said)
    if content[:4] in (b"II*\0", b"MM\0*"):
        _check_tiff(content, "<" if content[:1] == b"I" else ">")
    elif content[:4] in (b"II+\0", b"MM\0+"):
        raise ImageError("a TIFF for more than 4 GB; save it as TIFF")
    known = (*_FORMATS, "AVIF") if features.check("avif") else _FORMATS
    return Image.open(io.BytesIO(content), formats=known)


def _check_tiff(content: bytes, order: str) -> None:
    """Refuses a TIFF with a tag of more values than any image has."""
    (at,) = struct.unpack_from(order + "I", content, 4)
    (count,) = struct.unpack_from(order + "H", content, at)
    for place in range(count):
        tag, kind, values = struct.unpack_from(order + "HHI", content, at + 2 + 12 * place)
        if kind not in (1, 2, 6, 7) and values > _MAX_VALUES:
            raise ImageError(f"damaged TIFF: {values} values of tag {tag}")


def _turn_upright(picture: Image.Image) -> Image.Image:
    try:
        small = len(picture.info.get("exif") or b"") <= _MAX_EXIF
        turn = _UPRIGHT.get(picture.getexif().get(0x0112, 1)) if small else None
    except Exception:  # An image with damaged EXIF is used.
        return picture
    return picture if turn is None else picture.transpose(turn)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    # Some rows at a time: the steps between take little memory.
    (width, height), rgb = picture.size, Image.new("RGB", picture.size)
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        box = (0, top, width, min(top + rows, height))
        strip = picture.crop(box).convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        rgb.paste(Image.alpha_composite(white, strip).convert("RGB"), box)
    return rgb
