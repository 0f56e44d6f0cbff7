"""Figures of the attention at each word of a caption, and their file names."""

import hashlib
import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from capjax.evaluate.attention_maps import VIEWS, View, grid_maps, image_shares, overlay
from capjax.evaluate.captioning import Caption
from capjax.evaluate.figures import save_figure, save_picture

COLUMNS = 5
# Longer side of an image in a table, and the margin around it, in pixels.
_CELL, _MARGIN = 128, 4
# Approximate width of a letter of a column's name, in pixels.
_LETTER = 9
_DPI = 100
_SCALE = "Each map is scaled from 0 to its own maximum."

# Attention is averaged over layers and heads, over heads, or not at all.
By = Literal["mean", "layer", "head"]


def attention_figure(pixels: np.ndarray, caption: Caption, view: View = overlay) -> Figure:
    """Draws the image and a view of it at each word, with attention averaged over layers and heads.

    Args:
      pixels: the image, uint8 [H, W, 3].
      caption: with attention.
      view: see `capjax.evaluate.attention_maps.View`.
    """
    maps = grid_maps(caption).mean(axis=(1, 2))
    rows = -(-(len(maps) + 1) // COLUMNS)
    height, width = pixels.shape[:2]
    row = 2.2 * min(height / width, 2) + 0.25
    figure = Figure(figsize=(2.2 * COLUMNS, row * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    axes[0].imshow(pixels, interpolation="nearest")
    for axis, word, grid in zip(axes[1:], _titles(caption), maps, strict=False):
        axis.imshow(view(pixels, grid), interpolation="nearest")
        # Words are plain text: a dollar sign must not start a formula.
        axis.set_title(word, fontsize=11, parse_math=False)
    _set_title(figure, caption.text)
    return figure


def views_figure(pixels: np.ndarray, caption: Caption, views: Sequence[str]) -> Figure:
    """Draws a table with a column for each word and a row for each view.

    Attention is averaged over layers and heads.

    Args:
      pixels: the image, uint8 [H, W, 3].
      caption: with attention and at least one word.
      views: names in `capjax.evaluate.attention_maps.VIEWS`.
    """
    small = _small(pixels)
    maps = grid_maps(caption).mean(axis=(1, 2))
    cells = np.array([[VIEWS[name](small, grid) for grid in maps] for name in views])
    return _table(pixels, cells, views, _titles(caption), caption.text)


def layers_figure(pixels: np.ndarray, caption: Caption, view: View = overlay) -> Figure:
    """Draws a table with a column for each word and a row for each layer, averaged over heads.

    Args:
      pixels: the image, uint8 [H, W, 3].
      caption: with attention and at least one word.
      view: see `attention_figure`.
    """
    small = _small(pixels)
    layers = grid_maps(caption).mean(axis=2).swapaxes(0, 1)
    cells = np.array([[view(small, grid) for grid in layer] for layer in layers])
    rows = [f"layer {layer}" for layer in range(1, len(cells) + 1)]
    return _table(pixels, cells, rows, _titles(caption), caption.text)


def heads_figure(pixels: np.ndarray, caption: Caption, word: int, view: View = overlay) -> Figure:
    """Draws a table of one word, with a row for each layer and a column for each head.

    Raises:
      IndexError: the caption has no such word.
    """
    small = _small(pixels)
    cells = np.array([[view(small, grid) for grid in layer] for layer in grid_maps(caption)[word]])
    rows, columns = (
        [f"{name} {number}" for number in range(1, count + 1)]
        for name, count in zip(("layer", "head"), cells.shape, strict=False)
    )
    title = f"{_titles(caption)[word]}   (word {word + 1} of: {caption.text})"
    return _table(pixels, cells, rows, columns, title)


def _titles(caption: Caption) -> list[str]:
    """The words, each with the image's share of its attention where words have some, too."""
    shares = image_shares(caption)
    if shares is None:
        return list(caption.words)
    return [f"{word} {share:.0%}" for word, share in zip(caption.words, shares, strict=False)]


def _table(
    pixels: np.ndarray,
    cells: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
) -> Figure:
    """Draws the image beside cells, uint8 [rows, columns, height, width, 3]."""
    # The cells become one image: the layout of hundreds of axes would take a minute. Narrow cells
    # are padded to the width of the column names.
    side = (_LETTER * max(map(len, columns)) - cells.shape[3]) // 2
    margins = [(0, 0), (0, 0), (_MARGIN,) * 2, (max(_MARGIN, side),) * 2, (0, 0)]
    cells = np.pad(cells, margins, constant_values=255)
    count, width, height, across, _ = cells.shape
    table = cells.swapaxes(1, 2).reshape(count * height, width * across, 3)
    # Cells keep their size in pixels; the rest is room for the image and the names.
    inches = table.shape[1] / _DPI + 3.4, max(table.shape[0] / _DPI, 1.6) + 0.9
    figure = Figure(figsize=inches, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(2.4, table.shape[1] / _DPI))
    left.imshow(pixels, interpolation="nearest")
    left.axis("off")
    left.set_anchor("N")
    right.imshow(table)
    right.xaxis.tick_top()
    right.set_xticks(across * (np.arange(width) + 0.5), columns, fontsize=10, parse_math=False)
    right.set_yticks(height * (np.arange(count) + 0.5), rows, fontsize=10)
    right.tick_params(length=0)
    right.spines[:].set_visible(False)
    right.set_anchor("NW")
    _set_title(figure, title)
    figure.supxlabel(_SCALE, fontsize=9, color="dimgrey")
    return figure


def _set_title(figure: Figure, text: str) -> None:
    # Matplotlib's own wrapping would still read dollar signs as mathematics.
    lines = textwrap.fill(text, int(9 * figure.get_figwidth()))
    figure.suptitle(lines, fontsize=12, parse_math=False)


def _small(pixels: np.ndarray) -> np.ndarray:
    """Reduces the image to the size of a cell."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((_CELL, _CELL))
    return np.asarray(picture)


def save_attention(
    stem: str,
    pixels: np.ndarray,
    caption: Caption,
    *,
    views: Sequence[str] = ("overlay",),
    by: By = "mean",
    words: Sequence[str] = (),
) -> None:
    """Writes figures of the attention at each word of a caption.

    `by` "mean" writes STEM.png; "layer" one file for each view, STEM-layers-overlay.png; "head" one
    file for each view and word, STEM-heads-overlay-01.png.

    Args:
      stem: path of the files without their ends; see `file_stem`.
      pixels: the image, uint8 [H, W, 3].
      caption: of the image, with attention.
      views: names in `capjax.evaluate.attention_maps.VIEWS`.
      by: averages attention over layers and heads ("mean"), over heads ("layer"), or not ("head").
      words: "first", "last" or numbers from 1: the overlay of each, if the caption has that word,
        is written to its own file, STEM-first.png.
    """
    for name, figure in _figures(pixels, caption, views, by):
        save_figure(figure, f"{stem}{name}.png", _DPI)
    for word in words:
        index = {"first": 0, "last": len(caption.words) - 1}.get(word)
        index = int(word) - 1 if index is None else index
        if 0 <= index < len(caption.words):
            grid = grid_maps(caption)[index].mean(axis=(0, 1))
            save_picture(overlay(pixels, grid), f"{stem}-{word}.png")


def _figures(
    pixels: np.ndarray, caption: Caption, views: Sequence[str], by: By
) -> Iterator[tuple[str, Figure]]:
    """Yields (end of the file name, figure)."""
    if not caption.words:  # There are no columns to draw.
        by, views = "mean", views[:1]
    if by == "mean" and len(views) == 1:
        yield "", attention_figure(pixels, caption, VIEWS[views[0]])
    elif by == "mean":
        yield "", views_figure(pixels, caption, views)
    elif by == "layer":
        for view in views:
            yield f"-layers-{view}", layers_figure(pixels, caption, VIEWS[view])
    else:
        for view in views:
            for word in range(len(caption.words)):
                yield (
                    f"-heads-{view}-{word + 1:02}",
                    heads_figure(pixels, caption, word, VIEWS[view]),
                )


def file_stem(directory: str, name: str) -> str:
    """Builds a readable path for the figures of an image, unique by a hash of its name."""
    # The length of a file name is limited in bytes.
    stem = re.sub(r"[^\w.-]+", "_", os.path.basename(name.rstrip("/"))).encode()[:80]
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()
    return os.path.join(directory, f"{stem.decode(errors='ignore')}-{digest[:8]}")
