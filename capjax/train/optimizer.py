"""AdamW with warm-up, decay and clipping; the encoder may learn at a rate of its own."""

import dataclasses
from typing import Literal

import jax
import optax

from capjax.parts.types import CountOrZero, NotNegative, Positive, Rate


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """The optimizer section of a config.

    Attributes:
      learning_rate: peak of the learning rate, after a linear warm-up.
      schedule: what follows the warm-up; see `learning_rate_schedule`.
      encoder_learning_rate: peak of the encoder's own learning rate; 0 takes the same.
      encoder_start_step: step from which on the encoder trains.
      warmup_steps: steps of the warm-up.
      b1: see `adamw`, as of the following.
      b2: decay of the squared gradient's mean.
      weight_decay: of matrices.
      clip_norm: largest global norm of a gradient; 0 does not clip.
      clip_value: largest size of a number in a gradient; 0 does not clip.
      skip_nonfinite: see `finite.Watch`.
    """

    learning_rate: Positive
    schedule: Literal["cosine", "linear", "constant"]
    encoder_learning_rate: NotNegative
    encoder_start_step: CountOrZero
    warmup_steps: CountOrZero
    b1: Rate
    b2: Rate
    weight_decay: NotNegative
    clip_norm: NotNegative
    clip_value: NotNegative
    skip_nonfinite: CountOrZero

    def schedule_of(self, num_steps: int) -> optax.Schedule:
        """Step -> learning rate, over `num_steps` updates."""
        return learning_rate_schedule(
            self.learning_rate, self.warmup_steps, num_steps, self.schedule
        )

    def transformation(self, num_steps: int) -> optax.GradientTransformation:
        """The optimizer of `num_steps` updates."""
        return adamw(
            self.schedule_of(num_steps),
            b1=self.b1,
            b2=self.b2,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
            clip_value=self.clip_value,
            encoder_scale=(self.encoder_learning_rate or self.learning_rate) / self.learning_rate,
            encoder_start=self.encoder_start_step,
        )


def learning_rate_schedule(
    peak: float, warmup_steps: int, total_steps: int, kind: str = "cosine"
) -> optax.Schedule:
    """Linear warm-up from 0 to `peak`; then a half cosine or a line to 0 at the end, or `peak`."""
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
    raise ValueError(f"the schedule must be 'cosine', 'linear' or 'constant', and is {kind!r}")


def adamw(
    schedule: optax.Schedule,
    *,
    b1: float,
    b2: float,
    weight_decay: float,
    clip_norm: float,
    clip_value: float = 0.0,
    encoder_scale: float = 1.0,
    encoder_start: int = 0,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2019) on clipped gradients.

    Only matrices and larger decay: norms, biases and the output bias do not.

    Args:
      schedule: step -> learning rate.
      b1: decay of the gradient's mean.
      b2: decay of the squared gradient's mean.
      weight_decay: of matrices.
      clip_norm: largest global norm of a gradient; 0 does not clip.
      clip_value: largest size of a number in a gradient, before that; 0 does not clip.
      encoder_scale: the encoder's learning rate over that of the rest.
      encoder_start: steps before it that leave the encoder as it is.
    """
    steps = [optax.clip(clip_value)] if clip_value else []
    steps += [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    steps.append(
        optax.adamw(
            schedule,
            b1=b1,
            b2=b2,
            weight_decay=weight_decay,
            mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
        )
    )
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
