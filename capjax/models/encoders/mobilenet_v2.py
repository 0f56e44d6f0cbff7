"""MobileNetV2 (Sandler et al. 2018), without its classifier.

Layers and their names are those of `keras.applications.MobileNetV2(include_top=False)`, so that its
weights fit.

Shapes: see docs/architecture.md.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from capjax.models.contract import Memory, PretrainedEncoder, grid_memory
from capjax.models.depthwise import DepthwiseConv
from capjax.models.encoders.patch import scale_pixels
from capjax.models.fixed_norm import fixed_norm, pointwise_convolution
from capjax.models.stem import StemConv
from capjax.parts.types import Given, Positive

# Table 2 of the paper: expansion, channels, repeats and the first repeat's stride.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_LAST = 1280


def round_channels(channels: float) -> int:
    """Rounds to a multiple of 8 that is at least 8 and at least 0.9 * channels."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


class MobileNetV2(PretrainedEncoder):
    """Images uint8 [B, H, W, 3] to a memory with h = ceil(H / 32), w = ceil(W / 32).

    Batch norms always use their stored statistics, in the collection `batch_stats`, which
    fine-tuning does not update.

    Attributes:
      alpha: multiplies the channels of all layers; F = 1280 up to alpha 1.
      dtype: of the computation; parameters are float32.
    """

    alpha: Positive = 1.0
    dtype: Given[Any] = jnp.float32

    # Reads published weights.
    loader = "capjax.pretrained.keras.mobilenet_v2:load_mobilenet_v2"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Memory:
        """Encodes images; features are the output of the last activation."""
        del train  # No dropout; batch statistics are fixed.

        norm = fixed_norm(1e-3, self.dtype)
        pointwise = pointwise_convolution(self.dtype)

        def block(x: jax.Array, name: str, expansion: int, channels: int, stride: int):
            y = x
            if expansion > 1:
                y = pointwise(y, expansion * x.shape[-1], f"{name}_expand")
                y = nn.relu6(norm(y, f"{name}_expand_BN"))
            y = DepthwiseConv(3, stride, self.dtype, name=f"{name}_depthwise")(y)
            y = nn.relu6(norm(y, f"{name}_depthwise_BN"))
            y = norm(pointwise(y, channels, f"{name}_project"), f"{name}_project_BN")
            return x + y if stride == 1 and x.shape[-1] == channels else y

        x = scale_pixels(images, self.dtype)
        x = StemConv(round_channels(32 * self.alpha), self.dtype, name="Conv1")(x)
        x = nn.relu6(norm(x, "bn_Conv1"))
        number = 0
        for expansion, channels, repeats, first_stride in STAGES:
            for repeat in range(repeats):
                name = f"block_{number}" if number else "expanded_conv"
                stride = first_stride if repeat == 0 else 1
                x = block(x, name, expansion, round_channels(channels * self.alpha), stride)
                number += 1
        last = round_channels(_LAST * self.alpha) if self.alpha > 1 else _LAST
        x = nn.relu6(norm(pointwise(x, last, "Conv_1"), "Conv_1_bn"))
        return grid_memory(x)


PART = MobileNetV2
