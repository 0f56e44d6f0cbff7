"""Several captioners as one, by the mean of what each says of the next token.

Shapes: see docs/architecture.md.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from capjax.files.errors import ReportedError
from capjax.models.captioner import Captioner, Variables
from capjax.models.contract import Carry, DecoderOutput, Memory

Average = Literal["probabilities", "log_probabilities"]


class AttentionError(ReportedError, ValueError):
    """The attention of an ensemble's members has no mean; the message says why."""


@struct.dataclass
class EnsembleMemory:
    """The memories of an ensemble's members.

    Attributes:
      members: one of each.
      grid: (h, w), and
      prefix: the positions before it, of the first; attention needs them equal in all.
    """

    members: tuple[Memory, ...]
    grid: tuple[int, int] = struct.field(pytree_node=False)
    prefix: int = struct.field(pytree_node=False)


class EnsembleDecoder:
    """The properties of a `Decoder` that the members have in common."""

    # Attention is the mean over all maps of all members.
    attention_layers = attention_maps = 1

    def __init__(self, members: Sequence[Captioner], *, same_images: bool):
        """Asks the decoders of the members, which share a vocabulary."""
        decoders = [member.decoder for member in members]
        limits = [d.longest_caption for d in decoders if d.longest_caption is not None]
        self.banned = decoders[0].banned
        self.longest_caption = min(limits) if limits else None
        self.has_attention = same_images and all(decoder.has_attention for decoder in decoders)


class Ensemble(nn.Module):
    """Captioners with one vocabulary, of any architectures, that keep the decoder contract as one.

    Its logits are the logarithm of the members' mean probability, or with "log_probabilities" their
    mean log-probability, which a softmax then normalises; one member's logits stay as they are.

    Attributes:
      members: the captioners.
      average: what is averaged.
      shapes: (H, W, 3) of each member's images, where they are not the same. Images are then uint8
        [B, N], those of all members one after the other.
    """

    members: tuple[Captioner, ...]
    average: Average = "probabilities"
    shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def decoder(self) -> EnsembleDecoder:
        """Properties of the decoder."""
        return EnsembleDecoder(self.members, same_images=not self.shapes)

    def __call__(
        self, images: jax.Array, tokens: jax.Array, *, train: bool, packing: jax.Array | None = None
    ) -> DecoderOutput:
        """Teacher forcing: images [B, ...], tokens [B, C, T] -> logits [B, C, T, V]."""
        options: dict[str, Any] = {"train": train, "packing": packing}
        pairs = zip(self.members, self._images(images), strict=True)
        outputs = [member(own, tokens, **options) for member, own in pairs]
        return DecoderOutput(self._mean([output.logits for output in outputs]))

    def encode(self, images: jax.Array, *, train: bool = False) -> EnsembleMemory:
        """Encodes images [B, ...] by each member."""
        pairs = zip(self.members, self._images(images), strict=True)
        memories = tuple(member.encode(own, train=train) for member, own in pairs)
        return EnsembleMemory(memories, memories[0].grid, memories[0].prefix)

    def decode(
        self, memory: EnsembleMemory, tokens: jax.Array, *, train: bool = False
    ) -> DecoderOutput:
        """As `__call__`, of encoded images."""
        pairs = zip(self.members, memory.members, strict=True)
        outputs = [member.decode(own, tokens, train=train) for member, own in pairs]
        return DecoderOutput(self._mean([output.logits for output in outputs]))

    def init_carry(self, memory: EnsembleMemory, width: int, max_length: int) -> Carry:
        """The carries of all members in one."""
        pairs = zip(self.members, memory.members, strict=True)
        return _joined([member.init_carry(own, width, max_length) for member, own in pairs])

    def step(
        self, carry: Carry, token: jax.Array, *, attention: bool = False
    ) -> tuple[Carry, jax.Array, jax.Array | None]:
        """Steps all members; attention is float32 [B, K, 1, P].

        Raises:
          AttentionError: attention is requested, and the members see different images or positions.
        """
        steps = [
            member.step(own, token, attention=attention)
            for member, own in zip(self.members, _parted(carry), strict=True)
        ]
        carries, logits, maps = zip(*steps, strict=True)
        return _joined(carries), self._mean(logits), _mean_maps(maps) if attention else None

    def _images(self, images: jax.Array) -> Sequence[jax.Array]:
        """The images of each member."""
        if not self.shapes:
            return [images] * len(self.members)
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])
        parts = jnp.split(images, ends[:-1], axis=1)
        return [part.reshape(-1, *own) for part, own in zip(parts, self.shapes, strict=True)]

    def _mean(self, logits: Sequence[jax.Array]) -> jax.Array:
        if len(logits) == 1:
            return logits[0]
        said = jnp.stack([jax.nn.log_softmax(each.astype(jnp.float32)) for each in logits])
        if self.average == "log_probabilities":
            return said.mean(axis=0)
        return jax.nn.logsumexp(said, axis=0) - math.log(len(logits))


def join_variables(members: Sequence[Variables]) -> Variables:
    """The variables of an `Ensemble` of those of its members."""
    names = {name for variables in members for name in variables}
    return {
        name: {
            f"members_{place}": variables[name]
            for place, variables in enumerate(members)
            if name in variables
        }
        for name in sorted(names)
    }


def _joined(carries: Sequence[Carry]) -> Carry:
    return Carry(
        per_image=tuple(carry.per_image for carry in carries),
        per_beam=tuple(carry.per_beam for carry in carries),
        position=carries[0].position,
    )


def _parted(carry: Carry) -> list[Carry]:
    pairs = zip(carry.per_image, carry.per_beam, strict=True)
    return [Carry(image, beam, carry.position) for image, beam in pairs]


def _mean_maps(maps: Sequence[Any]) -> jax.Array | None:
    """The mean of maps [B, K, N, P] over their N and over members."""
    if any(each is None for each in maps):
        return None
    positions = sorted({each.shape[-1] for each in maps})
    if len(positions) > 1:
        raise AttentionError(
            f"the members of this ensemble look at {' and '.join(map(str, positions))} positions "
            "of an image, so that their attention has no mean: caption without attention"
        )
    return jnp.stack([each.astype(jnp.float32).mean(axis=2) for each in maps]).mean(0)[:, :, None]
