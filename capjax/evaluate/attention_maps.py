"""Attention of a caption as maps over the image, and views of the image through a map.

Each map is scaled by its own maximum, so the brightness of different maps is not comparable.
Shapes: see docs/architecture.md.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:  # A served artefact has attention without Flax.
    from capjax.evaluate.captioning import Caption

_COLOURS, _OPACITY = "inferno", 0.6

# (image uint8 [H, W, 3], map float [h, w]) -> uint8 [H, W, 3].
View = Callable[[np.ndarray, np.ndarray], np.ndarray]


def grid_maps(caption: "Caption") -> np.ndarray:
    """Attention of a caption as float32 [T, layers, heads, h, w].

    Positions outside the grid, such as a class token, are omitted. Of a decoder that attends to
    words, too, each map is divided by the image's share, so that layers and heads weigh the same.

    Raises:
      ValueError: the caption has no attention.
    """
    if caption.attention is None:
        raise ValueError("this caption was made without attention; request it when captioning")
    words, maps = caption.attention.shape[:2]
    inside = caption.attention[:, :, caption.prefix :]
    if image_shares(caption) is not None:
        inside = inside / caption.attention.sum(axis=-1, keepdims=True)
    return inside.reshape(words, caption.layers, maps // caption.layers, *caption.grid)


def image_shares(caption: "Caption") -> np.ndarray | None:
    """The share of each word's attention that the image has, float32 [T], a mean over maps.

    None where it has all: the decoder attends to the image alone.
    """
    sums = caption.attention.sum(axis=-1)
    return None if np.allclose(sums, 1, atol=1e-3) else sums.mean(axis=1)


def word_maps(caption: "Caption", size: tuple[int, int]) -> np.ndarray:
    """Attention of each word as a smooth map, float32 [T, H, W], at least 0.

    Attention is averaged over layers and heads, positions outside the grid are omitted, and the
    grid is enlarged bicubically to `size` (H, W).

    Raises:
      ValueError: see `grid_maps`.
    """
    maps = grid_maps(caption).mean(axis=(1, 2))
    return np.array([_smooth(grid, size) for grid in maps], np.float32).reshape(-1, *size)


def heat(pixels: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Heat map, enlarged smoothly to the size of the image; see `View`."""
    import matplotlib  # Imported here, because captions need none.

    smooth = _scaled(_smooth(grid, pixels.shape[:2]))
    return (255 * matplotlib.colormaps[_COLOURS](smooth)[..., :3]).round().astype(np.uint8)


def overlay(pixels: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Image under the heat map; see `View`."""
    mixed = (1 - _OPACITY) * pixels + _OPACITY * heat(pixels, grid)
    return mixed.round().astype(np.uint8)


def patches(pixels: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Image with each pixel multiplied by weight / largest weight of its patch; see `View`.

    The weights are not smoothed.
    """
    height, width = pixels.shape[:2]
    rows = np.arange(height) * grid.shape[0] // height
    columns = np.arange(width) * grid.shape[1] // width
    weights = _scaled(grid)[rows[:, None], columns, None]
    return (pixels * weights).round().astype(np.uint8)


VIEWS: dict[str, View] = {"overlay": overlay, "heat": heat, "patches": patches}


def attended_picture(pixels: np.ndarray, caption: "Caption") -> np.ndarray:
    """Image weighted by the attention of its caption, to be captioned again: uint8 [H, W, 3].

    `patches` with attention averaged over words, layers and heads: the most attended patch keeps
    its brightness, and unattended patches become black. Without words the image is unchanged.

    Args:
      pixels: the image as the model sees it, uint8 [H, W, 3] of any size.
      caption: of this image, with attention.

    Raises:
      ValueError: see `grid_maps`.
    """
    maps = grid_maps(caption)
    return patches(pixels, maps.mean(axis=(0, 1, 2))) if len(maps) else pixels


def _smooth(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Enlarges a map [h, w] bicubically to `size` (H, W), clipped at 0."""
    image = Image.fromarray(grid.astype(np.float32))
    return np.clip(np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC)), 0, None)


def _scaled(weights: np.ndarray) -> np.ndarray:
    """Divides weights by their maximum; all stay 0 if that is 0."""
    return weights / max(weights.max(), np.finfo(np.float32).tiny)
