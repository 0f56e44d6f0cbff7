"""Training curves, and PNG files of figures and images."""

import io
from collections.abc import Mapping, Sequence

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


def training_curve(rows: Sequence[Mapping], metric: str) -> Figure:
    """Draws the losses, and one validation metric, by step.

    Args:
      rows: rows of the `metrics.jsonl` of a run.
      metric: validation metric of the second axis.
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
