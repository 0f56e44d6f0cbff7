"""The transformer caption decoder (Vaswani et al. 2017, section 3; pre-norm by default).

Shapes: see docs/architecture.md; M is the number of tokens that a cache holds.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from capjax.models.contract import (
    Carry,
    Decoder,
    DecoderOutput,
    Memory,
    SmartBias,
    gather_packed,
)
from capjax.models.few_rows import by_transposed
from capjax.models.layers import (
    FAN_IN,
    Attention,
    Dropout,
    FeedForward,
    check_activation,
    check_heads,
    fixed_init,
    float32_dot,
    pad_positions,
    with_bans,
)
from capjax.models.stacks import apply_blocks, blocks_of
from capjax.parts.types import (
    Count,
    CountOrZero,
    Depth,
    DropoutRate,
    Given,
    Name,
    NotNegative,
    Positive,
    Width,
)

KeyValue = tuple[jax.Array, jax.Array]


class DecoderBlock(nn.Module):
    """Causal self-attention, cross-attention and feed-forward, each with a residual."""

    width: int
    num_heads: int
    head_dim: int
    hidden: int
    norm: Literal["pre", "post"]
    activation: str
    dropout: float
    attention_dropout: float
    dtype: Any
    epsilon: float = 1e-6
    kernel_init: Callable = FAN_IN
    residual_init: Callable = FAN_IN
    feed_forward_dropout: float = 0.0
    fast_variance: bool = True

    def setup(self):
        inits = self.kernel_init, self.residual_init

        def attention():
            fields = self.num_heads, self.width, self.head_dim, self.attention_dropout
            return Attention(*fields, self.dtype, *inits)

        self.self_attention = attention()
        self.cross_attention = attention()
        self.feed_forward = FeedForward(
            self.hidden, self.width, self.activation, self.dtype, *inits
        )
        self.norms = [
            nn.LayerNorm(self.epsilon, self.dtype, use_fast_variance=self.fast_variance)
            for _ in range(3)
        ]
        self.drop = Dropout(self.dropout)
        # A module of its own would draw other numbers for the same seed, so only where it differs.
        if self.feed_forward_dropout:
            self.feed_forward_drop = Dropout(self.feed_forward_dropout)

    def _before(self, index: int, x: jax.Array) -> jax.Array:
        return self.norms[index](x) if self.norm == "pre" else x

    def _residual(self, index: int, x: jax.Array, y: jax.Array, train: bool) -> jax.Array:
        feed_forward = index == 2 and self.feed_forward_dropout
        drop = self.feed_forward_drop if feed_forward else self.drop
        x = x + drop(y, train=train)
        return x if self.norm == "pre" else self.norms[index](x)

    def _look(
        self, x: jax.Array, memory: KeyValue, train: bool, attention: bool
    ) -> tuple[jax.Array, jax.Array | None]:
        """Cross-attention and feed-forward: x [B, Q, D] -> x, attention weights [B, A, Q, P]."""
        y, weights = self.cross_attention(
            self._before(1, x), *memory, train=train, need_weights=attention
        )
        x = self._residual(1, x, y, train)
        y = self.feed_forward(self._before(2, x))
        return self._residual(2, x, y, train), weights

    def __call__(
        self, x: jax.Array, memory: KeyValue, mask: jax.Array, *, train: bool, attention: bool
    ) -> tuple[jax.Array, jax.Array | None]:
        """Whole captions: x [B, C, T, D] -> x, cross-attention weights [B, A, C * T, P] or None.

        `mask`, broadcastable to [B * C, A, T, T], is True where a token attends to a token.
        """
        batch, captions, _, _ = x.shape
        # Self-attention stays within a caption, so captions are part of the batch ...
        x = rearrange(x, "b c t d -> (b c) t d")
        y = self._before(0, x)
        y, _ = self.self_attention(y, *self.self_attention.keys_values(y), mask, train=train)
        x = self._residual(0, x, y, train)
        # ... and tokens of all captions are queries to one memory, which is never repeated.
        x = rearrange(x, "(b c) t d -> b (c t) d", b=batch)
        x, weights = self._look(x, memory, train, attention)
        return rearrange(x, "b (c t) d -> b c t d", c=captions), weights

    def step(
        self, x: jax.Array, memory: KeyValue, cache: KeyValue, position: jax.Array
    ) -> tuple[jax.Array, KeyValue, jax.Array]:
        """One token per beam: x [B, K, D], cache leaves [B, K, A, M, E], weights [B, A, K, P]."""
        y = rearrange(self._before(0, x), "b k d -> b k 1 d")
        new = self.self_attention.keys_values(y)
        cache = jax.tree.map(
            lambda kept, one: jax.lax.dynamic_update_slice_in_dim(kept, one, position, axis=3),
            cache,
            new,
        )
        seen = jnp.arange(cache[0].shape[3]) <= position
        # Images and beams stay separate axes: merging them here made XLA copy the cache and
        # update both copies.
        y, _ = self.self_attention(y, *cache, seen, train=False)
        x = self._residual(0, x, rearrange(y, "b k 1 d -> b k d"), train=False)
        x, weights = self._look(x, memory, train=False, attention=True)
        return x, cache, weights


class TransformerDecoder(Decoder):
    """Token and position embeddings, decoder blocks and an output layer.

    Attributes:
      vocab_size: V.
      max_length: number of position embeddings; most tokens that can be fed, counting bos.
      width: D.
      num_layers: decoder blocks.
      num_heads: A.
      head_dim: E; 0 for width / num_heads.
      mlp_ratio: inner width of a feed-forward block over D.
      norm: "pre" (with a final norm) or "post", as in the paper.
      activation: of the feed-forward blocks; see `layers.activation`.
      dropout: rate on embeddings and residuals.
      feed_forward_dropout: rate on the residuals of feed-forward blocks; 0 for `dropout`.
      attention_dropout: rate on attention weights.
      tie_embeddings: whether the output layer is the token embedding, transposed.
      banned: ids of tokens that are never generated (pad, bos, unk), without eos.
      output_bias: [V], initial bias of the output layer; zeros if None.
      dtype: of the computation; parameters and logits are float32.
      epsilon: of the norms.
      use_output_bias: whether the output layer has a bias.
      kernel_std: standard deviation of initial kernels, divided by sqrt(2 num_layers) for the last
        of each residual branch; 0 for a variance of 1 / fan_in.
    """

    vocab_size: Given[int]
    max_length: Given[int]
    width: Width
    num_layers: Depth
    num_heads: Count
    head_dim: CountOrZero = 0
    mlp_ratio: Positive = 4.0
    norm: Literal["pre", "post"] = "pre"
    activation: Name = "gelu"
    dropout: DropoutRate = 0.0
    feed_forward_dropout: DropoutRate = 0.0
    attention_dropout: DropoutRate = 0.0
    tie_embeddings: bool = False
    banned: Given[tuple[int, ...]] = ()
    output_bias: Given[tuple[float, ...] | None] = None
    dtype: Given[Any] = jnp.float32
    epsilon: NotNegative = 1e-6
    use_output_bias: bool = True
    kernel_std: Given[float] = 0.0

    block: ClassVar[type[DecoderBlock]] = DecoderBlock
    # Of the norms: a difference of two means, which loses precision when a few channels are huge.
    fast_variance: ClassVar[bool] = True
    training = SmartBias
    stackable = "blocks_"
    word_axes = {"tokens/embedding": 0, "output/kernel": 1, "bias": 0}  # noqa: RUF012

    def setup(self):
        if self.output_bias is not None and not self.use_output_bias:
            raise ValueError("output_bias needs use_output_bias=True")
        kernel_init = residual_init = FAN_IN
        if self.kernel_std:
            kernel_init = nn.initializers.normal(self.kernel_std)
            residual_init = nn.initializers.normal(self.kernel_std / (2 * self.num_layers) ** 0.5)
        embedding_init = nn.initializers.normal(0.02)
        self.tokens = nn.Embed(self.vocab_size, self.width, embedding_init=embedding_init)
        self.positions = nn.Embed(self.max_length, self.width, embedding_init=embedding_init)
        self.blocks = {
            name.removeprefix("blocks_"): self.block(
                self.width,
                self.num_heads,
                self.head_width,
                round(self.mlp_ratio * self.width),
                self.norm,
                self.activation,
                self.dropout,
                self.attention_dropout,
                self.dtype,
                self.epsilon,
                kernel_init,
                residual_init,
                self.feed_forward_dropout,
                self.fast_variance,
            )
            for name in blocks_of(self, "blocks_", self.num_layers)
        }
        if self.norm == "pre":
            self.last_norm = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype)
        if not self.tie_embeddings:
            self.output = nn.Dense(
                # Small, so that the bias determines the first predictions.
                self.vocab_size,
                use_bias=False,
                kernel_init=embedding_init,
                dtype=self.dtype,
                dot_general=float32_dot,
            )
        if self.use_output_bias:
            self.bias = self.param("bias", fixed_init(self.output_bias), (self.vocab_size,))
        self.drop = Dropout(self.dropout)

    @nn.nowrap
    def validate(self) -> None:
        """See `Part`."""
        check_activation(self.activation)
        if not self.head_dim:
            check_heads(self.num_heads, self.width)

    @property
    def head_width(self) -> int:
        """E, also where `head_dim` is 0."""
        return self.head_dim or self.width // self.num_heads

    @property
    def attention_layers(self) -> int:
        """See `Decoder`."""
        return self.num_layers

    @property
    def attention_maps(self) -> int:
        """See `Decoder`."""
        return self.num_layers * self.num_heads

    @property
    def longest_caption(self) -> int:
        """See `Decoder`."""
        return self.max_length

    @property
    def ties_embeddings(self) -> bool:
        """See `Decoder`."""
        return self.tie_embeddings

    def _embed(self, tokens: jax.Array, positions: jax.Array, train: bool) -> jax.Array:
        x = self.tokens(tokens) + self.positions(positions)
        return self.drop(x, train=train).astype(self.dtype)

    def logits_of(self, x: jax.Array) -> jax.Array:
        """Logits, float32 [..., V], of x [..., D]; those of banned tokens are about -1e9."""
        if self.norm == "pre":
            x = self.last_norm(x)
        if self.tie_embeddings:
            x = by_transposed(x, self.tokens.embedding.astype(self.dtype))
        else:
            x = self.output(x)
        if self.use_output_bias:
            return x + with_bans(self.bias, self.banned)
        return x + with_bans(jnp.zeros(self.vocab_size), self.banned) if self.banned else x

    def _keys(
        self, memory: Memory, train: bool, *, padded: bool = False
    ) -> Callable[[DecoderBlock, int], tuple[Any, ...]]:
        """(block, its number) -> the image's keys and values, for `DecoderBlock.__call__`.

        With `padded`, for attention without weights, they can have more positions than the image,
        of which a third item is then the number.
        """
        del train  # Nothing is dropped here.
        positions, values = memory.values.shape[1], memory.values.astype(self.dtype)
        if padded:
            values = pad_positions(values)
        count = (positions,) if values.shape[1] > positions else ()
        return lambda block, number: (*block.cross_attention.keys_values(values), *count)

    def __call__(
        self,
        memory: Memory,
        tokens: jax.Array,
        *,
        train: bool,
        attention: bool = False,
        packing: jax.Array | None = None,
    ) -> DecoderOutput:
        """Teacher forcing: tokens int32 [B, C, T] -> logits [B, C, T, V]; packed, [B, 1, S, V]."""
        length = tokens.shape[-1]
        if length > self.max_length:
            raise ValueError(f"{length} tokens exceed the decoder's max_length={self.max_length}")
        if packing is None:
            positions = jnp.arange(length)
            mask = jnp.tril(jnp.ones((length, length), bool))
        else:
            tokens = gather_packed(tokens, packing)
            positions = (packing % length)[:, None]
            mask = jnp.tril(jnp.ones((packing.shape[1],) * 2, bool))
            # One sequence per image, in which a token attends to its own caption only.
            caption = packing // length
            mask = mask & (caption[:, None, :, None] == caption[:, None, None, :])
        x = self._embed(tokens, positions, train)
        maps = []
        keys_of = self._keys(memory, train, padded=not attention)
        for block in self.blocks.values():

            def call(block: DecoderBlock, x: jax.Array, number: int = len(maps)) -> Any:
                keys = keys_of(block, number)
                return block(x, keys, mask, train=train, attention=attention)

            x, weights = apply_blocks(call, block, x)
            maps += weights
        stacked = None
        if attention:
            stacked = rearrange(maps, "l b h (c t) p -> b c t (l h) p", c=tokens.shape[1])
        return DecoderOutput(self.logits_of(x), stacked, states=x)

    def init_carry(self, memory: Memory, width: int, max_length: int) -> Carry:
        """An empty cache for `width` beams per image and up to `max_length` fed tokens."""
        if max_length > self.max_length:
            raise ValueError(
                f"decoding {max_length} tokens exceeds the decoder's max_length={self.max_length}"
            )
        shape = (memory.values.shape[0], width, self.num_heads, max_length, self.head_width)
        empty = tuple(
            (jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype))
            for _ in range(self.num_layers)
        )
        keys_of = self._keys(memory, train=False)
        keys = tuple(keys_of(block, number) for number, block in enumerate(self.blocks.values()))
        return Carry(keys, empty, jnp.zeros((), jnp.int32))

    def step(
        self, carry: Carry, token: jax.Array, *, attention: bool = False
    ) -> tuple[Carry, jax.Array, jax.Array | None]:
        """Feeds one token per beam, int32 [B, K]; returns logits [B, K, V] of the next."""
        x = self._embed(token, carry.position, train=False)
        caches, maps = [], []
        blocks = self.blocks.values()
        for block, keys, cache in zip(blocks, carry.per_image, carry.per_beam, strict=True):
            x, cache, weights = block.step(x, keys, cache, carry.position)
            caches.append(cache)
            maps.append(weights)
        carry = carry.replace(per_beam=tuple(caches), position=carry.position + 1)
        stacked = rearrange(maps, "l b h k p -> b k (l h) p") if attention else None
        return carry, self.logits_of(x), stacked


PART = TransformerDecoder
