import hashlib
import itertools
import re

import numpy as np
import pytest

from capjax.data.shapes import facts, grammar
from capjax.data.shapes.scene import SPLITS, image_id, is_clear, relation, sample_scene, scene_of

# Changes with the captions: a new one means a new VERSION of the dataset.
DIGEST = "ed05c4d0cbed53bfb35cf4031a13fe75472d8b4108b5b265c88ebc5df5f98419"


@pytest.fixture(scope="module")
def references():
    return {
        name: grammar.captions_of(name)
        for split in SPLITS
        for name in (image_id(split, index) for index in range(400))
    }


def words(caption):
    return re.sub(r"[^a-z ]", "", caption.lower()).split()


def test_captions_are_remade_from_the_id_and_stay_as_they_are():
    digest = hashlib.sha256()
    for split in SPLITS:
        for index in range(25):
            name = image_id(split, index)
            assert grammar.captions_of(name) == grammar.captions_of(name)
            digest.update("\n".join(grammar.captions_of(name)).encode())
    assert digest.hexdigest() == DIGEST


def test_five_different_captions_of_usual_length(references):
    for captions in references.values():
        assert len({tuple(words(caption)) for caption in captions}) == grammar.CAPTIONS == 5
        assert all(5 <= len(words(caption)) <= 18 for caption in captions)


def test_captions_depend_on_the_generator_given():
    scene = sample_scene("train", 0)
    first, second = (grammar.captions(scene, np.random.default_rng(seed)) for seed in (1, 2))
    assert first != second


def test_the_vocabulary_is_small_and_every_word_of_it_is_said_in_train(references):
    said = {word for captions in references.values() for c in captions for word in words(c)}
    train = {
        word
        for name, captions in references.items()
        if "-train-" in name
        for c in captions
        for word in words(c)
    }
    assert train == said
    assert 45 <= len(said) <= 70


def test_some_captions_have_a_capital_and_a_stop(references):
    every = [caption for captions in references.values() for caption in captions]
    dressed = [c for c in every if c[0].isupper() or c.endswith(".")]
    assert all(c[0].isupper() and c.endswith(".") and c[1:] == c[1:].lower() for c in dressed)
    assert 0.15 < len(dressed) / len(every) < 0.25


def test_every_caption_states_five_or_more_facts_of_two_things_or_more(references):
    """So that the likeliest caption is no poorer than the mean one (at least 0.8 of its facts)."""
    numbers = []
    for captions in references.values():
        for caption in captions:
            numbers.append(len(facts.facts(caption)))
            assert sum(m.number for m in facts.parse(caption).mentions) >= 2, caption
    assert min(numbers) >= 0.8 * np.mean(numbers)
    assert max(numbers) <= 8


def test_every_kind_of_fact_is_said_often(references):
    kinds = [f.kind for captions in references.values() for c in captions for f in facts.facts(c)]
    captions = 5 * len(references)
    assert set(kinds) == set(facts.KINDS)
    assert all(kinds.count(kind) > 0.15 * captions for kind in facts.KINDS)


def test_a_pair_begins_with_the_large_thing_or_else_the_left_or_upper_one(references):
    for captions in references.values():
        for caption in captions:
            claims = facts.parse(caption)
            if claims.relation and "size" not in [k for k, _ in claims.mentions[1].attributes]:
                sizes = [dict(m.attributes).get("size") for m in claims.mentions]
                if claims.relation in ("right", "below"):
                    assert sizes[0] != "small", caption


def test_there_is_one_and_there_are_several(references):
    for captions in references.values():
        for caption in captions:
            start = words(caption)[:3]
            if start[0] == "there":
                assert (start[1] == "are") == (start[2] != "a"), caption


def test_only_clear_relations_are_told(references):
    def fits(thing, mention):
        return all(getattr(thing, kind) == value for kind, value in mention.attributes)

    for name, captions in references.items():
        pairs = list(itertools.permutations(scene_of(name).things, 2))
        for claims in filter(lambda claims: claims.relation, map(facts.parse, captions)):
            first, second = claims.mentions
            assert any(
                fits(a, first)
                and fits(b, second)
                and relation(a, b) == claims.relation
                and is_clear(a, b)
                for a, b in pairs
            )
