"""Pictures of a report: thumbnails of its own, or links to where the dataset's files lie."""

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
"""Longest side of a thumbnail in pixels; smaller pictures stay as they are."""

_QUALITY = 82

# Smaller ones are drawings as a rule, and the page enlarges them pixel by pixel: the blocks and
# smeared edges of JPEG would be seen.
_ENLARGED = 160
_FOLDER = "pictures"

# Pictures that an estimate looks at.
_SAMPLE = 8


class Picture(NamedTuple):
    """A picture of a page: its address from there, and width and height in pixels."""

    address: str
    width: int
    height: int


def thumbnail(image: bytes | str, name: str) -> tuple[bytes, int, int]:
    """A picture as JPEG with its width and height; as PNG where it is small.

    Raises:
      ImageError: it can't be used; the message names it.
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
    """About how many MB the thumbnails of the first `count` images take."""
    step = max(count // _SAMPLE, 1)
    sample = [source[index] for index in range(0, count, step)][:_SAMPLE]
    sizes = [len(thumbnail(example.image, example.image_id)[0]) for example in sample]
    return sum(sizes) / max(len(sizes), 1) * count / 1e6


def write_thumbnails(source: Source, count: int, out: str, threads: int) -> Iterator[Picture]:
    """Writes thumbnails of the first `count` images below `out`, and yields them in order.

    Raises:
      ImageError: an image can't be used.
    """

    def write(index: int) -> Picture:
        example = source[index]
        content, width, height = thumbnail(example.image, f"image {example.image_id!r}")
        # Numbers: an image id may be anything.
        kind = "png" if content.startswith(b"\x89PNG") else "jpg"
        address = f"{_FOLDER}/{index}.{kind}"
        write_atomic(os.path.join(out, address), content)
        return Picture(address, width, height)

    return _in_order(write, range(count), threads)


def link_pictures(source: Source, count: int, out: str, threads: int) -> Iterator[Picture]:
    """The first `count` images where they lie, by addresses from the folder `out`.

    Raises:
      ImageError: an image can't be used.
      ReportError: they lie in no files of their own.
    """

    def link(index: int) -> Picture:
        example: Example = source[index]
        if not isinstance(example.image, str):
            raise ReportError(
                f"the pictures of {source.name} lie in no files of their own to link to: use "
                "--pictures thumbnails"
            )
        # Decoded, for the size of the upright picture.
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
            # Reached too when an image can't be used.
            pool.shutdown(cancel_futures=True)
