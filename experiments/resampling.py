"""How sure scores on a split are, by resampling its images.

Scores come from sums over images: of BLEU's statistics for BLEU, so that it stays a corpus score in
each resample, and of the images' own values for means such as ROUGE-L and CIDEr-D. CIDEr-D's idf
stays that of the whole split: it weighs words by how the split uses them, which a resample that has
an image twice would distort.

Intervals are percentiles of the bootstrap over images, of one score or of the difference of two on
the same resamples (Koehn 2004, "Statistical significance tests for machine translation
evaluation"). p values are of approximate randomisation (Riezler and Maxwell 2005, "On some pitfalls
in automatic evaluation and significance testing for MT", section 4), which they found to err less
towards significance than the bootstrap. Both speak of other images of the same kind, not of other
seeds of training.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

CONFIDENCE = 0.95
"""Of all intervals."""

_BLOCK = 4_000_000  # Weights in memory at once, resamples times images.

# Sums of equal numbers in another order may differ by less than this, and scores never matter so
# little: a resample that is as far out as what was observed is to count.
_EQUAL = 1e-9


def bootstrap_sums(statistics: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Sums over images drawn with replacement, as many as there are.

    Args:
      statistics: [I, ...], of I images; what stands beside each other shares the resamples.
      resamples: R.
      seed: of the resamples.

    Returns:
      float [R, ...].
    """
    images = len(statistics)
    flat = _flat(statistics)
    random = np.random.default_rng(seed)
    sums = []
    for block in _blocks(resamples, images):
        drawn = random.integers(images, size=(block, images)) + images * np.arange(block)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=block * images).reshape(block, images)
        sums.append(counts @ flat)
    return np.concatenate(sums).reshape(resamples, *statistics.shape[1:])


def swapped_sums(
    left: np.ndarray, right: np.ndarray, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over images after two systems exchanged each image's outputs by the toss of a coin.

    Args:
      left: [I, ...], statistics of one system; what stands beside each other shares the coins.
      right: [I, ...], of the other.
      resamples: R.
      seed: of the coins.

    Returns:
      float [R, ...] of the left and of the right.
    """
    images = len(left)
    change = _flat(right - left)
    random = np.random.default_rng(seed)
    changes = np.concatenate(
        [(random.random((n, images)) < 0.5) @ change for n in _blocks(resamples, images)]
    ).reshape(resamples, *left.shape[1:])
    return left.sum(axis=0) + changes, right.sum(axis=0) - changes


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval, low and high, of bootstrapped values [R, ...]."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail], axis=0)
    return low, high


def p_value(observed: np.ndarray, swapped: np.ndarray) -> np.ndarray:
    """How often two systems that do not differ would differ by this much or more, either way.

    Args:
      observed: [...], differences.
      swapped: [R, ...], the differences after swaps.

    Returns:
      float [...], at least 1 / (R + 1): what was observed counts as one of the swaps.
    """
    as_far = np.sum(np.abs(swapped) >= np.abs(observed) - _EQUAL, axis=0)
    return (1 + as_far) / (1 + len(swapped))


def sample_deviation(values: Sequence[float]) -> float | None:
    """The sample standard deviation; None of fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _flat(statistics: np.ndarray) -> np.ndarray:
    """[I, ...] as float [I, n]; n may be 0."""
    return statistics.reshape(len(statistics), math.prod(statistics.shape[1:])).astype(float)


def _blocks(resamples: int, images: int) -> Iterator[int]:
    """Sizes of the blocks that together are all resamples."""
    size = max(1, _BLOCK // images)
    for first in range(0, resamples, size):
        yield min(size, resamples - first)
