"""How many parameters a config's model has, without data and without making it."""

from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from capjax.config import build
from capjax.models.captioner import split_frozen

# Any two sizes would do.
_FEW, _MORE = 1000, 2000


class Size(NamedTuple):
    """Numbers of parameters.

    Attributes:
      total: of the whole model, a frozen encoder's among them.
      trained: of those that training changes.
    """

    total: int
    trained: int


def size(config: ConfigDict, vocab_size: int) -> Size:
    """The size of the config's model; raises ConfigError where there is no such model."""
    like = build.shapes(config, build.captioner_of(config, vocab_size))
    trained, _ = split_frozen(like, *build.frozen_parts(config))
    return Size(*(sum(leaf.size for leaf in jax.tree.leaves(x)) for x in (like["params"], trained)))


def size_by_words(config: ConfigDict) -> tuple[Size, Size]:
    """What a model has whatever its words, and what it has a word: sizes are linear in words."""
    few, more = (size(config, words) for words in (_FEW, _MORE))
    slope = Size(*((b - a) // (_MORE - _FEW) for a, b in zip(few, more, strict=True)))
    return Size(*(a - b * _FEW for a, b in zip(few, slope, strict=True))), slope
