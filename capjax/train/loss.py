"""Masked cross-entropy of captions, token by token. Shapes: see docs/architecture.md."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct


@struct.dataclass
class TokenLosses:
    """Loss of each target; zero for targets without weight.

    Attributes:
      weight: float32 [B, C, T], 1 for tokens of a caption, without its prompt.
      nll: float32 [B, C, T], negative log-likelihood in nats.
      loss: float32 [B, C, T], `nll` with label smoothing.
      correct: float32 [B, C, T], 1 if the target is the most likely token.
    """

    weight: jax.Array
    nll: jax.Array
    loss: jax.Array
    correct: jax.Array

    def sums(self) -> dict[str, jax.Array]:
        """Sums over the batch, additive over devices and microbatches; "tokens" is their count."""
        return {
            "loss": self.loss.sum(),
            "nll": self.nll.sum(),
            "correct": self.correct.sum(),
            "tokens": self.weight.sum(),
        }


def token_weights(targets: jax.Array, real: jax.Array, banned: tuple[int, ...]) -> jax.Array:
    """Weights float32 [B, C, T]: 1 where `real`, 0 elsewhere and for banned tokens."""
    for token in banned:
        real &= targets != token
    return real.astype(jnp.float32)


def token_losses(
    logits: jax.Array,
    targets: jax.Array,
    real: jax.Array,
    *,
    banned: tuple[int, ...] = (),
    label_smoothing: float = 0.0,
) -> TokenLosses:
    """The cross-entropy of each target.

    Args:
      logits: float32 [B, C, T, V], or another shape than [B, C, T] in all arguments.
      targets: int32 [B, C, T].
      real: bool [B, C, T], True for tokens of a caption that have a loss, including its eos, by the
        lengths: bos, eos and pad can have the same id.
      banned: ids that are never generated (the unknown word). As targets they have no weight.
      label_smoothing: mass spread evenly over the allowed tokens (Szegedy et al. 2016, section 7).
    """
    weight = token_weights(targets, real, banned)
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    nll = jnp.where(weight > 0, normalizer - picked, 0.0)
    loss = nll
    if label_smoothing:
        allowed = np.ones(logits.shape[-1], np.float32)
        allowed[list(banned)] = 0.0
        mean = jnp.where(allowed > 0, logits, 0.0) @ (allowed / allowed.sum())
        smooth = jnp.where(weight > 0, normalizer - mean, 0.0)
        loss = (1 - label_smoothing) * nll + label_smoothing * smooth
    # On CPUs an argmax takes as long as the rest of the loss.
    correct = (picked >= logits.max(axis=-1)) * weight
    return TokenLosses(weight, nll, loss, correct)


def chunked_losses(
    logits_of: Callable[[jax.Array, jax.Array], jax.Array],
    states: jax.Array,
    targets: jax.Array,
    real: jax.Array,
    *,
    chunk: int,
    **options: Any,
) -> TokenLosses:
    """`token_losses` with the logits of at most `chunk` tokens in memory.

    The backward pass computes them again, and sums the gradients of what makes them over chunks.

    Args:
      logits_of: (states [n, D], number of the chunk) -> logits float32 [n, V].
      states: [B, C, T, D].
      targets: see `token_losses`.
      real: see `token_losses`.
      chunk: most tokens at once.
      options: of `token_losses`.
    """
    count = targets.size
    chunks = -(-count // chunk)
    each = -(-count // chunks)

    def split(x: jax.Array) -> jax.Array:
        flat = x.reshape(count, *x.shape[targets.ndim :])
        # Padding is not real.
        padded = jnp.pad(flat, ((0, chunks * each - count), *((0, 0),) * (flat.ndim - 1)))
        return padded.reshape(chunks, each, *flat.shape[1:])

    # Within a loop XLA can't merge the two computations of a chunk's logits.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def score(part: tuple[jax.Array, ...]) -> TokenLosses:
        number, states, targets, real = part
        return token_losses(logits_of(states, number), targets, real, **options)

    parts = jnp.arange(chunks), split(states), split(targets), split(real)
    losses = jax.lax.map(score, parts)
    return jax.tree.map(lambda x: x.reshape(-1)[:count].reshape(targets.shape), losses)
