"""Counts the parameters of a config's model, without data and without building it."""

from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from capjax.config import build
from capjax.models.captioner import split_frozen

# Any two vocabulary sizes give the line.
_FEW, _MORE = 1000, 2000


class Size(NamedTuple):
    """Numbers of parameters.

    Attributes:
      total: parameters of the whole model, including a frozen encoder.
      trained: parameters that training changes.
    """

    total: int
    trained: int


def size(config: ConfigDict, vocab_size: int) -> Size:
    """Counts the parameters of a config's model; raises ConfigError if it has none."""
    like = build.shapes(config, build.captioner_of(config, vocab_size))
    trained, _ = split_frozen(like, *build.frozen_parts(config))
    return Size(*(sum(leaf.size for leaf in jax.tree.leaves(x)) for x in (like["params"], trained)))


def size_by_words(config: ConfigDict) -> tuple[Size, Size]:
    """The size at zero words and the increase per word; sizes are linear in the vocabulary."""
    few, more = (size(config, words) for words in (_FEW, _MORE))
    slope = Size(*((b - a) // (_MORE - _FEW) for a, b in zip(few, more, strict=True)))
    return Size(*(a - b * _FEW for a, b in zip(few, slope, strict=True))), slope
