"""BLIP's caption decoder (Li et al. 2022, https://arxiv.org/abs/2201.12086): a BERT that is causal.

Shapes: see docs/architecture.md.
"""

from typing import Literal

import jax
from flax import linen as nn

from capjax.models.contract import NoFields
from capjax.models.decoders.transformer import TransformerDecoder
from capjax.models.layers import EXACT, activation, check_heads
from capjax.parts.types import Count, Depth, DropoutRate, Given, Length, Name, NotNegative, Width


class BlipDecoder(TransformerDecoder):
    """`TransformerDecoder` with what BERT (Devlin et al. 2019) has more, and BLIP's sizes.

    Norms come after the residuals and one after the embeddings. Before the output layer, which is
    the token embedding with a bias, there is a dense layer with activation and norm. Self-attention
    is causal, and cross-attention to the image follows it. Base and large have the same decoder.
    """

    vocab_size: Given[int] = 30524
    max_length: Length = 512
    width: Width = 768
    num_layers: Depth = 12
    num_heads: Count = 12
    norm: Literal["post"] = "post"
    activation: Name = EXACT
    dropout: DropoutRate = 0.0
    attention_dropout: DropoutRate = 0.0
    tie_embeddings: bool = True
    epsilon: NotNegative = 1e-12
    kernel_std: Given[float] = 0.02

    training = NoFields
    fast_variance = False

    def setup(self):
        super().setup()
        self.embedding_norm = self._norm()
        self.head = nn.Dense(
            self.width, dtype=self.dtype, kernel_init=nn.initializers.normal(self.kernel_std)
        )
        self.head_norm = self._norm()

    def _norm(self) -> nn.LayerNorm:
        return nn.LayerNorm(self.epsilon, self.dtype, use_fast_variance=self.fast_variance)

    @nn.nowrap
    def validate(self) -> None:
        """See `Part`."""
        super().validate()
        check_heads(self.num_heads, self.width)

    def _embed(self, tokens: jax.Array, positions: jax.Array, train: bool) -> jax.Array:
        x = self.embedding_norm(self.tokens(tokens) + self.positions(positions))
        return self.drop(x, train=train)

    def _logits(self, x: jax.Array) -> jax.Array:
        return super()._logits(self.head_norm(activation(self.activation)(self.head(x))))


PART = BlipDecoder
