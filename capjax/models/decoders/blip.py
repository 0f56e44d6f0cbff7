"""BLIP's caption decoder (Li et al. 2022, https://arxiv.org/abs/2201.12086).

Shapes: see docs/architecture.md.
"""

import jax
from flax import linen as nn

from capjax.models.decoders._bert import BertDecoder
from capjax.models.layers import activation
from capjax.parts.types import Given


class BlipDecoder(BertDecoder):
    """A BERT whose self-attention is causal, and followed by cross-attention to the image.

    Before the output layer, which is the token embedding with a bias, there is a dense layer with
    activation and norm. BLIP base and large have the same decoder.
    """

    vocab_size: Given[int] = 30524
    tie_embeddings: bool = True

    def setup(self):
        super().setup()
        init = nn.initializers.normal(self.kernel_std)
        self.head = nn.Dense(self.width, dtype=self.dtype, kernel_init=init)
        self.head_norm = self._norm(self.epsilon)

    def logits_of(self, x: jax.Array) -> jax.Array:
        """See `TransformerDecoder`."""
        return super().logits_of(self.head_norm(activation(self.activation)(self.head(x))))


PART = BlipDecoder
