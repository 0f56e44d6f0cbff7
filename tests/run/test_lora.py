"""A run of low-rank adapters: what trains, what is kept where, and what it is captioned with."""

import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

import capjax
from capjax.config import build, checks
from capjax.config.errors import ConfigError
from capjax.models.captioner import split_frozen
from capjax.models.lora import is_adapter, merge
from capjax.pretrained.errors import WeightsError
from capjax.run.train import train
from configs import base
from tests.helpers.killed import train_until_killed
from tests.helpers.small_run import write_first_stage
from tests.helpers.tiny_run import over_features, write_folder

PARTS = ("encoder", "adapter", "decoder")


@pytest.fixture(scope="module", name="folder")
def make_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    write_folder(folder)
    return folder


@pytest.fixture(scope="module", name="first")
def make_first(folder, tmp_path_factory):
    """A run that is adapted."""
    first = tmp_path_factory.mktemp("first") / "run"
    write_first_stage(folder, first)
    return first


def adapted(folder, first, **fields):
    """A config of adapters in the ViT and the decoder."""
    config = over_features(folder, {"encoder.cache": "", "optimizer.learning_rate": 0.02})
    config.init_from = str(first)
    base.use_lora(config)
    config.optimizer.learning_rate = 0.02
    config.update_from_flattened_dict(fields)
    return config


def flat(tree):
    return traverse_util.flatten_dict(dict(tree), sep="/")


def second_stage(folder, first):
    """Of the objective with most state."""
    config = adapted(folder, first, checkpoint_every=1, ema_decay=0.5)
    base.use_self_critical(config, str(first))
    config.objective.update(samples=2, max_length=6, dropout=True, kl_weight=0.1)
    config.objective.cross_entropy_weight = 0.1
    config.optimizer.warmup_steps = 1
    checks.check(config)
    return config


@pytest.fixture(scope="module", name="whole")
def make_whole(folder, first, tmp_path_factory):
    """A run of adapters that nobody stopped, and its config."""
    config, whole = second_stage(folder, first), tmp_path_factory.mktemp("whole") / "run"
    train(config, str(whole))
    return config, whole


@pytest.mark.slow(reason="a run of its own; tests/models/test_lora.py has what trains every day")
def test_adapters_alone_train_and_are_saved(first, whole):
    config, directory = whole
    base_run = capjax.load(first)
    kept = safetensors.numpy.load_file(directory / "frozen.safetensors")
    assert kept.keys() == flat(base_run.variables).keys()
    for name, leaf in flat(base_run.variables).items():
        np.testing.assert_array_equal(kept[name], leaf, err_msg=name)
    # A checkpoint has nothing of the base.
    raw = capjax.load(directory, merged=False)
    adapters, _ = split_frozen(raw.variables, PARTS)
    names = flat(adapters)
    assert all(map(is_adapter, names))
    assert {name.split("/")[0] for name in names} == {"encoder", "decoder"}
    assert all(np.abs(leaf).max() > 0 for leaf in names.values())
    checkpoint = directory / "checkpoints" / str(config.num_steps)
    for item, times in {"params": 1, "ema": 1, "optimizer": 2}.items():
        saved = json.loads((checkpoint / item / "_METADATA").read_text())["tree_metadata"]
        arrays = [name for name in saved if "'lora'" in name]
        assert len(arrays) == times * len(names), item
        others = [name for name in saved if name not in arrays]
        assert not any(f"'{part}'" in name for name in others for part in PARTS), item
    # All else loads a captioner without adapters, with these in its kernels.
    run = capjax.load(directory)
    assert run.model.lora is None
    merged = merge(raw.variables, raw.model.lora.scale)
    jax.tree.map(np.testing.assert_array_equal, run.variables, merged)
    before, after = flat(base_run.variables), flat(run.variables)
    assert before.keys() == after.keys()
    moved = {name.split("/")[1] for name in before if (before[name] != after[name]).any()}
    assert moved == {"encoder", "decoder"}


@pytest.mark.slow(reason="two runs; killed ones without adapters are continued every day")
def test_a_killed_run_ends_as_one_that_was_not(folder, first, whole, tmp_path, monkeypatch):
    copy, killed = tmp_path / "first", tmp_path / "killed"
    shutil.copytree(first, copy)
    config = second_stage(folder, copy)
    train_until_killed(monkeypatch, config, str(killed), update=3)
    shutil.rmtree(copy)  # The base is kept by now.
    train(config, str(killed))
    expected, found = (capjax.load(place, "latest", merged=False) for place in (whole[1], killed))
    jax.tree.map(np.testing.assert_array_equal, found.variables, expected.variables)
    rows = [json.loads(row) for row in (killed / "metrics.jsonl").read_text().splitlines()]
    assert sum(row["group"] == "train" for row in rows) == config.num_steps


def small(**fields):
    config = base.get_config()
    config.init_from = "a run"
    base.use_lora(config)
    config.update_from_flattened_dict(fields)
    return config


CASES = {
    "init_from": ("", "of which no parameter stays random: give config.init_from"),
    "init_tokenizer": (False, "of which no parameter stays random"),
    "optimizer.kind": ("muon", "config.optimizer.kind='muon' does not go with"),
    "lora.projections": (("query", "decoder/gate"), "has 'decoder/gate', which this captioner lac"),
    "lora.alpha": (0.0, "config.lora.alpha=0.0 must be above 0"),
}


@pytest.mark.parametrize("field", CASES)
def test_what_does_not_fit_is_named(field):
    value, message = CASES[field]
    checks.check_fields(small())
    with pytest.raises(ConfigError, match=message):
        checks.check(small(**{field: value}))


def test_a_cnn_is_not_adapted():
    config = small()
    config.encoder = base.conv_encoder()
    config.encoder.widths, config.encoder.blocks = (8,), 1
    with pytest.raises(ConfigError, match=r"config\.encoder\.name='conv' is a CNN, for which"):
        checks.check(config)
    config.lora.projections = ("decoder/query", "decoder/value")
    checks.check(config)
    assert not build.lora(config).adapts("encoder")


def test_features_are_of_an_encoder_without_adapters(folder, tmp_path):
    config = adapted(folder, tmp_path, **{"encoder.cache": "float16"})
    with pytest.raises(ConfigError, match=r"config\.encoder\.cache keeps features of a frozen enc"):
        checks.check(config)
    config.lora.projections = ("decoder/query",)
    checks.check(config)
    config.encoder.trainable = ("all",)
    config.encoder.cache = ""
    with pytest.raises(ConfigError, match=r"config\.encoder\.trainable=\('all',\) does not go wi"):
        checks.check(config)


def test_adapters_to_start_from_are_of_a_published_captioner(folder, small_run, tmp_path):
    config = adapted(folder, small_run, **{"lora.weights": str(tmp_path)})
    with pytest.raises(WeightsError, match="are adapters of a captioner of transformers, and"):
        train(config, str(tmp_path / "run"))
