"""Adapts the features of a pretrained encoder to a decoder trained from scratch.

Features of an image classifier carry little about their position and nothing about each other. The
adapter normalises and projects them, adds positions, and can apply self-attention, as transformer
captioners on frozen features do (Herdade et al. 2019; Cornia et al. 2020, section 3.1).

Shapes: see docs/architecture.md.
"""

from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn

from capjax.models.contract import Memory, Part
from capjax.models.encoders.patch import EncoderBlock
from capjax.models.layers import (
    Dropout,
    GridPositions,
    activation,
    check_activation,
    check_heads,
)
from capjax.parts.types import Count, DepthOrZero, DropoutRate, Given, Positive, Width


class Adapter(Part):
    """Norm, projection, grid positions and transformer blocks: Memory [B, P, F] -> [B, P, D].

    With "relu" and without norms and positions, it is the dense layer of the TensorFlow and Keras
    captioners.

    Attributes:
      width: D.
      depth: self-attention blocks; 0 for none.
      num_heads: attention heads per block; must divide the width.
      mlp_ratio: inner width of a feed-forward block over D.
      positions: "learned", "sincos" or "none"; added to the grid only, not to the prefix.
      input_dropout: rate on the input features.
      dropout: rate on the projected features and on residuals.
      norms: whether to apply layer norm to the input and the output.
      activation: of the projection, a name in `flax.linen`; "" for none.
      dtype: of the computation; parameters are float32.
    """

    width: Width
    depth: DepthOrZero = 0
    num_heads: Count = 4
    mlp_ratio: Positive = 4.0
    positions: Literal["learned", "sincos", "none"] = "sincos"
    input_dropout: DropoutRate = 0.0
    dropout: DropoutRate = 0.0
    norms: bool = True
    activation: str = ""
    dtype: Given[Any] = jnp.float32

    @nn.nowrap
    def validate(self) -> None:
        """See `Part`."""
        if self.activation:
            check_activation(self.activation)
        if self.depth:
            check_heads(self.num_heads, self.width)

    @nn.compact
    def __call__(self, memory: Memory, *, train: bool) -> Memory:
        """Adapts the values of a memory; its grid and prefix are unchanged."""
        x = memory.values.astype(self.dtype)
        if self.norms:
            x = nn.LayerNorm(dtype=self.dtype, name="input_norm")(x)
        x = Dropout(self.input_dropout)(x, train=train)
        x = nn.Dense(self.width, dtype=self.dtype, name="projection")(x)
        if self.activation:
            x = activation(self.activation)(x)
        if self.positions != "none":
            prefix, grid = x[:, : memory.prefix], x[:, memory.prefix :]
            grid = GridPositions(self.positions, memory.grid, name="grid_positions")(grid)
            x = jnp.concatenate([prefix, grid], axis=1)
        x = Dropout(self.dropout)(x, train=train)
        hidden = round(self.mlp_ratio * self.width)
        for block in range(self.depth):
            x = EncoderBlock(
                self.num_heads, self.width, hidden, self.dropout, self.dtype, name=f"block_{block}"
            )(x, train=train)
        if self.norms:
            x = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
        return memory.replace(values=x)
