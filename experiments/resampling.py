"""Confidence intervals and p values of scores, by resampling the images of a split.

Scores are computed from sums over images: of the n-gram statistics for BLEU, so that it stays a
corpus score in each resample, and of values by image for means such as ROUGE-L and CIDEr-D. The idf
of CIDEr-D stays that of the whole split, since repeated images in a resample would distort it.

Intervals are percentiles of the bootstrap over images, of a score or of the difference between two
on the same resamples (Koehn 2004, "Statistical significance tests for machine translation
evaluation"). p values come from approximate randomisation (Riezler and Maxwell 2005, "On some
pitfalls in automatic evaluation and significance testing for MT", section 4), which they found less
prone to false significance than the bootstrap. Both describe other images from the same
distribution, not other training seeds.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

CONFIDENCE = 0.95
"""Confidence level of all intervals."""

_BLOCK = 4_000_000  # Weights in memory at once, resamples times images.

# Sums of equal numbers in another order may differ by less than this, far below any difference that
# matters: a resample as extreme as the observation must count.
_EQUAL = 1e-9


def bootstrap_sums(statistics: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Sums over bootstrap resamples of the images.

    Args:
      statistics: [I, ...], statistics of I images; all of them share the resamples.
      resamples: number of resamples R.
      seed: seed of the resamples.

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
    """Sums over images after each image's outputs are swapped between two systems at random.

    Args:
      left: [I, ...], statistics of one system; all of them share the swaps.
      right: [I, ...], statistics of the other system.
      resamples: number of resamples R.
      seed: seed of the swaps.

    Returns:
      float [R, ...] for the left and for the right system.
    """
    images = len(left)
    change = _flat(right - left)
    random = np.random.default_rng(seed)
    changes = np.concatenate(
        [(random.random((n, images)) < 0.5) @ change for n in _blocks(resamples, images)]
    ).reshape(resamples, *left.shape[1:])
    return left.sum(axis=0) + changes, right.sum(axis=0) - changes


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval (low, high) of bootstrapped values [R, ...]."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail], axis=0)
    return low, high


def p_value(observed: np.ndarray, swapped: np.ndarray) -> np.ndarray:
    """The two-sided p value of differences under approximate randomisation.

    Args:
      observed: [...], observed differences.
      swapped: [R, ...], differences after swaps.

    Returns:
      float [...], at least 1 / (R + 1): the observation counts as one of the swaps.
    """
    as_far = np.sum(np.abs(swapped) >= np.abs(observed) - _EQUAL, axis=0)
    return (1 + as_far) / (1 + len(swapped))


def sample_deviation(values: Sequence[float]) -> float | None:
    """The sample standard deviation; None for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _flat(statistics: np.ndarray) -> np.ndarray:
    """[I, ...] as float [I, n]; n may be 0."""
    return statistics.reshape(len(statistics), math.prod(statistics.shape[1:])).astype(float)


def _blocks(resamples: int, images: int) -> Iterator[int]:
    """Yields the sizes of blocks that add up to all resamples."""
    size = max(1, _BLOCK // images)
    for first in range(0, resamples, size):
        yield min(size, resamples - first)
