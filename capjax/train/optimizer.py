"""AdamW or Muon with warm-up, decay and clipping, and a separate learning rate of the encoder."""

from typing import Any

import jax
import optax

from capjax.models.stacks import rank
from capjax.train.stacked_muon import scale_by_stacked_muon


def learning_rate_schedule(
    peak: float, warmup_steps: int, total_steps: int, kind: str = "cosine"
) -> optax.Schedule:
    """Linear warm-up from 0 to `peak`, then cosine or linear decay to 0, or constant `peak`."""
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"optimizer.warmup_steps={warmup_steps} must be below num_steps={total_steps}"
        )
    if kind == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup_steps, total_steps)
    if kind == "linear":
        rise = optax.linear_schedule(0.0, peak, warmup_steps)
        fall = optax.linear_schedule(peak, 0.0, total_steps - warmup_steps)
        return optax.join_schedules([rise, fall], [warmup_steps])
    if kind == "constant":
        return optax.warmup_constant_schedule(0.0 if warmup_steps else peak, peak, warmup_steps)
    raise ValueError(f"optimizer.schedule must be 'cosine', 'linear' or 'constant', not {kind!r}")


def adamw(
    schedule: optax.Schedule, *, b1: float, b2: float, weight_decay: float, epsilon: float = 1e-8
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2019).

    Weight decay applies to arrays of rank 2 or more, so not to norms and biases.

    Args:
      schedule: step -> learning rate.
      b1: decay of the mean of the gradient.
      b2: decay of the mean of the squared gradient.
      weight_decay: times the learning rate, as in `optax.adamw`.
      epsilon: added to the root of that mean.
    """
    return optax.adamw(
        schedule,
        b1=b1,
        b2=b2,
        eps=epsilon,
        weight_decay=weight_decay,
        mask=lambda params: jax.tree_util.tree_map_with_path(
            lambda path, leaf: rank(path, leaf) > 1, params
        ),
    )


def muon(
    schedule: optax.Schedule,
    matrix_schedule: optax.Schedule,
    *,
    b1: float,
    b2: float,
    weight_decay: float,
    epsilon: float = 1e-8,
) -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024) on matrices and convolutions, and Adam on all others.

    Embeddings and the output layer are trained by Adam, as its authors advise: their rows are
    words, which are updated by themselves.

    Args:
      schedule: step -> learning rate of Adam.
      matrix_schedule: step -> learning rate of Muon, in the scale of its authors.
      b1: see `adamw`; Muon's own momentum is 0.95.
      b2: see `adamw`.
      weight_decay: of what Muon trains.
      epsilon: see `adamw`; also added to the norm by which Muon divides.
    """
    matrices = optax.chain(
        scale_by_stacked_muon(epsilon),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(matrix_schedule),
    )
    others = optax.adamw(schedule, b1=b1, b2=b2, eps=epsilon, weight_decay=0.0, nesterov=True)
    return optax.partition({True: matrices, False: others}, _are_matrices)


def _are_matrices(params: Any) -> Any:
    """True for each parameter that Muon trains, a matrix of inputs by outputs."""

    def is_matrix(path: tuple, leaf: jax.Array) -> bool:
        names = [str(getattr(key, "key", key)) for key in path]
        return names[-1] == "kernel" and "output" not in names and leaf.ndim >= 2

    return jax.tree_util.tree_map_with_path(is_matrix, params)


def clipped(
    rule: optax.GradientTransformation,
    *,
    clip_norm: float,
    clip_value: float = 0.0,
    encoder_scale: float = 1.0,
    encoder_start: int = 0,
) -> optax.GradientTransformation:
    """Clips the gradient before a rule, and scales the encoder's updates after it.

    Args:
      rule: from clipped gradients to updates.
      clip_norm: largest global norm of the gradient; 0 does not clip.
      clip_value: largest absolute value in the gradient, clipped before the norm; 0 does not clip.
      encoder_scale: learning rate of the encoder divided by that of the other parts.
      encoder_start: first step that updates the encoder.
    """
    steps = [optax.clip(clip_value)] if clip_value else []
    steps += [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    steps.append(rule)
    if encoder_start:
        scale = optax.scale_by_schedule(lambda step: encoder_scale * (step >= encoder_start))
        steps.append(optax.masked(scale, _is_encoder))
    elif encoder_scale != 1.0:
        steps.append(optax.masked(optax.scale(encoder_scale), _is_encoder))
    return optax.chain(*steps)


def _is_encoder(params):
    return {
        part: jax.tree.map(lambda _, yes=part == "encoder": yes, leaves)
        for part, leaves in params.items()
    }
