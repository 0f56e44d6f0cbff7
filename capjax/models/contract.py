"""What every encoder gives and every decoder keeps.

Legend: B images, P memory positions, D memory width, C captions an image (beams, K, while
decoding), T tokens, V vocabulary, N attention maps (layers x heads, or 1).

A decoder is a `Decoder`, a `flax.linen.Module` with three methods:

    __call__(memory, tokens [B, C, T], *, train, attention=False, packing=None) -> DecoderOutput
    init_carry(memory, width, max_length) -> Carry         # width = beams an image
    step(carry, token [B, K], *, attention=False) -> (carry, logits [B, K, V], attention | None)

and two laws: stepping gives the logits of teacher forcing, and a future token never changes an
earlier logit. The memory of an image is never repeated for its captions or beams.

With a `packing`, int32 [B, S], a decoder gives its logits, attention and aux at those places
alone, as [B, 1, S, ...]: c * T + t for the token t of caption c, by caption and place; -1 where a
row has no more, whose values mean nothing. It may save all work on other places, since captions are
causal and no other place is seen from these. `gather_packed` brings targets into the same order,
and `scatter_packed` brings results back to captions.

A decoder with `takes_own_words` also takes `own_words`, the share of fed words that are its own
draws (scheduled sampling). Its draws come from the random stream "sample".

The fields of an encoder or a decoder are the fields of its config section. Their annotations
(`capjax.parts.types`) say what values they take; those marked as `Given` come from the code that
builds the module: vocab_size, banned, output_bias, dtype, and max_length, which is the longest
training caption.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from capjax.parts.types import Count, Name, Names


@dataclasses.dataclass(frozen=True)
class NoFields:
    """The training fields of a part that has none."""


@dataclasses.dataclass(frozen=True)
class PretrainedFields:
    """The training fields of an encoder with published weights.

    Attributes:
      weights: where they are: see the encoder's loader.
      trainable: names of stages, or beginnings of the names of parts, that training changes.
      cache: type of the features of a frozen encoder, which are kept; "" keeps none.
      cache_views: features kept of each training image.
    """

    weights: Name
    trainable: Names
    cache: Literal["", "float16", "bfloat16"]
    cache_views: Count


@dataclasses.dataclass(frozen=True)
class SmartBias:
    """The training fields of a decoder with an output bias.

    Attributes:
      smart_bias: whether it starts at the log frequency of the train split's tokens.
    """

    smart_bias: bool


@dataclasses.dataclass(frozen=True)
class PretrainedDecoderFields:
    """The training fields of a decoder with published weights.

    Attributes:
      weights: where they are; "" starts fresh.
      frozen: whether only what the published weights do not have is trained.
    """

    weights: str
    frozen: bool


class Part(nn.Module):
    """A module that a config section names.

    Attributes:
      training: the section's fields that the module does not have, a dataclass.
    """

    training: ClassVar[type] = NoFields

    @nn.nowrap
    def validate(self) -> None:
        """Raises ValueError for fields that do not fit each other; its text starts with a field."""


class Encoder(Part):
    """Images uint8 [B, H, W, 3] to a `Memory`: `__call__(images, *, train)`.

    Attributes:
      loader: "module:function" that reads published weights: (encoder, weights, image_size) ->
        variables; "" where there are none.
      stages: beginnings of the names of the parts of each stage, where these do not begin with the
        stage's own name.
    """

    loader: ClassVar[str] = ""
    stages: ClassVar[Mapping[str, tuple[str, ...]]] = {}


class PretrainedEncoder(Encoder):
    """An encoder with published weights."""

    training = PretrainedFields


class Decoder(Part):
    """A decoder; see the module's docstring for its methods.

    Attributes:
      attention_layers: layers that its N attention maps are of, a layer's heads together.
      attention_maps: N; 1 for a recurrent decoder.
      word_axes: axis of the vocabulary in each parameter that has one, by the parameter's name.
      takes_own_words: whether it takes `own_words`.
    """

    attention_layers: ClassVar[int] = 1
    attention_maps: ClassVar[int] = 1
    word_axes: ClassVar[Mapping[str, int]] = {}
    takes_own_words: ClassVar[bool] = False

    @property
    def longest_caption(self) -> int | None:
        """Tokens that can be fed, bos counted; None where there is no limit."""
        return None

    @property
    def has_attention(self) -> bool:
        """Whether it attends to the image at each word."""
        return True

    @property
    def draws_locations(self) -> bool:
        """Whether training draws where it attends, so that its `aux` has the draws."""
        return False

    @property
    def ties_embeddings(self) -> bool:
        """Whether the output layer is the token embedding."""
        return False

    @property
    def unpublished(self) -> tuple[str, ...]:
        """Beginnings of the names of the parts that published weights do not have.

        They train where `PretrainedDecoderFields.frozen` leaves the rest as it is.
        """
        return ()


@struct.dataclass
class Memory:
    """What an encoder hands to a decoder.

    Attributes:
      values: float [B, P, D], one vector a position: `prefix` positions, then the grid by rows.
      grid: (h, w) of the spatial positions; P == prefix + h * w.
      prefix: positions, such as a class token, that lie outside the grid.
    """

    values: jax.Array
    grid: tuple[int, int] = struct.field(pytree_node=False)
    prefix: int = struct.field(pytree_node=False, default=0)


@struct.dataclass
class DecoderOutput:
    """What a decoder says of whole captions.

    Attributes:
      logits: float32 [B, C, T, V]; position t predicts token t + 1.
      attention: float32 [B, C, T, N, P], each row summing to 1, or None when not asked for.
      aux: what an objective needs beside the logits, by name, each [B, C, T]: "location_log_prob"
        and "location_entropy" of hard attention.
    """

    logits: jax.Array
    attention: jax.Array | None = None
    aux: dict[str, Any] = struct.field(default_factory=dict)


@struct.dataclass
class Carry:
    """What a decoder remembers between steps.

    The structure says which leaves follow the beams: a search reorders `per_beam` along K and
    leaves `per_image` alone.

    Attributes:
      per_image: a tree with leaves [B, ...], shared by an image's beams.
      per_beam: a tree with leaves [B, K, ...].
      position: int32 scalar, the number of tokens already fed.
    """

    per_image: Any
    per_beam: Any
    position: jax.Array


def gather_packed(x: jax.Array, packing: jax.Array) -> jax.Array:
    """What x [B, C, T, ...] holds at the places of a packing [B, S]: [B, 1, S, ...].

    The fill, -1, takes the first place: mask it out.
    """
    flat = x.reshape(x.shape[0], -1, *x.shape[3:])
    places = jnp.maximum(packing, 0).reshape(*packing.shape, *(1,) * (flat.ndim - 2))
    return jnp.take_along_axis(flat, places, axis=1)[:, None]


def scatter_packed(x: jax.Array, packing: jax.Array, captions: int, length: int) -> jax.Array:
    """The inverse of `gather_packed`: x [B, 1, S, ...] to [B, C, T, ...], zero elsewhere."""

    def put(rows: jax.Array, places: jax.Array) -> jax.Array:
        empty = jnp.zeros((captions * length, *rows.shape[1:]), rows.dtype)
        # A place of -1 would count from the end: one past the end is dropped.
        places = jnp.where(places < 0, captions * length, places)
        return empty.at[places].set(rows, mode="drop")

    flat = jax.vmap(put)(x[:, 0], packing)
    return flat.reshape(x.shape[0], captions, length, *x.shape[3:])
