"""Metrics of the truth and the coverage of captions: oracles get the scores that they deserve."""

import re

import pytest

from capjax.data.shapes import facts, grammar, truth
from capjax.data.shapes.scene import COLOURS, image_id, scene_of


@pytest.fixture(scope="module", name="references")
def make_references():
    names = [image_id("validation", index) for index in range(300)]
    return {name: grammar.captions_of(name) for name in names}


def test_references_score_one_and_say_little_of_other_images(references):
    for choice in range(5):
        metrics = truth.caption_metrics({n: captions[choice] for n, captions in references.items()})
        assert metrics["truth_rate"] == metrics["parsed_rate"] == 1
        assert metrics["shuffled_truth_rate"] <= 0.05
        assert metrics["facts"] == pytest.approx(1, abs=0.02)
        assert metrics["coverage"] == pytest.approx(1, abs=0.15)
        assert all(metrics[f"truth_rate_{kind}"] == 1 for kind in facts.KINDS)


def test_a_caption_blind_to_sizes_and_textures_is_true_and_covers_nothing(references):
    words = [*grammar.SIZE_WORDS.values(), *grammar.TEXTURE_WORDS.values()]
    silent = re.compile(
        r"\b(" + "|".join(w for many in words for w in many) + r")\b | with (stripes|dots|spots)"
    )
    hypotheses = {name: silent.sub("", captions[0]) for name, captions in references.items()}
    metrics = truth.caption_metrics(hypotheses)
    assert metrics["truth_rate"] == metrics["parsed_rate"] == 1
    assert metrics["stated_size"] == metrics["stated_texture"] == metrics["coverage"] == 0
    assert metrics["coverage_colour"] > 0.8


def test_an_evasive_caption_covers_nothing(references):
    metrics = truth.caption_metrics(dict.fromkeys(references, "there are three objects"))
    assert metrics["truth_rate"] == pytest.approx(metrics["shuffled_truth_rate"])
    assert metrics["facts"] < 0.2
    assert metrics["coverage"] == metrics["coverage_shape"] == 0


def test_saying_the_same_twice_counts_once():
    names = [image_id("validation", index) for index in range(100)]
    once = {name: f"a {scene_of(name).things[0].shape}" for name in names}
    twice = {name: f"{text} and {text}" for name, text in once.items()}
    covered = truth.caption_metrics(once), truth.caption_metrics(twice)
    assert covered[0]["coverage_shape"] == covered[1]["coverage_shape"]
    assert covered[1]["facts"] > covered[0]["facts"]


def test_saying_more_than_any_reference_gains_nothing(references):
    """Half of the captions state all, the others nothing."""

    def all_of(name):
        things = scene_of(name).things
        return " and ".join(f"a {t.size} {t.texture} {t.colour} {t.shape}" for t in things)

    hypotheses = {
        name: all_of(name) if place % 2 else "there are two objects"
        for place, name in enumerate(references)
    }
    metrics = truth.caption_metrics(hypotheses)
    assert metrics["truth_rate_size"] == metrics["truth_rate_texture"] == 1
    assert metrics["coverage_shape"] < 0.8
    assert metrics["coverage"] == 0


def test_one_caption_for_all_images_that_states_everything_is_false(references):
    everything = "three objects with a large striped red circle above a small plain blue square"
    metrics = truth.caption_metrics(dict.fromkeys(references, everything))
    assert metrics["truth_rate"] == pytest.approx(0, abs=0.01)
    assert metrics["coverage_size"] > 0.8


def test_captions_that_state_what_is_novel_are_counted_and_judged():
    names = [image_id("heldout", index) for index in range(60)]
    novel = {name: truth.novel_things(scene_of(name))[0] for name in names}

    def pair(thing, kind):
        return f"a {getattr(thing, kind)} {thing.shape}"

    told = truth.caption_metrics({name: pair(*novel[name]) for name in names})
    assert told["novel_pair_captions"] == told["novel_attribute_captions"] == 60
    assert told["novel_pair_truth_rate"] == told["novel_attribute_truth_rate"] == 1
    # The attribute, but of another shape: the pair is not stated.
    other = {"circle": "square"}
    wrong = truth.caption_metrics(
        {n: pair(t._replace(shape=other.get(t.shape, "circle")), k) for n, (t, k) in novel.items()}
    )
    assert wrong["novel_attribute_captions"] == 60
    assert wrong["novel_attribute_truth_rate"] < 0.5
    silent = truth.caption_metrics(dict.fromkeys(names, "there are three objects"))
    assert silent["novel_pair_captions"] == silent["novel_attribute_captions"] == 0
    assert "novel_pair_truth_rate" not in silent


def test_metrics_see_what_is_wrong():
    names = [image_id("validation", index) for index in range(40)]
    hypotheses = {}
    for place, name in enumerate(names):
        thing = scene_of(name).things[0]
        absent = next(c for c in COLOURS if c not in [t.colour for t in scene_of(name).things])
        colour = absent if place % 4 == 0 else thing.colour
        hypotheses[name] = f"a {colour} {thing.shape}" if place % 2 == 0 else "what is it"
    metrics = truth.caption_metrics(hypotheses)
    assert metrics["parsed_rate"] == 0.5
    assert metrics["truth_rate"] == 0.25
    single = truth.image_metrics(hypotheses)["truth_rate"]
    assert [single[name] for name in names[:4]] == [0, 0, 1, 0]
    assert sum(single.values()) == 10
    assert metrics["truth_rate_colour"] == 0.5
    assert metrics["truth_rate_shape"] == 1
    assert metrics["stated_shape"] == metrics["stated_colour"] == 20
    assert metrics["facts_per_caption"] == 1
    assert 0.15 < metrics["facts"] < 0.2
    assert metrics["stated_relation"] == metrics["coverage"] == 0
    assert "truth_rate_relation" not in metrics


def test_shuffling_never_leaves_a_caption_at_its_own_image():
    names = [image_id("test", index) for index in range(2)]
    own = {name: grammar.captions_of(name)[0] for name in names}
    swapped = dict(zip(names, reversed(own.values()), strict=True))
    assert truth.caption_metrics(own)["shuffled_truth_rate"] == 0
    assert truth.caption_metrics(swapped)["truth_rate"] == 0
    for seed in range(5):
        assert truth.caption_metrics(swapped, seed)["shuffled_truth_rate"] == 1


def test_metrics_of_nothing_parsed_are_zero():
    names = [image_id("test", index) for index in range(3)]
    assert set(truth.caption_metrics(dict.fromkeys(names, "")).values()) == {0}


def test_metrics_name_what_they_cannot_use():
    with pytest.raises(ValueError, match="two captions"):
        truth.caption_metrics({image_id("test", 0): "a red circle"})
    with pytest.raises(ValueError, match="'42'"):
        truth.caption_metrics({image_id("test", 0): "a red circle", "42": "a red circle"})
