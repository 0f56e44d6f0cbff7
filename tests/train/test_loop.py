"""The loop: an interrupted run ends where one never stopped, logs once, keeps best and latest."""

import json

import jax
import numpy as np
import pytest

from capjax import parallel
from capjax.models.captioner import Captioner, FeatureEncoder
from capjax.models.transformer_decoder import TransformerDecoder
from capjax.train.checkpoint import Checkpoints
from capjax.train.finite import Watch
from capjax.train.loop import Cadence, EarlyStopping, train
from capjax.train.objective import Objective
from capjax.train.optimizer import adamw, learning_rate_schedule
from capjax.train.state import init_state
from capjax.train.step import make_train_step
from capjax.train.writer import Writer, read_metrics

MODEL = Captioner(FeatureEncoder((2, 2)), TransformerDecoder(9, 5, 8, 1, 2, dropout=0.1))
SCHEDULE = learning_rate_schedule(1e-2, 2, 100)
OPTIMIZER = adamw(SCHEDULE, b1=0.9, b2=0.98, weight_decay=0.01, clip_norm=1.0)


class Killed(Exception):
    pass


def batches(first, last):
    for step in range(first, 100):
        if step == last:
            raise Killed
        rng = np.random.default_rng(step)
        yield parallel.shard(
            {
                "features": rng.normal(size=(2, 4, 6)).astype(np.float32),
                "tokens": rng.integers(4, 9, (2, 2, 6)).astype(np.int32),
                "lengths": rng.integers(0, 6, (2, 2)).astype(np.int32),
            }
        )


@pytest.fixture(scope="module", name="step_fn")
def make_step():
    step = make_train_step(MODEL, OPTIMIZER, seed=0, objective=Objective(), ema_decay=0.9)
    return parallel.map_devices(step, donate=(0,))


def run(folder, step_fn, *, last=None, scores=(1.0,) * 20, steps=7, patience=0, skip=0):
    """One start of a run in `folder`; killed when it asks for batch `last`."""
    state = init_state(
        MODEL.init_variables(jax.random.key(0), (4, 6))["params"], OPTIMIZER, ema=True
    )
    stopping = EarlyStopping("score", "max", patience)
    watch = Watch(skip)
    with Checkpoints(str(folder / "checkpoints"), "score", "max") as checkpoints:
        latest = checkpoints.latest_step()
        if latest is not None:
            state, progress = checkpoints.restore(latest, state)
            stopping.best, stopping.waited = progress["best"], progress["waited"]
            watch.skipped, watch.streak = progress["skipped"], progress["streak"]
        with Writer(str(folder), resume_step=latest or 0) as writer:
            end = train(
                parallel.replicate(state),
                step_fn,
                batches(latest or 0, last),
                lambda step, state: {"score": scores[step // 2], "loss": 1.0},
                cadence=Cadence(num_steps=steps, log_every=1, eval_every=2, checkpoint_every=3),
                schedule=SCHEDULE,
                stopping=stopping,
                watch=watch,
                checkpoints=checkpoints,
                writer=writer,
            )
    return parallel.unreplicate(end)


def rows(folder):
    timed = ("captions_per_second", "step_seconds")
    return [
        {name: value for name, value in row.items() if name not in timed}
        for row in read_metrics(str(folder / "metrics.jsonl"))
    ]


@pytest.mark.parametrize("last", [3, 5, 6])
def test_a_killed_run_ends_as_if_it_never_was(tmp_path, step_fn, last):
    whole = run(tmp_path / "whole", step_fn)
    with pytest.raises(Killed):
        run(tmp_path / "killed", step_fn, last=last)
    again = run(tmp_path / "killed", step_fn)
    for left, right in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(left, right)
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    assert [row["step"] for row in rows(tmp_path / "whole") if row["group"] == "train"] == [
        *range(1, 8)
    ]


def test_best_and_latest_are_both_kept(tmp_path, step_fn):
    run(tmp_path, step_fn, scores=[0, 1.0, 5.0, 2.0])
    with Checkpoints(str(tmp_path / "checkpoints"), "score", "max") as checkpoints:
        assert checkpoints.steps() == [4, 7]
        assert checkpoints.best_step() == 4
        assert checkpoints.latest_step() == 7
        like = MODEL.init_variables(jax.random.key(0), (4, 6))["params"]
        best, latest = (checkpoints.restore_params(step, like) for step in (4, 7))
    differ = [np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (best, latest)), strict=True)]
    assert any(differ)


def test_captioning_takes_the_average(tmp_path, step_fn):
    end = run(tmp_path, step_fn)
    with Checkpoints(str(tmp_path / "checkpoints"), "score", "max", read_only=True) as checkpoints:
        found = checkpoints.restore_params(7, end.params)
    assert jax.tree.all(jax.tree.map(np.array_equal, found, end.ema))
    assert not jax.tree.all(jax.tree.map(np.array_equal, found, end.params))


def test_early_stopping_survives_a_restart(tmp_path, step_fn):
    falling = [0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0]
    end = run(tmp_path, step_fn, scores=falling, steps=12, patience=2)
    assert int(end.step) == 6
    again = run(tmp_path, step_fn, scores=falling, steps=12, patience=2)
    assert int(again.step) == 6


def test_an_unknown_metric_is_named():
    with pytest.raises(KeyError, match=r"early_stopping.metric='CIDEr' is not among \['loss'\]"):
        EarlyStopping("CIDEr", "max", 1).update({"loss": 1.0})


def test_a_half_written_log_line_is_dropped(tmp_path):
    with Writer(str(tmp_path)) as writer:
        writer.scalars(1, "train", {"loss": 1.0})
        writer.scalars(2, "train", {"loss": 0.5})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "gro')
    with Writer(str(tmp_path), resume_step=1) as writer:
        writer.scalars(2, "train", {"loss": 0.25})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [(row["step"], row["loss"]) for row in found] == [(1, 1.0), (2, 0.25)]
