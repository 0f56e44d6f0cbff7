"""Training curves, and PNG files of figures and images."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from capjax.evaluate.fonts import fit_fonts
from capjax.files.atomic import write_atomic


def save_picture(pixels: np.ndarray, path: str) -> None:
    """Writes uint8 [H, W, 3] as a PNG atomically, creating its folder."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="png")
    write_atomic(path, content.getvalue())


def figure_pixels(figure: Figure) -> np.ndarray:
    """Renders a figure as uint8 [H, W, 3]."""
    fit_fonts(figure)
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def save_figure(figure: Figure, path: str, dpi: int = 100) -> None:
    """Writes a figure as a PNG atomically, creating its folder."""
    fit_fonts(figure)
    content = io.BytesIO()
    figure.savefig(content, dpi=dpi, format="png")
    write_atomic(path, content.getvalue())


# Scalars of training by a reward (`capjax/train/objectives/self_critical.py`), and their axes.
_OF_SAMPLES = {
    "reward": "reward of samples",
    "kl": "KL from the start, nats",
    "finished": "share that ends properly",
}


def training_curve(rows: Sequence[Mapping], metric: str) -> Figure:
    """Draws the losses, and one validation metric, by step; below them what samples show.

    Args:
      rows: rows of the `metrics.jsonl` of a run. The second line of axes is of self-critical
        training alone: rewards that are gamed show where they rise and the metric does not.
      metric: validation metric of the second axis.
    """
    groups = {
        name: [row for row in rows if row["group"] == name] for name in ("train", "validation")
    }
    samples = [row for row in groups["train"] if "reward" in row]
    above = ["loss"] * len(_OF_SAMPLES) + ["metric"] * len(_OF_SAMPLES)
    below = [name for name in _OF_SAMPLES for _ in range(2)]
    layout = [above, below] if samples else [above]
    figure = Figure(figsize=(8, 3.2 * len(layout)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplot_mosaic(layout)

    def draw(axis: str, rows: Sequence[Mapping], name: str, **style: Any) -> None:
        points = [(row["step"], row[name]) for row in rows if name in row]
        if points:
            axes[axis].plot(*zip(*points, strict=True), **style)

    draw("loss", groups["train"], "loss", color="tab:blue", label="train")
    draw("loss", groups["validation"], "loss", color="tab:orange", marker="o", label="validation")
    axes["loss"].set_ylabel("loss, nats a token")
    if axes["loss"].lines:
        axes["loss"].legend()
    draw("metric", groups["validation"], metric, color="tab:orange", marker="o")
    axes["metric"].set_ylabel(f"validation {metric}")
    for name in _OF_SAMPLES if samples else ():
        draw(name, samples, name, color="tab:blue")
        axes[name].set_ylabel(_OF_SAMPLES[name])
    if samples:  # Else a share of 1 throughout has an axis of its rounding.
        axes["finished"].set_ylim(0, 1.05)
    for axis in axes.values():
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    return figure
