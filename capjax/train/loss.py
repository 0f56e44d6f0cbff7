"""The masked cross-entropy of captions, as sums that devices and microbatches can add.

Legend: B images, C captions an image, T tokens, V vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np


def caption_loss(
    logits: jax.Array,
    targets: jax.Array,
    real: jax.Array,
    *,
    banned: tuple[int, ...] = (),
    label_smoothing: float = 0.0,
) -> dict[str, jax.Array]:
    """Sums over a batch's tokens; divide by "tokens" for means.

    Args:
      logits: float32 [B, C, T, V].
      targets: int32 [B, C, T].
      real: bool [B, C, T], whether a target is a caption's token, up to and with its eos. It
        comes from the lengths: one id may be bos, eos and pad at once.
      banned: token ids that are never generated. As targets (an unknown word) they have no weight.
      label_smoothing: mass spread evenly over the allowed tokens (Szegedy et al. 2016, section 7).

    Returns:
      float32 scalars: "loss" (smoothed, nats), "nll" (nats), "correct" and "tokens".
    """
    for token in banned:
        real &= targets != token
    mask = real.astype(jnp.float32)
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    nll = jnp.where(mask > 0, normalizer - picked, 0.0)
    loss = nll
    if label_smoothing:
        allowed = np.ones(logits.shape[-1], np.float32)
        allowed[list(banned)] = 0.0
        mean = jnp.where(allowed > 0, logits, 0.0) @ (allowed / allowed.sum())
        smooth = jnp.where(mask > 0, normalizer - mean, 0.0)
        loss = (1 - label_smoothing) * nll + label_smoothing * smooth
    # Not by argmax, which took as long on CPUs as the whole rest of the loss.
    correct = (picked >= logits.max(axis=-1)) * mask
    return {
        "loss": loss.sum(),
        "nll": nll.sum(),
        "correct": correct.sum(),
        "tokens": mask.sum(),
    }
