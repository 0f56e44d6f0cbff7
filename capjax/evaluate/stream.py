"""Captions of images that come one after the other, without end if need be."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from capjax.data.images import ImageError, Resize, load_pixels
from capjax.evaluate.attention_maps import attended_picture
from capjax.evaluate.captioning import Caption

# Side of the picture that attention is drawn on.
_THUMBNAIL = 448

Batch = Mapping[str, np.ndarray]


class Picture(NamedTuple):
    """What is kept of a photograph until it has its caption.

    Attributes:
      pixels: the model's, uint8 [S, S, 3].
      thumbnail: a small one to draw on, uint8 [h, w, 3], of what the model sees; or None.
    """

    pixels: np.ndarray
    thumbnail: np.ndarray | None


class Attended(NamedTuple):
    """What a caption saw, see `attended_picture`, uint8 [S, S, 3]; and the caption of that."""

    pixels: np.ndarray
    caption: Caption


class Answer(NamedTuple):
    """What became of one name: a caption, with what else was asked for; or an error."""

    name: str
    caption: Caption | None = None
    picture: np.ndarray | None = None
    error: ImageError | None = None
    attended: Attended | None = None


def picture_reader(
    read: Callable[[str], Image.Image], resize: Resize, *, thumbnail: bool
) -> Callable[[str], Picture]:
    """From a name to its `Picture`; `read` gives what it names, upright and RGB."""

    def read_picture(name: str) -> Picture:
        picture = read(name)
        pixels = load_pixels(picture, resize, name=name)
        if not thumbnail:
            return Picture(pixels, None)
        # Attention says nothing of what the model does not see.
        picture = picture.crop(resize.seen(*picture.size))
        picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
        return Picture(pixels, np.asarray(picture))

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

    While a batch is captioned, threads read the next. Nothing of a picture is kept any longer.

    Args:
      batches: up to `size` (index, name) each; an empty one says that no name is there yet.
      read: raises ImageError where a name is of no use; called by several threads.
      caption: from batches of "image" [size, S, S, 3] and "index" int32 [size] (-1 fills the
        batch) to captions by index. Batches have one shape, so it is compiled once.
      size: rows of a batch.
      num_threads: threads that read.
      attended: whether what each caption saw is captioned, too, for which captions need attention.
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
        # Reached too when the caller stops early; what is read then is of no use.
        pool.shutdown(wait=False, cancel_futures=True)


def _answer(
    ahead: deque[tuple[int, str, Future]], caption: Callable, size: int, attended: bool
) -> list[Answer]:
    """The answers to what was read ahead, which is used up."""
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
    """What the captions of a batch's first images saw, captioned in a batch of the same shape."""
    images = images.copy()
    for row, first in enumerate(captions):
        images[row] = attended_picture(images[row], first)
    again = caption([{"image": images, "index": index}])
    return [Attended(pixels, found) for pixels, (_, found) in zip(images, again, strict=False)]
