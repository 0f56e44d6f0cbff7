"""The first convolution of a network, in the form that is fastest on the current backend."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from capjax.models.depthwise import shifts
from capjax.parallel.platform import choose

_SIDE, _STRIDE = 3, 2


def summed(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution of stride 2 as a sum over kernel elements and input channels.

    XLA fuses it, with the norm and the activation that follow, into one pass over the image.

    Args:
      x: [B, H, W, channels].
      kernel: [3, 3, channels, features].

    Returns:
      [B, ceil(H / 2), ceil(W / 2), features], padded as "SAME".
    """

    def place(image: jax.Array, weights: jax.Array) -> jax.Array:
        return sum(image[..., i : i + 1] * weights[i] for i in range(image.shape[-1]))

    return sum(
        sum(place(image, kernel[i, j]) for j, image in enumerate(row))
        for i, row in enumerate(shifts(x, kernel.shape[:2], _STRIDE))
    )


def convolved(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`summed` as an XLA convolution."""
    return jax.lax.conv_general_dilated(
        x, kernel, (_STRIDE, _STRIDE), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


class StemConv(nn.Module):
    """A 3x3 convolution of stride 2 without bias; shapes as for `summed`.

    Uses `summed` on CPUs, where it took 0.43 (16 features) and 0.66 (32) of the time of XLA's
    convolution at 224x224x3, and `convolved` elsewhere.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (_SIDE, _SIDE, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape).astype(self.dtype)
        return choose(x.astype(self.dtype), kernel, cpu=summed, default=convolved)
