"""Runs of recurrent decoders with all that training may add, and what the shipped configs make."""

import json

import jax
import numpy as np
import pytest

import capjax
from capjax.config import build, checks
from capjax.config.errors import ConfigError
from capjax.data.tokenizer import train_word_tokenizer
from capjax.evaluate.attention_figures import attention_figure
from capjax.evaluate.attention_maps import grid_maps, overlay
from capjax.evaluate.captioning import BeamSearch, Sampling
from capjax.pretrained.errors import WeightsError
from capjax.run.train import train
from capjax.run.workdir import WorkdirError
from configs import (
    base,
    coco_bahdanau_gru,
    coco_show_attend_tell,
    flickr8k_bahdanau_gru,
    flickr8k_show_attend_tell,
)
from tests.helpers.small_pictures import write_pictures
from tests.helpers.tiny_run import shorten

WIDTH = 6


@pytest.fixture(scope="module", name="pictures")
def make_pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder)
    rng = np.random.default_rng(1)
    rows = [
        " ".join([word, *(f"{x:.4f}" for x in rng.normal(size=WIDTH))])
        for word in ("a", "red", "blue", "wall", "unseen")
    ]
    (folder / "vectors.txt").write_text("\n".join(rows) + "\n")
    return folder


def config_of(pictures):
    config = base.get_config()
    config.dataset = base.folder_dataset()
    fields = {"dataset.cache_dir": "", "dataset.image_size": 32, "dataset.max_length": 6}
    shorten(config, pictures, {**fields, "decoding.max_length": 7})
    config.encoder = base.conv_encoder()
    config.encoder.update(widths=(8,), blocks=1, stem_stride=8)
    config.decoder = base.bahdanau_decoder()
    config.decoder.update(width=12, attention_dim=12, embed_dim=WIDTH)
    return config


@pytest.fixture(name="config")
def make_config(pictures):
    return config_of(pictures)


def metrics_of(directory, name):
    rows = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return [row[name] for row in rows if row["group"] == "train"]


@pytest.mark.slow(reason="what each of these adds to the loss is tested every day")
def test_a_run_of_everything(config, tmp_path, pictures, caplog):
    """Hard attention, the penalty, own words, frozen word vectors and an average, all at once."""
    config.decoder.attention = "hard"
    config.attention_penalty, config.ema_decay = 0.5, 0.9
    config.scheduled_sampling.update(kind="linear", slope=0.1, floor=0.5)
    config.word_vectors.update(file=str(pictures / "vectors.txt"), frozen=True)
    train(config, str(tmp_path))
    said = caplog.text
    assert "vectors.txt: 4 of 6 words (66.7%)" in said
    np.testing.assert_allclose(metrics_of(tmp_path, "own_words"), [0, 0.1, 0.2, 0.3], atol=1e-6)
    baseline = metrics_of(tmp_path, "baseline")
    assert baseline[0] == 0
    np.testing.assert_allclose(baseline[1], -0.9 * metrics_of(tmp_path, "loss")[0], rtol=1e-5)
    assert all(penalty > 0 for penalty in metrics_of(tmp_path, "attention_penalty"))
    # The file's rows are as they were, and the rest of the embedding is, too.
    run = capjax.load(tmp_path, "latest")
    embedding = run.variables["params"]["decoder"]["tokens"]["embedding"]
    rows = (pictures / "vectors.txt").read_text().splitlines()
    for word, *numbers in (row.split() for row in rows[:4]):
        (token,) = run.tokenizer.encode(word)
        np.testing.assert_array_equal(embedding[token], np.float32(numbers))
    assert "tokens" not in (tmp_path / "checkpoints" / "4" / "params" / "_METADATA").read_text()


@pytest.fixture(scope="module", name="trained")
def make_trained(pictures, tmp_path_factory):
    """A run whose captions may be longer than those it was trained on."""
    config = config_of(pictures)
    config.num_steps = config.eval_every = 60
    config.optimizer.learning_rate = 0.02
    config.decoding.max_length = 12
    directory = tmp_path_factory.mktemp("runs") / "first"
    train(config, str(directory))
    assert capjax.load(directory).config.decoding.max_length == 12
    return directory


@pytest.mark.slow(reason="figures of a transformer are drawn every day")
def test_attention_is_drawn_for_greedy_sampled_and_beam_captions(trained, pictures):
    run = capjax.load(trained)
    pixels = np.zeros((40, 48, 3), np.uint8)
    for method in (BeamSearch(1, 1.0, False, 7), BeamSearch(3, 1.0, False, 7), Sampling(1.0, 7)):
        (caption,) = run.caption([str(pictures / "0.png")], method=method, attention=True)
        assert caption.attention.shape == (len(caption.words), 1, 16)
        np.testing.assert_allclose(caption.attention.sum(-1), 1, atol=1e-5)
        assert attention_figure(pixels, caption).axes
        for word in (0, -1):
            seen = overlay(pixels, grid_maps(caption)[word, 0, 0])
            assert seen.shape == pixels.shape
            assert seen.any()


@pytest.mark.slow(reason="what a run starts from is tested every day")
def test_a_run_starts_from_another(config, trained, tmp_path):
    second = tmp_path / "second"
    config.init_from = str(trained)
    config.optimizer.learning_rate, config.num_steps = 1e-12, 2
    # The words stay those that its parameters know, whatever these data would give.
    config.tokenizer.max_words = 3
    train(config, str(second))
    first = capjax.load(trained)
    assert capjax.load(second).tokenizer.vocab_size == first.tokenizer.vocab_size
    with pytest.raises(ConfigError, match="is this run's own workdir"):
        train(config, str(trained))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        *(run.variables for run in (first, capjax.load(second))),
    )
    config.decoder.width = 13
    match = r"bias is \[12\] and should be \[13\]"
    with pytest.raises(WorkdirError, match=match):
        train(config, str(tmp_path / "third"))
    assert not (tmp_path / "third" / "config.json").exists()


VECTORS = {"word_vectors.file": "VECTORS"}
BLIND = {"decoder.attention": "none"}
SCHEDULE = "scheduled_sampling.kind"
# Of a transformer whose output layer is its embedding.
TIED = {"decoder.tie_embeddings": True}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decoder.cell": "rnn"}, "decoder.cell='rnn' must be one of"),
        ({**BLIND, "decoder.initial_state": "zero"}, "needs initial_state='mean'"),
        ({**BLIND, "attention_penalty": 1.0}, "needs a decoder with attention"),
        ({SCHEDULE: "exponential"}, "kind 'exponential' needs 0 < k < 1"),
        ({SCHEDULE: "inverse_sigmoid"}, "kind 'inverse_sigmoid' needs k > 1"),
        ({"optimizer.schedule": "step"}, r"optimizer\.schedule='step'"),
        ({"word_vectors.frozen": True}, "needs a config.word_vectors.file"),
        ({"decoder.embed_dim": 8, **VECTORS}, "vectors of 6 numbers"),
        ({"word_vectors.file": "none.txt"}, "no such file"),
        ({"init_from": "VECTORS", **VECTORS}, "give one of them"),
        ({"attention_penalty": -1.0}, "must be 0 or more"),
        ({"decoder.expected_rate": 7.0}, "must lie in 0 to 1"),
        ({"init_from": "nowhere"}, "is no run"),
        ({"word_vectors.frozen": True, **VECTORS, **TIED}, "would freeze the output layer"),
        ({SCHEDULE: "linear", **TIED}, "needs a recurrent decoder"),
    ],
)
def test_mistakes_are_found_before_training(config, pictures, tmp_path, fields, message):
    if TIED.keys() <= fields.keys():
        config.decoder = base.transformer_decoder()
    given = {name: str(pictures / "vectors.txt") for name, x in fields.items() if x == "VECTORS"}
    config.update_from_flattened_dict({**fields, **given})
    with pytest.raises((ConfigError, WeightsError, WorkdirError), match=message):
        train(config, str(tmp_path / "none"))
    assert not (tmp_path / "none" / "config.json").exists()


@pytest.mark.slow(reason="compiles seven large models; their configs are checked every day")
@pytest.mark.parametrize(
    ("config", "memory"),
    [
        (flickr8k_bahdanau_gru.get_config(), (8, 8, 256)),
        (flickr8k_bahdanau_gru.get_config("mobilenet_v2"), (7, 7, 256)),
        (coco_bahdanau_gru.get_config(), (8, 8, 256)),
        (coco_show_attend_tell.get_config(), (14, 14, 2048)),
        (coco_show_attend_tell.get_config("fine_tune"), (14, 14, 2048)),
        (flickr8k_show_attend_tell.get_config(), (14, 14, 2048)),
        (flickr8k_show_attend_tell.get_config("mobilenet_v2"), (7, 7, 1280)),
    ],
)
def test_shipped_configs_make_the_published_sizes(config, memory):
    checks.check(config)
    model = build.captioner(config, train_word_tokenizer(["a dog"]))
    side = config.dataset.image_size

    def encode(key):
        variables = model.init_variables(key, (side, side, 3))
        images = np.zeros((1, side, side, 3), np.uint8)
        return variables, model.apply(variables, images, method="encode")

    variables, found = jax.eval_shape(encode, jax.random.key(0))
    assert (*found.grid, found.values.shape[-1]) == memory
    assert variables["params"]["decoder"]["attend"]["memory"]["kernel"].shape == (memory[-1], 512)
    assert build.optimizer(config)
