import itertools
from collections import Counter

import numpy as np
import pytest

from capjax.data.shapes import scene as sc

SEEN = ("train", "validation", "test")


def scenes(split, number, seed=0):
    return [sc.sample_scene(split, index, seed) for index in range(number)]


def distance(a, b):
    return np.hypot(a.x - b.x, a.y - b.y)


@pytest.mark.parametrize("split", sc.SPLITS)
def test_a_scene_is_remade_from_its_id(split):
    for index, seed in [(0, 0), (7, 3), (123456, 1)]:
        image_id = sc.image_id(split, index, seed)
        assert sc.parse_image_id(image_id) == (split, index, seed)
        assert sc.scene_of(image_id) == sc.sample_scene(split, index, seed)


def test_the_id_is_the_documented_one():
    assert sc.image_id("validation", 123) == "shapes-0-validation-000123"


@pytest.mark.parametrize(
    "image_id", ["", "123", "shapes-0-val-000001", "shapes-train-000001", "shapes-0-train-1", "x-0"]
)
def test_a_foreign_id_is_named(image_id):
    with pytest.raises(ValueError, match="not an image id of shapes"):
        sc.scene_of(image_id)


def test_an_unknown_split_is_named():
    with pytest.raises(ValueError, match=r"'val'.*validation"):
        sc.sample_scene("val", 0)


def test_no_two_scenes_are_alike_across_indices_splits_and_seeds():
    found = [scene for split in sc.SPLITS for scene in scenes(split, 200)]
    found += scenes("train", 200, seed=1)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("split", sc.SPLITS)
def test_things_keep_clear_of_each_other_and_of_the_border(split):
    for scene in scenes(split, 300):
        assert 2 <= len(scene.things) <= sc.MAX_THINGS
        assert 0 <= scene.background <= 255
        assert [t.x for t in scene.things] == sorted(t.x for t in scene.things)
        for thing in scene.things:
            for centre in (thing.x, thing.y):
                assert thing.radius <= centre <= sc.SIZE - thing.radius
        for a, b in itertools.combinations(scene.things, 2):
            assert distance(a, b) >= a.radius + b.radius + 2
            assert (a.colour, a.shape) != (b.colour, b.shape)
        assert any(sc.is_clear(a, b) for a, b in itertools.combinations(scene.things, 2))


def test_sizes_are_far_apart():
    things = [thing for scene in scenes("train", 300) for thing in scene.things]
    small = max(t.radius for t in things if t.size == "small")
    large = min(t.radius for t in things if t.size == "large")
    assert large >= 1.4 * small


def test_held_out_pairs_show_in_heldout_scenes_alone():
    def pairs(scene):
        return {(look, t.shape) for t in scene.things for look in (t.colour, t.texture)}

    for split in SEEN:
        assert not any(pairs(scene) & sc.HELDOUT_PAIRS for scene in scenes(split, 700))
    shown = [pairs(scene) & sc.HELDOUT_PAIRS for scene in scenes("heldout", 500)]
    assert all(shown)
    assert set().union(*shown) == sc.HELDOUT_PAIRS


def test_every_attribute_and_number_is_frequent_in_train():
    found = scenes("train", 700)
    things = [thing for scene in found for thing in scene.things]
    for kind, values in [
        ("shape", sc.SHAPES),
        ("colour", sc.COLOURS),
        ("size", sc.SIZES),
        ("texture", sc.TEXTURES),
    ]:
        counts = Counter(getattr(thing, kind) for thing in things)
        assert set(counts) == set(values)
        assert min(counts.values()) > 0.6 * len(things) / len(values)
    numbers = Counter(len(scene.things) for scene in found)
    assert min(numbers[n] for n in (2, 3, 4)) > 0.25 * len(found)


def test_relation_is_one_of_four_and_turns_round():
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}
    seen = Counter()
    for scene in scenes("train", 300):
        for a, b in itertools.permutations(scene.things, 2):
            assert sc.relation(b, a) == opposite[sc.relation(a, b)]
            seen[sc.relation(a, b)] += 1
    assert min(seen[name] for name in opposite) > 0.2 * seen.total()


def test_relation_names_the_larger_offset_with_y_downwards():
    def at(x, y):
        return sc.Thing("circle", "red", "small", "plain", x, y, 7.0, 0.0)

    middle = at(30, 30)
    assert sc.relation(at(10, 25), middle) == "left"
    assert sc.relation(at(50, 40), middle) == "right"
    assert sc.relation(at(35, 10), middle) == "above"
    assert sc.relation(at(25, 50), middle) == "below"
    assert sc.is_clear(at(35, 10), middle)
    assert not sc.is_clear(at(48, 10), middle)


def test_choose_follows_its_weights():
    rng = np.random.default_rng(0)
    counts = Counter(sc.choose(rng, "abc", (6, 3, 1)) for _ in range(5000))
    assert counts["a"] / 5000 == pytest.approx(0.6, abs=0.03)
    assert counts["c"] / 5000 == pytest.approx(0.1, abs=0.03)
