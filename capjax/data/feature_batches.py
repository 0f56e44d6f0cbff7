"""Training and evaluation batches of cached features. Needs no TensorFlow.

`batches` plans the images and captions of a batch, as for pixels.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import numpy as np

from capjax.data.batches import VIEW, TrainBatches, eval_indices, eval_text, generator
from capjax.data.captions import EncodedCaptions
from capjax.data.feature_cache import FeatureCache
from capjax.data.references import References
from capjax.data.tokenizer import Tokenizer

# Batches read ahead of the one in use.
_AHEAD = 2


def train_feature_batches(
    views: Sequence[FeatureCache],
    batches: TrainBatches,
    *,
    seed: int,
    first_step: int = 0,
    references: References | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Training batches of steps first_step, first_step + 1, ... without end.

    Args:
      views: caches of the train split: of whole images, of crops, ...; one is drawn for an image
        each epoch.
      batches: plans the images and captions.
      seed: for the draw of a view.
      first_step: the first step; a step's batch does not depend on it.
      references: adds its arrays; None for none.

    Returns:
      An iterator of {"features": [B, P, F] in the cache's type, "tokens": int32 [B, C, T + 1],
      "lengths": int32 [B, C]}, further ones of `batches.Batch.text`, and those of the
      references.

    Raises:
      DataError: from the iterator, where the cache is damaged.
    """

    def make(step: int) -> dict[str, np.ndarray]:
        batch = batches(step)
        positions = batches.positions(step)
        more = references(batch.index, positions) if references else {}
        features = _read_views(views, batch.index, positions, seed)
        return {"features": features, **batch.text(), **more}

    return _read_ahead(make, count(first_step))


def _read_views(
    views: Sequence[FeatureCache], index: np.ndarray, positions: np.ndarray, seed: int
) -> np.ndarray:
    """Features [B, P, F] of images, each from the view drawn for its position in the stream."""
    if len(views) == 1:
        return views[0].read(index)
    drawn = np.array([generator(seed, VIEW, int(p)).integers(len(views)) for p in positions])
    batch = views[0].read(np.where(drawn == 0, index, -1))
    for number, view in enumerate(views[1:], 1):
        rows = np.flatnonzero(drawn == number)
        batch[rows] = view.read(index[rows])
    return batch


def eval_feature_batches(
    features: FeatureCache,
    encoded: EncodedCaptions,
    tokenizer: Tokenizer,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """A split in order, each image once, the last batch padded; see `reading.eval_batches`.

    Returns:
      An iterator of {"features": [B, P, F], "index": int32 [B]} and those of `batches.eval_text`.
    """
    indices = eval_indices(
        len(features),
        batch_size=batch_size,
        process_index=process_index,
        process_count=process_count,
    )

    def make(index: np.ndarray) -> dict[str, np.ndarray]:
        read = features.read(index)
        return {"features": read, "index": index, **eval_text(encoded, index, tokenizer)}

    return _read_ahead(make, indices)


def _read_ahead(make, arguments) -> Iterator[dict[str, np.ndarray]]:
    """Yields make(argument) of each argument, computed a few ahead in a thread.

    One thread, because planning is cheap only for consecutive steps.
    """
    pool = ThreadPoolExecutor(1)
    waiting = deque()
    try:
        for argument in arguments:
            waiting.append(pool.submit(make, argument))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
