"""EfficientNet-B0 (Tan & Le 2019), without its classifier.

Layers and their names are those of `keras.applications.EfficientNetB0(include_top=False)`, so that
its weights fit.

Shapes: see docs/architecture.md.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from capjax.models.contract import Memory, PretrainedEncoder, grid_memory
from capjax.models.depthwise import DepthwiseConv
from capjax.models.fixed_norm import fixed_norm, pointwise_convolution
from capjax.models.stem import StemConv
from capjax.parts.types import Given

# Table 1 of the paper: kernel, expansion, channels, repeats and the first repeat's stride.
STAGES = (
    (3, 1, 16, 1, 1),
    (3, 6, 24, 2, 2),
    (5, 6, 40, 2, 2),
    (3, 6, 80, 3, 2),
    (5, 6, 112, 3, 1),
    (5, 6, 192, 4, 2),
    (3, 6, 320, 1, 1),
)
_LAST = 1280
# Per channel, of ImageNet's pixels / 255.
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


class _Normalization(nn.Module):
    """Normalises pixels in [0, 255] by stored statistics."""

    dtype: Any

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        mean = self.variable("batch_stats", "mean", lambda: jnp.asarray(IMAGENET_MEAN))
        var = self.variable("batch_stats", "var", lambda: jnp.asarray(IMAGENET_STD**2))
        x = images.astype(jnp.float32) / 255
        return ((x - mean.value) / jnp.sqrt(var.value)).astype(self.dtype)


class EfficientNetB0(PretrainedEncoder):
    """Images uint8 [B, H, W, 3] to a memory with F = 1280, h = ceil(H / 32), w = ceil(W / 32).

    Batch norms always use their stored statistics, as in MobileNetV2, and there is no stochastic
    depth. The mean and variance of pixels / 255, which come with the weights, are `batch_stats` of
    `normalization`.

    Attributes:
      dtype: of the computation; parameters are float32.
    """

    dtype: Given[Any] = jnp.float32

    # Reads published weights.
    loader = "capjax.pretrained.keras.efficientnet:load_efficientnet_b0"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Memory:
        """Encodes images; features are the output of Keras's `top_activation`."""
        del train  # No dropout; batch statistics are fixed.

        norm = fixed_norm(1e-3, self.dtype)
        pointwise = pointwise_convolution(self.dtype)

        def excite(x: jax.Array, inner: int, name: str) -> jax.Array:
            """Squeeze and excitation (Hu et al. 2018)."""
            y = x.mean((1, 2), keepdims=True)
            y = nn.swish(pointwise(y, inner, f"{name}_reduce", True))
            return x * nn.sigmoid(pointwise(y, x.shape[-1], f"{name}_expand", True))

        def block(x, name, kernel, expansion, channels, stride) -> jax.Array:
            y = x
            if expansion > 1:
                y = pointwise(y, expansion * x.shape[-1], f"{name}_expand_conv")
                y = nn.swish(norm(y, f"{name}_expand_bn"))
            y = DepthwiseConv(kernel, stride, self.dtype, name=f"{name}_dwconv")(y)
            y = nn.swish(norm(y, f"{name}_bn"))
            y = excite(y, x.shape[-1] // 4, f"{name}_se")
            y = norm(pointwise(y, channels, f"{name}_project_conv"), f"{name}_project_bn")
            return x + y if stride == 1 and x.shape[-1] == channels else y

        x = _Normalization(self.dtype, name="normalization")(images)
        x = StemConv(32, self.dtype, name="stem_conv")(x)
        x = nn.swish(norm(x, "stem_bn"))
        for stage, (kernel, expansion, channels, repeats, first) in enumerate(STAGES, start=1):
            for repeat, letter in zip(range(repeats), "abcd", strict=False):
                stride = 1 if repeat else first
                x = block(x, f"block{stage}{letter}", kernel, expansion, channels, stride)
        x = nn.swish(norm(pointwise(x, _LAST, "top_conv"), "top_bn"))
        return grid_memory(x)


PART = EfficientNetB0
