"""The tf.data pipeline: training batches of pixels and captions for any source.

tf.data only spreads the work over threads and reads ahead. Which images a batch holds comes from
`batches`, pixels come from `reading` (the one way from bytes to pixels; Pillow works outside of
Python's lock), so batches are the same as if they were made one after the other.
"""

import os
import weakref
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from capjax.data.augment import Augmentation, draw_view
from capjax.data.batches import TrainBatches
from capjax.data.captions import EncodedCaptions
from capjax.data.images import Resize
from capjax.data.reading import CHUNK, check_same_source, read_chunk
from capjax.data.source import Source
from capjax.data.tokenizer import Tokenizer

# Batches that are ready and waiting while the accelerator is busy with one.
_PREFETCH = 2


def train_batches(
    source: Source,
    encoded: EncodedCaptions,
    tokenizer: Tokenizer,
    *,
    batch_size: int,
    captions_per_image: int,
    resize: Resize,
    seed: int,
    first_step: int = 0,
    length_bucket: int | None = None,
    packed: bool = False,
    bucket_window: int = 50,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 8,
    augmentation: Augmentation | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Training batches of steps first_step, first_step + 1, ... without end.

    Started at step k it gives, bit for bit, what it would give from there when started at 0.

    Args:
      source: the images.
      encoded: its captions; images without any are left out.
      tokenizer: the one that encoded them.
      batch_size: images in the global batch, B, of which this host has b.
      captions_per_image: C.
      resize: what makes images squares, and of which side, S.
      seed: of the order, the choice of captions and the augmentation.
      first_step: where to start.
      length_bucket: see `batches.TrainBatches`.
      packed: see `batches.TrainBatches`.
      bucket_window: see `batches.Schedule`.
      process_index: this host.
      process_count: all hosts.
      num_threads: threads that read, decode and resize.
      augmentation: random crops and flips, drawn anew each time an image comes; None for none.

    Returns:
      An iterator of {"image": uint8 [b, S, S, 3], "tokens": int32 [b, C, T+1], "lengths":
      int32 [b, C]} and, when packed, "packing"; see `batches.Batch`.

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
        packed=packed,
        bucket_window=bucket_window,
        process_index=process_index,
        process_count=process_count,
    )

    def plan_of(step):
        return batches.index(step), batches.positions(step)

    def read(index, positions):
        if augmentation in (None, Augmentation()):
            return read_chunk(source, index, resize)
        views = [partial(draw_view, augmentation, seed, p) for p in positions.tolist()]
        return read_chunk(source, index, resize, views)

    pixels = _read_batches(read, plan_of, first_step, resize.shape, num_threads)

    def iterate():
        for step, image in enumerate(pixels, first_step):
            yield {"image": image, **batches(step).text()}

    return iterate()


def _tensorflow():
    """TensorFlow, quiet and away from the accelerator, which is JAX's alone."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # TensorFlow computes nothing here; with oneDNN it greets with lines that no level silences.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    return tf


def _read_batches(
    read: Callable[[np.ndarray, np.ndarray], np.ndarray],
    plan_of: Callable[[int], tuple[np.ndarray, np.ndarray]],
    first: int,
    shape: tuple[int, int, int],
    num_threads: int,
) -> Iterator[np.ndarray]:
    """Yields the pixels [b, *shape] of each step from `first` on.

    `plan_of(step)` are the images and their positions, int32 [b] and int64 [b]; `read` gives the
    pixels of a part of them.
    """
    tf = _tensorflow()
    failures = []
    rows = len(plan_of(first)[0])
    chunk = max(c for c in range(1, CHUNK + 1) if rows % c == 0)

    def read_or_fail(index, positions):
        # An exception would reach the caller as a trace of text in one of TensorFlow's: it waits
        # in `failures` instead until it is its batch's turn.
        try:
            return read(index, positions), np.int64(-1)
        except Exception as error:
            failures.append(error)
            return np.zeros((chunk, *shape), np.uint8), np.int64(failures.index(error))

    def pixels_of(index, positions):
        inputs, types = [index, positions], (tf.uint8, tf.int64)
        pixels, failure = tf.numpy_function(read_or_fail, inputs, types, stateful=False)
        return tf.ensure_shape(pixels, (chunk, *shape)), tf.ensure_shape(failure, ())

    def plan(step):
        images = tf.numpy_function(plan_of, [step], (tf.int32, tf.int64), stateful=False)
        return tuple(tf.reshape(part, (rows // chunk, chunk)) for part in images)

    dataset = (
        tf.data.Dataset.range(first, tf.int64.max)
        .map(plan)
        .unbatch()
        .map(pixels_of, num_parallel_calls=num_threads, deterministic=True)
        .batch(rows // chunk)
        .map(lambda pixels, failure: (tf.reshape(pixels, (rows, *shape)), failure))
        .prefetch(_PREFETCH)
    )
    options = tf.data.Options()
    # Fixed numbers of threads and batches in place of tuned ones bound the memory.
    options.autotune.enabled = False
    options.threading.private_threadpool_size = num_threads
    iterators = [dataset.with_options(options).as_numpy_iterator()]
    # Threads that still read when Python shuts down would wait for its lock for ever. The last
    # reference to the iterator, which stops them, goes before that.
    stop = weakref.finalize(dataset, iterators.clear)
    try:
        while (batch := next(iterators[0], None)) is not None:
            pixels, failed = batch
            for number in failed[failed >= 0]:
                raise failures[number]
            yield pixels
    finally:
        stop()
