"""Masked cross-entropy of captions, token by token. Shapes: see docs/architecture.md."""

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
      logits: float32 [B, C, T, V].
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
