"""What a TIFF's directory says, checked before Pillow and libtiff trust it."""

import contextlib
import ctypes
import functools
import logging
import struct
from typing import BinaryIO

from PIL import Image

# A strip for each row of each channel, or tiles of 16 x 16, of the largest image that is taken.
MAX_VALUES = 400_000

_WIDTH, _LENGTH, _BITS, _ROWS_PER_STRIP, _TILE_WIDTH, _TILE_LENGTH = 256, 257, 258, 278, 322, 323
_TEXTS = (1, 2, 6, 7)  # Types of one byte, which Pillow keeps as bytes.


@functools.cache
def silence() -> None:
    """Stops libtiff and Pillow from printing lines that name no file; Pillow raises errors.

    For the whole process. Does nothing about libtiff where its functions are not visible.
    """
    logging.getLogger("PIL").addHandler(logging.NullHandler())  # Otherwise Python prints them.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)


def fault(file: BinaryIO) -> str | None:
    """The reason not to open a TIFF whose tags have so many values that they fill the memory.

    Pillow makes some hundred bytes of each. Leaves the file at its beginning; other files and
    damaged ones pass.
    """
    file.seek(0)
    try:
        head = file.read(16)
        end = {b"II": "<", b"MM": ">"}[head[:2]]
        big = head[2:4] in (b"+\0", b"\0+")
        (at,) = struct.unpack_from(end + ("Q" if big else "I"), head, 8 if big else 4)
        file.seek(at)
        count_form, entry_form = (end + "Q", end + "HHQ8x") if big else (end + "H", end + "HHI4x")
        (count,) = struct.unpack(count_form, file.read(struct.calcsize(count_form)))
        entry_size = struct.calcsize(entry_form)
        entries = file.read(entry_size * min(count, 2**16))
        entries = entries[: len(entries) // entry_size * entry_size]
        for tag, kind, values in struct.iter_unpack(entry_form, entries):
            if kind not in _TEXTS and values > MAX_VALUES:
                return f"damaged TIFF: {values} values of tag {tag} are more than any image has"
    except (KeyError, OSError, OverflowError, struct.error):
        return None
    finally:
        file.seek(0)
    return None


def strip_bytes(image: Image.Image) -> int:
    """Bytes of a strip or tile of a TIFF, which libtiff decodes at once, whatever the image's size.

    Raises:
      TypeError: the tags are no numbers.
    """
    if image.info.get("compression") == "raw":  # Pillow reads it row by row.
        return 0
    tags = image.tag_v2
    bits = tags.get(_BITS, 1)
    depth = max(32, sum(bits) if isinstance(bits, tuple) else bits)
    width, length = tags.get(_TILE_WIDTH), tags.get(_TILE_LENGTH)
    if width is None and length is None:
        width, length = tags[_WIDTH], tags[_LENGTH]
        length = min(length, tags.get(_ROWS_PER_STRIP, length))
    return int(width) * int(length) * depth // 8
