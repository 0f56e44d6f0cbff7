"""The masked cross-entropy of captions, token by token.

Legend: B images, C captions an image, T tokens, V vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct


@struct.dataclass
class TokenLosses:
    """What each target costs; zero where a target has no weight.

    Attributes:
      weight: float32 [B, C, T], 1 for a caption's token.
      nll: float32 [B, C, T], nats.
      loss: the same, with label smoothing.
      correct: float32 [B, C, T], 1 where the target is the likeliest token.
    """

    weight: jax.Array
    nll: jax.Array
    loss: jax.Array
    correct: jax.Array

    def sums(self) -> dict[str, jax.Array]:
        """Sums over the batch, which devices and microbatches can add; divide by "tokens"."""
        return {
            "loss": self.loss.sum(),
            "nll": self.nll.sum(),
            "correct": self.correct.sum(),
            "tokens": self.weight.sum(),
        }


def token_weights(targets: jax.Array, real: jax.Array, banned: tuple[int, ...]) -> jax.Array:
    """float32 [B, C, T]: 1 for a caption's token, 0 for padding and for what is never generated."""
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
      real: bool [B, C, T], whether a target is a caption's token, up to and with its eos. It
        comes from the lengths: one id may be bos, eos and pad at once.
      banned: token ids that are never generated. As targets (an unknown word) they have no weight.
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
    # Not by argmax, which took as long on CPUs as the whole rest of the loss.
    correct = (picked >= logits.max(axis=-1)) * weight
    return TokenLosses(weight, nll, loss, correct)
