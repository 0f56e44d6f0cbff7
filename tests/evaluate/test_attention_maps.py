"""Maps of attention by word, layer and head, and pictures seen through them."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capjax.evaluate.attention_figures import attention_figure
from capjax.evaluate.attention_maps import (
    VIEWS,
    attended_picture,
    grid_maps,
    heat,
    image_shares,
    overlay,
    patches,
    word_maps,
)
from capjax.evaluate.captioning import Caption


@st.composite
def captions(draw, least_words=0):
    """Captions whose rows of attention sum to 1."""
    words, layers, heads, h, w = (
        draw(st.integers(low, 3)) for low in (max(least_words, 0), 1, 1, 1, 1)
    )
    prefix = draw(st.integers(0, 2))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    attention = rng.dirichlet(np.ones(prefix + h * w), (words, layers * heads))
    return Caption(
        "x", -1, -1, True, ("x",) * words, attention.astype(np.float32), (h, w), prefix, layers
    )


def picture(height=12, width=18, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@given(captions())
def test_maps_of_layers_and_heads_average_to_the_words(caption):
    maps = grid_maps(caption)
    words, layers, heads, *grid = maps.shape
    assert (words, layers, tuple(grid)) == (len(caption.words), caption.layers, caption.grid)
    # In their order: head by head, then layer by layer.
    for word, layer, head in np.ndindex(words, layers, heads):
        given_map = caption.attention[word, layer * heads + head]
        np.testing.assert_array_equal(maps[word, layer, head].ravel(), given_map[caption.prefix :])
    np.testing.assert_allclose(
        word_maps(caption, caption.grid), maps.mean(2).mean(1), rtol=1e-5, atol=1e-7
    )


@given(captions(least_words=1), st.floats(0.01, 0.99), st.sampled_from([*VIEWS]))
def test_a_class_token_takes_nothing_away(caption, share, view):
    """Whatever it weighs: each map is scaled by its own maximum."""
    class_token = np.full((*caption.attention.shape[:2], 1), share, np.float32)
    attention = np.concatenate([class_token, caption.attention * (1 - share)], -1)
    more = dataclasses.replace(caption, attention=attention, prefix=caption.prefix + 1)
    pixels = picture()
    for one, other in zip(
        grid_maps(caption).reshape(-1, *caption.grid),
        grid_maps(more).reshape(-1, *caption.grid),
        strict=True,
    ):
        np.testing.assert_allclose(other, one * (1 - share), rtol=1e-5)
        seen = [VIEWS[view](pixels, grid).astype(int) for grid in (one, other)]
        assert np.abs(seen[0] - seen[1]).max() <= (2 if view == "patches" else 6)
    seen = [attended_picture(pixels, c).astype(int) for c in (caption, more)]
    assert np.abs(seen[0] - seen[1]).max() <= 1


@given(st.data())
def test_of_one_patch_nothing_else_is_visible(data):
    h, w, size = (data.draw(st.integers(1, 5)) for _ in range(3))
    row, column = data.draw(st.integers(0, h - 1)), data.draw(st.integers(0, w - 1))
    grid = np.zeros((h, w), np.float32)
    grid[row, column] = 1e-4
    pixels = picture(h * size, w * size)
    expected = np.zeros_like(pixels)
    part = np.s_[row * size : (row + 1) * size, column * size : (column + 1) * size]
    expected[part] = pixels[part]
    np.testing.assert_array_equal(patches(pixels, grid), expected)
    # Another patch that weighs half as much is half as bright, and has hard edges.
    other = np.unravel_index((row * w + column + 1) % (h * w), (h, w))
    if h * w > 1:
        grid[other] = 5e-5
        both = patches(np.full_like(pixels, 200), grid)
        weights = np.kron(grid / grid.max(), np.ones((size, size)))
        np.testing.assert_array_equal(both, np.round(200 * weights[..., None]).repeat(3, -1))


def test_patches_of_a_picture_that_they_do_not_divide():
    weights = np.array([[0.0, 1.0, 0.0]], np.float32)
    columns = patches(np.full((2, 7, 3), 9, np.uint8), weights)[0, :, 0]
    assert columns.tolist() == [0, 0, 0, 9, 9, 0, 0]


def test_heat_and_overlay_are_brightest_where_was_looked_at_most():
    grid = np.zeros((4, 6), np.float32)
    grid[1, 4] = 0.3
    grey = np.full((40, 60, 3), 100, np.uint8)
    for view in (heat, overlay):
        bright = view(grey, grid).sum(-1)
        row, column = np.unravel_index(bright.argmax(), bright.shape)
        assert abs(row - 15) <= 1
        assert abs(column - 45) <= 1
    # The picture shows through one, and not through the other.
    other = picture(40, 60)
    assert (heat(other, grid) == heat(grey, grid)).all()
    assert np.corrcoef(overlay(other, grid)[:, :30].ravel(), other[:, :30].ravel())[0, 1] > 0.95


@pytest.mark.parametrize("view", VIEWS)
def test_where_nothing_was_looked_at_nothing_lights_up(view):
    """All attention on the class token."""
    pixels = picture()
    dark = VIEWS[view](pixels, np.zeros((2, 3), np.float32))
    assert dark.shape == pixels.shape
    assert dark.mean() < {"overlay": 60, "heat": 3, "patches": 0.1}[view]


def test_the_attended_picture_is_of_all_words():
    attention = np.zeros((2, 4, 5), np.float32)
    attention[..., 0] = 0.5
    attention[0, :, 1] = 0.5  # The first word looks at the upper left,
    attention[1, :3, 4] = 0.5  # three quarters of the second at the lower right.
    caption = Caption("a b", -1, -1, True, ("a", "b"), attention, (2, 2), 1, 2)
    white = np.full((4, 4, 3), 255, np.uint8)
    expected = np.kron([[255, 0], [0, 191]], np.ones((2, 2), int))
    np.testing.assert_array_equal(attended_picture(white, caption)[..., 1], expected)
    silent = dataclasses.replace(caption, words=(), attention=attention[:0])
    np.testing.assert_array_equal(attended_picture(white, silent), white)


def test_of_words_that_are_attended_to_the_share_is_said():
    maps = np.array([[[0.1, 0.3], [0.0, 0.2]], [[0.2, 0.2], [0.4, 0.4]]], np.float32)
    caption = Caption("a b", -1, -1, True, ("a", "b"), maps, (1, 2), 0, 1)
    np.testing.assert_allclose(image_shares(caption), [0.3, 0.6])
    # Each map weighs the same, whatever its share.
    np.testing.assert_allclose(grid_maps(caption)[0, 0, :, 0], [[0.25, 0.75], [0, 1]])
    whole = dataclasses.replace(caption, attention=maps / maps.sum(-1, keepdims=True))
    assert image_shares(whole) is None
    for shown, titles in ((caption, ["a 30%", "b 60%"]), (whole, ["a", "b"])):
        figure = attention_figure(picture(), shown)
        assert [axis.get_title() for axis in figure.axes[1:3]] == titles
