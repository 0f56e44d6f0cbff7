"""The loop: an interrupted run ends where one never stopped, logs once, keeps best and latest."""

import functools
import json

import jax
import numpy as np
import pytest

from capjax.models.captioner import Captioner, FeatureEncoder
from capjax.models.decoders.transformer import TransformerDecoder
from capjax.parallel import devices
from capjax.train.checkpoint import Checkpoints
from capjax.train.events import read_events
from capjax.train.finite import NonFiniteError, Watch, bad_parts, part_names, part_squares
from capjax.train.loop import Cadence, EarlyStopping, train
from capjax.train.objectives.cross_entropy import CrossEntropy
from capjax.train.optimizer import adamw, clipped, learning_rate_schedule
from capjax.train.profiler import Profiler
from capjax.train.signals import Interrupted, Interruption
from capjax.train.state import init_state
from capjax.train.step import make_train_step
from capjax.train.writer import Writer, read_metrics
from tests.helpers.effort import sweep

MODEL = Captioner(FeatureEncoder((2, 2)), TransformerDecoder(9, 5, 8, 1, 2, dropout=0.1))
SCHEDULE = learning_rate_schedule(1e-2, 2, 100)
OPTIMIZER = clipped(adamw(SCHEDULE, b1=0.9, b2=0.98, weight_decay=0.01), clip_norm=1.0)


TIMED = ("captions_per_second", "step_seconds", "wall_seconds")


@functools.cache
def first_params():
    return MODEL.init_variables(jax.random.key(0), (4, 6))["params"]


def make_params():
    """The same each time, and the caller's own."""
    return jax.tree.map(np.array, first_params())


class Killed(Exception):
    pass


def batches(first, last, bad=()):
    for step in range(first, 100):
        if step == last:
            raise Killed
        rng = np.random.default_rng(step)
        features = rng.normal(size=(2, 4, 6)).astype(np.float32)
        # One number of one image.
        features[1, 0, 0] = np.nan if step + 1 in bad else features[1, 0, 0]
        yield devices.shard(
            {
                "features": features,
                "tokens": rng.integers(4, 9, (2, 2, 6)).astype(np.int32),
                "lengths": rng.integers(0, 6, (2, 2)).astype(np.int32),
            }
        )


@pytest.fixture(scope="module", name="step_fn")
def make_step():
    step = make_train_step(MODEL, OPTIMIZER, seed=0, objective=CrossEntropy(), ema_decay=0.9)
    return devices.map_devices(step, donate=(0,))


def run(
    folder,
    step_fn,
    *,
    last=None,
    scores=(1.0,) * 20,
    steps=7,
    patience=0,
    skip=0,
    bad=(),
    sick=None,
    loss=1.0,
    every=2,
    leave_in=("nothing", 0),
):
    """One start of a run in `folder`; killed when it asks for batch `last`.

    Images of steps `bad` have a NaN, and at the start the decoder's parameter `sick`. A signal
    comes in the update, or in the evaluation, of the step that `leave_in` says.
    """
    params = make_params()
    if sick:
        params["decoder"][sick][5] = np.nan
    state = init_state(params, OPTIMIZER, ema=True)
    stopping = EarlyStopping("score", "max", patience)
    watch = Watch(skip)
    interruption = Interruption()

    def watched(first):
        for step, batch in enumerate(batches(first, last, bad), first + 1):
            interruption.requested |= leave_in == ("update", step)
            yield batch

    def evaluate(step, state):
        if leave_in == ("evaluation", step):
            interruption.requested = True
        for _ in interruption.watch("one batch"):
            pass
        interruption.requested |= leave_in == ("the end of the evaluation", step)
        return {"score": scores[step // 2], "loss": loss}

    with Checkpoints(str(folder / "checkpoints"), "score", "max") as checkpoints:
        if checkpoints.steps():
            state, progress = checkpoints.restore_latest(state)
            for name in ("best", "waited", "evaluated"):
                setattr(stopping, name, progress[name])
            watch.skipped, watch.streak = progress["skipped"], progress["streak"]
        first = int(state.step)
        with Writer(str(folder), resume_step=first) as writer:
            end = train(
                devices.replicate(state),
                step_fn,
                watched(first),
                evaluate,
                cadence=Cadence(num_steps=steps, log_every=1, eval_every=every, checkpoint_every=3),
                schedule=SCHEDULE,
                stopping=stopping,
                watch=watch,
                checkpoints=checkpoints,
                writer=writer,
                interruption=interruption,
                profiler=Profiler("", 0),
            )
    return devices.unreplicate(end)


def rows(folder):
    return [
        {name: value for name, value in row.items() if name not in TIMED}
        for row in read_metrics(str(folder / "metrics.jsonl"))
    ]


@pytest.fixture(scope="module", name="whole")
def make_whole(tmp_path_factory, step_fn):
    """A run never stopped, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return run(folder, step_fn), folder


def assert_ends_as(whole, folder, step_fn):
    again = run(folder, step_fn)
    for left, right in zip(jax.tree.leaves(whole[0]), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(left, right)
    assert rows(folder) == rows(whole[1])
    assert scalars(folder) == scalars(whole[1])
    last = [rank(directory) for directory in (whole[1], folder)]
    assert last[0] == last[1]


def scalars(folder):
    """(step, tag, value) of all TensorBoard scalars, in the order of files and events."""
    events = (read_events(path) for path in sorted((folder / "tensorboard").iterdir()))
    values = [
        (e.step, v.tag, v.simple_value) for f in events for _, e in f for v in e.summary.value
    ]
    return [value for value in values if not value[1].endswith(TIMED)]


def rank(folder):
    """What the last checkpoint says of the evaluations, and the best step."""
    with Checkpoints(str(folder / "checkpoints"), "score", "max", read_only=True) as checkpoints:
        return checkpoints.progress(checkpoints.latest_step()), checkpoints.ranking()[0]


@pytest.mark.parametrize("last", sweep([3, 5, 6], [5]))
def test_a_killed_run_ends_as_if_it_never_was(tmp_path, step_fn, whole, last):
    with pytest.raises(Killed):
        run(tmp_path, step_fn, last=last)
    assert_ends_as(whole, tmp_path, step_fn)
    assert [row["step"] for row in rows(tmp_path) if row["group"] == "train"] == [*range(1, 8)]


AGAIN = pytest.mark.slow(reason="another moment, of which some are tried every day")
LEAVES = [
    *(("update", step) for step in (5, 1)),
    *(("evaluation", step) for step in (4, 7)),
    ("the end of the evaluation", 4),
    ("update", 6),
]


@pytest.mark.parametrize(
    "leave_in",
    [*LEAVES[::2], *(pytest.param(leave, marks=AGAIN) for leave in LEAVES[1::2])],
)
def test_a_signal_saves_the_step_and_changes_nothing(tmp_path, step_fn, whole, leave_in):
    with pytest.raises(Interrupted, match=f"stopped by a signal at step {leave_in[1]}"):
        run(tmp_path, step_fn, leave_in=leave_in)
    with Checkpoints(str(tmp_path / "checkpoints"), "score", "max") as checkpoints:
        assert checkpoints.latest_step() == leave_in[1]
    if leave_in == ("evaluation", 4):  # Once more, in the same evaluation.
        with pytest.raises(Interrupted):
            run(tmp_path, step_fn, leave_in=leave_in)
    assert_ends_as(whole, tmp_path, step_fn)


def test_a_signal_after_the_last_evaluation_finds_a_finished_run(tmp_path, step_fn, whole):
    end = run(tmp_path, step_fn, leave_in=("the end of the evaluation", 7))
    assert int(end.step) == 7
    assert_ends_as(whole, tmp_path, step_fn)


def test_a_damaged_latest_checkpoint_costs_steps_and_no_bits(tmp_path, step_fn, whole, caplog):
    run(tmp_path, step_fn)
    files = [path for path in (tmp_path / "checkpoints" / "7").rglob("*") if path.is_file()]
    max(files, key=lambda path: path.stat().st_size).write_bytes(b"")
    assert_ends_as(whole, tmp_path, step_fn)
    assert "checkpoints/7 can't be used" in caplog.text
    assert (tmp_path / "checkpoints" / "7.damaged").is_dir()


def test_best_and_latest_are_both_kept(tmp_path, step_fn):
    run(tmp_path, step_fn, scores=[0, 1.0, 5.0, 2.0])
    with Checkpoints(str(tmp_path / "checkpoints"), "score", "max") as checkpoints:
        assert checkpoints.steps() == [4, 6, 7]
        assert checkpoints.ranking() == [4, 7, 6]
        assert checkpoints.latest_step() == 7
        like = make_params()
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


def test_a_tie_is_neither_a_new_best_nor_waited_for():
    stopping = EarlyStopping("score", "max", 2)
    for value, waited in ((1.0, 0), (1.0, 0), (0.0, 1), (1.0, 1), (2.0, 0), (1.0, 1)):
        assert not stopping.update({"score": value})
        assert stopping.waited == waited
    assert stopping.update({"score": 1.5})


@pytest.mark.parametrize(("metric", "best"), [("loss", 1.0), ("CIDEr-D", 3.0), ("words", 3.0)])
@pytest.mark.parametrize("mode", ["auto", "max"])
def test_the_best_is_by_the_metrics_own_direction(metric, mode, best):
    stopping = EarlyStopping(metric, mode, 0)
    for value in (2.0, 1.0, 3.0):
        stopping.update({metric: value})
    assert stopping.best == best


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


def steps_of(folder):
    with Checkpoints(str(folder / "checkpoints"), "score", "max", read_only=True) as checkpoints:
        return checkpoints.steps()


def test_a_loss_that_is_no_number_stops_training_and_saves_nothing(tmp_path, step_fn):
    match = (
        r"step 4: the loss and the gradient of decoder are not finite; the parameters were. "
        r".*optimizer.learning_rate.*clip_norm.*dtype='float32'.*skip_nonfinite"
    )
    with pytest.raises(NonFiniteError, match=match):
        run(tmp_path, step_fn, bad=[4])
    # The evaluation and the checkpoint of step 4 did not come about.
    assert steps_of(tmp_path) == [2, 3]
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 2, 3]
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_bad_steps_are_left_out_counted_and_survive_a_restart(tmp_path, step_fn):
    whole = run(tmp_path / "whole", step_fn, bad=[3, 5, 6], skip=2)
    logged = [row for row in rows(tmp_path / "whole") if row["group"] == "train"]
    assert [row["skipped"] for row in logged] == [0, 0, 1, 1, 2, 3, 3]
    assert ["loss" in row for row in logged] == [True, True, False, True, False, False, True]
    # What counts goes on: the learning rate is that of the step.
    assert {int(count) for count in jax.tree.leaves(whole.opt_state) if count.ndim == 0} == {7}
    with pytest.raises(Killed):
        run(tmp_path / "killed", step_fn, bad=[3, 5, 6], skip=2, last=6)
    again = run(tmp_path / "killed", step_fn, bad=[3, 5, 6], skip=2)
    jax.tree.map(np.testing.assert_array_equal, whole, again)
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    match = r"step 6, after 1 other skipped updates: the loss"
    with pytest.raises(NonFiniteError, match=match):
        run(tmp_path / "more", step_fn, bad=[3, 5, 6], skip=1)


def test_a_parameter_that_is_no_number_is_named(tmp_path, step_fn):
    match = "step 1: the loss and .* not finite; the parameters of decoder/bias were not finite"
    with pytest.raises(NonFiniteError, match=match):
        run(tmp_path, step_fn, sick="bias", skip=0)
    assert steps_of(tmp_path) == []


def test_a_validation_loss_that_is_no_number_stops_training(tmp_path, step_fn):
    with pytest.raises(NonFiniteError, match="step 2: the validation loss is not finite"):
        run(tmp_path, step_fn, loss=np.nan)
    assert steps_of(tmp_path) == []


def test_an_exploding_learning_rate_is_found_before_the_evaluation(tmp_path):
    rate = clipped(adamw(lambda _: 1e30, b1=0.9, b2=0.98, weight_decay=0.0), clip_norm=1.0)
    step = make_train_step(MODEL, rate, seed=0, objective=CrossEntropy(), ema_decay=0.9)
    # No score is right: the first evaluation, after an update, must not come about.
    with pytest.raises(NonFiniteError, match=r"after step 1 the parameters of decoder are .* 1e19"):
        run(tmp_path, devices.map_devices(step, donate=(0,)), scores=None, every=1)
    assert steps_of(tmp_path) == []


def test_parts_are_named_by_where_they_are():
    params = make_params()
    names = part_names(params)
    assert names == [
        "decoder/" + name for name in ("bias", "blocks_0", "last_norm", "output", "positions")
    ] + ["decoder/tokens"]
    for value in (np.nan, np.inf, -1e30):
        params["decoder"]["blocks_0"]["norms_1"]["scale"] = np.full(8, value, np.float32)
        assert bad_parts(params) == ["decoder/blocks_0"]
        finite = np.isfinite(part_squares(params))
        assert [name for name, well in zip(names, finite, strict=True) if not well] == bad_parts(
            params
        )
