"""GIT's caption decoder (Wang et al. 2022, https://arxiv.org/abs/2205.14100).

Shapes: see docs/architecture.md; M is the number of tokens that a cache holds.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from capjax.models.contract import Memory
from capjax.models.decoders._bert import BertDecoder
from capjax.models.decoders.transformer import DecoderBlock, KeyValue
from capjax.parts.types import Count, Depth, DropoutRate, Given, Length, NotNegative


class GitBlock(DecoderBlock):
    """Self-attention and feed-forward, for the positions of an image and for those of captions.

    The image's see each other and no caption. A caption's token sees all of the image, and the
    tokens before it.
    """

    def _rest(self, x: jax.Array, y: jax.Array, train: bool) -> jax.Array:
        x = self._residual(0, x, y, train)
        return self._residual(2, x, self.feed_forward(x), train)

    def image_keys(self, x: jax.Array) -> KeyValue:
        """Keys and values of an image [B, P, D], for `image` and for captions."""
        return self.self_attention.keys_values(x)

    def image(self, x: jax.Array, keys: KeyValue, *, train: bool) -> jax.Array:
        """The image after the block, [B, P, D]."""
        y, _ = self.self_attention(x, *keys, train=train, need_weights=False)
        return self._rest(x, y, train)

    def __call__(
        self, x: jax.Array, memory: KeyValue, mask: jax.Array, *, train: bool, attention: bool
    ) -> tuple[jax.Array, jax.Array | None]:
        """See `DecoderBlock`; the weights are those of the image."""
        own = self.self_attention.keys_values(x)
        if mask.ndim == 4:  # An axis of captions, of which there is one where they are packed.
            mask = mask[:, None]
        y, weights = self.self_attention.with_prefix(x, memory, own, mask, train=train)
        return self._rest(x, y, train), rearrange(weights, "b c a t p -> b a (c t) p")

    def step(
        self, x: jax.Array, memory: KeyValue, cache: KeyValue, position: jax.Array
    ) -> tuple[jax.Array, KeyValue, jax.Array]:
        """See `DecoderBlock`; the weights are those of the image."""
        y = rearrange(x, "b k d -> b k 1 d")
        new = self.self_attention.keys_values(y)
        cache = jax.tree.map(
            lambda kept, one: jax.lax.dynamic_update_slice_in_dim(kept, one, position, axis=3),
            cache,
            new,
        )
        seen = jnp.arange(cache[0].shape[3]) <= position
        y, weights = self.self_attention.with_prefix(y, memory, cache, seen, train=False)
        x = self._rest(x, rearrange(y, "b k 1 d -> b k d"), train=False)
        return x, cache, rearrange(weights, "b k a 1 p -> b a k p")


class GitDecoder(BertDecoder):
    """A BERT without cross-attention: the image's positions stand before the caption's tokens.

    They are projected to D first. Their keys and values do not depend on captions, and are computed
    once for all captions or beams of an image. The token positions start at 0 behind them.

    Attributes:
      projection_epsilon: of the norm after the projection.
    """

    vocab_size: Given[int] = 30522
    max_length: Length = 1024
    num_layers: Depth = 6
    num_heads: Count = 12
    dropout: DropoutRate = 0.1
    attention_dropout: DropoutRate = 0.1
    projection_epsilon: NotNegative = 1e-5

    block = GitBlock
    stackable = ""  # A block also computes the image for the next one, but the last one does not.
    attends_to_words = True

    def setup(self):
        super().setup()
        init = nn.initializers.normal(self.kernel_std)
        self.projection = nn.Dense(self.width, dtype=self.dtype, kernel_init=init)
        self.projection_norm = self._norm(self.projection_epsilon)

    def _keys(
        self, memory: Memory, train: bool, *, padded: bool = False
    ) -> Callable[[DecoderBlock, int], KeyValue]:
        """See `TransformerDecoder`."""
        del padded  # Captions attend to words, too, as no kernel does.
        x = self.projection_norm(self.projection(memory.values.astype(self.dtype)))
        found = []
        for number, block in enumerate(self.blocks.values()):
            keys = block.image_keys(x)
            found.append(keys)
            if number < self.num_layers - 1:  # The last one's output is not used.
                x = block.image(x, keys, train=train)
        return lambda block, number: found[number]


PART = GitDecoder
