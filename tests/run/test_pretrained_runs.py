"""Runs over a pretrained encoder: cached, uncached and fine-tuned, on a user's own pictures."""

import json
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import capjax
from capjax.config import build
from capjax.config.errors import ConfigError
from capjax.pretrained.variables import load_variables
from capjax.pretrained.weights import WeightsError
from capjax.run.evaluate import evaluate
from capjax.run.train import train
from capjax.run.workdir import WorkdirError
from configs import base, folder_transformer
from tests.helpers.killed import train_until_killed
from tests.helpers.small_pictures import write_pictures
from tests.helpers.small_weights import ALPHA, write_small_weights


@pytest.fixture(scope="module", name="weights")
def make_weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.weights.h5"
    write_small_weights(path)
    return path


@pytest.fixture(scope="module", name="pictures")
def make_pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder)
    return folder


def small_config(weights, pictures, cache):
    config = folder_transformer.get_config()
    config.dataset.file = str(pictures / "captions.csv")
    config.dataset.cache_dir = str(cache)
    config.dataset.image_size = 64
    config.dataset.crop_area = 1.0
    config.dataset.length_bucket = 0
    config.encoder.cache_views = 1
    config.dataset.max_length = 8
    config.tokenizer.min_count = 1
    config.encoder.weights = str(weights)
    config.encoder.alpha = ALPHA
    config.adapter.width = 16
    config.adapter.depth = 0
    config.decoder.width = 16
    config.decoder.num_layers = 1
    config.decoder.num_heads = 2
    config.batch_size = 4
    config.num_steps = 4
    config.eval_every = 4
    config.log_every = 1
    config.optimizer.warmup_steps = 1
    config.early_stopping.patience = 0
    config.evaluation.batch_size = 4
    config.evaluation.num_samples = 0
    config.decoding.num_beams = 2
    config.decoding.max_length = 8
    return config


@pytest.fixture(name="config")
def make_config(weights, pictures, tmp_path):
    return small_config(weights, pictures, tmp_path / "cache")


@pytest.fixture(scope="module", name="made")
def make_trained(weights, pictures, tmp_path_factory):
    """A folder with the run of the config as it is, and its cache."""
    folder = tmp_path_factory.mktemp("made")
    train(small_config(weights, pictures, folder / "cache"), str(folder / "run"))
    return folder


@pytest.fixture(name="trained")
def copy_trained(made, tmp_path):
    """A test's own copy of the run; its config finds the same features."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run"


def metrics_of(directory, group="train", name="loss"):
    rows = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return [row[name] for row in rows if row["group"] == group]


def images_of(pictures):
    return [str(pictures / f"{number}.png") for number in range(15)]


@pytest.mark.slow(reason="a recorded run over cached features continues every day")
def test_a_cached_run_trains_evaluates_and_captions_from_pixels(config, pictures, tmp_path, caplog):
    directory = tmp_path / "run"
    config.evaluation.num_samples, config.evaluation.temperatures = 1, (0.0,)
    train(config, str(directory))
    assert "features of captions/train: 12 images x 4 positions x 1280 float16" in caplog.text
    caplog.clear()
    metrics = evaluate(config, str(directory), split="validation", checkpoint="latest")
    # The score of the training's last evaluation, from the same cache.
    assert metrics["loss"] == pytest.approx(metrics_of(directory, "validation")[-1], rel=1e-6)
    assert "features of" not in caplog.text

    run = capjax.load(directory, "latest")
    saved = directory / "checkpoints" / "4" / "params" / "_METADATA"
    assert {"adapter", "decoder"} <= set(saved.read_text().split("'"))
    assert "encoder" not in saved.read_text()
    result = next((directory / "evaluation").glob("*.captions.json"))
    cached = {row["image_id"]: row["caption"] for row in json.loads(result.read_text())}
    names = images_of(pictures)[12:]
    seen = run.caption(names, attention=True)
    assert [caption.text for caption in seen] == list(cached.values())
    assert seen[0].attention.shape[-1] == 4


def test_a_cached_run_is_the_frozen_run(config, tmp_path, trained):
    """Reading features is computing them anew in each step, but for their rounding."""
    config.encoder.cache = ""
    train(config, str(tmp_path / "frozen"))
    losses = [metrics_of(tmp_path / name) for name in ("run", "frozen")]
    np.testing.assert_allclose(*losses, rtol=2e-3)
    weights = load_variables(tmp_path / "frozen" / "frozen.safetensors")
    found = capjax.load(tmp_path / "frozen").variables
    for kind in ("params", "batch_stats"):
        jax.tree.map(
            np.testing.assert_array_equal, found[kind]["encoder"], weights[kind]["encoder"]
        )


def test_a_resumed_run_needs_no_weights_file(config, tmp_path, trained, monkeypatch):
    whole, parts = trained, tmp_path / "parts"
    config.num_steps, config.checkpoint_every = 4, 2
    train_until_killed(monkeypatch, config, str(parts), update=4)
    monkeypatch.setattr(build, "load_encoder", None)
    train(config, str(parts))
    found = [capjax.load(directory, "latest").variables for directory in (whole, parts)]
    jax.tree.map(np.testing.assert_array_equal, *found)


@pytest.mark.parametrize("stages", [("all",), ("block_16", "Conv_1")])
def test_a_second_stage_trains_the_named_parts_and_leaves_norms(config, tmp_path, trained, stages):
    first, second = trained, tmp_path / "second"
    config.init_from = str(first)
    config.encoder.trainable, config.encoder.cache = stages, ""
    config.encoder.weights = "not read: the first stage brings its encoder"
    config.dataset.crop_area, config.dataset.flip = 0.5, True
    train(config, str(second))
    before, after = (capjax.load(run, "latest").variables for run in (first, second))
    jax.tree.map(np.testing.assert_array_equal, before["batch_stats"], after["batch_stats"])
    old, new = before["params"]["encoder"], after["params"]["encoder"]
    changed = {name for name in old if not np.array_equal(*map(flat, (old[name], new[name])))}
    assert changed == {
        name
        for name in old
        if name not in before["batch_stats"]["encoder"]
        and ("all" in stages or name.startswith(("block_16_", "Conv_1")))
    }
    assert len(changed) >= 4
    # Nothing is kept for what does not train.
    kept = ocp.StandardCheckpointer().metadata(second / "checkpoints" / "4" / "params")
    assert kept.item_metadata["encoder"].keys() == changed


def flat(leaves):
    return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(leaves)])


def test_a_sample_of_coco_is_written_down_and_labelled(config, pictures, tmp_path, caplog):
    images = [{"id": number, "file_name": f"{number}.png"} for number in range(15)]
    captions = [
        {"id": 100 + k, "image_id": k % 15, "caption": f"a {'red' if k % 2 else 'blue'} wall"}
        for k in range(60)
    ]
    file = tmp_path / "captions_train2014.json"
    file.write_text(json.dumps({"images": images, "annotations": captions}))
    dataset = base.coco_json_dataset()
    dataset.train_file, dataset.train_root, dataset.sample = str(file), str(pictures), 40
    for field in ("cache_dir", "image_size", "max_length", "over_length"):
        dataset[field] = config.dataset[field]
    config.dataset = dataset
    directory = tmp_path / "run"
    train(config, str(directory))
    assert "drawn by caption" in caplog.text
    selection = json.loads((directory / "selection.json").read_text())
    ids = [selection[split]["annotation_ids"] for split in ("train", "validation")]
    assert [len(part) for part in ids] == [32, 8]
    assert not set(ids[0]) & set(ids[1])
    assert selection["validation"]["shares_images"] > 0
    evaluate(config, str(directory), split="validation", checkpoint="latest")
    result = json.loads(next((directory / "evaluation").glob("*.metrics.json")).read_text())
    assert "drawn by caption" in result["source"]["note"]


def test_moved_data_that_changed_is_not_scored(config, pictures, tmp_path, trained):
    moved = tmp_path / "moved"
    shutil.copytree(pictures, moved)
    config.dataset.file = str(moved / "captions.csv")
    evaluate(config, str(trained), split="validation", checkpoint="latest")
    text = (moved / "captions.csv").read_text()
    (moved / "captions.csv").write_text(
        text.replace("11.png,a blue wall,train", "").replace(
            "11.png,a blue picture,train", "11.png,a blue picture,validation"
        )
    )
    with pytest.raises(WorkdirError, match="other data: validation changed"):
        evaluate(config, str(trained), split="validation", checkpoint="latest")


def test_views_are_other_features_of_the_same_images(config, tmp_path, caplog):
    config.encoder.cache_views, config.dataset.crop_area = 2, 0.5
    train(config, str(tmp_path / "run"))
    assert "features of captions/train, view 1: 12 images" in caplog.text
    assert "validation, view" not in caplog.text
    one, two = sorted(
        (np.load(file) for file in (tmp_path / "cache").glob("features-*/features.npy")),
        key=len,
    )[1:]
    assert one.shape == two.shape == (12, 4, 1280)
    assert np.mean(one == two) < 0.9


def test_mistakes_are_found_before_training(config, tmp_path):
    def refused(error, match, **changes):
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict(changes)
        with pytest.raises(error, match=match):
            train(changed, str(tmp_path / "none"))
        assert not (tmp_path / "none" / "config.json").exists()

    refused(ConfigError, "cache_views=1 and", **{"dataset.crop_area": 0.5})
    refused(ConfigError, "cache_views=1 and", **{"dataset.flip": True})
    refused(ConfigError, "cache_views=3 and", **{"encoder.cache_views": 3})
    refused(ConfigError, r"crop_area=2\.0 must be above 0", **{"dataset.crop_area": 2.0})
    refused(ConfigError, "trainable is .*block_16", **{"encoder.trainable": ("block_16",)})
    refused(
        ConfigError,
        "encoder.cache='float8' must be one of",
        **{"encoder.cache": "float8"},
    )
    refused(ConfigError, "dataset.cache_dir: set it", **{"dataset.cache_dir": ""})
    refused(ConfigError, r"encoder\.weights='' must not be empty", **{"encoder.weights": ""})
    refused(WeightsError, "none.h5: no such weights file", **{"encoder.weights": "none.h5"})
    refused(WeightsError, "does not fit the model", **{"encoder.alpha": 0.5})


def test_another_cache_type_is_another_run(config, trained):
    config.encoder.cache = "bfloat16"
    with pytest.raises(WorkdirError, match=r"encoder\.cache"):
        train(config, str(trained))
