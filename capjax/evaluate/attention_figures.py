"""Figures of where each word of a caption looked, and how their files are called."""

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

from capjax.evaluate.attention_maps import VIEWS, View, grid_maps, overlay
from capjax.evaluate.captioning import Caption
from capjax.evaluate.figures import save_figure, save_picture

COLUMNS = 5
# Of a picture in a table, in pixels: its longer side, and the margin around it.
_CELL, _MARGIN = 128, 4
# Of a column's name, about the width of a letter in pixels.
_LETTER = 9
_DPI = 100
_SCALE = "Each map is scaled from 0 to its own maximum."

# Over what attention is averaged: layers and heads, heads, or nothing.
By = Literal["mean", "layer", "head"]


def attention_figure(pixels: np.ndarray, caption: Caption, view: View = overlay) -> Figure:
    """The picture, uint8 [H, W, 3], and a view of it at each word of the caption.

    Attention is averaged over layers and heads; see `capjax.evaluate.attention_maps`.
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
    for axis, word, grid in zip(axes[1:], caption.words, maps, strict=False):
        axis.imshow(view(pixels, grid), interpolation="nearest")
        # Words are text, never mathematics: a lone dollar sign must not start a formula.
        axis.set_title(word, fontsize=11, parse_math=False)
    _set_title(figure, caption.text)
    return figure


def views_figure(pixels: np.ndarray, caption: Caption, views: Sequence[str]) -> Figure:
    """A table of the picture at each word, with a row a view; see `attention_figure`.

    Args:
      pixels: the picture.
      caption: with a word at least.
      views: names in `capjax.evaluate.attention_maps.VIEWS`.
    """
    small = _small(pixels)
    maps = grid_maps(caption).mean(axis=(1, 2))
    cells = np.array([[VIEWS[name](small, grid) for grid in maps] for name in views])
    return _table(pixels, cells, views, caption.words, caption.text)


def layers_figure(pixels: np.ndarray, caption: Caption, view: View = overlay) -> Figure:
    """A table of the picture at each word, with a row a layer, whose heads are averaged.

    Args:
      pixels: the picture.
      caption: with a word at least.
      view: see `attention_figure`.
    """
    small = _small(pixels)
    layers = grid_maps(caption).mean(axis=2).swapaxes(0, 1)
    cells = np.array([[view(small, grid) for grid in layer] for layer in layers])
    rows = [f"layer {layer}" for layer in range(1, len(cells) + 1)]
    return _table(pixels, cells, rows, caption.words, caption.text)


def heads_figure(pixels: np.ndarray, caption: Caption, word: int, view: View = overlay) -> Figure:
    """A table of the picture at one word, with a row a layer and a column a head.

    Raises:
      IndexError: the caption has no such word.
    """
    small = _small(pixels)
    cells = np.array([[view(small, grid) for grid in layer] for layer in grid_maps(caption)[word]])
    rows, columns = (
        [f"{name} {number}" for number in range(1, count + 1)]
        for name, count in zip(("layer", "head"), cells.shape, strict=False)
    )
    title = f"{caption.words[word]}   (word {word + 1} of: {caption.text})"
    return _table(pixels, cells, rows, columns, title)


def _table(
    pixels: np.ndarray,
    cells: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
) -> Figure:
    """The picture beside a table of cells, uint8 [R, C, h, w, 3]."""
    # As one image: hundreds of axes would take a minute to lay out.
    # Columns of portraits are wider than these, or their names would run into each other.
    side = (_LETTER * max(map(len, columns)) - cells.shape[3]) // 2
    margins = [(0, 0), (0, 0), (_MARGIN,) * 2, (max(_MARGIN, side),) * 2, (0, 0)]
    cells = np.pad(cells, margins, constant_values=255)
    count, width, height, across, _ = cells.shape
    table = cells.swapaxes(1, 2).reshape(count * height, width * across, 3)
    # About a pixel a pixel, with room for the picture and the names.
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
    # Matplotlib's own wrapping takes dollar signs for mathematics all the same.
    lines = textwrap.fill(text, int(9 * figure.get_figwidth()))
    figure.suptitle(lines, fontsize=12, parse_math=False)


def _small(pixels: np.ndarray) -> np.ndarray:
    """The picture at the size of a cell."""
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
    """Draws where each word of a caption looked.

    Attention averaged over layers and heads makes one file, STEM.png; by layer a file a view,
    STEM-layers-overlay.png; by head a file a view and word, STEM-heads-overlay-01.png.

    Args:
      stem: of the files; see `file_stem`.
      pixels: the picture, uint8 [H, W, 3].
      caption: of it, with attention.
      views: names in `capjax.evaluate.attention_maps.VIEWS`.
      by: what has a map of its own.
      words: "first", "last" or a number from 1 on: each is laid over the picture in a file of its
        own, STEM-first.png, if the caption has it.
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
    """(what a file's name ends in, figure), each drawn when it is asked for."""
    if not caption.words:  # There are no rows to draw.
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
    """A path for a picture's figures that tells which it is, and that no two pictures share."""
    # A file name's length has a limit in bytes.
    stem = re.sub(r"[^\w.-]+", "_", os.path.basename(name.rstrip("/"))).encode()[:80]
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()
    return os.path.join(directory, f"{stem.decode(errors='ignore')}-{digest[:8]}")
