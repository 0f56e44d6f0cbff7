"""ResNet-50, -101 and -152 (He et al. 2016), without pooling and classifier.

The networks of torchvision: the stride of a block is in its 3x3 convolution, not in the first 1x1,
and padding is equal on both sides. Modules are named as in torchvision, with underscores: conv1,
bn1, layer1_0_conv1, layer1_0_bn1, ..., layer1_0_downsample_conv and layer1_0_downsample_bn
(torchvision's layer1.0.downsample.0 and .1).

Shapes: see docs/architecture.md.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from capjax.models.contract import Memory, PretrainedEncoder, grid_memory
from capjax.models.normed_convolution import normed_convolution
from capjax.models.pool import adaptive_avg_pool
from capjax.parts.types import Given, SideOrZero

# Table 1 of the paper: blocks of each stage, by depth.
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
# Per channel, of ImageNet's pixels / 255, as torchvision's weights expect.
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)


class ResNet(PretrainedEncoder):
    """Images uint8 [B, H, W, 3] to a memory with F = 2048, h = ceil(H / 32), w = ceil(W / 32).

    Batch norms always use their stored statistics, as in MobileNetV2.

    Attributes:
      depth: 50, 101 or 152 layers.
      grid: h = w after adaptive average pooling; 0 for no pooling.
      dtype: of the computation; parameters are float32.
    """

    depth: Literal[50, 101, 152] = 50
    grid: SideOrZero = 0
    dtype: Given[Any] = jnp.float32

    # Reads published weights.
    loader = "capjax.pretrained.resnet:load_resnet"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Memory:
        """Encodes images; features are the output of the last block."""
        del train  # No dropout; batch statistics are fixed.

        convolution = normed_convolution(self.dtype, 1e-5)

        def conv(x: jax.Array, channels: int, side: int, stride: int, name: str, norm: str):
            names, padding = (name, norm), ((side // 2, side // 2),) * 2
            return convolution(x, channels, names, (side, side), stride, padding)

        def block(x: jax.Array, channels: int, stride: int, name: str) -> jax.Array:
            y = nn.relu(conv(x, channels, 1, 1, f"{name}_conv1", f"{name}_bn1"))
            y = nn.relu(conv(y, channels, 3, stride, f"{name}_conv2", f"{name}_bn2"))
            y = conv(y, 4 * channels, 1, 1, f"{name}_conv3", f"{name}_bn3")
            if x.shape != y.shape:
                names = f"{name}_downsample_conv", f"{name}_downsample_bn"
                x = conv(x, 4 * channels, 1, stride, *names)
            return nn.relu(x + y)

        x = ((images.astype(jnp.float32) / 255 - _MEAN) / _STD).astype(self.dtype)
        x = nn.relu(conv(x, 64, 7, 2, "conv1", "bn1"))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, repeats in enumerate(BLOCKS[self.depth], start=1):
            for repeat in range(repeats):
                stride = 2 if stage > 1 and repeat == 0 else 1
                x = block(x, 32 * 2**stage, stride, f"layer{stage}_{repeat}")
        if self.grid:
            x = adaptive_avg_pool(x, (self.grid, self.grid))
        return grid_memory(x)


PART = ResNet
