"""The progress of a training on the terminal: a bar, and a line for each evaluation."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tqdm import tqdm

from capjax.parallel import devices, processes

# Seconds between two losses on the bar. Each waits for its step, so not all are read.
_REFRESH = 1.0
# A pace this many times the usual one has compiled another shape, and tells nothing of what is
# left. Usual is the lower quartile, since at first most of them compile.
_UNUSUAL = 3.0


class Progress:
    """A bar with the loss or the reward, the throughput and the time left.

    The time left counts the steps at their pace so far, without compilation, and the evaluations at
    the time of the last one.
    """

    def __init__(self, num_steps: int, start: int, evaluations_after: Callable[[int], int]):
        """Draws the bar, in the first process only.

        Args:
          num_steps: steps of the training.
          start: steps that are done.
          evaluations_after: step -> number of evaluations after it.
        """
        self._num_steps, self._start, self._step = num_steps, start, start
        self._evaluations_after = evaluations_after
        self._paces: list[float] = []
        self._evaluation = 0.0
        # Step and time of the last loss; None before the first and after an evaluation.
        self._last: tuple[int, float] | None = None
        self._due = 0.0
        self._texts: dict[str, str] = {}
        self._bar = tqdm(
            total=num_steps,
            initial=start,
            unit="step",
            desc="train",
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
            disable=not processes.is_primary(),
        )

    def add(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Adds a step, with its replicated metrics, which need not be computed yet."""
        self._step = step
        self._bar.update()
        if self._bar.disable or time.perf_counter() < self._due:
            return
        name = next((name for name in ("loss", "reward") if name in metrics), None)
        if name:
            self._texts["loss"] = f"{name} {float(devices.unreplicate(metrics[name])):.3f}"
        now = time.perf_counter()
        if self._last and self._last[0] < step:
            before, since = self._last
            self._paces.append((now - since) / (step - before))
        self._last, self._due = (step, now), now + _REFRESH
        if self._paces:
            self._texts["left"] = f"{tqdm.format_interval(self.seconds_left())} left"
        self._show()

    def throughput(self, captions_per_second: float) -> None:
        """Shows the captions a second."""
        if self._step > self._start + 1:  # The first step compiles.
            self._texts["speed"] = f"{captions_per_second:.0f} captions/s"
            self._show()

    def seconds_left(self) -> float:
        """Estimated seconds to the end of the training."""
        usual = sorted(self._paces)[len(self._paces) // 4]
        pace = statistics.fmean(pace for pace in self._paces if pace <= usual * _UNUSUAL)
        steps = self._num_steps - self._step
        return steps * pace + self._evaluations_after(self._step) * self._evaluation

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Shows that an evaluation runs, and measures it."""
        self._bar.set_description_str("evaluate")
        began = time.perf_counter()
        yield
        self._evaluation = time.perf_counter() - began
        self._last = None
        self._bar.set_description_str("train")

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()

    def _show(self) -> None:
        self._bar.set_postfix_str(", ".join(self._texts[k] for k in sorted(self._texts)))
