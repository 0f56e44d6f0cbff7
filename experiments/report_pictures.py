"""The images of a report: thumbnails, or links to the dataset's files."""

import io
import os
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from PIL import Image

from capjax.data.images import load_image
from capjax.data.source import Example, Source
from capjax.files.atomic import write_atomic
from experiments.report_data import ReportError

THUMBNAIL = 360
"""Longest side of a thumbnail in pixels; smaller images are not enlarged."""

_QUALITY = 82

# Smaller images are usually drawings, which the page enlarges pixel by pixel: artefacts of JPEG
# would be visible.
_ENLARGED = 160
_FOLDER = "pictures"

# Number of images in the sample of an estimate.
_SAMPLE = 8


class Picture(NamedTuple):
    """An image of the page: its address relative to the page, width and height in pixels."""

    address: str
    width: int
    height: int


def thumbnail(image: bytes | str, name: str) -> tuple[bytes, int, int]:
    """Encodes a thumbnail as JPEG, or as PNG if small; returns it with width and height.

    Raises:
      ImageError: the image cannot be used; the message names it.
    """
    picture = load_image(image, name=name)
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    if max(picture.size) < _ENLARGED:
        picture.save(stream, "PNG", optimize=True)
    else:
        picture.save(stream, "JPEG", quality=_QUALITY, optimize=True)
    return stream.getvalue(), *picture.size


def estimate(source: Source, count: int) -> float:
    """Estimates the size of the first `count` thumbnails in MB."""
    step = max(count // _SAMPLE, 1)
    sample = [source[index] for index in range(0, count, step)][:_SAMPLE]
    sizes = [len(thumbnail(example.image, example.image_id)[0]) for example in sample]
    return sum(sizes) / max(len(sizes), 1) * count / 1e6


def write_thumbnails(source: Source, count: int, out: str, threads: int) -> Iterator[Picture]:
    """Writes thumbnails of the first `count` images below `out`, and yields them in order.

    Raises:
      ImageError: an image cannot be used.
    """

    def write(index: int) -> Picture:
        example = source[index]
        content, width, height = thumbnail(example.image, f"image {example.image_id!r}")
        # Named by number, since an image id may not be a valid file name.
        kind = "png" if content.startswith(b"\x89PNG") else "jpg"
        address = f"{_FOLDER}/{index}.{kind}"
        write_atomic(os.path.join(out, address), content)
        return Picture(address, width, height)

    return _in_order(write, range(count), threads)


def link_pictures(source: Source, count: int, out: str, threads: int) -> Iterator[Picture]:
    """Yields links to the first `count` images, relative to the folder `out`.

    Raises:
      ImageError: an image cannot be used.
      ReportError: the images are not in files of their own.
    """

    def link(index: int) -> Picture:
        example: Example = source[index]
        if not isinstance(example.image, str):
            raise ReportError(
                f"the images of {source.name} are not in files that can be linked: use "
                "--pictures thumbnails"
            )
        # Decoded for the size after rotation by EXIF.
        size = load_image(example.image, name=f"image {example.image_id!r}").size
        file = os.path.relpath(os.path.abspath(example.image), os.path.realpath(out))
        return Picture(urllib.parse.quote(os.fsencode(file)), *size)

    return _in_order(link, range(count), threads)


def _in_order(
    work: Callable[[int], Picture], indices: Sequence[int], threads: int
) -> Iterator[Picture]:
    with ThreadPoolExecutor(threads) as pool:
        try:
            yield from pool.map(work, indices)
        finally:
            # Also reached if an image cannot be used.
            pool.shutdown(cancel_futures=True)
