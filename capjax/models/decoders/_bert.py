"""What decoders that are made of BERT's layers (Devlin et al. 2019) have in common.

Shapes: see docs/architecture.md.
"""

from typing import Literal

import jax
from flax import linen as nn

from capjax.models.contract import NoFields
from capjax.models.decoders.transformer import TransformerDecoder
from capjax.models.layers import EXACT, check_heads
from capjax.parts.types import Count, Depth, Given, Length, Name, NotNegative, Width


class BertDecoder(TransformerDecoder):
    """`TransformerDecoder` with norms after the residuals and one after the embeddings."""

    max_length: Length = 512
    width: Width = 768
    num_layers: Depth = 12
    num_heads: Count = 12
    norm: Literal["post"] = "post"
    activation: Name = EXACT
    epsilon: NotNegative = 1e-12
    kernel_std: Given[float] = 0.02

    training = NoFields
    fast_variance = False

    def setup(self):
        super().setup()
        self.embedding_norm = self._norm(self.epsilon)

    def _norm(self, epsilon: float) -> nn.LayerNorm:
        return nn.LayerNorm(epsilon, self.dtype, use_fast_variance=self.fast_variance)

    @nn.nowrap
    def validate(self) -> None:
        """See `Part`."""
        super().validate()
        check_heads(self.num_heads, self.width)

    def _embed(self, tokens: jax.Array, positions: jax.Array, train: bool) -> jax.Array:
        x = self.embedding_norm(self.tokens(tokens) + self.positions(positions))
        return self.drop(x, train=train)
