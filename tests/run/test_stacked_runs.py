"""Runs whose training stacks their blocks: their files are those of any run."""

import shutil

import jax
import numpy as np
import pytest

import capjax
from capjax.models import stacks
from capjax.run.train import train
from configs import base
from tests.helpers.killed import train_until_killed
from tests.helpers.small_pictures import write_pictures
from tests.helpers.tiny_run import shorten


@pytest.fixture(scope="module", name="config")
def make_config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder)
    config = base.get_config()
    config.dataset = base.folder_dataset()
    fields = {"dataset.cache_dir": "", "dataset.image_size": 16, "dataset.length_bucket": 8}
    shorten(config, folder, {**fields, "checkpoint_every": 2, "ema_decay": 0.5})
    config.encoder.update(width=8, depth=1, num_heads=2, patch_size=8, dropout=0.0)
    config.decoder.update(width=8, num_layers=2, num_heads=2, dropout=0.0)
    config.optimizer.update(kind="adamw", learning_rate=0.02)
    return config


@pytest.mark.slow(reason="two runs; stacks are compared with blocks every day")
def test_an_old_run_continues_with_stacks(config, tmp_path, monkeypatch):
    whole, other = str(tmp_path / "whole"), str(tmp_path / "other")
    train(config, whole)
    shutil.copytree(whole, other)
    shutil.rmtree(f"{other}/checkpoints/4")  # As if it had been killed after step 2.
    seen = []

    def spy(*arguments):
        seen.append(stacks_of(*arguments))
        return seen[-1]

    stacks_of = stacks.stacks_of
    monkeypatch.setattr(stacks, "FEWEST", 2)
    monkeypatch.setattr("capjax.train.state.stacks_of", spy)
    train(config, other)
    assert seen == [{"decoder": ["blocks_0to1"]}]
    expected, found = capjax.load(whole, "latest"), capjax.load(other, "latest")
    assert {"blocks_0", "blocks_1"} < found.variables["params"]["decoder"].keys()
    # Adam makes steps of up to 0.02 of gradients that are nothing but rounding, as those of keys'
    # biases.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3),
        found.variables,
        expected.variables,
    )


@pytest.mark.slow(reason="two runs; stacks are compared with blocks every day")
def test_a_killed_run_ends_as_one_that_was_not(config, tmp_path, monkeypatch):
    monkeypatch.setattr(stacks, "FEWEST", 2)
    config.decoder.dropout = 0.5
    whole, killed = str(tmp_path / "whole"), str(tmp_path / "killed")
    train(config, whole)
    train_until_killed(monkeypatch, config, killed, update=3)
    train(config, killed)
    expected, found = (capjax.load(run, "latest").variables for run in (whole, killed))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
