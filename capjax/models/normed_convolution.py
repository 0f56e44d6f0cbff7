"""A convolution and the batch norm after it as one: the norm's statistics are fixed."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from capjax.parallel.platform import on_cpu

Padding = str | tuple[tuple[int, int], tuple[int, int]]


class _FixedNorm(nn.Module):
    """The variables of `nn.BatchNorm`, as (scale [F], shift [F]) of its output x scale + shift."""

    epsilon: float
    use_scale: bool

    @nn.compact
    def __call__(self, features: int) -> tuple[jax.Array, jax.Array]:
        shape = (features,)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape).value
        variance = self.variable("batch_stats", "var", jnp.ones, shape).value
        scale = jax.lax.rsqrt(variance + self.epsilon)
        if self.use_scale:
            scale *= self.param("scale", nn.initializers.ones, shape)
        return scale, self.param("bias", nn.initializers.zeros, shape) - mean * scale


class _ScaledConv(nn.Module):
    """A convolution whose output is multiplied by scale [F] and has shift [F] added.

    Except on CPUs the scale is multiplied into the kernel, so that the output is not read again:
    cuDNN adds `shift`, and applies the ReLU that follows, as it writes it.
    """

    sides: tuple[int, int]
    stride: int
    padding: Padding
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
        sizes, cpu = (x.shape[-1], len(scale)), on_cpu()
        is_product = self.sides == (1, 1)
        # A product's kernel has no sides, as that of `nn.Dense`.
        shape = sizes if is_product else (*self.sides, *sizes)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        # On CPUs all kernels would be scaled anew for each image, which is encoded by itself.
        kernel = kernel if cpu else kernel * scale
        kernel, x = kernel.astype(self.dtype), x.astype(self.dtype)
        if is_product and cpu:  # Faster there, as convolutions are on GPUs.
            y = x[:, :: self.stride, :: self.stride] @ kernel
        else:
            y = jax.lax.conv_general_dilated(
                x,
                kernel.reshape(*self.sides, *sizes),
                (self.stride, self.stride),
                self.padding,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        return (y * scale + shift).astype(self.dtype) if cpu else y + shift.astype(self.dtype)


def normed_convolution(
    dtype: Any, epsilon: float, *, use_scale: bool = True
) -> Callable[..., jax.Array]:
    """Returns a convolution with a batch norm that uses its stored statistics, in training too.

    convolve(x, features, names, sides=(1, 1), stride=1, padding="SAME") takes x [B, rows, columns,
    channels]; `names` are those of the convolution and of the norm, whose variables are those of
    `nn.Conv` (`nn.Dense` for 1x1) without bias and of `nn.BatchNorm`.
    """

    def convolve(
        x: jax.Array,
        features: int,
        names: tuple[str, str],
        sides: tuple[int, int] = (1, 1),
        stride: int = 1,
        padding: Padding = "SAME",
    ) -> jax.Array:
        scale, shift = _FixedNorm(epsilon, use_scale, name=names[1])(features)
        return _ScaledConv(sides, stride, padding, dtype, name=names[0])(x, scale, shift)

    return convolve
