"""The masked cross-entropy of captions, as sums that devices and microbatches can add.

Legend: B images, C captions an image, T tokens, V vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np


def token_mask(targets: jax.Array, lengths: jax.Array, banned: tuple[int, ...]) -> jax.Array:
    """bool [B, C, T]: tokens before the caption's length whose prediction is asked for.

    Masks come from the lengths, since one id may be bos, eos and pad at once. A banned target
    (an unknown word) has no weight: the decoder can't generate it.
    """
    mask = jnp.arange(targets.shape[-1]) < lengths[..., None]
    for token in banned:
        mask &= targets != token
    return mask


def caption_loss(
    logits: jax.Array,
    targets: jax.Array,
    lengths: jax.Array,
    *,
    banned: tuple[int, ...] = (),
    label_smoothing: float = 0.0,
) -> dict[str, jax.Array]:
    """Sums over a batch's tokens; divide by "tokens" for means.

    Args:
      logits: float32 [B, C, T, V].
      targets: int32 [B, C, T].
      lengths: int32 [B, C], tokens up to and with eos; 0 for no caption.
      banned: token ids that are never generated.
      label_smoothing: mass spread evenly over the allowed tokens (Szegedy et al. 2016, section 7).

    Returns:
      float32 scalars: "loss" (smoothed, nats), "nll" (nats), "correct" and "tokens".
    """
    mask = token_mask(targets, lengths, banned).astype(jnp.float32)
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
    correct = (jnp.argmax(logits, axis=-1) == targets) * mask
    return {
        "loss": loss.sum(),
        "nll": nll.sum(),
        "correct": correct.sum(),
        "tokens": mask.sum(),
    }
