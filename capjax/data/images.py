"""Decoding of images, the same for training, evaluation, cache and command line."""

import contextlib
import functools
import importlib
import importlib.util
import io
import math
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageChops, features

from capjax.data import jpeg, pnm, tiff
from capjax.data.memory import Memory
from capjax.data.resize import Resize, to_square
from capjax.files.errors import ReportedError

# Pillow trusts the size in a header, and a false one would exhaust the memory. This is above any
# photograph and below the 89 million pixels at which Pillow warns.
MAX_PIXELS = 80_000_000
# The largest file of that many pixels: 16-bit colour without compression.
MAX_BYTES = 512 * 2**20
# The longest side in a JPEG. Resizing takes memory for each row or column.
MAX_SIDE = 65_535

# For all images that are being decoded at once. Enough for any of MAX_PIXELS as a baseline JPEG or
# a PNG; with JAX and a model, a process stays below 1.5 GB.
MEMORY = Memory(768 * 2**20)
# Of Pillow's blocks; glibc maps larger ones than 32 MiB apart, so that freed ones go back at once.
# Those of Pillow's default stay with the threads, and take as much again.
_BLOCK_BYTES = 64 * 2**20
# Bytes for each pixel: Pillow has 4 or fewer, and as much again for a copy turned or converted.
_TWO_COPIES = 8
# libwebp's two canvases, or the planes of libavif and libheif, and what they give Pillow.
_WEBP_COPIES = 16
# Pixels of a strip that is converted at once.
_STRIP = 2**20

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

# From the grey levels of 2 and 4 bits to 8 bits, by PNG's layout of pixels.
_TO_8_BITS = {"L;2": 85, "L;4": 17}
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
    with decoded(image, name=name) as picture:
        return to_square(picture, how, crop=crop, flip=flip)


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
    with decoded(image, name=name) as picture:
        rgb = picture.copy()
    # Without the orientation tag, which would turn the upright image again.
    rgb.info.clear()
    return rgb


@contextlib.contextmanager
def decoded(image: AnyImage, *, name: str | None = None) -> Iterator[Image.Image]:
    """`load_image` for the body of a `with`, whose memory counts in `MEMORY`, and without a copy.

    Threads that decode images must use it, one at a time each. The image must not be changed.
    """
    name = name or _default_name(image)
    _set_up_pillow()
    with contextlib.ExitStack() as stack:
        opened = _open(image, name, stack)
        width, height = opened.size
        if width * height > MAX_PIXELS:
            raise ImageError(
                f"{name}: {width} x {height} pixels are more than the {MAX_PIXELS} taken"
            )
        if max(width, height) > MAX_SIDE:
            raise ImageError(f"{name}: {width} x {height} pixels; a side has {MAX_SIDE} at most")
        with _blamed(name, "damaged image header"):
            needed = _bytes_needed(opened)
        if needed > MEMORY.total:
            raise ImageError(
                f"{name}: {opened.format} of {width} x {height} pixels takes {needed >> 20} MiB to "
                f"decode, more than the {MEMORY.total >> 20} taken; save it smaller, or as JPEG"
            )
        stack.enter_context(MEMORY.hold(needed))
        with _blamed(name, "damaged or truncated image"):
            if opened.format in ("JPEG", "MPO") and getattr(opened, "fp", None):
                opened.fp.seek(0)
                if fault := jpeg.fault(opened.fp.read()):
                    raise ImageError(fault)
            _scale_transparent(opened)
            # Decoded first: Pillow turns a TIFF upright while reading and then drops the tag.
            opened.load()
            # Nothing else refers to what each function takes, so that it is freed.
            taken = [opened]
            del opened
            rgb = _to_rgb(_turn_upright(_invert_negative(taken.pop())))
        yield rgb


def _set_up_pillow() -> None:
    """For the whole process, because Pillow and `catch_warnings` know no threads."""
    if _QUIET not in warnings.filters:
        warnings.filterwarnings("ignore", module=_QUIET[3].pattern)
    if Image.core.get_block_size() < _BLOCK_BYTES:
        Image.core.set_block_size(_BLOCK_BYTES)
    tiff.silence()


@contextlib.contextmanager
def _blamed(name: str, what: str) -> Iterator[None]:
    """Raises errors of the body as those of an image."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    except Exception as error:  # every format's reader raises its own
        if isinstance(error, OSError) and error.errno:  # Of the disk.
            raise ImageError(f"{name}: cannot be read: {error.strerror}") from error
        raise ImageError(f"{name}: {what}: {error}") from error


def _bytes_needed(image: Image.Image) -> int:
    """Upper bound on the memory that an opened image takes until it is RGB."""
    pixels = math.prod(image.size)
    if image.format in ("WEBP", "AVIF", "HEIF"):
        return _WEBP_COPIES * pixels
    needed = _TWO_COPIES * pixels
    if image.format in ("JPEG", "MPO") and hasattr(image, "layer"):
        # The file; and if it has several scans, two bytes for each coefficient.
        areas = [across * down for _, across, down, _ in image.layer]
        coefficients = 2 * pixels * sum(areas) // max(areas)
        size = image.fp.seek(0, os.SEEK_END) if image.fp else 0
        needed = max(needed, 4 * pixels + coefficients) + size
    elif image.format == "TIFF" and hasattr(image, "tag_v2"):
        needed = max(needed, 4 * pixels + tiff.strip_bytes(image))
    return needed


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


@functools.cache
def endings() -> tuple[str, ...]:
    """The ends of the names of files in one of `formats`."""
    return tuple(end for ends in formats().values() for end in ends)


def has_image_name(name: str) -> bool:
    """True for a file name that ends like one of `formats`."""
    return name.lower().endswith(endings())


def looks_like_image(content: bytes) -> bool:
    """True where the first bytes are those of an image format; the rest is not checked."""
    return _SIGNATURES.match(content) is not None


def _default_name(image) -> str:
    if isinstance(image, str | os.PathLike):
        return os.fspath(image)
    if isinstance(image, Image.Image):
        return getattr(image, "filename", "") or "Pillow image"
    return "image array" if isinstance(image, np.ndarray) else "image bytes"


def _open(image, name: str, stack: contextlib.ExitStack) -> Image.Image:
    """Opens an image and reads at least its header; its file stays open until the stack ends."""
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray):
        return _from_array(image, name)
    if isinstance(image, str | os.PathLike):
        file = stack.enter_context(_open_file(image, name))
    elif not isinstance(image, bytes | bytearray | memoryview):
        raise ImageError(
            f"{name}: {type(image).__name__} is not taken; give encoded bytes, a path, a Pillow "
            "image, or a uint8 array [H, W, 3] or [H, W]"
        )
    else:
        file = io.BytesIO(image)
    try:
        start = file.read(16)
        if not start:
            raise ImageError(f"{name}: empty, there are no bytes")
        if fault := tiff.fault(file) or pnm.fault(file):
            raise ImageError(f"{name}: {fault}")
        return Image.open(file, formats=tuple(formats()))
    except ImageError:
        raise
    except Image.UnidentifiedImageError:
        if _HEIC_SIGNATURE.match(start) and "HEIF" not in formats():
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


def _open_file(path: str | os.PathLike, name: str) -> BinaryIO:
    """Opens a regular file; refuses pipes and devices, which can block or be endless."""
    try:
        status = os.stat(path)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise ImageError(f"{name}: cannot be read: a pipe, socket or device is no image file")
        if status.st_size > MAX_BYTES:
            raise ImageError(f"{name}: {status.st_size} bytes are more than the {MAX_BYTES} taken")
        return open(path, "rb")
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


def _scale_transparent(image: Image.Image) -> None:
    """Brings a PNG's transparent colour to the depth that Pillow decodes its pixels to."""
    # A tile's last part is the layout of the pixels, which Pillow forgets when it decodes them.
    if image.format == "PNG" and image.tile and "transparency" in image.info:
        layout, colour = image.tile[0][3], image.info["transparency"]
        if layout in _TO_8_BITS:
            image.info["transparency"] = colour * _TO_8_BITS[layout]
        elif layout == "RGB;16B":
            image.info["transparency"] = tuple(level >> 8 for level in colour)


def _turn_upright(image: Image.Image) -> Image.Image:
    try:  # Damaged EXIF is left out; so are megabytes, of which Pillow makes a hundred times more.
        small = len(image.info.get("exif") or b"") <= 2**20
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG, 1)) if small else None
    except Exception:
        turn = None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _by_strips(image, _from_16_bits)
    if image.mode == "F":
        raise ImageError("floating-point pixels have no agreed range; store 8 or 16 bits")
    if image.has_transparency_data:
        return _by_strips(image, _over_white)
    return image if image.mode == "RGB" else image.convert("RGB")


def _by_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Converts an image to RGB some rows at a time: the steps between take little memory."""
    width, height = image.size
    rgb, rows = Image.new("RGB", image.size), max(1, _STRIP // width)
    for top in range(0, height, rows):
        box = (0, top, width, min(top + rows, height))
        rgb.paste(convert(image.crop(box)), box)
    return rgb


def _over_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Grey levels 0 to 65535 (modes I;16..., or I from older readers) as 8-bit RGB."""
    levels = np.asarray(image)
    if levels.min() < 0 or levels.max() > 65535:
        raise ImageError("32-bit pixels have no agreed range; store 8 or 16 bits")
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):  # One level of a PNG, shown over white.
        levels = np.where(levels == transparent, 65535, levels)
    # 65535 = 255 * 257, so black stays black and white stays white.
    return Image.fromarray(((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)).convert(
        "RGB"
    )
