"""Figures of attention: one a caption, one a view, or one a word, under names that tell which."""

import os

import numpy as np
import pytest
from PIL import Image

from capjax.evaluate.attention_figures import file_stem, heads_figure, layers_figure, save_attention
from capjax.evaluate.captioning import Caption
from capjax.evaluate.figures import figure_pixels

# An even number of dollar signs, as mathematics has.
WORDS = ("costs", "$5 or $", "and $x_$")
PIXELS = np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8)


def caption_of(words=WORDS, layers=2, heads=3):
    attention = np.random.default_rng(1).dirichlet(np.ones(5), (len(words), layers * heads))
    more = attention.astype(np.float32), (2, 2), 1, layers
    return Caption(" ".join(words), -1, -1, True, tuple(words), *more)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, {"x.png"}),
        ({"views": ("heat",), "words": ("first", "3", "9")}, {"x.png", "x-first.png", "x-3.png"}),
        ({"views": ("patches", "overlay", "heat")}, {"x.png"}),
        (
            {"views": ("heat", "patches"), "by": "layer"},
            {"x-layers-heat.png", "x-layers-patches.png"},
        ),
        ({"by": "head"}, {f"x-heads-overlay-0{word}.png" for word in (1, 2, 3)}),
    ],
)
def test_files_have_their_names(tmp_path, options, names):
    save_attention(str(tmp_path / "new" / "x"), PIXELS, caption_of(), **options)
    assert {path.name for path in (tmp_path / "new").iterdir()} == names
    for path in (tmp_path / "new").iterdir():
        with Image.open(path) as saved:
            saved.load()
            assert np.asarray(saved).std() > 10


@pytest.mark.parametrize("by", ["mean", "layer", "head"])
def test_a_caption_without_words_has_its_picture(tmp_path, by):
    save_attention(str(tmp_path / "x"), PIXELS, caption_of(()), views=("heat", "overlay"), by=by)
    assert os.listdir(tmp_path) == ["x.png"]


def labels(axis):
    return [
        [label.get_text() for label in ticks]
        for ticks in (axis.get_yticklabels(), axis.get_xticklabels())
    ]


def test_tables_say_what_is_where():
    """Every cell shows the map of its layer and head: the brightest patch tells which."""
    caption = caption_of(("one",), layers=2, heads=2)
    caption.attention[:] = [[[0.9, *row] for row in np.eye(4) * 0.1]]
    white = np.full((64, 64, 3), 255, np.uint8)

    def one_patch(pixels, grid):
        return np.where(np.kron(grid, np.ones((32, 32)))[..., None] > 0.09, 255, 0).repeat(3, -1)

    picture, table = heads_figure(white, caption, 0, one_patch).axes
    assert labels(table) == [["layer 1", "layer 2"], ["head 1", "head 2"]]
    cells = np.array(table.images[0].get_array())
    assert picture.images[0].get_array().shape == white.shape
    centres = [round(y) for y in table.get_yticks()], [round(x) for x in table.get_xticks()]
    for layer, y in enumerate(centres[0]):
        for head, x in enumerate(centres[1]):
            patch = np.array([[cells[y + dy, x + dx, 0] for dx in (-9, 9)] for dy in (-9, 9)])
            assert patch.ravel().tolist() == [255 * (n == 2 * layer + head) for n in range(4)]
    figure = layers_figure(white, caption_of(layers=4), one_patch)
    assert labels(figure.axes[1]) == [[f"layer {layer}" for layer in range(1, 5)], [*WORDS]]
    assert figure_pixels(figure).std() > 10
    assert len(figure.axes) == 2
    with pytest.raises(IndexError):
        heads_figure(white, caption, 1)


def test_stems_tell_pictures_apart():
    names = [
        "a/x.jpg",
        "b/x.jpg",
        "a/x jpg",
        "é" * 200,
        "https://there/x.jpg?big",
        os.fsdecode(b"\xe9"),
    ]
    stems = {file_stem("out", name) for name in names}
    assert len(stems) == len(names)
    assert file_stem("out", "a/x.jpg").startswith(os.path.join("out", "x.jpg-"))
    for stem in stems:
        assert os.path.dirname(stem) == "out"
        assert len(os.path.basename(stem).encode()) < 100
