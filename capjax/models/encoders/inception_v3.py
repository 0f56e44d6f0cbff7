"""InceptionV3 (Szegedy et al. 2016), without its classifier.

The network of `keras.applications.InceptionV3(include_top=False)`. Layers have the names that Keras
gives in a new process, conv2d, conv2d_1, ..., numbered in order of creation, so the order of the
calls below is part of the format.

Shapes: see docs/architecture.md.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from capjax.models.contract import Memory, PretrainedEncoder, grid_memory
from capjax.models.encoders.patch import scale_pixels
from capjax.models.normed_convolution import normed_convolution
from capjax.parts.types import Given

# A smaller image has an empty feature map before the last block.
MIN_SIZE = 75

_Conv = Callable[..., jax.Array]

# Number of convolutions of the stem and of each block, mixed0 to mixed10.
_COUNTS = (5, 7, 7, 7, 4, 10, 10, 10, 10, 6, 9, 9)


def _stages() -> dict[str, tuple[str, ...]]:
    ends = [*itertools.accumulate(_COUNTS)]
    return {
        f"mixed{number}": tuple(
            f"{kind}_{conv}" for conv in range(*span) for kind in ("conv2d", "batch_normalization")
        )
        for number, span in enumerate(itertools.pairwise(ends))
    }


# Parts of each block, by the block's name in Keras.
STAGES = _stages()


class InceptionV3(PretrainedEncoder):
    """Images uint8 [B, H, W, 3] to a memory with F = 2048; 299x299 pixels give an 8x8 grid.

    Batch norms, which have no scale, always use their stored statistics, as in MobileNetV2.

    Attributes:
      dtype: of the computation; parameters are float32.
    """

    dtype: Given[Any] = jnp.float32

    stages = STAGES

    # Reads published weights.
    loader = "capjax.pretrained.keras.inception_v3:load_inception_v3"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Memory:
        """Encodes images; features are the output of the last block, mixed10.

        Raises:
          ValueError: a side is below 75 pixels.
        """
        del train  # No dropout; batch statistics are fixed.
        height, width = images.shape[1:3]
        if min(height, width) < MIN_SIZE:
            raise ValueError(
                f"InceptionV3 needs an image size of {MIN_SIZE}x{MIN_SIZE} or more, not "
                f"{height}x{width}; it was trained on 299x299"
            )
        numbers = itertools.count()
        convolution = normed_convolution(self.dtype, 1e-3, use_scale=False)

        def conv(x, channels, rows=1, columns=1, stride=1, padding="SAME") -> jax.Array:
            """Convolution, norm, ReLU."""
            number = next(numbers)
            suffix = f"_{number}" if number else ""
            names = f"conv2d{suffix}", f"batch_normalization{suffix}"
            return nn.relu(convolution(x, channels, names, (rows, columns), stride, padding))

        x = scale_pixels(images, self.dtype)
        x = conv(x, 32, 3, 3, 2, "VALID")
        x = conv(x, 32, 3, 3, padding="VALID")
        x = _max_pool(conv(x, 64, 3, 3))
        x = conv(x, 80)
        x = _max_pool(conv(x, 192, 3, 3, padding="VALID"))
        for pooled in (32, 64, 64):
            x = _squares(conv, x, pooled)
        x = _shrink_squares(conv, x)
        for inner in (128, 160, 160, 192):
            x = _sevens(conv, x, inner)
        x = _shrink_sevens(conv, x)
        for _ in range(2):
            x = _forks(conv, x)
        return grid_memory(x)


def _max_pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), (2, 2))


def _average(x: jax.Array) -> jax.Array:
    """3x3 average pooling; padding is not counted."""
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def _concatenate(*branches: jax.Array) -> jax.Array:
    return jnp.concatenate(branches, axis=-1)


def _squares(conv: _Conv, x: jax.Array, pooled: int) -> jax.Array:
    """mixed0 to mixed2 (figure 5 of the paper): 3x3 and 5x5 convolutions."""
    single = conv(x, 64)
    five = conv(conv(x, 48), 64, 5, 5)
    double = conv(conv(conv(x, 64), 96, 3, 3), 96, 3, 3)
    return _concatenate(single, five, double, conv(_average(x), pooled))


def _shrink_squares(conv: _Conv, x: jax.Array) -> jax.Array:
    """mixed3, which halves rows and columns."""
    three = conv(x, 384, 3, 3, 2, "VALID")
    double = conv(conv(conv(x, 64), 96, 3, 3), 96, 3, 3, 2, "VALID")
    return _concatenate(three, double, _max_pool(x))


def _sevens(conv: _Conv, x: jax.Array, inner: int) -> jax.Array:
    """mixed4 to mixed7 (figure 6): 7x7 convolutions factorised into 1x7 and 7x1."""
    single = conv(x, 192)
    seven = conv(conv(conv(x, inner), inner, 1, 7), 192, 7, 1)
    double = conv(conv(conv(x, inner), inner, 7, 1), inner, 1, 7)
    double = conv(conv(double, inner, 7, 1), 192, 1, 7)
    return _concatenate(single, seven, double, conv(_average(x), 192))


def _shrink_sevens(conv: _Conv, x: jax.Array) -> jax.Array:
    """mixed8, which halves rows and columns."""
    three = conv(conv(x, 192), 320, 3, 3, 2, "VALID")
    seven = conv(conv(conv(x, 192), 192, 1, 7), 192, 7, 1)
    return _concatenate(three, conv(seven, 192, 3, 3, 2, "VALID"), _max_pool(x))


def _forks(conv: _Conv, x: jax.Array) -> jax.Array:
    """mixed9 and mixed10 (figure 7): branches that end in parallel 1x3 and 3x1 convolutions."""
    single = conv(x, 320)
    three = conv(x, 384)
    three = _concatenate(conv(three, 384, 1, 3), conv(three, 384, 3, 1))
    double = conv(conv(x, 448), 384, 3, 3)
    double = _concatenate(conv(double, 384, 1, 3), conv(double, 384, 3, 1))
    return _concatenate(single, three, double, conv(_average(x), 192))


PART = InceptionV3
