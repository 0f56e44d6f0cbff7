"""Pooling to a grid of a given size."""

import jax
import jax.numpy as jnp
import numpy as np


def adaptive_avg_pool(x: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Average pooling to a given grid, as `torch.nn.AdaptiveAvgPool2d`.

    Along an axis of n positions, cell i of m is the mean of positions floor(i n / m) to
    ceil((i + 1) n / m) - 1. Neighbouring cells overlap if m does not divide n, and positions repeat
    if m exceeds n.

    Args:
      x: [B, rows, columns, F].
      grid: (h, w), each at least 1.

    Returns:
      [B, h, w, F] of x's dtype.

    Raises:
      ValueError: h or w is less than 1.
    """
    if min(grid) < 1:
        raise ValueError(f"grid={grid[0]}x{grid[1]} must have sides of 1 or more")
    rows, columns = (
        _cell_means(size, cells) for size, cells in zip(x.shape[1:3], grid, strict=True)
    )
    # Accelerators round the factors of a matrix product at the default precision.
    pooled = jnp.einsum(
        "bhwc,ih,jw->bijc",
        x.astype(jnp.float32),
        rows,
        columns,
        precision=jax.lax.Precision.HIGHEST,
    )
    return pooled.astype(x.dtype)


def _cell_means(size: int, cells: int) -> np.ndarray:
    """Weights of each position in each cell's mean, float32 [cells, size]; rows sum to 1."""
    cell, place = np.arange(cells)[:, None], np.arange(size)
    inside = (place >= cell * size // cells) & (place < -(-(cell + 1) * size // cells))
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)
