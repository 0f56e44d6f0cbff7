import random

import pytest

from capjax.data.shapes import facts, grammar
from capjax.data.shapes.scene import (
    COLOURS,
    SHAPES,
    SPLITS,
    Scene,
    Thing,
    image_id,
    sample_scene,
    scene_of,
)

# A large striped red circle on the left, a small plain blue square on the right, and a small
# dotted red star below the circle.
SCENE = Scene(
    (
        Thing("circle", "red", "large", "striped", 15.0, 15.0, 12.5, 0.0),
        Thing("star", "red", "small", "dotted", 18.0, 50.0, 7.5, 0.0),
        Thing("square", "blue", "small", "plain", 50.0, 18.0, 7.5, 0.0),
    ),
    200,
)
TWO_STARS = Scene((*SCENE.things[:2], SCENE.things[2]._replace(shape="star")), 200)

TRUE = [
    ("a red circle and a blue square", 4),
    ("A big striped red circle.", 4),
    ("there is a red star with spots and a tiny plain blue square", 7),
    ("a red circle is to the left of a blue square", 5),
    ("a blue square on the right of a striped circle", 5),
    ("a picture of a red star under a large circle", 5),
    ("an image with a circle over a star", 3),
    ("there are three objects", 1),
    ("three things with a red circle left of a blue square", 6),
    ("there are three shapes and a red circle is above a red star", 6),
    ("a blue square a red star and a red circle", 6),
    ("a drawing of a red circle, a blue square and a red star", 6),
]
FALSE = [
    ("a green circle and a blue square", 4, "colour"),
    ("a red square and a blue circle", 4, "colour"),  # everything is there, but not so bound
    ("a small striped red circle", 4, "size"),
    ("a red circle with dots", 3, "texture"),
    ("a red circle and a red circle", 4, "shape"),  # two mentions are two things
    ("a red circle is to the right of a blue square", 5, "relation"),
    ("a red circle above a blue square", 5, "relation"),  # left of it, not above
    ("a blue square below a red circle", 5, "relation"),
    ("there are two objects", 1, "count"),
    ("four shapes with a red circle left of a blue square", 6, "count"),
    ("two stars", 2, "count"),
    ("two circles and a red star", 4, "count"),
    ("a cross", 1, "shape"),
]
UNGRAMMATICAL = [
    "",
    "a",
    "a red",
    "red circle",
    "a red blue circle",
    "a circles",
    "two circle and a star",
    "a striped circle with dots",
    "a red circle is",
    "a red circle is and a star",
    "a red circle left a star",
    "a red circle left of",
    "a red circle left of a star above a square",
    "two circles above a star",
    "three objects a red circle",
    "three objects with",
    "a picture of",
    "a red circle and a blue square and",
    "a <unk> circle and a star",
    "a circle and a square and a star and a cross and a circle",
    "the quick brown fox",
]


@pytest.mark.parametrize(("caption", "number"), TRUE)
def test_true_captions(caption, number):
    assert len(facts.facts(caption)) == number
    assert facts.is_true(caption, SCENE)


@pytest.mark.parametrize(("caption", "number", "kind"), FALSE)
def test_false_captions(caption, number, kind):
    claims = facts.parse(caption)
    held = facts.check(claims, SCENE)
    assert len(facts.facts(caption)) == len(held) == number
    assert not facts.is_true(caption, SCENE)
    wrong = [fact.kind for fact, true in zip(facts.facts_of(claims), held, strict=True) if not true]
    assert kind in wrong


@pytest.mark.parametrize("caption", UNGRAMMATICAL)
def test_what_is_no_sentence_states_nothing_and_is_not_true(caption):
    assert facts.parse(caption) is None
    assert facts.facts(caption) == []
    assert not facts.is_true(caption, SCENE)


def test_a_number_is_exact_and_its_things_are_others_than_the_rest():
    assert facts.is_true("two stars and a red circle", TWO_STARS)
    assert not facts.is_true("three stars", TWO_STARS)
    assert not facts.is_true("two stars and a red star", TWO_STARS)
    assert facts.is_true("a red star", TWO_STARS)  # there is one; it is not said to be alone


def test_one_wrong_attribute_is_one_false_fact():
    held = facts.check(facts.parse("a small striped red circle left of a blue square"), SCENE)
    assert held.count(False) == 1
    held = facts.check(facts.parse("a green circle and a green square and a green star"), SCENE)
    assert held.count(False) == 3


def test_case_and_punctuation_do_not_matter():
    assert facts.parse("A red circle, a blue square, and a star.") == facts.parse(
        "a red circle a blue square and a star"
    )


@pytest.mark.parametrize("split", SPLITS)
def test_references_are_true(split):
    for index in range(400):
        name = image_id(split, index)
        scene = scene_of(name)
        for caption in grammar.captions_of(name):
            assert facts.is_true(caption, scene), (name, caption)
            assert facts.is_true(caption.lower().replace(",", "").strip("."), scene)


def test_a_reference_with_a_colour_that_is_not_there_is_false():
    for index in range(300):
        name = image_id("train", index)
        scene = scene_of(name)
        absent = next(c for c in COLOURS if c not in [thing.colour for thing in scene.things])
        for caption in grammar.captions_of(name):
            words = caption.split()
            said = [i for i, word in enumerate(words) if word in COLOURS]
            for place in said:
                changed = " ".join([*words[:place], absent, *words[place + 1 :]])
                assert not facts.is_true(changed, scene), (name, changed)


def test_a_reference_with_its_relation_turned_round_is_nearly_always_false():
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}
    opposite |= {"over": "under", "under": "over"}
    verdicts = []
    for index in range(300):
        name = image_id("train", index)
        for caption in grammar.captions_of(name):
            turned = " ".join(opposite.get(word, word) for word in caption.split())
            if turned != caption:
                verdicts.append(facts.is_true(turned, scene_of(name)))
    assert len(verdicts) > 500
    assert sum(verdicts) < 0.03 * len(verdicts)  # "a small striped star" may be another one


def test_any_words_are_judged_without_an_error():
    vocabulary = [*("a", "a", "a", "an", "and", "is", "left of", "above", "two", "four objects")]
    vocabulary += ["large"]
    vocabulary += [*SHAPES, *COLOURS[:2], "stars", "crosses", "with dots", "there is", "?!", "é"]
    rng = random.Random(0)
    parsed = 0
    for index in range(4000):
        caption = " ".join(rng.choices(vocabulary, k=rng.randint(0, 6)))
        claims = facts.parse(caption)
        if claims is not None:
            parsed += 1
            held = facts.check(claims, sample_scene("train", index % 7))
            assert len(held) == len(facts.facts(caption)) > 0
    assert parsed > 10
