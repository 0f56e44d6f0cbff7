"""Layers that the pretrained convolutional networks share, as functions of (x, ..., name)."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn


def fixed_norm(epsilon: float, dtype: Any) -> Callable[[jax.Array, str], jax.Array]:
    """Returns a batch norm that uses its stored statistics, in training too: norm(x, name)."""

    def norm(x: jax.Array, name: str) -> jax.Array:
        return nn.BatchNorm(use_running_average=True, epsilon=epsilon, dtype=dtype, name=name)(x)

    return norm


def pointwise_convolution(dtype: Any) -> Callable[..., jax.Array]:
    """Returns a 1x1 convolution: pointwise(x, channels, name, use_bias=False)."""

    def pointwise(x: jax.Array, channels: int, name: str, use_bias: bool = False) -> jax.Array:
        # As a matrix product, which XLA computes faster on CPUs.
        return nn.Dense(channels, use_bias=use_bias, dtype=dtype, name=name)(x)

    return pointwise
