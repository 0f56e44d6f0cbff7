"""The tf.data pipeline: batches of pixels and captions for any source.

tf.data only spreads the work over threads and reads ahead. Which images a batch holds comes from
`batches`, pixels come from `reading` (the one way from bytes to pixels; Pillow works outside of
Python's lock), so batches are the same as if they were made one after the other.
"""

import atexit
import os
from collections.abc import Callable, Iterator

import numpy as np

from capjax.data.batches import TrainBatches, eval_indices
from capjax.data.captions import EncodedCaptions
from capjax.data.reading import check_same_source, eval_batch, read_pixels
from capjax.data.source import Source
from capjax.data.tokenizer import Tokenizer

# Batches that are ready and waiting while the accelerator is busy with one.
_PREFETCH = 2

# Images a call from tf.data into Python: a call costs as much as a few small images.
_MAX_CHUNK = 16


def train_batches(
    source: Source,
    encoded: EncodedCaptions,
    tokenizer: Tokenizer,
    *,
    batch_size: int,
    captions_per_image: int,
    image_size: int,
    seed: int,
    first_step: int = 0,
    length_bucket: int | None = None,
    bucket_window: int = 50,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 8,
) -> Iterator[dict[str, np.ndarray]]:
    """Training batches of steps first_step, first_step + 1, ... without end.

    Started at step k it gives, bit for bit, what it would give from there when started at 0.

    Args:
      source: the images.
      encoded: its captions; images without any are left out.
      tokenizer: the one that encoded them.
      batch_size: images in the global batch, B, of which this host has b.
      captions_per_image: C.
      image_size: S, side of the pixels.
      seed: of the order and of the choice of captions.
      first_step: where to start.
      length_bucket: see `batches.Schedule`.
      bucket_window: see `batches.Schedule`.
      process_index: this host.
      process_count: all hosts.
      num_threads: threads that read, decode and resize.

    Returns:
      An iterator of {"image": uint8 [b, S, S, 3], "tokens": int32 [b, C, T+1], "lengths":
      int32 [b, C]}; see `batches.pack`. The arrays are read-only.

    Raises:
      ImageError: from the iterator, for an unusable image, which it names.
      ValueError: an argument is out of its range, or the captions are another source's.
    """
    check_same_source(source, encoded)
    batches = TrainBatches(
        encoded,
        tokenizer,
        batch_size=batch_size,
        captions_per_image=captions_per_image,
        seed=seed,
        length_bucket=length_bucket,
        bucket_window=bucket_window,
        process_index=process_index,
        process_count=process_count,
    )
    pixels = _read_batches(source, batches.index, (first_step, None), image_size, num_threads)

    def iterate():
        for step, image in enumerate(pixels, first_step):
            _, tokens, lengths = batches(step)
            yield {"image": image, "tokens": tokens, "lengths": lengths}

    return iterate()


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
    """A split in order, each image once, the last batch filled up.

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
      ImageError: from the iterator, for an unusable image, which it names.
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
    steps = (0, len(indices))
    pixels = _read_batches(source, indices.__getitem__, steps, image_size, num_threads)
    return (
        eval_batch(image, index, encoded, tokenizer)
        for image, index in zip(pixels, indices, strict=True)
    )


def _tensorflow():
    """TensorFlow, quiet and away from the accelerator, which is JAX's alone."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    return tf


def _read_batches(
    source: Source,
    index_of: Callable[[int], np.ndarray],
    steps: tuple[int, int | None],
    image_size: int,
    num_threads: int,
) -> Iterator[np.ndarray]:
    """Yields the pixels [b, S, S, 3] of the images `index_of(step)` for a range of steps."""
    first, last = steps
    if first == last:
        return
    tf = _tensorflow()
    op_error = tf.errors.OpError  # looked up now: TensorFlow is gone first when Python shuts down
    failures = []
    rows = len(index_of(first))
    chunk = max(c for c in range(1, _MAX_CHUNK + 1) if rows % c == 0)

    def read(index):
        try:
            return np.stack([read_pixels(source, i, image_size) for i in index])
        except Exception as error:
            failures.append(error)  # tf.data would make a trace of text of it
            raise

    def read_chunk(index):
        pixels = tf.numpy_function(read, [index], tf.uint8, stateful=False)
        return tf.ensure_shape(pixels, (chunk, image_size, image_size, 3))

    def plan(step):
        index = tf.numpy_function(index_of, [step], tf.int32, stateful=False)
        return tf.reshape(index, (rows // chunk, chunk))

    dataset = (
        tf.data.Dataset.range(first, tf.int64.max if last is None else last)
        .map(plan)
        .unbatch()
        .map(read_chunk, num_parallel_calls=num_threads, deterministic=True)
        .batch(rows // chunk)
        .map(lambda pixels: tf.reshape(pixels, (rows, image_size, image_size, 3)))
        .prefetch(_PREFETCH)
    )
    options = tf.data.Options()
    # Fixed numbers of threads and batches in place of tuned ones bound the memory.
    options.autotune.enabled = False
    options.threading.private_threadpool_size = num_threads
    iterators = [dataset.with_options(options).as_numpy_iterator()]
    # Reading threads that are still at work when Python shuts down would wait for its lock for
    # ever: the last reference to the iterator, which stops them, goes before that.
    atexit.register(iterators.clear)
    try:
        while True:
            yield next(iterators[0])
    except StopIteration:
        return
    except op_error:
        if failures:
            raise failures[0] from None
        raise
    finally:
        iterators.clear()
        atexit.unregister(iterators.clear)
