"""Early stopping of a training, and the best value of the metric that ranks its checkpoints."""

import dataclasses
from typing import Literal

from capjax.metrics.direction import direction
from capjax.parts.types import CountOrZero, Given, Name


@dataclasses.dataclass
class EarlyStopping:
    """Early stopping by one metric of the evaluations.

    Attributes:
      metric: name of the metric.
      mode: "auto", "max" or "min"; see `direction`.
      patience: evaluations without a new best after which training stops; 0 never stops.
      best: the best value so far.
      waited: evaluations since the best.
      evaluated: step of the last evaluation.
      decoding: label of the decoding that the evaluations use.
    """

    metric: Name
    mode: Literal["auto", "max", "min"]
    patience: CountOrZero
    best: Given[float | None] = None
    waited: Given[int] = 0
    evaluated: Given[int] = 0
    decoding: Given[str] = ""

    def update(self, metrics: dict[str, float]) -> bool:
        """Adds an evaluation; returns `exhausted`. Raises KeyError for an unknown metric."""
        if self.metric not in metrics:
            raise KeyError(f"early_stopping.metric={self.metric!r} is not among {sorted(metrics)}")
        value = metrics[self.metric]
        sign = 1 if direction(self.metric, self.mode) == "max" else -1
        if self.best is None or sign * value > sign * self.best:
            self.best, self.waited = value, 0
        elif value != self.best:  # A tie is neither a new best nor a step back.
            self.waited += 1
        return self.exhausted

    @property
    def exhausted(self) -> bool:
        """True once patience has run out."""
        return 0 < self.patience <= self.waited
