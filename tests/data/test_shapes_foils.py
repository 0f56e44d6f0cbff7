"""Foils: false by the checker in one fact, and not told from references without the image."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from capjax.data.shapes import facts, grammar
from capjax.data.shapes.foils import NOVEL, foils_of
from capjax.data.shapes.scene import HELDOUT_PAIRS, image_id, scene_of


@pytest.fixture(scope="module", name="foils")
def make_foils():
    return foils_of(image_id("validation", index) for index in range(400))


def test_a_foil_is_false_in_exactly_the_fact_of_its_kind(foils):
    for foil in foils:
        scene = scene_of(foil.image_id)
        assert foil.reference in grammar.captions_of(foil.image_id)
        assert facts.is_true(foil.reference, scene)
        claims = facts.parse(foil.foil)
        verdicts = zip(facts.facts_of(claims), facts.check(claims, scene), strict=True)
        assert [fact.kind for fact, true in verdicts if not true] == [foil.kind]


def test_a_foil_has_the_words_of_its_reference_but_one(foils):
    for foil in foils:
        words = foil.reference.split(), foil.foil.split()
        assert len(words[0]) == len(words[1])
        assert sum(a != b for a, b in zip(*words, strict=True)) == 1


def test_every_kind_has_foils_and_an_image_one_of_each_at_most(foils):
    assert {foil.kind for foil in foils} == set(facts.KINDS)
    assert max(Counter((foil.image_id, foil.kind) for foil in foils).values()) == 1
    assert min(Counter(foil.kind for foil in foils).values()) > 120


def test_no_foil_states_what_training_never_shows(foils):
    for foil in foils:
        for mention in facts.parse(foil.foil).mentions:
            said = dict(mention.attributes)
            pairs = {(said.get(kind), said["shape"]) for kind in ("colour", "texture")}
            assert not pairs & HELDOUT_PAIRS


def test_novel_foils_undo_a_novel_pair_of_the_reference():
    novel = [f for f in foils_of(image_id("heldout", i) for i in range(60)) if NOVEL in f.kind]
    assert {foil.kind for foil in novel} == {"novel_colour", "novel_shape", "novel_texture"}
    for foil in novel:
        assert facts.is_true(foil.reference, scene_of(foil.image_id))
        assert not facts.is_true(foil.foil, scene_of(foil.image_id))


def test_foils_depend_on_the_ids_alone(foils):
    again = foils_of(image_id("validation", index) for index in reversed(range(400)))
    assert again == foils


@pytest.mark.parametrize("length", [1, 2, 3])
def test_words_alone_do_not_tell_foils_from_references(foils, length):
    """By the likelihood of an n-gram model of the train split's captions, per kind, too."""
    counts: Counter = Counter()
    contexts: Counter = Counter()
    for index in range(1500):
        for text in grammar.captions_of(image_id("train", index)):
            words = padded(text, length)
            for place in range(length, len(words)):
                gram = tuple(words[place - length : place + 1])
                counts[gram] += 1
                contexts[gram[:-1]] += 1

    def log_prob(text):
        words = padded(text, length)
        grams = [tuple(words[i - length : i + 1]) for i in range(length, len(words))]
        return sum(np.log((counts[g] + 0.1) / (contexts[g[:-1]] + 5)) for g in grams)

    right = defaultdict(list)
    for foil in foils:
        right[foil.kind].append(float(log_prob(foil.reference) > log_prob(foil.foil)))
    assert 0.45 < np.mean([value for values in right.values() for value in values]) < 0.55
    assert all(0.4 < np.mean(values) < 0.6 for values in right.values())


def padded(text, length):
    return ["<bos>"] * length + text.lower().strip(".").replace(",", "").split() + ["<eos>"]
