"""The training loop: steps, logs, evaluations, checkpoints, early stopping."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from tqdm import tqdm

from capjax import parallel, processes
from capjax.train.checkpoint import Checkpoints
from capjax.train.state import TrainState
from capjax.train.writer import Writer


@dataclasses.dataclass
class EarlyStopping:
    """Watches one metric of the evaluations.

    Attributes:
      metric: its name.
      mode: "max" where more is better, "min" where less is.
      patience: evaluations without a new best before training stops; 0 never stops.
      best: the best value so far.
      waited: evaluations since then.
    """

    metric: str
    mode: str
    patience: int
    best: float | None = None
    waited: int = 0

    def update(self, metrics: dict[str, float]) -> bool:
        """Takes an evaluation in; says whether to stop. Raises KeyError for an unknown metric."""
        if self.metric not in metrics:
            raise KeyError(f"early_stopping.metric={self.metric!r} is not among {sorted(metrics)}")
        value = metrics[self.metric]
        sign = 1 if self.mode == "max" else -1
        if self.best is None or sign * value > sign * self.best:
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        return self.exhausted

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return 0 < self.patience <= self.waited


@dataclasses.dataclass(frozen=True)
class Cadence:
    """How often things happen, in steps.

    Attributes:
      num_steps: updates in all.
      log_every: between training scalars.
      eval_every: between evaluations, each followed by a checkpoint.
      checkpoint_every: between further checkpoints; 0 for none.
    """

    num_steps: int
    log_every: int
    eval_every: int
    checkpoint_every: int


def train(
    state: TrainState,
    step_fn: Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]],
    batches: Iterator[Any],
    evaluate: Callable[[int, TrainState], dict[str, float]],
    *,
    cadence: Cadence,
    schedule: Callable[[int], float],
    stopping: EarlyStopping,
    checkpoints: Checkpoints,
    writer: Writer,
) -> TrainState:
    """Trains from `state.step` to the end, or until early stopping.

    Args:
      state: replicated.
      step_fn: mapped over devices; its state is donated.
      batches: sharded, from the step where `state` stands.
      evaluate: (step, replicated state) -> metrics, all worth logging.
      cadence: how often to log, evaluate and save.
      schedule: step -> learning rate, for the log.
      stopping: as restored, or fresh.
      checkpoints: where to save.
      writer: where to log.

    Returns:
      The replicated state at the end.
    """
    start = int(parallel.unreplicate(state.step))
    bar = tqdm(
        total=cadence.num_steps,
        initial=start,
        unit="step",
        desc="train",
        smoothing=0.05,
        disable=not processes.is_first(),
    )
    clock = _Clock()
    step = start
    while step < cadence.num_steps and not stopping.exhausted:
        state, metrics = step_fn(state, next(batches))
        step += 1
        clock.add(metrics["captions"])
        bar.update()
        if step % cadence.log_every == 0 or step == 1:
            scalars = {name: float(value) for name, value in parallel.unreplicate(metrics).items()}
            scalars["learning_rate"] = float(schedule(step - 1))
            scalars.update(clock.read())
            writer.scalars(step, "train", scalars)
            bar.set_postfix_str(
                f"loss {scalars['loss']:.3f}, {scalars['captions_per_second']:.0f} captions/s"
            )
        due = step % cadence.eval_every == 0 or step == cadence.num_steps
        if due:
            bar.set_description_str("evaluate")
            results = evaluate(step, state)
            bar.set_description_str("train")
            writer.scalars(step, "validation", results)
            stopping.update(results)
            clock.restart()
        if due or (cadence.checkpoint_every and step % cadence.checkpoint_every == 0):
            ranked = {stopping.metric: results[stopping.metric]} if due else None
            # What is frozen is no part of a checkpoint, and need not leave the device.
            saved = parallel.unreplicate(state.replace(frozen={}))
            checkpoints.save(saved, dataclasses.asdict(stopping), ranked)
    bar.close()
    if stopping.exhausted:
        print(
            f"stopped early at step {step}: {stopping.metric} did not pass {stopping.best:.4g} "
            f"in {stopping.waited} evaluations"
        )
    return state


class _Clock:
    """Captions a second since the last reading, evaluations left out."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        self._captions: list[jax.Array] = []
        self._steps = 0
        self._since = time.perf_counter()

    def add(self, captions: jax.Array) -> None:
        # Kept on the device: reading it here would wait for every step.
        self._captions.append(captions)
        self._steps += 1

    def read(self) -> dict[str, float]:
        captions = sum(float(parallel.unreplicate(count)) for count in self._captions)
        seconds, steps = time.perf_counter() - self._since, self._steps
        self.restart()
        return {"captions_per_second": captions / seconds, "step_seconds": seconds / steps}
