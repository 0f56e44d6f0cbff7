"""What every encoder gives and every decoder keeps.

Legend: B images, P memory positions, D memory width, C captions an image (beams, K, while
decoding), T tokens, V vocabulary, N attention maps (layers x heads, or 1).

A decoder is a `flax.linen.Module` with three methods:

    __call__(memory, tokens [B, C, T], *, train, attention=False) -> DecoderOutput
    init_carry(memory, width, max_length) -> Carry         # width = beams an image
    step(carry, token [B, K], *, attention=False) -> (carry, logits [B, K, V], attention | None)

and two laws: stepping gives the logits of teacher forcing, and a future token never changes an
earlier logit. The memory of an image is never repeated for its captions or beams.
"""

from typing import Any

import jax
from flax import struct


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
      aux: what an objective needs beside the logits, by name.
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
