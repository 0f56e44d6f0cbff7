"""A small residual CNN with group normalisation, for training from scratch.

Pre-activation residual blocks (He et al. 2016b) with group norm (Wu and He 2018), which has no
batch statistics, so that a step gives the same result on any number of devices.
"""

from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from capjax.models.contract import Encoder, Memory
from capjax.models.encoders.patch import scale_pixels
from capjax.models.layers import GridPositions
from capjax.parts.types import Count, Depth, Given, Lengths, Side, Width


def contrasts(x: jax.Array) -> jax.Array:
    """Where colours differ, whatever they are: outlines and textures of things of any colour.

    Args:
      x: [B, H, W, 3].

    Returns:
      [B, H, W, 2]: each pixel's distance from the image's mean colour, over the mean distance,
      less 1; and the length of the gradient of the colour, by differences of neighbours.
    """
    distance = _length(x - x.mean((1, 2), keepdims=True))
    distance = distance / distance.mean((1, 2), keepdims=True) - 1.0
    around = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    across = around[:, 1:-1, 2:] - around[:, 1:-1, :-2]
    down = around[:, 2:, 1:-1] - around[:, :-2, 1:-1]
    return jnp.concatenate([distance, _length(jnp.concatenate([across, down], -1))], -1)


def _length(x: jax.Array) -> jax.Array:
    """Euclidean length along the last axis, which is kept; its gradient is finite at 0."""
    return jnp.sqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-6)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with norm and ReLU before each; the first has the stride."""

    width: int
    stride: int
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def norm(x, name):
            return nn.relu(nn.GroupNorm(self.groups, dtype=self.dtype, name=name)(x))

        def conv(x, stride, name, side=3):
            return nn.Conv(
                self.width,
                (side, side),
                (stride, stride),
                use_bias=False,
                dtype=self.dtype,
                name=name,
            )(x)

        y = norm(x, "norm_1")
        if self.stride != 1 or x.shape[-1] != self.width:
            x = conv(y, self.stride, "shortcut", side=1)
        y = conv(y, self.stride, "conv_1")
        return x + conv(norm(y, "norm_2"), 1, "conv_2")


class ConvEncoder(Encoder):
    """A strided stem and stages of residual blocks; each stage but the first halves the grid.

    Attributes:
      widths: channels of each stage; the last is F.
      blocks: residual blocks per stage.
      stem_stride: of the first convolution, whose kernel side is 2 * stem_stride + 1.
      groups: of the group norms; must divide each width.
      contrast: whether the stem also sees the two channels of `contrasts`.
      positions: "learned" or "sincos", added to the memory, because attention is invariant to
        position and captions name positions.
      dtype: of the computation; parameters are float32.
    """

    widths: Annotated[tuple[Width, ...], Lengths(1, 19, "whole numbers of 1 or more")]
    blocks: Depth
    stem_stride: Side = 2
    groups: Count = 8
    contrast: bool = False
    positions: Literal["learned", "sincos"] = "sincos"
    dtype: Given[Any] = jnp.float32

    @nn.nowrap
    def validate(self) -> None:
        """See `Part`."""
        if any(width % self.groups for width in self.widths):
            raise ValueError(f"widths={self.widths} must be multiples of groups={self.groups}")

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Memory:
        """Encodes images, uint8 [B, H, W, 3], to a memory on the last stage's grid."""
        del train  # No dropout, no batch statistics.
        side = 2 * self.stem_stride + 1
        x = scale_pixels(images, jnp.float32)
        if self.contrast:
            x = jnp.concatenate([x, contrasts(x)], axis=-1)
        x = nn.Conv(
            self.widths[0],
            (side, side),
            (self.stem_stride, self.stem_stride),
            dtype=self.dtype,
            name="stem",
        )(x)
        for stage, width in enumerate(self.widths):
            for block in range(self.blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                x = ResidualBlock(
                    width, stride, self.groups, self.dtype, name=f"stage_{stage}_block_{block}"
                )(x)
        x = nn.relu(nn.GroupNorm(self.groups, dtype=self.dtype, name="norm")(x))
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height * width, channels)
        grid = (height, width)
        return Memory(GridPositions(self.positions, grid, name="grid_positions")(x), grid)


PART = ConvEncoder
