"""Pixels of a source's images by index, and evaluation batches without TensorFlow."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from capjax.data.batches import eval_indices, eval_text
from capjax.data.captions import EncodedCaptions
from capjax.data.images import load_pixels
from capjax.data.source import Source
from capjax.data.tokenizer import Tokenizer

# Images a thread reads at a time, at most: handing one small image over costs several times what
# reading it does.
CHUNK = 16


def read_pixels(source: Source, index: int, size: int) -> np.ndarray:
    """The pixels of one image, uint8 [size, size, 3]; black for index -1, a filling row.

    Raises:
      ImageError: the image is unusable; the message names its id and the source.
    """
    if index < 0:
        return np.zeros((size, size, 3), np.uint8)
    image, image_id, _ = source[int(index)]
    path = f" at {image}" if isinstance(image, str) else ""
    return load_pixels(image, size, name=f"image {image_id!r} of {source.name}{path}")


def read_chunk(source: Source, index: np.ndarray, size: int) -> np.ndarray:
    """`read_pixels` of several images one after the other, uint8 [len(index), size, size, 3]."""
    return np.stack([read_pixels(source, i, size) for i in index])


def check_same_source(source: Source, encoded: EncodedCaptions) -> None:
    """Raises ValueError where the captions are not those of the source."""
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
    image_size: int,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 8,
) -> Iterator[dict[str, np.ndarray]]:
    """A split in order, each image once, the last batch filled up. Needs no TensorFlow.

    Threads read one batch ahead of the one in use.

    Args:
      source: the images.
      encoded: its captions, or None for images alone.
      tokenizer: the one that encoded them.
      batch_size: images in the global batch, B, of which this host has b.
      image_size: S, side of the pixels.
      process_index: this host.
      process_count: all hosts; each has the same number of batches.
      num_threads: threads that read, decode and resize.

    Returns:
      An iterator of {"image": uint8 [b, S, S, 3], "index": int32 [b]} and, with captions,
      "tokens" and "lengths" (see `batches.eval_text`). A row with index -1 only fills the batch.

    Raises:
      ImageError: see `read_pixels`.
      ValueError: the batch does not divide, or the captions are another source's.
    """
    if encoded is not None:
        check_same_source(source, encoded)
    indices = eval_indices(
        len(source),
        batch_size=batch_size,
        process_index=process_index,
        process_count=process_count,
    )

    return _read_batches(source, encoded, tokenizer, indices, image_size, num_threads)


def _read_batches(source, encoded, tokenizer, indices, image_size, num_threads):
    pool = ThreadPoolExecutor(num_threads)
    ahead = deque()
    try:
        for k in range(len(indices) + 1):
            if k < len(indices):
                chunks = np.array_split(indices[k], -(-indices.shape[1] // CHUNK))
                ahead.append([pool.submit(read_chunk, source, c, image_size) for c in chunks])
            if k > 0:
                pixels = np.concatenate([read.result() for read in ahead.popleft()])
                yield eval_batch(pixels, indices[k - 1], encoded, tokenizer)
    finally:
        # Reached too when the caller stops early or an image is unusable.
        pool.shutdown(cancel_futures=True)


def eval_batch(
    pixels: np.ndarray,
    index: np.ndarray,
    encoded: EncodedCaptions | None,
    tokenizer: Tokenizer,
) -> dict[str, np.ndarray]:
    """Puts an evaluation batch together; without captions it has no tokens and lengths."""
    batch = {"image": pixels, "index": index}
    if encoded is not None:
        batch["tokens"], batch["lengths"] = eval_text(encoded, index, tokenizer)
    return batch
