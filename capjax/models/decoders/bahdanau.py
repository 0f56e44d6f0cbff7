"""Recurrent caption decoders with attention to the image at each step.

Additive attention is from "Neural Machine Translation by Jointly Learning to Align and Translate"
(Bahdanau et al. 2015), its use on images from "Show, Attend and Tell" (Xu et al. 2015; SAT below).

Shapes: see docs/architecture.md.
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
from capjax.parts.types import DropoutRate, Given, Share, Width

# Arrays computed once per image for all steps, and arrays that a step returns, by name.
PerImage = dict[str, jax.Array]
Seen = dict[str, jax.Array]

_CELLS = {"gru": GRUCell, "lstm": LSTMCell}


class ContextGate(nn.Module):
    """Gates the context by a sigmoid of the state: one number, or one per feature."""

    vector: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, hidden: jax.Array, context: jax.Array) -> jax.Array:
        """Scales a context [..., D] by a gate of the state, `hidden` [..., D]."""
        size = context.shape[-1] if self.vector else 1
        return nn.sigmoid(nn.Dense(size, dtype=self.dtype, name="dense")(hidden)) * context


class BahdanauDecoder(Decoder):
    """A GRU or LSTM over embedded tokens and attended image contexts.

    At each step the state h_{t-1} gives attention weights over the memory's positions, the cell
    takes the token and the context (the weighted mean), and the output layer gives the logits.

    Attributes:
      vocab_size: V.
      width: of the state.
      embed_dim: width of the token embedding.
      cell: "gru" or "lstm".
      attention: "soft" for the weighted mean of all positions (SAT section 4.2); "hard" for one
        position, sampled from the weights in training and their argmax otherwise (section 4.1);
        "none" for the image in the initial state only.
      attention_dim: width of the attention.
      attention_activation: "tanh" or "relu".
      initial_state: "mean" for an affine map of the memory's mean (section 3.1.2), or "zero".
      gate: factor of the context, a sigmoid of the state: "scalar" (SAT section 4.2.1), "vector"
        for one per feature, or "none".
      output: input of the output layer: "linear" for the state; "hidden" for a dense layer of the
        state; "deep" for the sum of token embedding and projected state and context (SAT equation
        7).
      embedding_dropout: rate on token embeddings.
      dropout: rate on the input of the output layer.
      expected_rate: share of images that take the weighted mean in training of hard attention,
        which reduces the variance of its gradient (section 4.1).
      banned: ids of tokens that are never generated (pad, bos, unk), without eos.
      output_bias: [V], initial bias of the output layer; zeros if None.
      remat: whether the backward pass recomputes the attention of a step; see `AdditiveAttention`.
      dtype: of the products; parameters, states and logits are float32.
    """

    vocab_size: Given[int]
    width: Width
    embed_dim: Width
    cell: Literal["gru", "lstm"] = "lstm"
    attention: Literal["soft", "hard", "none"] = "soft"
    attention_dim: Width = 512
    attention_activation: Literal["tanh", "relu"] = "tanh"
    initial_state: Literal["mean", "zero"] = "mean"
    gate: Literal["none", "scalar", "vector"] = "none"
    output: Literal["linear", "hidden", "deep"] = "linear"
    embedding_dropout: DropoutRate = 0.0
    dropout: DropoutRate = 0.0
    expected_rate: Share = 0.5
    banned: Given[tuple[int, ...]] = ()
    output_bias: Given[tuple[float, ...] | None] = None
    remat: bool = True
    dtype: Given[Any] = jnp.float32

    training = SmartBias
    word_axes = {"tokens/embedding": 0, "logits/kernel": 1, "bias": 0}  # noqa: RUF012
    takes_own_words = True

    def setup(self):

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
        # Small, so that the bias determines the first predictions.
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
                "attention='none' sees the image in the initial state only: it needs "
                f"initial_state='mean', gate='none', not {self.initial_state!r}, {self.gate!r}"
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
        """Memory and attention keys; without attention, uniform weights [B, P]."""
        values = memory.values.astype(self.dtype)
        if self.attention == "none":
            # The attention that is reported, uniform over the positions.
            return {"weights": jnp.full(values.shape[:2], 1 / values.shape[1], jnp.float32)}
        return {"values": values, "keys": self.attend.keys(values)}

    def _start(self, values: jax.Array, captions: int) -> State:
        """The initial state, leaves [B, C, width], for a memory [B, P, D]."""
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
        """Attends to the memory: "context" [B, C, D] and "log_weights" float32 [B, C, P].

        `expected`, bool [B], marks the images that take the weighted mean; it is given only in
        training with hard attention and adds "location_log_prob" and "location_entropy" [B, C].
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
            # The weighted mean draws no position, so REINFORCE has no term for it.
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
        """Feeds one embedded token per caption, [B, C, D]; returns the state and the arrays."""
        if self.attention == "none":
            weights = per_image["weights"][:, None]
            shape = (*state["hidden"].shape[:2], weights.shape[-1])
            seen = {"log_weights": jnp.broadcast_to(jnp.log(weights), shape)}
        else:
            seen = self._look(state, per_image, expected)
        state = self.recurrence(state, word_part, seen.get("context"))
        return state, {**seen, "hidden": state["hidden"], "embedded": embedded}

    def _states(self, seen: Seen, *, train: bool) -> jax.Array:
        """Of a step's arrays, [..., width], for `logits_of`."""
        x = seen["hidden"]
        if self.output == "hidden":
            x = self.before_output(x)
        if self.output == "deep":
            x = seen["embedded"] + self.hidden_to_output(x)
            if self.attention != "none":
                x += self.context_to_output(seen["context"])
        return self.drop(x, train=train)

    def logits_of(self, states: jax.Array) -> jax.Array:
        """Logits, float32 [..., V], of [..., width]; those of banned tokens are about -1e9."""
        return self.logits(states) + with_bans(self.bias, self.banned)

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

        Each token after the first is replaced by the decoder's own draw with probability
        `own_words`, a float scalar (Bengio et al. 2015, "Scheduled Sampling", section 2.4).
        """
        per_image = self._per_image(memory)
        state = self._start(memory.values.astype(self.dtype), tokens.shape[1])
        expected = None
        if self.attention == "hard" and train:
            images = tokens.shape[:1]
            expected = jax.random.bernoulli(self.make_rng("sample"), self.expected_rate, images)
        # Only arrays that the output needs are stacked over the steps.
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
            logits = decoder.logits_of(decoder._states(seen, train=False))
            logits = jax.lax.stop_gradient(logits)
            drawn = jax.random.categorical(decoder.make_rng("sample"), logits)
            return (state, drawn.astype(token.dtype)), keep(seen)

        if own_words is None:
            embedded = self._embed(tokens, train)
            # One matrix product for all tokens, outside the time loop.
            inputs = (embedded, self.recurrence.word_part(embedded))
            seen = self._scan(follow, state, inputs)
        else:
            own = jax.random.bernoulli(self.make_rng("sample"), own_words, tokens.shape)
            own = own.at[..., 0].set(False)  # bos has no previous step to draw it.
            seen = self._scan(draw, (state, tokens[..., 0]), (tokens, own))
        if packing is not None:
            seen = {name: gather_packed(value, packing) for name, value in seen.items()}
        aux = {name: value for name, value in seen.items() if name.startswith("location")}
        weights = jnp.exp(seen["log_weights"])[..., None, :] if attention else None
        states = self._states(seen, train=train)
        return DecoderOutput(self.logits_of(states), weights, aux, states)

    def _scan(self, body: Any, carried: Any, inputs: tuple[jax.Array, ...]) -> Seen:
        """Scans `body` over axis T of `inputs` [B, C, T, ...]; returns its outputs, stacked."""
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
        """The initial carry for `width` beams per image; `max_length` has no effect."""
        del max_length
        state = self._start(memory.values.astype(self.dtype), width)
        return Carry(self._per_image(memory), state, jnp.zeros((), jnp.int32))

    def step(
        self, carry: Carry, token: jax.Array, *, attention: bool = False
    ) -> tuple[Carry, jax.Array, jax.Array | None]:
        """Feeds one token per beam, int32 [B, K]; returns logits [B, K, V] of the next."""
        embedded = self._embed(token, train=False)
        word_part = self.recurrence.word_part(embedded)
        state, seen = self._advance(carry.per_beam, embedded, word_part, carry.per_image)
        weights = jnp.exp(seen["log_weights"])[:, :, None] if attention else None
        carry = carry.replace(per_beam=state, position=carry.position + 1)
        return carry, self.logits_of(self._states(seen, train=False)), weights


PART = BahdanauDecoder
