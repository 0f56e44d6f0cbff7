"""Pixels of a source's images by index, and evaluation batches without TensorFlow."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from capjax.data.augment import View
from capjax.data.batches import eval_indices, eval_text
from capjax.data.captions import EncodedCaptions
from capjax.data.images import decoded
from capjax.data.resize import Resize, Resizes, to_square
from capjax.data.source import Source
from capjax.data.tokenizer import Tokenizer

# Most images in a thread's task: handing over a small image alone costs several times its reading.
CHUNK = 16

# (width, height) of an image -> its crop and flip.
ViewOf = Callable[[tuple[int, int]], View]


def read_pixels(
    source: Source, index: int, resize: Resize | Resizes, view_of: ViewOf | None = None
) -> np.ndarray:
    """The pixels of one image, uint8 [H, W, 3]; black for the padding index -1.

    Without `view_of` the image is neither cropped nor flipped.

    Raises:
      ImageError: the image cannot be used; the message names its id and the source.
    """
    if index < 0:
        return np.zeros(resize.shape, np.uint8)
    image, image_id, _ = source[int(index)]
    path = f" at {image}" if isinstance(image, str) else ""
    name = f"image {image_id!r} of {source.name}{path}"
    with decoded(image, name=name) as picture:
        # The size of the upright image is known only after decoding.
        crop, flip = view_of(picture.size) if view_of else (None, False)
        return to_square(picture, resize, crop=crop, flip=flip)


def read_chunk(
    source: Source,
    index: np.ndarray,
    resize: Resize | Resizes,
    views: Sequence[ViewOf] | None = None,
) -> np.ndarray:
    """`read_pixels` of several images in turn, uint8 [len(index), H, W, 3]."""
    views = [None] * len(index) if views is None else views
    return np.stack([read_pixels(source, i, resize, v) for i, v in zip(index, views, strict=True)])


def check_same_source(source: Source, encoded: EncodedCaptions) -> None:
    """Raises ValueError where the captions are another source's."""
    if encoded.fingerprint != source.fingerprint or len(encoded.tokens) != len(source):
        raise ValueError(
            f"these captions of {len(encoded.tokens)} images were not read from {source.name}, "
            f"which has {len(source)} images: read and encode its own"
        )


def eval_batches(
    source: Source,
    encoded: EncodedCaptions | None,
    tokenizer: Tokenizer,
    *,
    batch_size: int,
    resize: Resize | Resizes,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 8,
) -> Iterator[dict[str, np.ndarray]]:
    """A split in order, each image once, the last batch padded. Needs no TensorFlow.

    Threads read one batch ahead.

    Args:
      source: the images.
      encoded: its captions, or None for images alone.
      tokenizer: the one that encoded them.
      batch_size: images in the global batch; this host has B of them.
      resize: sets the size H = W of the pixels.
      process_index: this host.
      process_count: number of hosts; each has the same number of batches.
      num_threads: threads that read, decode and resize.

    Returns:
      An iterator of {"image": uint8 [B, H, W, 3], "index": int32 [B]} and, with captions,
      those of `batches.eval_text`. The index of a padding row is -1.

    Raises:
      ImageError: see `read_pixels`.
      ValueError: the hosts do not divide the batch, or the captions are another source's.
    """
    if encoded is not None:
        check_same_source(source, encoded)
    indices = eval_indices(
        len(source),
        batch_size=batch_size,
        process_index=process_index,
        process_count=process_count,
    )

    def batch(pixels: np.ndarray, index: np.ndarray) -> dict[str, np.ndarray]:
        found = {"image": pixels, "index": index}
        if encoded is not None:
            found |= eval_text(encoded, index, tokenizer)
        return found

    batches = read_batches(source, indices, resize=resize, num_threads=num_threads)
    return (batch(*rows) for rows in zip(batches, indices, strict=True))


def read_batches(
    source: Source,
    indices: np.ndarray,
    *,
    resize: Resize | Resizes,
    num_threads: int,
    view_of: Callable[[int], ViewOf] | None = None,
) -> Iterator[np.ndarray]:
    """Yields the pixels [B, H, W, 3] of image indices [batches, B], reading one batch ahead.

    `view_of` maps an image's index to its crop and flip; without it there are none.
    """

    def read(index: np.ndarray) -> np.ndarray:
        views = None if view_of is None else [view_of(int(i)) for i in index]
        return read_chunk(source, index, resize, views)

    pool = ThreadPoolExecutor(num_threads)
    ahead = deque()
    try:
        for k in range(len(indices) + 1):
            if k < len(indices):
                chunks = np.array_split(indices[k], -(-indices.shape[1] // CHUNK))
                ahead.append([pool.submit(read, chunk) for chunk in chunks])
            if k > 0:
                yield np.concatenate([read.result() for read in ahead.popleft()])
    finally:
        # Also when the caller stops early or an image cannot be used.
        pool.shutdown(cancel_futures=True)
