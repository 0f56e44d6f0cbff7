"""Ugly captions through the PTB tokens and the scores."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capjax.metrics import coco
from capjax.metrics.ptb import tokenize
from tests.helpers.ugly_text import TEXT, UGLY


@given(TEXT.filter(lambda text: len(text) < 100_000))
def test_any_text_has_tokens(text):
    tokens = tokenize(text)
    assert all(token and not set(token) & set(" \t\n\r") for token in tokens)
    assert tokenize(f"{text}\n") == tokens


@given(st.lists(TEXT.filter(lambda text: len(text) < 1_000), min_size=1, max_size=3), TEXT)
def test_any_captions_have_scores_or_no_word(references, hypothesis):
    pair = {"a": references}, {"a": hypothesis[:500]}
    if not any(map(tokenize, references)):
        with pytest.raises(ValueError, match="have no words"):
            coco.score(*pair, meteor=False)
    else:
        scores = coco.score(*pair, meteor=False)
        assert scores.keys() == set(coco.METRICS)
        assert all(0 <= value <= 1000 for value in scores.values())


@pytest.mark.parametrize("unit", [".#", "<!a ", ",n", "www.a"])
def test_long_captions_cost_what_their_length_does(unit):
    """A rule that looks to the end from every sign took half a minute on each of these."""
    start = time.process_time()
    tokenize(unit * (40_000 // len(unit)))
    assert time.process_time() - start < 10


def test_a_word_without_an_end_is_read():
    assert tokenize(f"a {'x' * 1_000_000} dog") == ["a", "x" * 1_000_000, "dog"]
    for text in UGLY:
        tokenize(text)
