"""MobileNetV3-Small and -Large (Howard et al. 2019), without their classifier.

Layers and their names are those of `MobileNetV3Small` and `MobileNetV3Large` of
`keras.applications` with include_top=False, so that their weights fit.

Shapes: see docs/architecture.md.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from capjax.models.contract import Memory, PretrainedEncoder, grid_memory
from capjax.models.depthwise import DepthwiseConv
from capjax.models.encoders.mobilenet_v2 import round_channels
from capjax.models.encoders.patch import scale_pixels
from capjax.models.fixed_norm import fixed_norm, pointwise_convolution
from capjax.models.stem import StemConv
from capjax.parts.types import Given, Positive

# Tables 1 and 2 of the paper: kernel, expansion, channels, squeeze and excitation, hard swish (else
# ReLU), stride.
_LARGE = (
    (3, 1, 16, False, False, 1),
    (3, 4, 24, False, False, 2),
    (3, 3, 24, False, False, 1),
    (5, 3, 40, True, False, 2),
    (5, 3, 40, True, False, 1),
    (5, 3, 40, True, False, 1),
    (3, 6, 80, False, True, 2),
    (3, 2.5, 80, False, True, 1),
    (3, 2.3, 80, False, True, 1),
    (3, 2.3, 80, False, True, 1),
    (3, 6, 112, True, True, 1),
    (3, 6, 112, True, True, 1),
    (5, 6, 160, True, True, 2),
    (5, 6, 160, True, True, 1),
    (5, 6, 160, True, True, 1),
)
_SMALL = (
    (3, 1, 16, True, False, 2),
    (3, 72 / 16, 24, False, False, 2),
    (3, 88 / 24, 24, False, False, 1),
    (5, 4, 40, True, True, 2),
    (5, 6, 40, True, True, 1),
    (5, 6, 40, True, True, 1),
    (5, 3, 48, True, True, 1),
    (5, 3, 48, True, True, 1),
    (5, 6, 96, True, True, 2),
    (5, 6, 96, True, True, 1),
    (5, 6, 96, True, True, 1),
)
BLOCKS = {"small": _SMALL, "large": _LARGE}


class MobileNetV3(PretrainedEncoder):
    """Images uint8 [B, H, W, 3] to a memory with h = ceil(H / 32), w = ceil(W / 32).

    Batch norms always use their stored statistics, as in MobileNetV2.

    Attributes:
      size: "small" or "large"; F = 576 or 960 for alpha 1.
      alpha: multiplies the channels of all blocks.
      dtype: of the computation; parameters are float32.
    """

    size: Literal["small", "large"] = "large"
    alpha: Positive = 1.0
    dtype: Given[Any] = jnp.float32

    # Reads published weights.
    loader = "capjax.pretrained.keras.mobilenet_v3:load_mobilenet_v3"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Memory:
        """Encodes images; features are the output of the last activation."""
        del train  # No dropout; batch statistics are fixed.

        norm = fixed_norm(1e-3, self.dtype)
        pointwise = pointwise_convolution(self.dtype)

        def excite(x: jax.Array, name: str) -> jax.Array:
            """Squeeze and excitation (section 5.3)."""
            channels = x.shape[-1]
            y = x.mean((1, 2), keepdims=True)
            y = nn.relu(pointwise(y, round_channels(channels / 4), f"{name}_conv", True))
            return x * nn.hard_sigmoid(pointwise(y, channels, f"{name}_conv_1", True))

        def block(x, name, kernel, expansion, channels, squeezes, swish, stride) -> jax.Array:
            activation = nn.hard_swish if swish else nn.relu
            y = x
            if expansion > 1:
                y = pointwise(y, round_channels(expansion * x.shape[-1]), f"{name}_expand")
                y = activation(norm(y, f"{name}_expand_bn"))
            y = DepthwiseConv(kernel, stride, self.dtype, name=f"{name}_depthwise")(y)
            y = activation(norm(y, f"{name}_depthwise_bn"))
            if squeezes:
                y = excite(y, f"{name}_squeeze_excite")
            y = norm(pointwise(y, channels, f"{name}_project"), f"{name}_project_bn")
            return x + y if stride == 1 and x.shape[-1] == channels else y

        x = scale_pixels(images, self.dtype)
        x = StemConv(16, self.dtype, name="conv")(x)
        x = nn.hard_swish(norm(x, "conv_bn"))
        for number, (kernel, expansion, channels, *rest) in enumerate(BLOCKS[self.size]):
            name = f"expanded_conv_{number}" if number else "expanded_conv"
            x = block(x, name, kernel, expansion, round_channels(channels * self.alpha), *rest)
        x = nn.hard_swish(
            norm(pointwise(x, round_channels(6 * x.shape[-1]), "conv_1"), "conv_1_bn")
        )
        return grid_memory(x)


PART = MobileNetV3
