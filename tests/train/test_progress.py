"""What the bar says of the time left."""

import numpy as np
import pytest

from capjax.parallel import devices
from capjax.train import progress
from capjax.train.loop import Cadence


def test_time_left_knows_steps_and_evaluations_and_not_compilation(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    cadence = Cadence(num_steps=1000, log_every=50, eval_every=300, checkpoint_every=0)
    loss = devices.replicate(np.float32(3))
    bar = progress.Progress(cadence.num_steps, 0, cadence.evaluations_after)
    for step in range(1, 301):
        # Two shapes are compiled.
        clock[0] += {1: 40.0, 30: 20.0}.get(step, 0.5)
        bar.add(step, {"loss": loss})
        if step == 120:
            assert clock[0] > 60
            assert bar.seconds_left() == pytest.approx(0.5 * 880, rel=0.1)
    with bar.evaluating():
        clock[0] += 25
    bar.add(301, {"loss": loss})
    assert bar.seconds_left() == pytest.approx(0.5 * 699 + 3 * 25, rel=0.1)
    assert "loss 3.000" in str(bar._bar)
    assert " left" in str(bar._bar)
    bar.close()


def test_time_left_is_soon_right_where_the_first_steps_compile(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    bar = progress.Progress(1000, 0, lambda step: 0)
    for step in range(1, 8):
        clock[0] += {1: 40.0, 2: 20.0, 3: 30.0, 4: 20.0}.get(step, 1.5)
        bar.add(step, {})
        bar.throughput(16.0)
        assert ("captions/s" in str(bar._bar)) == (step > 1)
    assert bar.seconds_left() == pytest.approx(1.5 * 993)
    bar.close()


@pytest.mark.parametrize(("steps", "every"), [(10, 3), (9, 3), (5, 8), (1, 1)])
def test_evaluations_are_counted(steps, every):
    cadence = Cadence(steps, 1, every, 0)
    for step in range(steps + 1):
        left = sum(map(cadence.evaluates, range(step + 1, steps + 1)))
        assert cadence.evaluations_after(step) == left
