"""The reward by the scenes of `shapes` beside its checker."""

import jax
import numpy as np
import pytest

from capjax.data.shapes import grammar
from capjax.data.shapes.facts import KINDS, facts, is_true
from capjax.data.shapes.scene import image_id, scene_of
from capjax.data.tokenizer import train_word_tokenizer
from capjax.metrics.reward import corpus_ids
from experiments.shapes_scenes import Scenes
from tests.helpers.cider import pad

IMAGES = 60
IDS = [image_id("train", index) for index in range(IMAGES)]


@pytest.fixture(scope="module", name="texts")
def make_texts():
    return [grammar.captions_of(name) for name in IDS]


@pytest.fixture(scope="module", name="tokenizer")
def make_tokenizer(texts):
    return train_word_tokenizer([text for own in texts for text in own] * 5)


@pytest.fixture(scope="module", name="table")
def make_table(texts, tokenizer):
    sizes = {"eos_id": tokenizer.eos_id, "vocab_size": tokenizer.vocab_size}
    return Scenes.of(tokenizer).prepare(corpus_ids(tokenizer, texts), **sizes)


def arrays(tokenizer, texts):
    captions = corpus_ids(tokenizer, texts)
    return pad(captions, max(len(ids) for own in captions for ids in own), tokenizer.pad_id)


def score(tokenizer, table, hypotheses, references):
    reward = jax.jit(Scenes.of(tokenizer).__call__)
    return np.asarray(reward(table, *arrays(tokenizer, hypotheses), *arrays(tokenizer, references)))


def test_a_caption_is_true_where_the_checker_says_so(texts, tokenizer, table):
    hypotheses = []
    for name, own, others in zip(IDS, texts, texts[1:] + texts[:1], strict=True):
        full = [f"a {t.size} {t.texture} {t.colour} {t.shape}" for t in scene_of(name).things]
        pair = f"two things and {full[0]} left of {full[1]}"
        hypotheses.append([*own, *others, " and ".join(full), pair])
    table = {**table, "rows": np.ones_like(table["rows"])}
    scored = score(tokenizer, table, hypotheses, texts)
    for name, own, row in zip(IDS, hypotheses, scored, strict=True):
        np.testing.assert_array_equal(row > 0, [is_true(text, scene_of(name)) for text in own])
    assert (scored[scored <= 0] == -1).all()


def test_facts_are_counted_by_kind(texts, tokenizer):
    read = jax.jit(Scenes.of(tokenizer).read)
    counted = np.asarray(read(*arrays(tokenizer, texts)).facts)
    for own, row in zip(texts, counted, strict=True):
        kinds = [[fact.kind for fact in facts(text)] for text in own]
        np.testing.assert_array_equal(row, [[one.count(kind) for kind in KINDS] for one in kinds])


def test_what_all_samples_state_is_worth_less(texts, tokenizer, table):
    references = [texts[0]]
    alone, alike = [[texts[0][0], "a"]], [[texts[0][0]] * 2]
    one, false = score(tokenizer, table, alone, references)[0]
    assert false == -1
    assert one > score(tokenizer, table, alike, references)[0, 0] > 0


def test_words_that_no_reference_has_in_a_row_are_false(texts, tokenizer, table):
    own = texts[0][0].lower().rstrip(".")
    said = [[own, own + " is", "a red circle is a red circle"]]
    assert (score(tokenizer, table, said, [texts[0]])[0] > 0).tolist() == [True, False, False]
