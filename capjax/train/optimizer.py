"""AdamW with warm-up, cosine decay and clipping by global norm."""

import jax
import optax


def learning_rate_schedule(peak: float, warmup_steps: int, total_steps: int) -> optax.Schedule:
    """Linear warm-up from 0 to `peak`, then a half cosine to 0 at `total_steps`."""
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"optimizer.warmup_steps={warmup_steps} must be below num_steps={total_steps}"
        )
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup_steps, total_steps)


def adamw(
    schedule: optax.Schedule, *, b1: float, b2: float, weight_decay: float, clip_norm: float
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2019) on gradients clipped to a global norm.

    Only matrices and larger decay: norms, biases and the output bias do not. `clip_norm` 0 does
    not clip.
    """
    steps = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    steps.append(
        optax.adamw(
            schedule,
            b1=b1,
            b2=b2,
            weight_decay=weight_decay,
            mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
        )
    )
    return optax.chain(*steps)
