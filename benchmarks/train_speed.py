"""Training captions a second: capjax beside a Keras model with the TensorFlow tutorial's layers.

    python -m benchmarks.train_speed [--rounds 3]

Both train 2 post-norm layers of 256 units, 2 heads with key_dim 256, feed-forward 512, dropout
0.5, on the same cached 7x7x576 features (16 images x 5 captions), the same vocabulary of 2541, the
same caption lengths, and Adam. The Keras side pads every caption to T = 20 and repeats an image's
features for each caption, as the tutorial does; it is compiled by `model.compile` at its defaults.
The capjax side is the real training step, on batches padded to T = 20 ("plain") and on batches by
length bucket as `dataset.length_bucket=4` makes them ("bucketed"). Each side runs in a process of
its own, in turn; the ratio is of the medians.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np

IMAGES, CAPTIONS, LENGTH, VOCABULARY = 16, 5, 20, 2541
POSITIONS, FEATURES = 49, 576
UNITS, HEADS, LAYERS, DROPOUT = 256, 2, 2, 0.5
WARMUP, STEPS = 12, 40
# Flickr8k's caption lengths in words, mean 10.8 and deviation 3.8 (train split, punctuation out).
MEAN_WORDS, DEVIATION_WORDS = 10.8, 3.8


def make_data(count: int = 20):
    """`count` batches of features, tokens (bos ... eos pad) and lengths."""
    rng = np.random.default_rng(0)
    shape = (count * IMAGES, CAPTIONS)
    words = rng.normal(MEAN_WORDS, DEVIATION_WORDS, shape).round().clip(3, LENGTH - 1).astype(int)
    tokens = rng.integers(4, VOCABULARY, (*shape, LENGTH + 1)).astype(np.int32)
    tokens[..., 0] = 1
    position = np.arange(LENGTH + 1)
    tokens[position == words[..., None] + 1] = 2
    tokens[position > words[..., None] + 1] = 0
    features = rng.normal(size=(IMAGES, POSITIONS, FEATURES)).astype(np.float32)
    return features, tokens, (words + 1).astype(np.int32)
