import hashlib
import itertools

import numpy as np
import pytest

from capjax.data.shapes.draw import RGB, draw, object_mask
from capjax.data.shapes.scene import (
    COLOURS,
    SHAPES,
    SIZE,
    SPLITS,
    TEXTURES,
    Scene,
    Thing,
    sample_scene,
)

# Changes with the pictures: a new one means a new VERSION of the dataset.
DIGEST = "98ecbb2efdd8e954e369df3cfc2b1c5b944c78b0347c76e09212ee41e7b1932f"


def alone(shape="circle", colour="red", size="small", texture="plain", tilt=0.0):
    radius = 7.5 if size == "small" else 12.5
    thing = Thing(shape, colour, size, texture, 32.0, 32.0, radius, tilt)
    return Scene((thing,), 200), thing


def grey(image):
    return image.astype(float).mean(axis=-1)


def test_the_bytes_are_the_same_on_every_machine():
    digest = hashlib.sha256()
    for split in SPLITS:
        for index in range(25):
            digest.update(draw(sample_scene(split, index)).tobytes())
    assert digest.hexdigest() == DIGEST


def test_a_picture_is_uint8_and_shows_the_background():
    for index in range(20):
        scene = sample_scene("train", index)
        image = draw(scene)
        assert image.shape == (SIZE, SIZE, 3)
        assert image.dtype == np.uint8
        outside = ~np.logical_or.reduce([object_mask(scene, t) for t in scene.things])
        assert np.mean(image[outside] == scene.background) > 0.9
        assert (image[0] == scene.background).all()


def test_masks_lie_in_their_discs_do_not_overlap_and_grow_with_the_radius():
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    for index in range(100):
        scene = sample_scene("train", index)
        masks = [object_mask(scene, thing) for thing in scene.things]
        for a, b in itertools.combinations(masks, 2):
            assert not (a & b).any()
        for thing, mask in zip(scene.things, masks, strict=True):
            assert 0.3 < mask.sum() / (np.pi * thing.radius**2) < 0.8
            reach = np.hypot(columns[mask] - thing.x, rows[mask] - thing.y)
            assert reach.max() <= thing.radius + 0.75
            assert np.hypot(columns[mask].mean() - thing.x, rows[mask].mean() - thing.y) < 1.5


def test_a_mask_of_a_thing_elsewhere_is_an_error():
    scene, _ = alone()
    with pytest.raises(ValueError, match="does not hold"):
        object_mask(scene, alone(colour="blue")[1])


@pytest.mark.parametrize("colour", COLOURS)
def test_a_plain_thing_has_its_colour_inside(colour):
    for shape in SHAPES:
        scene, _ = alone(shape, colour)
        assert tuple(draw(scene)[32, 32]) == RGB[colour]


def test_colours_are_far_apart():
    for a, b in itertools.combinations(RGB.values(), 2):
        assert np.abs(np.subtract(a, b)).max() >= 100


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("shape", SHAPES)
def test_textures_show_in_every_shape(shape, size):
    for colour in COLOURS:
        pictures = {texture: alone(shape, colour, size, texture) for texture in TEXTURES}
        shades = {t: grey(draw(scene))[object_mask(scene, x)] for t, (scene, x) in pictures.items()}
        assert np.abs(shades["striped"] - shades["dotted"]).mean() > 15
        for texture in ("striped", "dotted"):
            assert shades[texture].mean() < 0.9 * shades["plain"].mean()
            assert shades[texture].max() - shades[texture].min() > 30


@pytest.mark.parametrize("size", ["small", "large"])
def test_shapes_differ_by_many_pixels_however_they_are_tilted(size):
    for tilt in (-0.08, 0.08):
        for a, b in itertools.combinations(SHAPES, 2):
            first, second = alone(a, size=size), alone(b, size=size, tilt=tilt)
            one, other = object_mask(*first), object_mask(*second)
            assert (one ^ other).sum() > 0.13 * (one | other).sum()


def test_a_thing_turns_clockwise_with_its_tilt():
    scene, thing = alone("triangle", size="large", tilt=0.08)
    rows, columns = np.nonzero(object_mask(scene, thing))
    assert columns[rows == rows.min()].mean() > 32.5
    scene, thing = alone("triangle", size="large")
    rows, columns = np.nonzero(object_mask(scene, thing))
    assert abs(columns[rows == rows.min()].mean() + 0.5 - 32) < 0.6
