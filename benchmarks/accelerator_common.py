"""What both sides of `benchmarks.accelerator` have in common: sizes, inputs and the clock."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

ROUNDS = 5
TOKENS, BEAMS, VOCABULARY = 16, 4, 50257
END = VOCABULARY - 1
# Of the decoder on cached features.
WORDS, CAPTIONS = 3000, 5


def seconds_of(call: Callable[[], Any], wait: Callable[[Any], None], window: float = 1.0) -> float:
    """Median seconds of a call, over windows of about `window` seconds with one wait each."""
    for _ in range(2):
        wait(call())
    start = time.perf_counter()
    wait(call())
    count = max(1, round(window / (time.perf_counter() - start)))
    found = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(count):
            result = call()
        wait(result)
        found.append((time.perf_counter() - start) / count)
    return statistics.median(found)


def draw(batch: int, captions: int = 1, vocabulary: int = END) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [B, 224, 224, 3] and captions int32 [B, C, 1 + T]."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, 224, 224, 3), np.uint8)
    return images, rng.integers(4, vocabulary, (batch, captions, TOKENS + 1), np.int32)
