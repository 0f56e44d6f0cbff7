import io
import math

import numpy as np
import pytest
from PIL import Image

from capjax.data.augment import Augmentation, View, draw_view
from capjax.data.images import load_pixels
from tests.helpers.effort import examples

hypothesis = pytest.importorskip("hypothesis")
given, settings, st = hypothesis.given, hypothesis.settings, hypothesis.strategies

CROP = Augmentation(crop_area=0.08)
BOTH = Augmentation(crop_area=0.08, flip=True)
DRAWS = 4000


def crops(image_size, crop_area, count=DRAWS):
    """int [count, 4]: left, top, width, height."""
    augmentation = Augmentation(crop_area=crop_area)
    boxes = np.array([draw_view(augmentation, 5, p, image_size).crop for p in range(count)])
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)


def assert_uniform(values, low=0.0, high=1.0):
    """Kolmogorov and Smirnov's test at the level 0.001."""
    values = np.sort((values - low) / (high - low))
    distance = np.abs(values - (np.arange(len(values)) + 0.5) / len(values)).max()
    assert distance < 1.95 / math.sqrt(len(values))


def test_crops_are_distributed_as_the_paper_says():
    # Of a square any crop of at most 3/4 of the area fits, whatever its ratio.
    left, top, width, height = crops((1000, 1000), 0.08).T
    share, log_ratio = width * height / 1e6, np.log(width / height)
    assert np.abs(log_ratio).max() < math.log(4 / 3) + 0.01
    assert 0.079 < share.min() < 0.09
    assert share.max() > 0.97
    free = share < 0.75
    assert free.mean() > 0.7
    assert_uniform(share[free], 0.08, 0.75)
    assert_uniform(log_ratio[free], -math.log(4 / 3), math.log(4 / 3))
    for start, length in ((left, width), (top, height)):
        assert_uniform((start[free] + 0.5) / (1001 - length[free]))
    draws = np.stack([share, log_ratio, left / (1001 - width), top / (1001 - height)])[:, free]
    assert np.abs(np.corrcoef(draws) - np.eye(4)).max() < 4 / math.sqrt(free.sum())


@pytest.mark.parametrize("image_size", [(500, 375), (375, 500), (700, 500)])
def test_what_does_not_fit_is_drawn_again(image_size):
    # The same method for all draws at once: of ten tries each, the first that fits.
    random = np.random.default_rng(0)
    area = math.prod(image_size) * random.uniform(0.4, 1, (DRAWS, 10))
    ratio = np.exp(random.uniform(math.log(3 / 4), math.log(4 / 3), (DRAWS, 10)))
    sides = np.stack([np.sqrt(area * ratio), np.sqrt(area / ratio)], -1)
    fits = (sides < np.array(image_size) + 0.5).all(-1)
    expected = sides[fits.any(1)][np.arange(fits.any(1).sum()), fits.argmax(1)[fits.any(1)]]
    found = crops(image_size, 0.4)[:, 2:]
    assert fits.any(1).mean() > 0.99
    for of in (np.prod, lambda side, axis: side[:, 0] / side[:, 1]):
        ours, theirs = np.sort(of(found, axis=1)), np.sort(of(expected, axis=1))
        both = np.concatenate([ours, theirs])
        shares = [np.searchsorted(v, both, "right") / len(v) for v in (ours, theirs)]
        assert np.abs(shares[0] - shares[1]).max() < 1.95 * math.sqrt(2 / DRAWS)


@pytest.mark.parametrize(
    ("image_size", "box"),
    [
        ((1000, 10), (493, 0, 506, 10)),
        ((10, 1000), (0, 493, 10, 506)),
        ((1, 1000), (0, 499, 1, 500)),
        ((1, 1), (0, 0, 1, 1)),
    ],
)
def test_where_nothing_fits_the_crop_is_central(image_size, box):
    for position in range(20):
        assert draw_view(Augmentation(crop_area=0.9), 0, position, image_size).crop == box


@given(
    st.integers(1, 3000), st.integers(1, 3000), st.floats(1e-6, 1), st.integers(0, 2**40), st.data()
)
@settings(max_examples=examples(300), deadline=None)
def test_crops_lie_in_the_image(width, height, crop_area, position, data):
    seed = data.draw(st.integers(0, 2**63 - 1))
    augmentation = Augmentation(crop_area, flip=True)
    crop, flip = view = draw_view(augmentation, seed, position, (width, height))
    assert view == draw_view(augmentation, seed, position, (width, height))
    assert isinstance(flip, bool)
    if crop_area == 1:
        assert crop is None
        return
    left, top, right, bottom = crop
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    # Whole pixels move the ratio by half a pixel a side.
    assert right - left - 0.5 <= (bottom - top + 0.5) * 4 / 3
    assert bottom - top - 0.5 <= (right - left + 0.5) * 4 / 3


def test_every_seed_and_position_draws_its_own():
    views = {draw_view(BOTH, s, p, (500, 400)) for s in range(20) for p in range(20)}
    assert len(views) == 400


def test_half_of_the_images_are_flipped_whatever_the_crop():
    def flips(augmentation, size):
        return [draw_view(augmentation, 3, p, size).flip for p in range(DRAWS)]

    flipped = flips(BOTH, (50, 40))
    assert abs(np.mean(flipped) - 0.5) < 3.3 / math.sqrt(4 * DRAWS)
    assert flipped == flips(Augmentation(flip=True), (7, 900))
    assert not any(flips(CROP, (50, 40)))


def test_nothing_is_done_unless_asked():
    assert {draw_view(Augmentation(), 0, p, (9, 9)) for p in range(50)} == {View(None, False)}


@pytest.mark.parametrize("crop_area", [0, -0.5, 1.01, math.nan])
def test_other_areas_are_refused(crop_area):
    with pytest.raises(ValueError, match=r"config\.dataset\.crop_area .*above 0 and at most 1"):
        Augmentation(crop_area)


# Red is the column, green the row.
GRADIENT = np.zeros((200, 250, 3), np.uint8)
GRADIENT[..., 0], GRADIENT[..., 1] = np.arange(250), np.arange(200)[:, None]


@given(st.data())
@settings(max_examples=examples(100), deadline=None)
def test_pixels_are_those_of_the_box(data):
    def span(length):
        ends = st.lists(st.integers(0, length), min_size=2, max_size=2, unique=True)
        return sorted(data.draw(ends))

    (left, right), (top, bottom) = span(250), span(200)
    size = data.draw(st.integers(3, 40))
    pixels = load_pixels(GRADIENT, size, crop=(left, top, right, bottom)).astype(float)
    # The centre of a pixel of the result, in pixels of the picture; the filter reaches a pixel of
    # the result further, and at the picture's border it has less to average over.
    centres = (np.arange(size) + 0.5) / size
    for channel, start, end, length in ((0, left, right, 250), (1, top, bottom, 200)):
        expected = start + centres * (end - start) - 0.5
        reach = max((end - start) / size, 1)
        inner = (expected - reach >= 0) & (expected + reach <= length - 1)
        along = pixels[..., channel] if channel == 0 else pixels[..., channel].T
        assert np.abs(along - expected)[:, inner].max(initial=0) <= 1
        assert np.abs(along - expected).max() <= reach + 1


@given(st.data())
@settings(max_examples=examples(50), deadline=None)
def test_a_flip_mirrors_exactly(data):
    size = data.draw(st.integers(1, 40))
    crop = draw_view(CROP, 0, data.draw(st.integers(0, 10**6)), (250, 200)).crop
    noise = np.random.default_rng(size).integers(0, 255, (200, 250, 3)).astype(np.uint8)
    for box in (None, crop):
        flipped = load_pixels(noise, size, crop=box, flip=True)
        np.testing.assert_array_equal(flipped, load_pixels(noise, size, crop=box)[:, ::-1])
        assert flipped.flags.c_contiguous


def test_the_box_is_in_the_upright_picture():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = io.BytesIO()
    Image.fromarray(np.rot90(GRADIENT)).save(content, "PNG", exif=exif)
    box = (200, 10, 240, 70)
    turned = load_pixels(content.getvalue(), 16, crop=box)
    np.testing.assert_array_equal(turned, load_pixels(GRADIENT, 16, crop=box))


def test_a_box_beyond_the_picture_is_refused():
    for box in ((0, 0, 251, 10), (-1, 0, 9, 9), (9, 9, 8, 10)):
        with pytest.raises(ValueError, match=r"(?i)box"):
            load_pixels(GRADIENT, 8, crop=box)
