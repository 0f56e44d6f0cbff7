"""Checkpoints: which are kept, and that a damaged one is never taken for a whole one."""

import json
import re
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import pytest

from capjax.train.checkpoint import CheckpointError, Checkpoints
from capjax.train.state import TrainState

# Orbax leaves event loops open where it fails.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def state_of(step):
    rng = np.random.default_rng(step)
    params = {"kernel": rng.normal(size=(40, 30)).astype(np.float32), "bias": np.ones(7) * step}
    return TrainState(
        step=np.int32(step),
        params=params,
        opt_state=({"mean": params["kernel"] / 2}, np.int32(step)),
        ema={name: value + 1 for name, value in params.items()},
        baseline=np.float32(step / 3),
    )


def open_in(folder, mode="max", **options):
    return Checkpoints(str(folder), "score", mode, **options)


def fill(folder, scores, mode="max"):
    """A checkpoint of steps 1, 2, ... each; a score of None is one that was not evaluated."""
    with open_in(folder, mode) as checkpoints:
        for step, score in enumerate(scores, 1):
            metrics = None if score is None else {"score": score}
            checkpoints.save(state_of(step), {"best": step, "waited": 0}, metrics)


def assert_is(state, step):
    expected = state_of(step)
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for left, right in zip(*map(jax.tree.leaves, (state, expected)), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    ("scores", "mode", "kept", "ranking"),
    [
        ([5.0, 1, 2, 3], "max", [1, 3, 4], [1, 4, 3]),
        ([5.0, 1, 2, 3], "min", [2, 3, 4], [2, 3, 4]),
        ([1.0, 2, 3], "max", [2, 3], [3, 2]),
        ([2.0, 2, 1, 1], "max", [2, 3, 4], [2, 4, 3]),
        ([5.0, None, None, None], "max", [1, 3, 4], [1, 4, 3]),
        ([None, None, None], "max", [2, 3], [3, 2]),
        ([None, 1.0, None, None], "min", [2, 3, 4], [2, 4, 3]),
    ],
)
def test_the_latest_two_and_the_best_are_kept(tmp_path, scores, mode, kept, ranking):
    fill(tmp_path, scores, mode)
    with open_in(tmp_path, mode, read_only=True) as checkpoints:
        assert checkpoints.steps() == kept
        assert checkpoints.ranking() == ranking
        assert checkpoints.latest_step() == kept[-1]
        for step in kept:
            state, progress = checkpoints.restore(step, state_of(0))
            assert_is(state, step)
            assert progress["best"] == step
            assert checkpoints.restore_params(step, state_of(0).ema)["bias"][0] == step + 1
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == kept


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


DAMAGE = {
    "flip": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "remove": Path.unlink,
}


@pytest.fixture(scope="module", name="two")
def make_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    fill(folder, [1.0, 2.0])
    return folder


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_found_or_harmless(two, tmp_path, damage):
    """Whichever file of a checkpoint it is: what comes back is what was saved, or an error."""
    names = [path.relative_to(two / "2") for path in (two / "2").rglob("*") if path.is_file()]
    found = []
    with open_in(two, read_only=True) as whole:
        assert_is(whole.restore(2, state_of(0))[0], 2)
    for number, name in enumerate(names):
        folder = tmp_path / str(number)
        shutil.copytree(two / "2", folder / "2")
        damage(folder / "2" / name)
        with open_in(folder, read_only=True) as checkpoints:
            try:
                state, progress = checkpoints.restore(2, state_of(0))
            except CheckpointError as error:
                found.append((name, str(error)))
            else:
                assert_is(state, 2)
                assert progress["best"] == 2
    assert all(re.fullmatch(r"checkpoint .*/2 can't be used: .*", text) for _, text in found)
    # All that has numbers in it, and the JSON.
    assert {name.parts[0] for name, _ in found} >= {"params", "optimizer", "ema", "progress"}
    largest = max(names, key=lambda name: (two / "2" / name).stat().st_size)
    assert largest in dict(found)


def test_a_flipped_bit_of_a_number_needs_our_checksum(two, tmp_path, monkeypatch):
    """Uncompressed or not: if what lies below found every flip, the checksums could go."""
    shutil.copytree(two / "2", tmp_path / "2")
    with open_in(tmp_path, read_only=True) as checkpoints:
        progress = tmp_path / "2" / "progress" / "metadata"
        said = json.loads(progress.read_text())
        said["best"] = 3
        progress.write_text(json.dumps(said))
        with pytest.raises(CheckpointError, match="progress: the checksum does not match"):
            checkpoints.progress(2)
        said["best"] = 2
        progress.write_text(json.dumps(said))
        monkeypatch.setattr("capjax.train.checkpoint._checksum", lambda tree: 0)
        with pytest.raises(CheckpointError, match="the checksum does not match"):
            checkpoints.restore(2, state_of(0))
        with pytest.raises(CheckpointError, match="ema: the checksum does not match"):
            checkpoints.restore_params(2, state_of(0).ema)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("progress/metadata", "[" * 100_000),
        ("progress/metadata", "3"),
        ("params/_METADATA", '{"tree_metadata":' + "[" * 100_000),
        ("params/_METADATA", "{}"),
    ],
)
def test_json_of_any_kind_lets_the_checkpoint_before_be_tried(two, tmp_path, file, content):
    shutil.copytree(two, tmp_path / "two")
    (tmp_path / "two" / "2" / file).write_text(content)
    with open_in(tmp_path / "two", read_only=True) as checkpoints:
        step, _ = checkpoints.first_whole(
            checkpoints.ranking(), lambda step: checkpoints.restore(step, state_of(0))
        )
    assert step == (1 if content != "{}" else step)


@pytest.mark.parametrize("metrics", [{}, {"score": "x"}, {"score": None}, [3]])
def test_a_checkpoint_without_its_metric_is_ranked_last(two, tmp_path, metrics, caplog):
    shutil.copytree(two, tmp_path / "two")
    file = tmp_path / "two" / "2" / "progress" / "metadata"
    content = json.loads(file.read_text())
    del content["checksum"]
    file.write_text(json.dumps(content | {"metrics": metrics}))
    with open_in(tmp_path / "two", read_only=True) as checkpoints:
        assert checkpoints.ranking() == [1, 2]
    assert "can't be used" in caplog.text
    assert "it is not ranked" in caplog.text


def test_a_thread_that_can_not_be_started_ends_the_save_and_is_not_waited_for(
    tmp_path, monkeypatch
):
    def fail(*_, **__):
        raise RuntimeError("can't start new thread")

    checkpoints = open_in(tmp_path)
    monkeypatch.setattr(checkpoints._checkpointer, "save", fail)
    with pytest.raises(CheckpointError, match=r"step 1 could not be .* can't start new thread"):
        checkpoints.save(state_of(1), {}, None)
    monkeypatch.setattr(checkpoints._checkpointer, "close", lambda: pytest.fail("waits"))
    checkpoints.close()


def damage_step(folder, step):
    for item in ("params", "optimizer", "ema"):
        files = filter(Path.is_file, (folder / str(step) / item).rglob("d/*"))
        flip(max(files, key=lambda path: path.stat().st_size))


def test_a_damaged_step_is_named_and_the_one_before_it_used(tmp_path, caplog):
    fill(tmp_path, [3.0, 2.0, 1.0])
    damage_step(tmp_path, 3)
    with open_in(tmp_path, read_only=True) as checkpoints:
        step, _ = checkpoints.first_whole(
            [3, 2, 1], lambda step: checkpoints.restore_params(step, state_of(0).ema)
        )
        assert step == 2
    assert f"{tmp_path}/3 can't be used" in caplog.text
    assert (tmp_path / "3").is_dir()
    with open_in(tmp_path) as checkpoints:
        assert_is(checkpoints.restore_latest(state_of(0))[0], 2)
        assert checkpoints.steps() == [1, 2]
        # Training comes to the step again.
        checkpoints.save(state_of(3), {"best": 3}, None)
    with open_in(tmp_path) as checkpoints:
        assert_is(checkpoints.restore_latest(state_of(0))[0], 3)
    assert (tmp_path / "3.damaged").is_dir()


@pytest.mark.parametrize("item", ["params", "ema"])
def test_a_step_with_nan_weights_is_passed_over(tmp_path, item):
    fill(tmp_path, [2.0])
    with open_in(tmp_path) as checkpoints:
        bad = {**getattr(state_of(2), item), "bias": np.full(7, np.nan)}
        checkpoints.save(state_of(2).replace(**{item: bad}), {"best": 2}, None)
    with open_in(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError, match=rf"/2 can't be used: .*{item}: bias not finite"):
            checkpoints.restore(2, state_of(0))
        assert_is(checkpoints.restore_latest(state_of(0))[0], 1)


def test_of_all_damaged_nothing_is_deleted(tmp_path):
    fill(tmp_path, [3.0, 2.0, 1.0])
    for step in (1, 2):
        damage_step(tmp_path, step)
    (tmp_path / "2" / "progress" / "metadata").write_text("{")
    shutil.rmtree(tmp_path / "3")
    (tmp_path / "3").mkdir()
    before = sorted(map(str, tmp_path.rglob("*")))
    with open_in(tmp_path) as checkpoints:
        with pytest.raises(
            CheckpointError, match=r"no checkpoint in .* can be used .*/3 .*/2 .*/1 "
        ):
            checkpoints.restore_latest(state_of(0))
        assert checkpoints.ranking() == [1, 3, 2]
    assert sorted(map(str, tmp_path.rglob("*"))) == before


def test_another_models_checkpoint_is_an_error(two):
    other = state_of(0).replace(params={"kernel": np.ones((3, 3), np.float32)})
    with (
        open_in(two, read_only=True) as checkpoints,
        pytest.raises(CheckpointError, match="can't be used"),
    ):
        checkpoints.restore(2, other)


def test_what_a_killed_process_left_is_tidied_up(two, tmp_path):
    for name in ("1", "1.replaced", "2.replaced", "3.orbax-checkpoint-tmp", "5.deleted"):
        shutil.copytree(two / "2", tmp_path / name)
    with open_in(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [1]
    assert (tmp_path / "5.deleted").exists()
    with open_in(tmp_path) as checkpoints:
        # The newer one of step 2 was never written to its end.
        assert checkpoints.steps() == [1, 2]
        assert_is(checkpoints.restore(2, state_of(0))[0], 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_a_step_saved_again_is_replaced(tmp_path):
    fill(tmp_path, [1.0, None])
    with open_in(tmp_path) as checkpoints:
        checkpoints.save(state_of(2), {"best": 9}, {"score": 4.0})
    with open_in(tmp_path) as checkpoints:
        assert checkpoints.progress(2)["best"] == 9
        assert checkpoints.ranking() == [2, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_a_run_of_an_earlier_version_is_read(tmp_path):
    """Its metrics lay in an item of their own, and it had no checksums."""
    fill(tmp_path, [1.0, 3.0, 2.0])
    for step, score in ((2, 3.0), (3, 2.0)):
        (tmp_path / str(step) / "progress" / "metadata").write_text('{"best": 3.0, "waited": 1}')
        (tmp_path / str(step) / "metrics").mkdir()
        (tmp_path / str(step) / "metrics" / "metrics").write_text(json.dumps({"score": score}))
    with open_in(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.ranking() == [2, 3]
        assert_is(checkpoints.restore(3, state_of(0))[0], 3)
        assert checkpoints.restore_params(3, state_of(0).ema)["bias"][0] == 4
        (tmp_path / "2" / "metrics" / "metrics").write_text("{")
        assert checkpoints.ranking() == [3, 2]


def fill_with(folder, rows):
    """A checkpoint of steps 1, 2, ... with each progress and its metrics."""
    with open_in(folder) as checkpoints:
        for step, (progress, metrics) in enumerate(rows, 1):
            checkpoints.save(state_of(step), progress, metrics)


def ranking_of(folder, **options):
    with open_in(folder, read_only=True, **options) as checkpoints:
        return checkpoints.ranking()


@pytest.mark.parametrize("mode", ["auto", "max"])
def test_the_least_loss_is_the_best_whatever_config_and_mode_say(tmp_path, mode):
    """The metric is that of the checkpoint; earlier versions took any mode."""
    by = {"metric": "loss", "mode": mode, "decoding": "beam1"}
    fill_with(tmp_path, [(by, {"loss": value}) for value in (1.0, 2.0, 3.0)])
    assert ranking_of(tmp_path) == [1, 2, 3]


def by(label, metric="score"):
    return {"metric": metric, "mode": "auto", "decoding": label}


def test_scores_of_another_decoding_rank_after_the_current_ones(tmp_path):
    fill_with(tmp_path, [(by("beam5"), {"score": 9.0}), (by("beam1"), None)])
    # The current one is of the newest evaluation.
    assert ranking_of(tmp_path) == [1, 2]
    with open_in(tmp_path) as checkpoints:
        checkpoints.save(state_of(2), by("beam1"), {"score": 1.0})
    assert ranking_of(tmp_path) == [2, 1]
    with open_in(tmp_path) as checkpoints:
        checkpoints.save(state_of(3), by("beam1"), {"score": 2.0})
        checkpoints.save(state_of(4), by("beam1"), {"score": 1.5})
    assert ranking_of(tmp_path) == [3, 4]


def test_a_loss_needs_no_decoding(tmp_path):
    fill_with(tmp_path, [(by(f"beam{i}", "loss"), {"loss": float(i)}) for i in (1, 2, 3)])
    assert ranking_of(tmp_path) == [1, 2, 3]


def test_a_checkpoint_without_a_record_is_of_the_runs_first_decoding(tmp_path):
    fill_with(tmp_path, [({"metric": "score", "mode": "max"}, {"score": 9.0})])
    with open_in(tmp_path, decoding=lambda: "beam5") as checkpoints:
        checkpoints.save(state_of(2), by("beam1"), {"score": 1.0})
        assert checkpoints.progress(1)["decoding"] == "beam5"
    assert ranking_of(tmp_path, decoding=lambda: "beam5") == [2, 1]
    assert ranking_of(tmp_path, decoding=lambda: "beam1") == [1, 2]


@contextmanager
def files_at_most(size):
    """A disk that takes no more, as far as a process can have one of its own."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_said_and_costs_the_new_checkpoint_only(tmp_path):
    fill(tmp_path, [1.0, 2.0])
    message = "checkpoint of step 3 could not be written to .*: File too large. Earlier ones are"
    with (
        files_at_most(2000),
        pytest.raises(CheckpointError, match=message),
        open_in(tmp_path) as checkpoints,
    ):
        checkpoints.save(state_of(3), {"best": 3}, None)
    with open_in(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1, 2]
        assert_is(checkpoints.restore_latest(state_of(0))[0], 2)
        checkpoints.save(state_of(3), {"best": 3}, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


def test_too_little_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    fill(tmp_path, [1.0])
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(99999, 99999, 999))
    message = r"step 2 could not be written to .*: it needs 1\.0 MB, and 0\.0 MB are free"
    with pytest.raises(CheckpointError, match=message), open_in(tmp_path) as checkpoints:
        checkpoints.save(state_of(2), {"best": 3}, None)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
