"""The vision transformer (Dosovitskiy et al. 2021) and published variants, without a head.

By its fields, the module is ViT, DeiT, the vision tower of CLIP or SigLIP, or DINOv2 with or
without registers.

Shapes: see docs/architecture.md.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn

from capjax.models.contract import Memory, PretrainedEncoder
from capjax.models.layers import Attention, check_heads, exact_gelu, pad_positions, recomputed
from capjax.models.stacks import apply_blocks, blocks_of
from capjax.parts.types import (
    Count,
    Depth,
    Finite,
    Given,
    Lengths,
    NotNegative,
    Positive,
    Side,
    SideOrZero,
    Width,
)

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": exact_gelu,
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
    # From CLIP (github.com/openai/CLIP, model.py).
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
    "silu": nn.silu,
}
Resampling = Literal["bicubic", "bicubic_antialias", "linear"]


def resampling_matrix(old: int, new: int, method: Resampling) -> np.ndarray:
    """The linear map that resamples one axis: float64 [new, old], rows summing to 1.

    Args:
      old: number of samples along the axis.
      new: number of samples after resampling.
      method: "bicubic" and "bicubic_antialias" as torch.nn.functional.interpolate without and
        with antialias (align_corners=False); "linear" as scipy.ndimage.zoom(order=1), which keeps
        the first and the last sample.

    Raises:
      ValueError: unknown method.
    """
    if method == "linear":
        places = np.linspace(0, old - 1, new) if new > 1 else np.zeros(1)
        weights = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(old)))
    elif method in ("bicubic", "bicubic_antialias"):
        antialias = method == "bicubic_antialias"
        places = (np.arange(new) + 0.5) * (old / new) - 0.5
        # Antialiasing widens the kernel when downsampling.
        stretch = max(old / new, 1) if antialias else 1
        # Outside the axis torch repeats the end sample; with antialias it ignores those samples.
        beyond = 0 if antialias else 2
        samples = np.arange(-beyond, old + beyond)
        # With antialias torch uses Pillow's coefficient, -0.5.
        kernel = _cubic((places[:, None] - samples) / stretch, -0.5 if antialias else -0.75)
        weights = np.zeros((new, old))
        np.add.at(weights.T, np.clip(samples, 0, old - 1), kernel.T)
    else:
        raise ValueError(f"resample={method!r} must be 'bicubic', 'bicubic_antialias' or 'linear'")
    return weights / weights.sum(axis=1, keepdims=True)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution kernel of Keys 1981, equation 15, zero for |x| >= 2."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def resample_positions(
    table: jax.Array, old: tuple[int, int], new: tuple[int, int], method: Resampling
) -> jax.Array:
    """Resamples position embeddings [old h * w, D] of one grid to another: [new h * w, D]."""
    if old == new:
        return table
    rows, columns = (
        jnp.asarray(resampling_matrix(o, n, method), jnp.float32)
        for o, n in zip(old, new, strict=True)
    )
    table = rearrange(table, "(g k) d -> g k d", g=old[0])
    # Accelerators default to a lower precision.
    found = jnp.einsum("hg,wk,gkd->hwd", rows, columns, table, precision="highest")
    return rearrange(found, "h w d -> (h w) d")


class ViTBlock(nn.Module):
    """Pre-norm self-attention and feed-forward, each with a residual; fields as of `ViT`.

    Of an image's P positions the first `positions` are attended to, if they are not all.

    Input and output are [B * P, D], because XLA on CPUs recomputes the sum of the residuals'
    gradients in each block, more often for [B, P, D].
    """

    width: int
    num_heads: int
    mlp_dim: int
    gated: bool
    layer_scale: bool
    activation: str
    epsilon: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, images: int, positions: int | None) -> jax.Array:
        def scaled(y: jax.Array, name: str) -> jax.Array:
            if not self.layer_scale:
                return y
            return y * self.param(name, nn.initializers.ones, (self.width,)).astype(self.dtype)

        attention = Attention(self.num_heads, self.width, dtype=self.dtype, name="attention")
        y = _norm(self.epsilon, self.dtype, "attention_norm")(x)
        y = rearrange(y, "(b p) d -> b p d", b=images)
        keys, values = attention.keys_values(y)
        y, _ = attention(y, keys, values, positions, train=False, need_weights=False)
        x = x + scaled(rearrange(y, "b p d -> (b p) d"), "attention_scale")
        y = _norm(self.epsilon, self.dtype, "feed_forward_norm")(x)
        y = nn.Dense((1 + self.gated) * self.mlp_dim, dtype=self.dtype, name="up")(y)
        gate, *value = jnp.split(y, 1 + self.gated, axis=-1)
        y = recomputed(ACTIVATIONS[self.activation])(gate)
        if self.gated:
            y = y * value[0]
        y = nn.Dense(self.width, dtype=self.dtype, name="down")(y)
        return x + scaled(y, "feed_forward_scale")


def _norm(epsilon: float, dtype: Any, name: str) -> nn.LayerNorm:
    # The fast variance, a difference of two means, loses precision when a few channels are huge, as
    # in trained ViTs.
    return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, dtype=dtype, name=name)


class ViT(PretrainedEncoder):
    """Images uint8 [B, H, W, 3] to a memory with h = H // patch_size, w = W // patch_size.

    There is no dropout.

    Attributes:
      patch_size: side of a patch in pixels; pixels at the right and bottom that do not fill a patch
        are dropped, as by the strided convolution of the original.
      width: D.
      depth: blocks.
      num_heads: A.
      mlp_dim: inner width of a feed-forward block.
      position_grid: (rows, columns) of the trained position embeddings.
      prefix: learned positions before the grid: class token, DeiT's distillation token (Touvron et
        al. 2021, section 4), DINOv2's registers (Darcet et al. 2024), in this order. Each includes
        its position embedding, if it has one.
      patch_bias: whether the patch embedding has a bias; CLIP's has none.
      pre_norm: whether there is a norm before the first block (CLIP).
      final_norm: whether there is a norm after the last block.
      layer_scale: whether branches are scaled per channel (CaiT, Touvron et al. 2021, section 2.1).
      gated: whether the feed-forward block is a gated linear unit (Shazeer 2020).
      activation: "gelu", "gelu_tanh" (its approximation), "quick_gelu" or "silu".
      epsilon: of the norms.
      mean: per channel, subtracted from pixels / 255.
      std: per channel, divides the difference.
      resample: method that resamples positions to another grid; see `resampling_matrix`.
      dtype: of the computation; parameters are float32.
    """

    patch_size: Side
    width: Width
    depth: Depth
    num_heads: Count
    mlp_dim: Width
    position_grid: Annotated[tuple[Side, Side], Lengths(2, 2, "two whole numbers of 1 or more")]
    prefix: SideOrZero = 1
    patch_bias: bool = True
    pre_norm: bool = False
    final_norm: bool = True
    layer_scale: bool = False
    gated: bool = False
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "silu"] = "gelu"
    epsilon: NotNegative = 1e-6
    mean: Annotated[tuple[Finite, ...], Lengths(3, 3, "three numbers")] = (0.5, 0.5, 0.5)
    std: Annotated[tuple[Positive, ...], Lengths(3, 3, "three numbers above 0")] = (0.5, 0.5, 0.5)
    resample: Resampling = "bicubic"
    dtype: Given[Any] = jnp.float32

    @nn.nowrap
    def validate(self) -> None:
        """See `Part`."""
        check_heads(self.num_heads, self.width)

    stackable = "block_"
    # Reads published weights.
    loader = "capjax.pretrained.vit.read:load_vit"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Memory:
        """Encodes images to a memory of prefix + h * w positions.

        Raises:
          ValueError: an image is smaller than a patch.
        """
        del train  # No dropout, no batch statistics.
        size = self.patch_size
        height, width = images.shape[1:3]
        if min(height, width) < size:
            raise ValueError(
                f"patch_size={size} exceeds the image size {height}x{width}; choose an image_size "
                f"of {size} or more"
            )
        grid = (height // size, width // size)
        images = images[:, : grid[0] * size, : grid[1] * size]
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        pixels = ((images.astype(jnp.float32) / 255 - mean) / std).astype(self.dtype)
        # A strided convolution as one matrix product, which is faster on CPUs.
        patches = rearrange(pixels, "b (h i) (w j) c -> b (h w) (i j c)", i=size, j=size)
        x = nn.Dense(
            self.width, use_bias=self.patch_bias, dtype=self.dtype, name="patch_embedding"
        )(patches)
        init = nn.initializers.normal(0.02)
        old = tuple(self.position_grid)
        table = self.param("positions", init, (old[0] * old[1], self.width))
        x = x + resample_positions(table, old, grid, self.resample).astype(self.dtype)
        if self.prefix:
            tokens = self.param("prefix_tokens", init, (self.prefix, self.width))
            tokens = jnp.broadcast_to(tokens.astype(self.dtype), (x.shape[0], *tokens.shape))
            x = jnp.concatenate([tokens, x], axis=1)
        if self.pre_norm:
            x = _norm(self.epsilon, self.dtype, "embedding_norm")(x)
        batch, positions, _ = x.shape
        x = pad_positions(x)
        masked = positions if x.shape[1] > positions else None
        x = rearrange(x, "b p d -> (b p) d")
        for name in blocks_of(self, self.stackable, self.depth):
            block = ViTBlock(
                self.width,
                self.num_heads,
                self.mlp_dim,
                self.gated,
                self.layer_scale,
                self.activation,
                self.epsilon,
                self.dtype,
                name=name,
            )
            x, _ = apply_blocks(lambda block, x: (block(x, batch, masked), None), block, x)
        if self.final_norm:
            x = _norm(self.epsilon, self.dtype, "norm")(x)
        x = rearrange(x, "(b p) d -> b p d", b=batch)
        return Memory(x[:, :positions], grid, prefix=self.prefix)


PART = ViT
