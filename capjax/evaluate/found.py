"""The captions that a decoding method finds.

Shapes: see docs/architecture.md; n captions an image.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from capjax.decode.beam import BeamResult
from capjax.decode.sampling import SampleResult


@struct.dataclass
class Found:
    """The captions of a method.

    Attributes:
      tokens: int32 [B, n, T], without start and prompt, with eos.
      lengths: int32 [B, n], generated tokens with eos; 0 for no caption.
      scores: float32 [B, n], what the method ranks by.
      log_probs: float32 [B, n], under the model.
      token_log_probs: float32 [B, n, T], the same by token, 0 after the end.
      finished: bool [B, n], True if ended by eos.
      met: bool [B, n], whether it has the words that it must include; None where there are none.
      attention: float32 [B, m, T, N, P] of the first m; None if not requested.
    """

    tokens: jax.Array
    lengths: jax.Array
    scores: jax.Array
    log_probs: jax.Array
    token_log_probs: jax.Array
    finished: jax.Array
    met: jax.Array | None = None
    attention: jax.Array | None = None


def found_of(result: BeamResult | SampleResult, attention: jax.Array | None) -> Found:
    """The captions of a search with the attention of the first ones, [B, m, T, N, P]."""
    return Found(
        tokens=result.tokens,
        lengths=result.lengths,
        scores=result.scores,
        log_probs=result.log_probs,
        token_log_probs=result.token_log_probs,
        finished=result.finished,
        met=getattr(result, "met", None),
        attention=None if attention is None else attention.astype(jnp.float32),
    )


def cut(found: Found, count: int) -> Found:
    """The first captions."""
    return jax.tree.map(lambda leaf: leaf[:, :count], found)


def ranked(found: Found) -> Found:
    """All captions, the best by `scores` first, with the attention of that one.

    Attention must be that of all, or None.
    """
    order = jnp.argsort(-found.scores, axis=1)

    def take(leaf: jax.Array) -> jax.Array:
        return jax.vmap(lambda rows, places: rows[places])(leaf, order)

    if found.attention is not None:
        best = jax.vmap(lambda maps, places: maps[places[:1]])(found.attention, order)
        rest = jax.tree.map(take, dataclasses.replace(found, attention=None))
        return dataclasses.replace(rest, attention=best)
    return jax.tree.map(take, found)
