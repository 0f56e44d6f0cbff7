"""Depthwise convolution, in the form that is fastest on the current backend."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from capjax.parallel.platform import choose


def _padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """(before, after) of "SAME" padding along one axis, as in TensorFlow and `jax.lax`."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def shifts(x: jax.Array, sides: tuple[int, int], stride: int) -> list[list[jax.Array]]:
    """Strided slices of x, one per element of a kernel, under "SAME" padding.

    Args:
      x: [B, rows, columns, F].
      sides: rows and columns of the kernel.
      stride: of both axes.

    Returns:
      By row and column of the kernel, [B, ceil(rows / stride), ceil(columns / stride), F].
    """
    rows, columns = x.shape[1:3]
    x = jnp.pad(
        x, [(0, 0), _padding(rows, sides[0], stride), _padding(columns, sides[1], stride), (0, 0)]
    )
    out_rows, out_columns = -(-rows // stride), -(-columns // stride)

    def shift(i: int, j: int) -> jax.Array:
        last = (i + (out_rows - 1) * stride + 1, j + (out_columns - 1) * stride + 1)
        return jax.lax.slice(
            x, (0, i, j, 0), (x.shape[0], *last, x.shape[3]), (1, stride, stride, 1)
        )

    return [[shift(i, j) for j in range(sides[1])] for i in range(sides[0])]


def shifted(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Depthwise convolution as a sum of `shifts` times their weights.

    XLA fuses it, with the norm and the activation that follow, into one pass over x. Each kernel
    row is summed first, because one long chain of additions took up to a third longer for 5x5.

    Args:
      x: [B, rows, columns, F].
      kernel: [side, side, 1, F].
      stride: of both axes.

    Returns:
      [B, ceil(rows / stride), ceil(columns / stride), F], padded as "SAME".
    """
    return sum(
        sum(image * kernel[i, j, 0] for j, image in enumerate(row))
        for i, row in enumerate(shifts(x, kernel.shape[:2], stride))
    )


def grouped(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`shifted` as a convolution with one group per channel."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


class DepthwiseConv(nn.Module):
    """A depthwise convolution without bias; shapes as for `shifted`.

    Uses `shifted` on CPUs, where XLA's grouped convolution is slow, and `grouped` elsewhere, where
    cuDNN and the TPU compiler have kernels for it. Measurements: `benchmarks/README.md`.
    """

    kernel_size: int = 3
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, 1, x.shape[-1])
        # The fan-in of a channel is the kernel's area.
        init = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")
        kernel = self.param("kernel", init, shape).astype(self.dtype)
        return choose(
            x.astype(self.dtype),
            kernel,
            cpu=lambda x, kernel: shifted(x, kernel, self.stride),
            default=lambda x, kernel: grouped(x, kernel, self.stride),
        )
