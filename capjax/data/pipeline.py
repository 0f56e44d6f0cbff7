"""The tf.data pipeline: training batches of pixels and captions for any source.

tf.data only spreads the work over threads and reads ahead. `batches` plans the images of a batch
and `reading` decodes them (Pillow releases Python's lock), so that the batches equal those of a
sequential loop.
"""

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from capjax.data.augment import Augmentation, draw_view
from capjax.data.batches import TrainBatches
from capjax.data.captions import EncodedCaptions
from capjax.data.reading import CHUNK, check_same_source, read_chunk
from capjax.data.references import References
from capjax.data.resize import Resize
from capjax.data.source import Source
from capjax.data.tokenizer import Tokenizer

# Batches ready while the accelerator computes one.
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
    references: References | None = None,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 8,
    augmentation: Augmentation | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Training batches of steps first_step, first_step + 1, ... without end.

    The batch of a step does not depend on `first_step`, bit for bit.

    Args:
      source: the images.
      encoded: its captions; images without any are left out.
      tokenizer: the one that encoded them.
      batch_size: images in the global batch; this host has B of them.
      captions_per_image: C.
      resize: sets the size H = W of the pixels.
      seed: for the order, the draw of captions and the augmentation.
      first_step: the first step.
      length_bucket: see `batches.TrainBatches`.
      packed: see `batches.TrainBatches`.
      bucket_window: see `batches.Schedule`.
      references: adds its arrays; None for none.
      process_index: this host.
      process_count: number of hosts.
      num_threads: threads that read, decode and resize.
      augmentation: random crops and flips, drawn anew each epoch; None for none.

    Returns:
      An iterator of {"image": uint8 [B, H, W, 3], "tokens": int32 [B, C, T + 1], "lengths":
      int32 [B, C]}, further ones of `batches.Batch.text`, and those of the references.

    Raises:
      ImageError: from the iterator, where an image cannot be used; the message names it.
      ValueError: an argument is out of range, or the captions are another source's.
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
            text = batches(step).text()
            if references:
                text |= references(*plan_of(step))
            yield {"image": image, **text}

    return iterate()


def import_early() -> None:
    """Begins to import TensorFlow, which takes seconds, in a thread that Python's end waits for."""

    def work() -> None:
        with contextlib.suppress(ImportError):  # `train_batches` will say it.
            _tensorflow()

    threading.Thread(target=work, name="import of TensorFlow").start()


def _tensorflow():
    """Imports TensorFlow without its log and without the accelerator, which is JAX's."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # TensorFlow computes nothing here, and oneDNN prints lines that no log level silences.
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
    """Yields the pixels [B, *shape] of each step from `first` on.

    `plan_of(step)` returns the images, int32 [B], and their positions, int64 [B]; `read` returns
    the pixels of some of them.
    """
    tf = _tensorflow()
    failures = []
    rows = len(plan_of(first)[0])
    chunk = max(c for c in range(1, CHUNK + 1) if rows % c == 0)

    def read_or_fail(index, positions):
        # TensorFlow would turn an exception into the text of one of its own. It is kept in
        # `failures` instead and raised in place of its batch.
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
    # Without autotuning, so that the memory is bounded.
    options.autotune.enabled = False
    options.threading.private_threadpool_size = num_threads
    iterators = [dataset.with_options(options).as_numpy_iterator()]
    # Threads that still read when Python shuts down would deadlock on its lock. Dropping the last
    # reference to the iterator stops them before that.
    stop = weakref.finalize(dataset, iterators.clear)
    try:
        while (batch := next(iterators[0], None)) is not None:
            pixels, failed = batch
            for number in failed[failed >= 0]:
                raise failures[number]
            yield pixels
    finally:
        stop()
