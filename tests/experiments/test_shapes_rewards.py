"""Rewards of facts beside the parser of `shapes`, and the stages that they train."""

import itertools
import json

import jax
import numpy as np
import pytest

from capjax.config import checks
from capjax.data.shapes import grammar
from capjax.data.shapes.facts import parse
from capjax.data.shapes.scene import image_id
from capjax.data.tokenizer import train_word_tokenizer
from capjax.metrics.reward import corpus_ids
from capjax.parts import REWARDS
from experiments.shapes_facts import Facts, Precision
from experiments.shapes_rewards import COLUMNS, STAGES, curves, line, register, stage_config
from tests.helpers.cider import pad

OTHER_SIDE = {"right": "left", "below": "above"}


@pytest.fixture(scope="module", name="texts")
def make_texts():
    return [grammar.captions_of(image_id("test", index, 0)) for index in range(80)]


@pytest.fixture(scope="module", name="tokenizer")
def make_tokenizer(texts):
    return train_word_tokenizer([text for own in texts for text in own] * 5)


def arrays(tokenizer, texts):
    captions = corpus_ids(tokenizer, texts)
    return pad(captions, max(len(ids) for own in captions for ids in own), tokenizer.pad_id)


def facts_of(caption):
    """The facts of a caption as its parser reads them."""
    claims, found = parse(caption), set()
    shapes = [dict(mention.attributes)["shape"] for mention in claims.mentions]
    for mention, shape in zip(claims.mentions, shapes, strict=True):
        found |= {(*attribute, shape) for attribute in mention.attributes}
        found |= {("number", mention.number, shape)} if mention.number > 1 else set()
    found |= {("total", claims.total)} if claims.total else set()
    if claims.relation:
        first, second = shapes if claims.relation not in OTHER_SIDE else shapes[::-1]
        found.add((OTHER_SIDE.get(claims.relation, claims.relation), first, second))
    return found


def test_facts_are_those_of_the_parser(texts, tokenizer):
    """Any two captions have as many codes in common as facts."""
    rows = np.asarray(Facts.of(tokenizer).facts(*arrays(tokenizer, texts))).reshape(400, -1)
    codes = [[*row[row >= 0]] for row in rows]
    assert all(len(own) == len({*own}) for own in codes)
    facts = [facts_of(text) for own in texts for text in own]
    for one, other in itertools.combinations_with_replacement(range(400), 2):
        assert len({*codes[one]} & {*codes[other]}) == len(facts[one] & facts[other])


def score(reward, tokenizer, hypotheses, references):
    """The reward of each hypothesis of one image."""
    said, lengths = arrays(tokenizer, [hypotheses])
    given = arrays(tokenizer, [references])
    table = reward.prepare((), eos_id=tokenizer.eos_id, vocab_size=tokenizer.vocab_size)
    found = jax.jit(reward.__call__)(table, said, lengths, *given)
    open_lengths = jax.jit(reward.__call__)(table, said, lengths - 1, *given)
    return np.asarray(found)[0], np.asarray(open_lengths)[0]


def test_facts_must_be_true_many_and_ended(tokenizer):
    references = ["a striped red circle is to the left of a blue square"]  # Six facts.
    said = [
        *references,
        "a blue square is to the right of a red circle",  # Five of them.
        "a red circle",  # Two.
        "a red circle is to the right of a blue square",  # Four and a wrong one.
        "a green star",
    ]
    found, unended = score(Facts.of(tokenizer), tokenizer, said, references)
    np.testing.assert_allclose(found, [1, 5 / 6, 2 / 6, 4 / 5 * 4 / 6, 0], rtol=1e-6)
    assert not unended.any()


def test_few_words_are_precise_enough(tokenizer):
    said = ["a red circle is left of a green star", "a", "a a a"]
    found, unended = score(Precision(), tokenizer, said, ["a blue square is left of a red star"])
    np.testing.assert_allclose(found, [7 / 9, 1, 2 / 3], rtol=1e-6)
    np.testing.assert_array_equal(found, unended)


@pytest.mark.parametrize("name", STAGES)
def test_stages_can_be_trained(name, tokenizer, monkeypatch):
    monkeypatch.setattr("experiments.shapes_rewards.load_tokenizer", lambda _: tokenizer)
    before = dict(REWARDS._registered)
    register("run")
    try:
        checks.check(stage_config(name, "run"))
    finally:
        REWARDS._registered = before


def test_a_row_has_a_cell_for_each_figure():
    row = line("CIDEr-D", {"CIDEr-D": 55.04, "truth_rate": 0.5, "kl": 1.0})
    assert row.startswith("| CIDEr-D | 55.0 | 0.50 | - | - |")
    assert row.count(" | ") == len(COLUMNS)


def test_curves_begin_where_the_first_stage_ends(tmp_path):
    def write(name, *rows):
        (tmp_path / name).mkdir()
        lines = [json.dumps(row) + "\n" for row in rows]
        (tmp_path / name / "metrics.jsonl").write_text("".join(lines))

    write("start", {"step": 600, "group": "validation", "coverage": 0.5})
    rewards = [{"step": step, "group": "train", "reward": step + 1.0} for step in (1, 3)]
    write("CIDEr-D", *rewards, {"step": 150, "group": "validation", "coverage": 0.25})
    reward, *_, coverage, _ = curves(str(tmp_path), ["CIDEr-D"]).axes
    np.testing.assert_array_equal(reward.lines[0].get_xydata(), [[1, 0], [3, 1]])
    np.testing.assert_array_equal(coverage.lines[0].get_xydata(), [[0, 0.5], [150, 0.25]])
