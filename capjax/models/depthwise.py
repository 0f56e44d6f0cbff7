"""A depthwise convolution in the form that is fastest on the backend at hand."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


def _padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "SAME" along one axis, as `jax.lax` counts it too."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def shifts(x: jax.Array, sides: tuple[int, int], stride: int) -> list[list[jax.Array]]:
    """What each place of a kernel sees of an image padded as "SAME".

    Args:
      x: [B, H, W, C].
      sides: rows and columns of the kernel.
      stride: of both axes.

    Returns:
      For each row and column of the kernel [B, ceil(H / stride), ceil(W / stride), C].
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
    """A sum over the kernel's places of a shifted image times a row of weights, channel by channel.

    XLA fuses it, with the norm and the activation that follow, into one pass over the image. Rows
    are summed first: adding all places one after the other took up to a third longer for 5x5.

    Args:
      x: [B, H, W, C].
      kernel: [h, w, 1, C].
      stride: of both axes.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), C], padded as "SAME".
    """
    return sum(
        sum(image * kernel[i, j, 0] for j, image in enumerate(row))
        for i, row in enumerate(shifts(x, kernel.shape[:2], stride))
    )


def grouped(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The same by a convolution with as many groups as channels."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


class DepthwiseConv(nn.Module):
    """A depthwise convolution without bias, [B, H, W, C] -> [B, H / stride, W / stride, C].

    On CPUs, where XLA's grouped convolution is slow, it is `shifted`; elsewhere `grouped`, for
    which cuDNN and the TPU compiler have kernels. Measurements are in `benchmarks/README.md`.
    """

    kernel_size: int = 3
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, 1, x.shape[-1])
        # The fan-in of a channel is the kernel's area alone.
        init = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")
        kernel = self.param("kernel", init, shape).astype(self.dtype)
        return jax.lax.platform_dependent(
            x.astype(self.dtype),
            kernel,
            cpu=lambda x, kernel: shifted(x, kernel, self.stride),
            default=lambda x, kernel: grouped(x, kernel, self.stride),
        )
