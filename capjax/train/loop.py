"""The training loop: steps, logs, evaluations, checkpoints and early stopping."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from capjax.models.stacks import unstacked
from capjax.parallel import devices, processes
from capjax.train.checkpoint import Checkpoints
from capjax.train.early_stopping import EarlyStopping
from capjax.train.finite import ADVICE, NonFiniteError, Watch
from capjax.train.profiler import Profiler
from capjax.train.progress import Progress
from capjax.train.signals import Interrupted, Interruption
from capjax.train.state import TrainState
from capjax.train.writer import Writer

_logger = logging.getLogger(__name__)

# The scores of an evaluation on the terminal, beside the one that ranks the checkpoints.
_SHOWN = ("loss", "BLEU-1", "BLEU-4", "ROUGE-L", "CIDEr-D")


@dataclasses.dataclass(frozen=True)
class Cadence:
    """Intervals of logs, evaluations and checkpoints, in steps.

    Attributes:
      num_steps: total number of updates.
      log_every: steps between training scalars.
      eval_every: steps between evaluations, each followed by a checkpoint.
      checkpoint_every: steps between further checkpoints; 0 saves none.
    """

    num_steps: int
    log_every: int
    eval_every: int
    checkpoint_every: int

    def evaluates(self, step: int) -> bool:
        """True if an evaluation follows the update that completes `step`."""
        return step % self.eval_every == 0 or step == self.num_steps

    def evaluations_after(self, step: int) -> int:
        """Number of evaluations after `step`."""
        last = self.num_steps % self.eval_every > 0 and step < self.num_steps
        return self.num_steps // self.eval_every - step // self.eval_every + last


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
    profiler: Profiler,
) -> TrainState:
    """Trains from `state.step` to the last step or early stopping.

    Args:
      state: replicated.
      step_fn: mapped over devices; its state is donated.
      batches: sharded, starting with the batch of the next step.
      evaluate: (step, replicated state) -> metrics to log; can raise Interrupted.
      cadence: intervals of logs, evaluations and checkpoints.
      schedule: step -> learning rate, for the log.
      stopping: restored or new. An evaluation that is due at `state.step` and missing from it is
        done first.
      watch: restored or new.
      checkpoints: receives the checkpoints.
      writer: receives the logs.
      interruption: requests the loop to stop.
      profiler: traces some of the steps.

    Returns:
      The final replicated state.

    Raises:
      Interrupted: training was stopped before its end; its state is saved.
      NonFiniteError: the loss, a gradient or the parameters are not finite. That state is neither
        evaluated nor saved.
    """
    start = int(devices.unreplicate(state.step))
    progress = Progress(cadence.num_steps, start, cadence.evaluations_after)
    clock = _Clock()
    step = start

    def evaluate_and_log() -> dict[str, float] | None:
        """Evaluates and logs; returns the ranking metric, or None if a signal interrupted it."""
        try:
            with progress.evaluating():
                results = evaluate(step, state)
        except Interrupted:  # The next start repeats this evaluation.
            return None
        clock.restart()
        if not math.isfinite(results.get("loss", 0.0)):
            raise NonFiniteError(f"step {step}: the validation loss is not finite. {ADVICE}")
        writer.scalars(step, "validation", results)
        stopping.update(results)
        stopping.evaluated = step
        if processes.is_primary():
            _logger.info("step %d: %s", step, _scores_line(results, stopping))
        return {stopping.metric: results[stopping.metric]}

    def save(ranked: dict[str, float] | None) -> None:
        # What is not part of a checkpoint stays on the device.
        saved = unstacked(devices.unreplicate(state.replace(frozen={}, constants=None)))
        writer.sync()
        checkpoints.save(saved, dataclasses.asdict(stopping) | watch.progress, ranked)

    if step > stopping.evaluated and cadence.evaluates(step):
        save(evaluate_and_log())
    leaves = interruption.requested
    while step < cadence.num_steps and not stopping.exhausted and not leaves:
        profiler.before()
        state, metrics = step_fn(state, next(batches))
        profiler.after(state)
        step += 1
        interruption.saves = True
        clock.add(metrics["captions"])
        watch.add(step, metrics.pop("nonfinite"))
        progress.add(step, metrics)
        if step % cadence.log_every == 0 or step == 1:
            watch.read(state)
            scalars = {name: float(value) for name, value in devices.unreplicate(metrics).items()}
            # A skipped update has values that JSON cannot represent.
            scalars = {name: value for name, value in scalars.items() if math.isfinite(value)}
            scalars["learning_rate"] = float(schedule(step - 1))
            if watch.limit:
                scalars["skipped"] = watch.skipped
            scalars.update(clock.read())
            writer.scalars(step, "train", scalars)
            progress.throughput(scalars["captions_per_second"])
        due = cadence.evaluates(step)
        regular = cadence.checkpoint_every and step % cadence.checkpoint_every == 0
        # Checked once a step; a later signal is seen after the next step or at the end.
        leaves = interruption.requested or processes.asked_to_stop(step)
        if due or leaves or regular:
            watch.check(step, state)
        ranked = evaluate_and_log() if due else None
        leaves = leaves or (due and interruption.requested)
        if due or leaves or regular:
            save(ranked)
    progress.close()
    profiler.close(state)
    if not is_finished(step, cadence, stopping):
        raise Interrupted(f"stopped by a signal at step {step}")
    if stopping.exhausted:
        _logger.info(
            "stopped early at step %d: %s did not improve on %.4g in %d evaluations",
            step,
            stopping.metric,
            stopping.best,
            stopping.waited,
        )
    return state


def is_finished(step: int, cadence: Cadence, stopping: EarlyStopping) -> bool:
    """True if training at `step` is complete."""
    return stopping.exhausted or step == stopping.evaluated == cadence.num_steps


def _scores_line(results: Mapping[str, float], stopping: EarlyStopping) -> str:
    """The scores of an evaluation, the one that ranks beside the best so far."""
    names = [name for name in dict.fromkeys((*_SHOWN, stopping.metric)) if name in results]
    texts = {name: f"{name} {results[name]:.4g}" for name in names}
    is_best = results[stopping.metric] == stopping.best
    best = "the best so far" if is_best else f"best so far {stopping.best:.4g}"
    texts[stopping.metric] += f" ({best})"
    return ", ".join(texts.values())


class _Clock:
    """Measures captions a second since the last `read`, without evaluations."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        self._captions: list[jax.Array] = []
        self._steps = 0
        self._since = time.perf_counter()

    def add(self, captions: jax.Array) -> None:
        # Kept on the device: a transfer would wait for the step.
        self._captions.append(captions)
        self._steps += 1

    def read(self) -> dict[str, float]:
        captions = sum(float(devices.unreplicate(count)) for count in self._captions)
        seconds, steps = time.perf_counter() - self._since, self._steps
        self.restart()
        return {"captions_per_second": captions / seconds, "step_seconds": seconds / steps}
