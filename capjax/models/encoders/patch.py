"""A vision transformer over image patches (Dosovitskiy et al. 2021), without a pooling head.

Shapes: see docs/architecture.md.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from capjax.models.contract import Encoder, Memory
from capjax.models.layers import Attention, Dropout, FeedForward, GridPositions, check_heads
from capjax.parts.types import Count, Depth, DropoutRate, Given, Positive, Side, Width


def scale_pixels(images: jax.Array, dtype: Any) -> jax.Array:
    """Scales pixels from [0, 255] to [-1, 1]."""
    return (images.astype(jnp.float32) / 127.5 - 1.0).astype(dtype)


class EncoderBlock(nn.Module):
    """Pre-norm self-attention and feed-forward, each with a residual."""

    num_heads: int
    width: int
    hidden: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        attention = Attention(self.num_heads, self.width, dtype=self.dtype, name="attention")
        y = nn.LayerNorm(dtype=self.dtype, name="attention_norm")(x)
        y, _ = attention(y, *attention.keys_values(y), train=train, need_weights=False)
        x = x + Dropout(self.dropout)(y, train=train)
        y = nn.LayerNorm(dtype=self.dtype, name="feed_forward_norm")(x)
        y = FeedForward(self.hidden, self.width, dtype=self.dtype, name="feed_forward")(y)
        return x + Dropout(self.dropout)(y, train=train)


class PatchEncoder(Encoder):
    """Patch and position embeddings, `depth` pre-norm transformer blocks and a final norm.

    Attributes:
      patch_size: side of a patch in pixels; must divide the image's sides.
      width: D.
      depth: blocks.
      num_heads: A.
      mlp_ratio: inner width of a feed-forward block over D.
      positions: "learned" or "sincos" (fixed, two-dimensional).
      class_token: whether to prepend a learned position outside the grid.
      dropout: rate on embeddings and residuals.
      dtype: of the computation; parameters are float32.
    """

    patch_size: Side
    width: Width
    depth: Depth
    num_heads: Count
    mlp_ratio: Positive = 4.0
    positions: Literal["learned", "sincos"] = "learned"
    class_token: bool = False
    dropout: DropoutRate = 0.0
    dtype: Given[Any] = jnp.float32

    @nn.nowrap
    def validate(self) -> None:
        """See `Part`."""
        check_heads(self.num_heads, self.width)

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Memory:
        """Encodes images, uint8 [B, H, W, 3], to a memory of P = class_token + h * w."""
        size = self.patch_size
        height, width = images.shape[1:3]
        if height % size or width % size:
            raise ValueError(
                f"patch_size={size} must divide the image size {height}x{width}; choose a divisor "
                f"of it, or an image_size that is a multiple of {size}"
            )
        grid = (height // size, width // size)
        # A strided convolution as one matrix product, which is faster on CPUs.
        patches = rearrange(
            scale_pixels(images, self.dtype),
            "b (h i) (w j) c -> b (h w) (i j c)",
            i=size,
            j=size,
        )
        x = nn.Dense(self.width, dtype=self.dtype, name="patch_embedding")(patches)
        x = GridPositions(self.positions, grid, name="grid_positions")(x)
        if self.class_token:
            token = self.param("class_token", nn.initializers.zeros, (1, 1, self.width))
            token = jnp.broadcast_to(token, (x.shape[0], 1, self.width)).astype(self.dtype)
            x = jnp.concatenate([token, x], axis=1)
        x = Dropout(self.dropout)(x, train=train)
        for layer in range(self.depth):
            x = EncoderBlock(
                self.num_heads,
                self.width,
                round(self.mlp_ratio * self.width),
                self.dropout,
                self.dtype,
                name=f"block_{layer}",
            )(x, train=train)
        x = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
        return Memory(x, grid, prefix=int(self.class_token))


PART = PatchEncoder
