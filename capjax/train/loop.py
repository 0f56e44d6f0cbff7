"""The training loop: steps, logs, evaluations, checkpoints, early stopping."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
from tqdm import tqdm

from capjax.parallel import devices, processes
from capjax.parts.types import CountOrZero, Given, Name
from capjax.train.checkpoint import Checkpoints
from capjax.train.finite import ADVICE, NonFiniteError, Watch
from capjax.train.signals import Interrupted, Interruption
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
      evaluated: the step of the last evaluation.
    """

    metric: Name
    mode: Literal["max", "min"]
    patience: CountOrZero
    best: Given[float | None] = None
    waited: Given[int] = 0
    evaluated: Given[int] = 0

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

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation follows the update that makes `step`."""
        return step % self.eval_every == 0 or step == self.num_steps


def train(
    state: TrainState,
    step_fn: Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]],
    batches: Iterator[Any],
    evaluate: Callable[[int, TrainState], dict[str, float]],
    *,
    cadence: Cadence,
    schedule: Callable[[int], float],
    stopping: EarlyStopping,
    watch: Watch,
    checkpoints: Checkpoints,
    writer: Writer,
    interruption: Interruption,
) -> TrainState:
    """Trains from `state.step` to the end, or until early stopping.

    Args:
      state: replicated.
      step_fn: mapped over devices; its state is donated.
      batches: sharded, from the step where `state` stands.
      evaluate: (step, replicated state) -> metrics, all worth logging; may raise Interrupted.
      cadence: how often to log, evaluate and save.
      schedule: step -> learning rate, for the log.
      stopping: as restored, or fresh. An evaluation that is due at `state.step` and that it has
        not seen comes first.
      watch: as restored, or fresh.
      checkpoints: where to save.
      writer: where to log.
      interruption: where to look whether to leave.

    Returns:
      The replicated state at the end.

    Raises:
      Interrupted: it has left before its end, and saved where it stands.
      NonFiniteError: the loss, a gradient or the parameters are not finite; nothing of it is
        evaluated or saved.
    """
    start = int(devices.unreplicate(state.step))
    bar = tqdm(
        total=cadence.num_steps,
        initial=start,
        unit="step",
        desc="train",
        smoothing=0.05,
        disable=not processes.is_primary(),
    )
    clock = _Clock()
    step = start

    def look() -> dict[str, float] | None:
        """Evaluates and logs; the metric that ranks, or None where a signal came before the end."""
        bar.set_description_str("evaluate")
        try:
            results = evaluate(step, state)
        except Interrupted:  # The next start begins with this evaluation.
            return None
        bar.set_description_str("train")
        clock.restart()
        if not math.isfinite(results.get("loss", 0.0)):
            raise NonFiniteError(f"step {step}: the loss on validation is not finite. {ADVICE}")
        writer.scalars(step, "validation", results)
        stopping.update(results)
        stopping.evaluated = step
        return {stopping.metric: results[stopping.metric]}

    def save(ranked: dict[str, float] | None) -> None:
        # What is frozen is no part of a checkpoint, and need not leave the device.
        saved = devices.unreplicate(state.replace(frozen={}))
        writer.sync()
        checkpoints.save(saved, dataclasses.asdict(stopping) | watch.progress, ranked)

    if step > stopping.evaluated and cadence.evaluates(step):
        save(look())
    leaves = interruption.requested
    while step < cadence.num_steps and not stopping.exhausted and not leaves:
        state, metrics = step_fn(state, next(batches))
        step += 1
        clock.add(metrics["captions"])
        watch.add(step, metrics.pop("nonfinite"))
        bar.update()
        if step % cadence.log_every == 0 or step == 1:
            watch.read(state)
            scalars = {name: float(value) for name, value in devices.unreplicate(metrics).items()}
            # Of a step whose update was left out; JSON has no such numbers.
            scalars = {name: value for name, value in scalars.items() if math.isfinite(value)}
            scalars["learning_rate"] = float(schedule(step - 1))
            if watch.limit:
                scalars["skipped"] = watch.skipped
            scalars.update(clock.read())
            writer.scalars(step, "train", scalars)
            bar.set_postfix_str(
                f"loss {scalars.get('loss', math.nan):.3f}, "
                f"{scalars['captions_per_second']:.0f} captions/s"
            )
        due = cadence.evaluates(step)
        regular = cadence.checkpoint_every and step % cadence.checkpoint_every == 0
        # Once a step: a signal that comes later finds the next step, or the end.
        leaves = interruption.requested or processes.asked_to_stop(step)
        if due or leaves or regular:
            watch.check(step, state)
        ranked = look() if due else None
        leaves = leaves or (due and interruption.requested)
        if due or leaves or regular:
            save(ranked)
    bar.close()
    if not is_finished(step, cadence, stopping):
        raise Interrupted(f"stopped by a signal at step {step}")
    if stopping.exhausted:
        print(
            f"stopped early at step {step}: {stopping.metric} did not pass {stopping.best:.4g} "
            f"in {stopping.waited} evaluations"
        )
    return state


def is_finished(step: int, cadence: Cadence, stopping: EarlyStopping) -> bool:
    """Whether training that stands at `step` is at its end."""
    return stopping.exhausted or step == stopping.evaluated == cadence.num_steps


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
        captions = sum(float(devices.unreplicate(count)) for count in self._captions)
        seconds, steps = time.perf_counter() - self._since, self._steps
        self.restart()
        return {"captions_per_second": captions / seconds, "step_seconds": seconds / steps}
