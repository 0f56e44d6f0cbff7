"""The contract between encoders and decoders.

Shapes: see docs/architecture.md.

A decoder is a `Decoder`, a `flax.linen.Module` with three methods:

    __call__(memory, tokens [B, C, T], *, train, attention=False, packing=None) -> DecoderOutput
    init_carry(memory, width, max_length) -> Carry         # width = K
    step(carry, token [B, K], *, attention=False) -> (carry, logits [B, K, V], attention | None)

Stepping must give the logits of teacher forcing, and a token must never change an earlier logit.
An image's memory is never repeated for its captions or beams.

`packing`, int32 [B, S], holds the indices c * T + t of tokens t of captions c, in increasing order,
padded with -1. With it, logits, attention and aux are [B, 1, S, ...] at those tokens, and undefined
at the padding. Packed tokens depend on no others, so a decoder can skip the others.
`gather_packed` packs targets the same way; `scatter_packed` unpacks results.

A decoder can give the `states` of its output, which its method `logits_of` makes logits of, for
each token by itself. A large vocabulary's logits are then never in memory as a whole in training.

A decoder with `takes_own_words` also takes `own_words`, the probability that a fed token is its own
draw (scheduled sampling), drawn from the random stream "sample".

The fields of an encoder or a decoder are the fields of its config section, and their annotations
(`capjax.parts.types`) give the allowed values. Fields marked `Given` come from the code that builds
the module: vocab_size, banned, output_bias, dtype, and max_length, the longest training caption.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from capjax.parts.check import choices_of, fault
from capjax.parts.types import Count, Name, Names


@dataclasses.dataclass(frozen=True)
class NoFields:
    """No training fields."""


@dataclasses.dataclass(frozen=True)
class PretrainedFields:
    """Training fields of an encoder with published weights.

    Attributes:
      weights: their location; see the encoder's loader.
      trainable: stages, or prefixes of the names of parts, that are trained.
      cache: type of the cached features of a frozen encoder; "" for no cache.
      cache_views: augmented views cached per training image.
    """

    weights: Name
    trainable: Names
    cache: Literal["", "float16", "bfloat16"]
    cache_views: Count


@dataclasses.dataclass(frozen=True)
class SmartBias:
    """Training fields of a decoder with an output bias.

    Attributes:
      smart_bias: whether to initialise it to the log frequencies of the train split's tokens.
    """

    smart_bias: bool


@dataclasses.dataclass(frozen=True)
class PretrainedDecoderFields:
    """Training fields of a decoder with published weights.

    Attributes:
      weights: their location; "" for random initialisation.
      frozen: whether to train only the parts that the published weights lack.
    """

    weights: str
    frozen: bool


class Part(nn.Module):
    """A module that a config section names. A field of `Literal` type must be one of its choices.

    Attributes:
      training: dataclass of the section's fields that are not fields of the module.
      stackable: prefix of the names of its blocks, if it can apply them stacked; see `stacks`.
    """

    training: ClassVar[type] = NoFields
    stackable: ClassVar[str] = ""

    def __post_init__(self):
        for name, choice in choices_of(type(self)).items():
            if message := fault(choice, getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)!r} {message}")
        self.validate()
        super().__post_init__()

    @nn.nowrap
    def validate(self) -> None:
        """Raises ValueError for inconsistent fields; its text must start with a field's name."""


class Encoder(Part):
    """An encoder: `__call__(images, *, train)` maps uint8 [B, H, W, 3] to a `Memory`.

    Attributes:
      loader: "module:function" that reads published weights: (encoder, weights, image_size) ->
        variables; "" for none.
      stages: prefixes of the names of each stage's parts, for stages whose parts do not begin with
        the stage's name.
    """

    loader: ClassVar[str] = ""
    stages: ClassVar[Mapping[str, tuple[str, ...]]] = {}


class PretrainedEncoder(Encoder):
    """An encoder with published weights."""

    training = PretrainedFields


class Decoder(Part):
    """A decoder; see the module's docstring for its methods.

    Attributes:
      attention_layers: layers of the N attention maps, which are ordered by layer, then head.
      attention_maps: N; 1 for a recurrent decoder.
      word_axes: vocabulary axis of each parameter that has one, by the parameter's name.
      attends_to_words: whether the caption's tokens are attended to along with the image. Its maps
        then sum to the image's share, which is above 0 and at most 1.
      takes_own_words: whether `__call__` takes `own_words`.
    """

    attention_layers: ClassVar[int] = 1
    attention_maps: ClassVar[int] = 1
    word_axes: ClassVar[Mapping[str, int]] = {}
    attends_to_words: ClassVar[bool] = False
    takes_own_words: ClassVar[bool] = False

    @property
    def longest_caption(self) -> int | None:
        """Most tokens that can be fed, counting bos; None for no limit."""
        return None

    @property
    def has_attention(self) -> bool:
        """True if it attends to the image at each step."""
        return True

    @property
    def draws_locations(self) -> bool:
        """True if training samples the attended positions, with results in `aux`."""
        return False

    @property
    def ties_embeddings(self) -> bool:
        """True if the output layer is the token embedding."""
        return False

    @property
    def unpublished(self) -> tuple[str, ...]:
        """Prefixes of the names of the parts that published weights lack.

        They are trained even if `PretrainedDecoderFields.frozen` is set.
        """
        return ()


@struct.dataclass
class Memory:
    """The output of an encoder, attended to by a decoder.

    Attributes:
      values: float [B, P, D], or F before an adapter: `prefix` positions, then the grid by rows.
      grid: (h, w) of the spatial positions; P == prefix + h * w.
      prefix: number of positions outside the grid, such as a class token.
    """

    values: jax.Array
    grid: tuple[int, int] = struct.field(pytree_node=False)
    prefix: int = struct.field(pytree_node=False, default=0)


def grid_memory(features: jax.Array) -> Memory:
    """Makes a memory of a feature map [B, h, w, D]."""
    batch, height, width, channels = features.shape
    return Memory(features.reshape(batch, height * width, channels), (height, width))


@struct.dataclass
class DecoderOutput:
    """The output of a decoder under teacher forcing.

    Attributes:
      logits: float32 [B, C, T, V]; position t predicts token t + 1.
      attention: float32 [B, C, T, N, P], summing to 1 over P, or to the image's share for a
        decoder with `attends_to_words`; None if not requested.
      aux: further inputs of an objective by name, each [B, C, T]: "location_log_prob" and
        "location_entropy" of hard attention.
      states: float [B, C, T, D], of which the decoder's `logits_of` makes the logits; None for a
        decoder without it.
    """

    logits: jax.Array
    attention: jax.Array | None = None
    aux: dict[str, Any] = struct.field(default_factory=dict)
    states: jax.Array | None = None


@struct.dataclass
class Carry:
    """The state of a decoder between steps.

    A search reorders `per_beam` along K and leaves `per_image` unchanged.

    Attributes:
      per_image: tree with leaves [B, ...], shared by an image's beams.
      per_beam: tree with leaves [B, K, ...].
      position: int32 scalar, the number of tokens fed so far.
    """

    per_image: Any
    per_beam: Any
    position: jax.Array


def gather_packed(x: jax.Array, packing: jax.Array) -> jax.Array:
    """Gathers x [B, C, T, ...] at the indices of a packing [B, S]: [B, 1, S, ...].

    The padding, -1, gathers index 0 and must be masked by the caller.
    """
    flat = x.reshape(x.shape[0], -1, *x.shape[3:])
    places = jnp.maximum(packing, 0).reshape(*packing.shape, *(1,) * (flat.ndim - 2))
    return jnp.take_along_axis(flat, places, axis=1)[:, None]


def scatter_packed(x: jax.Array, packing: jax.Array, captions: int, length: int) -> jax.Array:
    """Inverse of `gather_packed`: x [B, 1, S, ...] to [B, C, T, ...], zero elsewhere."""

    def put(rows: jax.Array, places: jax.Array) -> jax.Array:
        empty = jnp.zeros((captions * length, *rows.shape[1:]), rows.dtype)
        # -1 would index the last element; an index out of bounds is dropped.
        places = jnp.where(places < 0, captions * length, places)
        return empty.at[places].set(rows, mode="drop")

    flat = jax.vmap(put)(x[:, 0], packing)
    return flat.reshape(x.shape[0], captions, length, *x.shape[3:])
