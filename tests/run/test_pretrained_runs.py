"""Runs over a pretrained encoder: cached, uncached and fine-tuned, on a user's own pictures."""

import functools
import itertools
import json
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import capjax
from capjax.config.errors import ConfigError
from capjax.data.dataset import CommonFields
from capjax.parts.check import fields_of
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.variables import load_variables
from capjax.run import rewards
from capjax.run.evaluate import evaluate
from capjax.run.train import train
from capjax.run.workdir import WorkdirError
from configs import base
from tests.helpers.small_weights import ALPHA, write_small_weights
from tests.helpers.tiny_run import over_features, write_folder


@pytest.fixture(scope="module", name="folder")
def make_folder(tmp_path_factory):
    """Pictures, and two encoders: a ViT, and a MobileNetV2, which takes longer."""
    folder = tmp_path_factory.mktemp("pictures")
    write_folder(folder)
    write_small_weights(folder / "small.weights.h5")
    return folder


@pytest.fixture(name="encoder")
def choose_encoder(request):
    return getattr(request, "param", "vit")


def small_config(folder, cache, encoder):
    config = over_features(folder)
    if encoder == "mobilenet":
        config.encoder = base.mobilenet_v2()
        config.encoder.update(weights=str(folder / "small.weights.h5"), alpha=ALPHA)
        config.dataset.image_size = 64
    config.dataset.cache_dir = str(cache)
    return config


@pytest.fixture(name="config")
def make_config(folder, tmp_path, encoder):
    return small_config(folder, tmp_path / "cache", encoder)


@pytest.fixture(scope="module", name="made")
def make_trained(folder, tmp_path_factory):
    """A folder with the run of an encoder's config as it is, and its cache; trained once."""

    @functools.cache
    def train_once(encoder):
        made = tmp_path_factory.mktemp("made")
        train(small_config(folder, made / "cache", encoder), str(made / "run"))
        return made

    return train_once


@pytest.fixture(name="trained")
def copy_trained(made, encoder, tmp_path):
    """A test's own copy of the run; its config finds the same features."""
    shutil.copytree(made(encoder), tmp_path, dirs_exist_ok=True)
    return tmp_path / "run"


def metrics_of(directory, group="train", name="loss"):
    rows = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return [row[name] for row in rows if row["group"] == group]


def test_a_cached_run_evaluates_and_captions_from_pixels(config, folder, trained, caplog):
    assert "encoder" not in (trained / "checkpoints" / "4" / "params" / "_METADATA").read_text()
    metrics = evaluate(config, str(trained), split="validation", checkpoint="latest")
    # The score of the training's last evaluation, from the same cache.
    assert metrics["loss"] == pytest.approx(metrics_of(trained, "validation")[-1], rel=1e-6)
    assert "features of" not in caplog.text
    result = next((trained / "evaluation").glob("*.captions.json"))
    cached = {row["image_id"]: row["caption"] for row in json.loads(result.read_text())}
    names = [str(folder / f"{number}.png") for number in (12, 13, 14)]
    seen = capjax.load(trained, "latest").caption(names, attention=True)
    assert [caption.text for caption in seen] == list(cached.values())
    assert seen[0].attention.shape[-1] == 5


@pytest.mark.slow(reason="pixels have the captions of cached features every day")
@pytest.mark.parametrize("encoder", ["mobilenet"], indirect=True)
def test_a_cached_run_is_the_frozen_run(config, tmp_path, trained):
    """Reading features is computing them anew in each step, but for their rounding."""
    config.encoder.cache = ""
    train(config, str(tmp_path / "frozen"))
    losses = [metrics_of(tmp_path / name) for name in ("run", "frozen")]
    np.testing.assert_allclose(*losses, rtol=2e-3)
    weights = load_variables(tmp_path / "frozen" / "frozen.safetensors")
    found = capjax.load(tmp_path / "frozen").variables
    for kind in weights:
        jax.tree.map(
            np.testing.assert_array_equal, found[kind]["encoder"], weights[kind]["encoder"]
        )


STAGES = [("vit", ("all",)), ("mobilenet", ("block_16", "Conv_1"))]


@pytest.mark.slow(reason="what a run starts from and which parts train is tested every day")
@pytest.mark.parametrize(("encoder", "stages"), STAGES, indirect=["encoder"])
def test_a_second_stage_trains_the_named_parts_and_leaves_norms(config, tmp_path, trained, stages):
    first, second = trained, tmp_path / "second"
    config.init_from = str(first)
    config.encoder.trainable, config.encoder.cache = stages, ""
    config.encoder.weights = "not read: the first stage brings its encoder"
    config.dataset.crop_area, config.dataset.flip = 0.5, True
    train(config, str(second))
    before, after = (capjax.load(run, "latest").variables for run in (first, second))
    norms = before.get("batch_stats", {"encoder": {}})
    jax.tree.map(np.testing.assert_array_equal, norms, after.get("batch_stats", norms))
    old, new = before["params"]["encoder"], after["params"]["encoder"]
    changed = {name for name in old if not np.array_equal(*map(flat, (old[name], new[name])))}
    assert changed == {
        name
        for name in old
        if name not in norms["encoder"] and ("all" in stages or name.startswith(stages))
    }
    assert changed
    # Nothing is kept for what does not train.
    kept = ocp.StandardCheckpointer().metadata(second / "checkpoints" / "4" / "params")
    assert kept.item_metadata["encoder"].keys() == changed


def flat(leaves):
    return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(leaves)])


NOUNS = ("wall", "picture")


@pytest.mark.slow(reason="a run of its own; the sample itself is tested every day")
def test_a_sample_of_coco_is_written_down_and_labelled(config, folder, tmp_path, caplog):
    images = [{"id": number, "file_name": f"{number}.png"} for number in range(15)]
    # The shapes of `made`, whose programs serve this run, too.
    captions = [
        {"id": 100 + k, "image_id": k % 15, "caption": f"a {colour} {noun}"}
        for k, (colour, noun) in enumerate(itertools.product(("red", "green", "blue") * 5, NOUNS))
    ]
    file = tmp_path / "captions_train2014.json"
    file.write_text(json.dumps({"images": images, "annotations": captions}))
    dataset = base.coco_json_dataset()
    dataset.update({field: config.dataset[field] for field in fields_of(CommonFields)})
    dataset.update(train_file=str(file), train_root=str(folder), sample=20)
    config.dataset = dataset
    directory = tmp_path / "run"
    train(config, str(directory))
    assert "drawn by caption" in caplog.text
    selection = json.loads((directory / "selection.json").read_text())
    ids = [selection[split]["annotation_ids"] for split in ("train", "validation")]
    assert [len(part) for part in ids] == [16, 4]
    assert not set(ids[0]) & set(ids[1])
    assert selection["validation"]["shares_images"] > 0
    evaluate(config, str(directory), split="validation", checkpoint="latest")
    result = json.loads(next((directory / "evaluation").glob("*.metrics.json")).read_text())
    assert "drawn by caption" in result["source"]["note"]


@pytest.mark.slow(reason="trains again; fingerprints of data are compared every day")
def test_moved_data_that_changed_is_not_scored(config, folder, tmp_path, trained, monkeypatch):
    moved, read = tmp_path / "moved", []
    shutil.copytree(folder, moved)
    config.dataset.file = str(moved / "captions.csv")
    # Its reward reads the train split, too.
    config.decoding.update(method="consensus", num_beams=1, num_samples=2)
    open_source = rewards.open_source
    monkeypatch.setattr(
        rewards, "open_source", lambda *given: read.append(given) or open_source(*given)
    )
    evaluate(config, str(trained), split="validation", checkpoint="latest")
    assert [(dataset.file, split) for dataset, split in read] == [(config.dataset.file, "train")]
    text = (moved / "captions.csv").read_text()
    (moved / "captions.csv").write_text(
        text.replace("11.png,a blue wall,train", "").replace(
            "11.png,a blue picture,train", "11.png,a blue picture,validation"
        )
    )
    with pytest.raises(WorkdirError, match="other data: validation changed"):
        evaluate(config, str(trained), split="validation", checkpoint="latest")


@pytest.mark.slow(reason="a run of its own; views are features of the cache every day")
def test_views_are_other_features_of_the_same_images(config, tmp_path, caplog):
    config.encoder.cache_views, config.dataset.crop_area = 2, 0.5
    train(config, str(tmp_path / "run"))
    assert "features of captions/train, view 1: 12 images" in caplog.text
    assert "validation, view" not in caplog.text
    one, two = sorted(
        (np.load(file) for file in (tmp_path / "cache").glob("features-*/features.npy")),
        key=len,
    )[1:]
    assert one.shape == two.shape == (12, 5, 8)
    assert np.mean(one == two) < 0.9


@pytest.mark.parametrize("encoder", ["mobilenet"], indirect=True)
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("dataset.crop_area", 0.5, "cache_views=1 and"),
        ("dataset.flip", True, "cache_views=1 and"),
        ("encoder.cache_views", 3, "cache_views=3 and"),
        ("dataset.crop_area", 2.0, r"crop_area=2\.0 must be above 0"),
        ("encoder.trainable", ("block_16",), "trainable is .*block_16"),
        ("encoder.cache", "float8", "encoder.cache='float8' must be one of"),
        ("dataset.cache_dir", "", "dataset.cache_dir: set it"),
        ("encoder.weights", "", r"encoder\.weights='' must not be empty"),
        ("encoder.weights", "none.h5", "none.h5: no such weights file"),
        ("encoder.alpha", 0.5, "does not fit the model"),
    ],
)
def test_mistakes_are_found_before_training(config, tmp_path, field, value, message):
    config.update_from_flattened_dict({field: value})
    with pytest.raises((ConfigError, WeightsError), match=message):
        train(config, str(tmp_path / "none"))
    assert not (tmp_path / "none" / "config.json").exists()


def test_another_cache_type_is_another_run(config, trained):
    config.encoder.cache = "bfloat16"
    with pytest.raises(WorkdirError, match=r"encoder\.cache"):
        train(config, str(trained))
