"""Where a caption's words looked, as maps over the picture, and the picture seen through a map.

Each map is scaled by its own maximum: it says where was looked more and where less, and maps of
different heads are not comparable by their brightness.
"""

from collections.abc import Callable

import matplotlib
import numpy as np
from PIL import Image

from capjax.evaluate.captioning import Caption

_COLOURS, _OPACITY = "inferno", 0.6

# What a picture, uint8 [H, W, 3], becomes by a map, float [h, w]: uint8 [H, W, 3].
View = Callable[[np.ndarray, np.ndarray], np.ndarray]


def grid_maps(caption: Caption) -> np.ndarray:
    """A caption's attention as float32 [words, layers, heads, h, w].

    Positions outside the grid, such as a class token, are left out.

    Raises:
      ValueError: the caption was made without attention.
    """
    if caption.attention is None:
        raise ValueError("this caption was made without attention; ask for it when captioning")
    words, maps = caption.attention.shape[:2]
    inside = caption.attention[:, :, caption.prefix :]
    return inside.reshape(words, caption.layers, maps // caption.layers, *caption.grid)


def word_maps(caption: Caption, size: tuple[int, int]) -> np.ndarray:
    """Where each word looked: float32 [words, height, width], smooth, each from 0 to its maximum.

    The caption's attention is averaged over layers and heads, positions outside the grid are
    left out, and the grid is enlarged bicubically to `size` (height, width).

    Raises:
      ValueError: see `grid_maps`.
    """
    maps = grid_maps(caption).mean(axis=(1, 2))
    return np.array([_smooth(grid, size) for grid in maps], np.float32).reshape(-1, *size)


def heat(pixels: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The heat map alone, smooth, as large as the picture; see `View`."""
    smooth = _scaled(_smooth(grid, pixels.shape[:2]))
    return (255 * matplotlib.colormaps[_COLOURS](smooth)[..., :3]).round().astype(np.uint8)


def overlay(pixels: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The picture under the heat map; see `View`."""
    mixed = (1 - _OPACITY) * pixels + _OPACITY * heat(pixels, grid)
    return mixed.round().astype(np.uint8)


def patches(pixels: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The picture with every pixel times its patch's weight over the largest weight; see `View`.

    Nothing is smoothed: so the patches weigh for the model.
    """
    height, width = pixels.shape[:2]
    rows = np.arange(height) * grid.shape[0] // height
    columns = np.arange(width) * grid.shape[1] // width
    weights = _scaled(grid)[rows[:, None], columns, None]
    return (pixels * weights).round().astype(np.uint8)


VIEWS: dict[str, View] = {"overlay": overlay, "heat": heat, "patches": patches}


def attended_picture(pixels: np.ndarray, caption: Caption) -> np.ndarray:
    """What a caption saw of a picture, to be captioned itself: uint8 [H, W, 3].

    `patches` by the caption's mean attention over words, layers and heads: what was looked at most
    stays as bright as it is, and what was not looked at becomes black. Of a caption without words
    it is the picture as it is.

    Args:
      pixels: all that the model saw, and nothing else, uint8 [H, W, 3] of any size.
      caption: of this picture, with attention.

    Raises:
      ValueError: see `grid_maps`.
    """
    maps = grid_maps(caption)
    return patches(pixels, maps.mean(axis=(0, 1, 2))) if len(maps) else pixels


def _smooth(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map [h, w] enlarged bicubically to (height, width), at least 0."""
    image = Image.fromarray(grid.astype(np.float32))
    return np.clip(np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC)), 0, None)


def _scaled(weights: np.ndarray) -> np.ndarray:
    """Weights over their maximum; all 0 where there is none."""
    return weights / max(weights.max(), np.finfo(np.float32).tiny)
