"""A second stage by reward, from the first to its checkpoints."""

import json
import shutil

import jax
import numpy as np
import pytest

import capjax
from capjax.run.train import train
from capjax.run.workdir import Workdir, WorkdirError
from configs import base
from tests.helpers.killed import train_until_killed
from tests.helpers.small_run import write_first_stage
from tests.helpers.tiny_run import over_features, write_folder


@pytest.fixture(scope="module", name="folder")
def make_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    write_folder(folder)
    return folder


def second_stage(folder, first):
    config = over_features(folder, {"ema_decay": 0.9, "checkpoint_every": 1})
    base.use_self_critical(config, str(first))
    config.objective.update(samples=3, max_length=6, dropout=True, kl_weight=0.1)
    config.objective.cross_entropy_weight = 0.1
    config.decoder.dropout = 0.25
    config.optimizer.warmup_steps = 1
    return config


def trained(config, workdir):
    """The newest checkpoint's parameters, and what was logged."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    timed = ("captions_per_second", "step_seconds", "wall_seconds")
    logged = [{name: value for name, value in row.items() if name not in timed} for row in rows]
    return capjax.load(workdir, "latest").variables, logged


@pytest.mark.slow(reason="two runs; killed ones of cross-entropy are continued every day")
def test_a_killed_second_stage_ends_as_one_that_was_not(folder, tmp_path, monkeypatch):
    first = tmp_path / "first"
    write_first_stage(folder, first)
    config = second_stage(folder, first)
    train(config, str(tmp_path / "whole"))
    train_until_killed(monkeypatch, config, str(tmp_path / "killed"), update=3)
    # Its start is its own by now.
    shutil.rmtree(first)
    train(config, str(tmp_path / "killed"))
    (whole, logged), (again, rows) = (
        trained(config, tmp_path / name) for name in ("whole", "killed")
    )
    jax.tree.map(np.testing.assert_array_equal, again, whole)
    assert rows == logged
    said = [row for row in logged if row["group"] == "train"]
    assert len(said) == config.num_steps
    # What gives a hacked reward away.
    names = {"reward", "reward_spread", "advantage_spread", "finished", "length", "kl"}
    assert {*names, "distinct_1", "distinct_2", "loss"} <= said[0].keys() == said[-1].keys()
    assert {"loss", "CIDEr-D"} <= logged[-1].keys()
    assert said[0]["captions"] == config.batch_size * config.objective.samples
    assert said[0]["loss"] > 0
    # A checkpoint has no more than one of cross-entropy.
    parts = {path.name for path in (tmp_path / "whole/checkpoints/4").iterdir() if path.is_dir()}
    assert parts == {"ema", "optimizer", "params", "progress"}
    # Without the start, the divergence from it has no meaning.
    (tmp_path / "whole" / Workdir.BEGAN).unlink()
    config.num_steps = 6
    with pytest.raises(WorkdirError, match=r"began\.safetensors is missing; it holds the param"):
        train(config, str(tmp_path / "whole"))
