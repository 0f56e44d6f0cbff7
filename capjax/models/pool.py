"""Pooling to a grid of a given size."""

import jax
import jax.numpy as jnp
import numpy as np


def adaptive_avg_pool(x: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Means over as many cells as asked for, as `torch.nn.AdaptiveAvgPool2d` has them.

    Along an axis of n places, cell i of m is the mean of the places from floor(i n / m) to below
    ceil((i + 1) n / m). Neighbouring cells share places where m does not divide n; where m is
    greater than n, places repeat.

    Args:
      x: [B, H, W, C].
      grid: (h, w), each at least 1.

    Returns:
      [B, h, w, C] of x's type.

    Raises:
      ValueError: the grid has no cells.
    """
    if min(grid) < 1:
        raise ValueError(f"a grid of {grid[0]}x{grid[1]} has no cells; give 1 or more a side")
    rows, columns = (
        _cell_means(size, cells) for size, cells in zip(x.shape[1:3], grid, strict=True)
    )
    # Of full precision, since accelerators round the factors of a product otherwise.
    pooled = jnp.einsum(
        "bhwc,ih,jw->bijc",
        x.astype(jnp.float32),
        rows,
        columns,
        precision=jax.lax.Precision.HIGHEST,
    )
    return pooled.astype(x.dtype)


def _cell_means(size: int, cells: int) -> np.ndarray:
    """The share of each place in each cell's mean, float32 [cells, size]; rows sum to 1."""
    cell, place = np.arange(cells)[:, None], np.arange(size)
    inside = (place >= cell * size // cells) & (place < -(-(cell + 1) * size // cells))
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)
