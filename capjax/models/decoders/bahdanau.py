"""Recurrent caption decoders that look at the image before each word.

"Neural Machine Translation by Jointly Learning to Align and Translate" (Bahdanau et al. 2015) gave
the additive attention, "Show, Attend and Tell" (Xu et al. 2015; SAT below) brought it to images.

Legend: B images, C captions an image, K beams an image, T tokens, S packed tokens, P memory
positions, D memory width, E width of a word's embedding, H width of the state, V vocabulary.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from capjax.models.additive_attention import AdditiveAttention
from capjax.models.contract import (
    Carry,
    Decoder,
    DecoderOutput,
    Memory,
    SmartBias,
    gather_packed,
)
from capjax.models.layers import Dropout, fixed_init, float32_dot, with_bans
from capjax.models.recurrent_cells import GRUCell, LSTMCell, State
from capjax.parts.types import Count, Given, Rate, Share

# What an image gives to all steps, and what a step leaves behind: trees of arrays.
PerImage = dict[str, jax.Array]
Seen = dict[str, jax.Array]

_CELLS = {"gru": GRUCell, "lstm": LSTMCell}


class ContextGate(nn.Module):
    """Says how much the image matters for a word: one number, or one a feature."""

    vector: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, hidden: jax.Array, context: jax.Array) -> jax.Array:
        """Scales a context [..., D] by what the state [..., H] makes of it."""
        size = context.shape[-1] if self.vector else 1
        return nn.sigmoid(nn.Dense(size, dtype=self.dtype, name="dense")(hidden)) * context


class BahdanauDecoder(Decoder):
    """A GRU or LSTM over words and what it looks at in the image.

    At each step the state h_{t-1} weighs the memory's positions, the cell takes the word and the
    weighted mean (the context), and an output layer gives the logits.

    Attributes:
      vocab_size: V.
      width: H.
      embed_dim: E.
      cell: "gru" or "lstm".
      attention: "soft" takes the weighted mean of all positions (SAT section 4.2), "hard" one
        position, drawn from the weights in training and the likeliest afterwards (section 4.1),
        and "none" shows the image in the initial state alone.
      attention_dim: width of the attention.
      attention_activation: "tanh" or "relu".
      initial_state: "mean" is an affine map of the memory's mean (section 3.1.2), or "zero".
      gate: scales the context by a sigmoid of the state: "scalar" as in SAT section 4.2.1, "vector"
        by one number a feature, or "none".
      output: "linear" of the state; "hidden" has a dense layer before; "deep" is linear in the
        sum of the word's embedding and maps of state and context (SAT equation 7).
      embedding_dropout: rate on the words' embeddings.
      dropout: rate on what the output layer takes.
      expected_rate: share of images that take the weighted mean while training hard attention,
        which steadies its gradient (section 4.1).
      banned: token ids that are never generated (pad, bos, unk; never the eos).
      output_bias: [V], where the output layer's bias starts; zeros when None.
      remat: whether the backward pass computes the attention of a step again; see
        `AdditiveAttention`.
      dtype: of the products; parameters, states and logits are float32.
    """

    vocab_size: Given[int]
    width: Count
    embed_dim: Count
    cell: Literal["gru", "lstm"] = "lstm"
    attention: Literal["soft", "hard", "none"] = "soft"
    attention_dim: Count = 512
    attention_activation: Literal["tanh", "relu"] = "tanh"
    initial_state: Literal["mean", "zero"] = "mean"
    gate: Literal["none", "scalar", "vector"] = "none"
    output: Literal["linear", "hidden", "deep"] = "linear"
    embedding_dropout: Rate = 0.0
    dropout: Rate = 0.0
    expected_rate: Share = 0.5
    banned: Given[tuple[int, ...]] = ()
    output_bias: Given[tuple[float, ...] | None] = None
    remat: bool = True
    dtype: Given[Any] = jnp.float32

    training = SmartBias
    word_axes = {"tokens/embedding": 0, "logits/kernel": 1, "bias": 0}  # noqa: RUF012
    takes_own_words = True

    def setup(self):
        self.validate()

        def dense(features: int, **fields: Any) -> nn.Dense:
            return nn.Dense(features, dtype=self.dtype, **fields)

        self.tokens = nn.Embed(
            self.vocab_size, self.embed_dim, embedding_init=nn.initializers.normal(0.05)
        )
        self.recurrence = _CELLS[self.cell](self.width, self.dtype)
        if self.initial_state == "mean":
            self.initial_hidden = dense(self.width)
            if self.cell == "lstm":
                self.initial_cell = dense(self.width)
        if self.attention != "none":
            self.attend = AdditiveAttention(
                self.attention_dim, self.attention_activation, self.remat, self.dtype
            )
        if self.gate != "none":
            self.gate_context = ContextGate(self.gate == "vector", self.dtype)
        if self.output == "hidden":
            self.before_output = dense(self.width)
        if self.output == "deep":
            self.hidden_to_output = dense(self.embed_dim, use_bias=False)
            if self.attention != "none":
                self.context_to_output = dense(self.embed_dim, use_bias=False)
        # Small, so that the bias alone makes the first predictions.
        self.logits = dense(
            self.vocab_size,
            use_bias=False,
            kernel_init=nn.initializers.normal(0.02),
            dot_general=float32_dot,
        )
        self.bias = self.param("bias", fixed_init(self.output_bias), (self.vocab_size,))
        self.drop_words = Dropout(self.embedding_dropout)
        self.drop = Dropout(self.dropout)

    @nn.nowrap
    def validate(self) -> None:
        """See `Part`."""
        if self.attention == "none" and (self.initial_state, self.gate) != ("mean", "none"):
            raise ValueError(
                "attention='none' sees the image in the initial state alone: initial_state must be "
                f"'mean' and gate 'none', and they are {self.initial_state!r} and {self.gate!r}"
            )

    @property
    def has_attention(self) -> bool:
        """See `Decoder`."""
        return self.attention != "none"

    @property
    def draws_locations(self) -> bool:
        """See `Decoder`."""
        return self.attention == "hard"

    def _per_image(self, memory: Memory) -> PerImage:
        """The memory and its keys, made once an image; its mean where nothing is looked at."""
        values = memory.values.astype(self.dtype)
        if self.attention == "none":
            # Kept for the number of positions: all weigh the same in the attention reported.
            return {"weights": jnp.full(values.shape[:2], 1 / values.shape[1], jnp.float32)}
        return {"values": values, "keys": self.attend.keys(values)}

    def _start(self, values: jax.Array, captions: int) -> State:
        """The state before the first word [B, C, H], of a memory [B, P, D]."""
        shape = (values.shape[0], captions, self.width)
        names = ("hidden", "cell") if self.cell == "lstm" else ("hidden",)
        if self.initial_state == "zero":
            return {name: jnp.zeros(shape, jnp.float32) for name in names}
        mean = values.mean(axis=1)
        maps = {"hidden": self.initial_hidden}
        if self.cell == "lstm":
            maps["cell"] = self.initial_cell
        start = {name: maps[name](mean).astype(jnp.float32)[:, None] for name in names}
        return {name: jnp.broadcast_to(value, shape) for name, value in start.items()}

    def _look(self, state: State, per_image: PerImage, expected: jax.Array | None) -> Seen:
        """What the state sees: "context" [B, C, D] and "log_weights" float32 [B, C, P].

        `expected`, bool [B], is given in training with hard attention alone: whether an image
        takes the weighted mean. Then "location_log_prob" and "location_entropy" [B, C] are there.
        """
        log_weights = self.attend(per_image["keys"], state["hidden"])
        seen = {"log_weights": log_weights}
        values, weights = per_image["values"], jnp.exp(log_weights)

        def mean() -> jax.Array:
            return jnp.einsum("bcp,bpd->bcd", weights.astype(self.dtype), values)

        def at(location: jax.Array) -> jax.Array:
            return jnp.take_along_axis(values, location[..., None], axis=1)

        if self.attention == "soft":
            context = mean()
        elif expected is None:
            context = at(jnp.argmax(log_weights, axis=-1))
        else:
            location = jax.random.categorical(self.make_rng("sample"), log_weights)
            mixed = expected[:, None, None]
            context = jnp.where(mixed, mean(), at(location))
            picked = jnp.take_along_axis(log_weights, location[..., None], axis=-1)
            # Where nothing was drawn there is nothing to reinforce.
            seen["location_log_prob"] = jnp.where(mixed, 0.0, picked)[..., 0]
            seen["location_entropy"] = -(weights * log_weights).sum(axis=-1)
        if self.gate != "none":
            context = self.gate_context(state["hidden"], context)
        return {**seen, "context": context}

    def _advance(
        self,
        state: State,
        embedded: jax.Array,
        word_part: jax.Array,
        per_image: PerImage,
        expected: jax.Array | None = None,
    ) -> tuple[State, Seen]:
        """One word a caption, of embedding [B, C, E]: the next state and what was seen for it."""
        if self.attention == "none":
            weights = per_image["weights"][:, None]
            shape = (*state["hidden"].shape[:2], weights.shape[-1])
            seen = {"log_weights": jnp.broadcast_to(jnp.log(weights), shape)}
        else:
            seen = self._look(state, per_image, expected)
        state = self.recurrence(state, word_part, seen.get("context"))
        return state, {**seen, "hidden": state["hidden"], "embedded": embedded}

    def _logits(self, seen: Seen, *, train: bool) -> jax.Array:
        """float32 [..., V] of what a step left; what is banned is out of reach."""
        x = seen["hidden"]
        if self.output == "hidden":
            x = self.before_output(x)
        if self.output == "deep":
            x = seen["embedded"] + self.hidden_to_output(x)
            if self.attention != "none":
                x += self.context_to_output(seen["context"])
        return self.logits(self.drop(x, train=train)) + with_bans(self.bias, self.banned)

    def __call__(
        self,
        memory: Memory,
        tokens: jax.Array,
        *,
        train: bool,
        attention: bool = False,
        packing: jax.Array | None = None,
        own_words: jax.Array | None = None,
    ) -> DecoderOutput:
        """Teacher forcing: tokens int32 [B, C, T] -> logits [B, C, T, V]; packed, [B, 1, S, V].

        With `own_words`, float scalar, each token after the first is the decoder's own draw with
        that probability (Bengio et al. 2015, "Scheduled Sampling", section 2.4).
        """
        per_image = self._per_image(memory)
        state = self._start(memory.values.astype(self.dtype), tokens.shape[1])
        expected = None
        if self.attention == "hard" and train:
            images = tokens.shape[:1]
            expected = jax.random.bernoulli(self.make_rng("sample"), self.expected_rate, images)
        # What is left of each step. What the output does not need is not kept.
        kept = {"hidden", "location_log_prob", "location_entropy"}
        kept |= {"embedded", "context"} if self.output == "deep" else set()
        kept |= {"log_weights"} if attention else set()

        def keep(seen: Seen) -> Seen:
            return {name: value for name, value in seen.items() if name in kept}

        def follow(decoder, state, embedded, word_part):
            state, seen = decoder._advance(state, embedded, word_part, per_image, expected)
            return state, keep(seen)

        def draw(decoder, carried, token, own):
            state, drawn = carried
            embedded = decoder._embed(jnp.where(own, drawn, token), train)
            word_part = decoder.recurrence.word_part(embedded)
            state, seen = decoder._advance(state, embedded, word_part, per_image, expected)
            logits = jax.lax.stop_gradient(decoder._logits(seen, train=False))
            drawn = jax.random.categorical(decoder.make_rng("sample"), logits)
            return (state, drawn.astype(token.dtype)), keep(seen)

        if own_words is None:
            embedded = self._embed(tokens, train)
            # All words at once, outside of the time loop.
            inputs = (embedded, self.recurrence.word_part(embedded))
            seen = self._scan(follow, state, inputs)
        else:
            own = jax.random.bernoulli(self.make_rng("sample"), own_words, tokens.shape)
            own = own.at[..., 0].set(False)  # Before bos nothing could be drawn.
            seen = self._scan(draw, (state, tokens[..., 0]), (tokens, own))
        if packing is not None:
            seen = {name: gather_packed(value, packing) for name, value in seen.items()}
        aux = {name: value for name, value in seen.items() if name.startswith("location")}
        weights = jnp.exp(seen["log_weights"])[..., None, :] if attention else None
        return DecoderOutput(self._logits(seen, train=train), weights, aux)

    def _scan(self, body: Any, carried: Any, inputs: tuple[jax.Array, ...]) -> Seen:
        """Runs over the tokens of `inputs` [B, C, T, ...]; gives what `body` left, the same way."""
        scan = nn.scan(
            body,
            variable_broadcast="params",
            split_rngs={"params": False, "dropout": True, "sample": True},
            in_axes=2,
            out_axes=2,
        )
        return scan(self, carried, *inputs)[1]

    def _embed(self, tokens: jax.Array, train: bool) -> jax.Array:
        return self.drop_words(self.tokens(tokens), train=train).astype(self.dtype)

    def init_carry(self, memory: Memory, width: int, max_length: int) -> Carry:
        """The first state for `width` beams an image; there is no limit to the tokens fed."""
        del max_length
        state = self._start(memory.values.astype(self.dtype), width)
        return Carry(self._per_image(memory), state, jnp.zeros((), jnp.int32))

    def step(
        self, carry: Carry, token: jax.Array, *, attention: bool = False
    ) -> tuple[Carry, jax.Array, jax.Array | None]:
        """Feeds one token a beam, int32 [B, K]; gives logits [B, K, V] for the next."""
        embedded = self._embed(token, train=False)
        word_part = self.recurrence.word_part(embedded)
        state, seen = self._advance(carry.per_beam, embedded, word_part, carry.per_image)
        weights = jnp.exp(seen["log_weights"])[:, :, None] if attention else None
        carry = carry.replace(per_beam=state, position=carry.position + 1)
        return carry, self._logits(seen, train=False), weights


PART = BahdanauDecoder
