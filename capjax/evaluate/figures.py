"""Attention figures: the picture, then a heat map for every word."""

import hashlib
import io
import os
import re
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from capjax.data.atomic import write_atomic
from capjax.evaluate.captioning import Caption

COLUMNS = 5
_COLOURS, _OPACITY = "inferno", 0.6


def word_maps(caption: Caption, size: tuple[int, int]) -> np.ndarray:
    """Where each word looked: float32 [words, height, width], smooth, each from 0 to its maximum.

    The caption's attention is averaged over layers and heads, positions outside the grid are
    left out, and the grid is enlarged bicubically to `size` (height, width).
    """
    if caption.attention is None:
        raise ValueError("this caption was made without attention; ask for it when captioning")
    maps = caption.attention.mean(axis=1)[:, caption.prefix :]
    maps = maps.reshape(-1, *caption.grid)
    enlarged = [
        Image.fromarray(grid.astype(np.float32)).resize(size[::-1], Image.Resampling.BICUBIC)
        for grid in maps
    ]
    return np.clip(np.array(enlarged, np.float32).reshape(-1, *size), 0, None)


def attention_figure(pixels: np.ndarray, caption: Caption) -> Figure:
    """The picture, uint8 [H, W, 3], and its heat map at each word of the caption."""
    maps = word_maps(caption, pixels.shape[:2])
    rows = -(-(len(maps) + 1) // COLUMNS)
    figure = Figure(figsize=(2.2 * COLUMNS, 2.45 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    axes[0].imshow(pixels, interpolation="nearest")
    for axis, word, heat in zip(axes[1:], caption.words, maps, strict=False):
        axis.imshow(pixels, interpolation="nearest")
        axis.imshow(heat, cmap=_COLOURS, alpha=_OPACITY, vmin=0, vmax=max(heat.max(), 1e-6))
        # Words are text, never mathematics: a lone dollar sign must not start a formula.
        axis.set_title(word, fontsize=11, parse_math=False)
    figure.suptitle(caption.text, fontsize=12, wrap=True, parse_math=False)
    return figure


def word_overlay(pixels: np.ndarray, caption: Caption, word: int) -> np.ndarray:
    """The picture under the heat map of one word (-1 is the last), both uint8 [H, W, 3].

    Raises:
      IndexError: the caption has no such word.
    """
    heat = word_maps(caption, pixels.shape[:2])[word]
    colours = matplotlib.colormaps[_COLOURS](heat / max(heat.max(), 1e-6))[..., :3]
    mixed = (1 - _OPACITY) * pixels + _OPACITY * 255 * colours
    return mixed.round().astype(np.uint8)


def save_attention(
    directory: str, name: str, pixels: np.ndarray, caption: Caption, words: Sequence[str] = ()
) -> None:
    """Draws where each word of a caption looked, into a file called after the picture's name.

    Args:
      directory: of the figures.
      name: of the picture.
      pixels: see `attention_figure`.
      caption: see `attention_figure`.
      words: "first", "last" or a number from 1 on: each is laid over the picture in a file of its
        own, if the caption has it.
    """
    stem = os.path.join(directory, _file_stem(name))
    save_figure(attention_figure(pixels, caption), f"{stem}.png")
    for word in words:
        index = {"first": 0, "last": len(caption.words) - 1}.get(word)
        index = int(word) - 1 if index is None else index
        if 0 <= index < len(caption.words):
            save_picture(word_overlay(pixels, caption, index), f"{stem}-{word}.png")


def _file_stem(name: str) -> str:
    """A file name that tells a person which picture it is, and no two pictures share."""
    # A file name's length has a limit in bytes.
    stem = re.sub(r"[^\w.-]+", "_", os.path.basename(name.rstrip("/"))).encode()[:80]
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f"{stem.decode(errors='ignore')}-{digest[:8]}"


def save_picture(pixels: np.ndarray, path: str) -> None:
    """Writes uint8 [H, W, 3] as a PNG atomically, making its folder."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="png")
    write_atomic(path, content.getvalue())


def figure_pixels(figure: Figure) -> np.ndarray:
    """A figure as uint8 [H, W, 3]."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def save_figure(figure: Figure, path: str, dpi: int = 100) -> None:
    """Writes a PNG atomically, making its folder."""
    content = io.BytesIO()
    figure.savefig(content, dpi=dpi, format="png")
    write_atomic(path, content.getvalue())


def training_curve(rows: Sequence[Mapping], metric: str) -> Figure:
    """Losses, and one validation metric, by step.

    Args:
      rows: of a run's `metrics.jsonl`.
      metric: drawn on an axis of its own.
    """
    groups = {
        name: [row for row in rows if row["group"] == name and "loss" in row]
        for name in ("train", "validation")
    }
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for name, group in groups.items():
        steps = [row["step"] for row in group]
        marker = "o" if name == "validation" else None
        left.plot(steps, [row["loss"] for row in group], marker=marker, label=name)
    left.set(xlabel="step", ylabel="loss, nats a token")
    left.legend()
    validation = [row for row in groups["validation"] if metric in row]
    steps = [row["step"] for row in validation]
    right.plot(steps, [row[metric] for row in validation], marker="o", color="tab:orange")
    right.set(xlabel="step", ylabel=f"validation {metric}")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    return figure
