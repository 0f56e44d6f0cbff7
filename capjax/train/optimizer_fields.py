"""The optimizer section of a config, which imports optax where it builds the optimizer."""

import dataclasses
from typing import TYPE_CHECKING, Literal

from capjax.parts.types import CountOrZero, NotNegative, Positive, Rate

if TYPE_CHECKING:
    import optax


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """The optimizer section of a config.

    Attributes:
      kind: "adamw", or "muon", which orthogonalises the updates of matrices and convolutions.
      learning_rate: peak of the learning rate, after a linear warm-up.
      matrix_learning_rate: peak for the parameters that Muon orthogonalises.
      schedule: shape after the warm-up; see `optimizer.learning_rate_schedule`.
      encoder_learning_rate: peak of the learning rate of the encoder; 0 uses `learning_rate`.
      encoder_start_step: first step that updates the encoder.
      warmup_steps: number of steps of the warm-up.
      b1: decay of the mean of the gradient.
      b2: decay of the mean of the squared gradient.
      epsilon: added to the root of that mean.
      weight_decay: decay of matrices; see `optimizer.adamw`.
      clip_norm: largest global norm of the gradient; 0 does not clip.
      clip_value: largest absolute value in the gradient; 0 does not clip.
      skip_nonfinite: the limit of `finite.Watch`.
    """

    kind: Literal["adamw", "muon"]
    learning_rate: Positive
    matrix_learning_rate: Positive
    schedule: Literal["cosine", "linear", "constant"]
    encoder_learning_rate: NotNegative
    encoder_start_step: CountOrZero
    warmup_steps: CountOrZero
    b1: Rate
    b2: Rate
    epsilon: NotNegative
    weight_decay: NotNegative
    clip_norm: NotNegative
    clip_value: NotNegative
    skip_nonfinite: CountOrZero

    def schedule_of(self, num_steps: int) -> "optax.Schedule":
        """Builds the schedule, step -> learning rate, of `num_steps` updates."""
        from capjax.train.optimizer import learning_rate_schedule

        return learning_rate_schedule(
            self.learning_rate, self.warmup_steps, num_steps, self.schedule
        )

    def transformation(self, num_steps: int) -> "optax.GradientTransformation":
        """Builds the optimizer of `num_steps` updates."""
        from capjax.train.optimizer import adamw, clipped, muon

        schedule = self.schedule_of(num_steps)
        names = ("b1", "b2", "epsilon", "weight_decay")
        shared = {name: getattr(self, name) for name in names}
        if self.kind == "muon":
            ratio = self.matrix_learning_rate / self.learning_rate
            rule = muon(schedule, lambda step: ratio * schedule(step), **shared)
        else:
            rule = adamw(schedule, **shared)
        return clipped(
            rule,
            clip_norm=self.clip_norm,
            clip_value=self.clip_value,
            encoder_scale=(self.encoder_learning_rate or self.learning_rate) / self.learning_rate,
            encoder_start=self.encoder_start_step,
        )
