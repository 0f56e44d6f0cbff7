"""Captions of a stream of images, which can be endless."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from capjax.data.images import ImageError, decoded
from capjax.data.resize import Resize, Resizes, to_square
from capjax.evaluate.attention_maps import attended_picture
from capjax.evaluate.captioning import Caption

# Longer side of the image that attention is drawn on.
_THUMBNAIL = 448

Batch = Mapping[str, np.ndarray]


class Picture(NamedTuple):
    """An image that waits for its caption.

    Attributes:
      pixels: input of the model, uint8 [H, W, 3].
      thumbnail: uint8 image to draw attention on, cropped to what the model sees; or None.
    """

    pixels: np.ndarray
    thumbnail: np.ndarray | None


class Attended(NamedTuple):
    """The image of `attended_picture`, uint8 [H, W, 3], and its caption."""

    pixels: np.ndarray
    caption: Caption


class Answer(NamedTuple):
    """The caption of one named image, with what else was requested; or an error."""

    name: str
    caption: Caption | None = None
    picture: np.ndarray | None = None
    error: ImageError | None = None
    attended: Attended | None = None


def picture_reader(
    read: Callable[[str], Any], resize: Resize | Resizes, *, thumbnail: bool
) -> Callable[[str], Picture]:
    """Builds a reader, name -> `Picture`; `read` must return what `decoded` takes."""

    def read_picture(name: str) -> Picture:
        with decoded(read(name), name=name) as picture:
            pixels = to_square(picture, resize)
            if not thumbnail:
                return Picture(pixels, None)
            # Attention covers only what the model sees.
            small = picture.crop(resize.seen(*picture.size))
            small.thumbnail((_THUMBNAIL, _THUMBNAIL))
            return Picture(pixels, np.asarray(small))

    return read_picture


def caption_stream(
    batches: Iterable[list[tuple[int, str]]],
    read: Callable[[str], Picture],
    caption: Callable[[Iterable[Batch]], Iterator[tuple[int, Caption]]],
    *,
    size: int,
    num_threads: int,
    attended: bool = False,
) -> Iterator[list[Answer]]:
    """Yields the answers to each batch of names, in order, as soon as it is captioned.

    While a batch is captioned, threads read the next one. Images are dropped after that.

    Args:
      batches: up to B (index, name) pairs each; empty if no name is available yet.
      read: raises ImageError if a name can't be used; called by several threads.
      caption: maps batches of "image" [B, H, W, 3] and "index" int32 [B], -1 in padding rows, to
        (index, caption). All batches have one shape, so it is compiled once.
      size: B.
      num_threads: number of threads that read.
      attended: True to caption the attended image of each caption, too; needs attention.
    """
    pool = ThreadPoolExecutor(num_threads)
    ahead: deque[tuple[int, str, Future]] = deque()
    try:
        for batch in batches:
            coming = deque((index, name, pool.submit(read, name)) for index, name in batch)
            yield _answer(ahead, caption, size, attended)
            ahead = coming
        yield _answer(ahead, caption, size, attended)
    finally:
        # Also reached if the caller stops early; images read ahead are dropped.
        pool.shutdown(wait=False, cancel_futures=True)


def _answer(
    ahead: deque[tuple[int, str, Future]], caption: Callable, size: int, attended: bool
) -> list[Answer]:
    """Empties `ahead` and returns the answers to its names."""
    answers, pixels, index = [], [], np.full(size, -1, np.int32)
    while ahead:
        place, name, picture = ahead.popleft()
        try:
            pixels_of_one, thumbnail = picture.result()
        except ImageError as error:
            answers.append(Answer(name, error=error))
            continue
        index[len(pixels)] = place
        pixels.append(pixels_of_one)
        answers.append(Answer(name, picture=thumbnail))
    if not pixels:
        return answers
    images = np.zeros((size, *pixels[0].shape), np.uint8)
    images[: len(pixels)] = pixels
    captions = [found for _, found in caption([{"image": images, "index": index}])]
    again = [None] * len(captions)
    if attended:
        again = _caption_attended(images, index, captions, caption)
    found = ({"caption": one, "attended": two} for one, two in zip(captions, again, strict=True))
    return [answer if answer.error else answer._replace(**next(found)) for answer in answers]


def _caption_attended(
    images: np.ndarray, index: np.ndarray, captions: list[Caption], caption: Callable
) -> list[Attended]:
    """Captions the attended images of a batch, in a batch of the same shape."""
    images = images.copy()
    for row, first in enumerate(captions):
        images[row] = attended_picture(images[row], first)
    again = caption([{"image": images, "index": index}])
    return [Attended(pixels, found) for pixels, (_, found) in zip(images, again, strict=False)]
