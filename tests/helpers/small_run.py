"""Workdirs of small runs that were not trained, for what reads a workdir."""

import jax
import numpy as np

from capjax.config import build
from capjax.data.tokenizer import train_word_tokenizer
from capjax.models.captioner import split_frozen
from capjax.run.workdir import Workdir
from capjax.train.state import init_state
from configs import base
from tests.helpers.small_pictures import COLOURS
from tests.helpers.tiny_run import over_features

WORDS = "a b c d e f g h i j k l m n o p"


def write_run(directory, config, tokenizer, variables, **data) -> None:
    """Writes the workdir of a config with these variables, saved at step 0."""
    workdir = Workdir(directory)
    params, frozen = split_frozen(variables, *build.frozen_parts(config))
    workdir.save(config, tokenizer, {"tokenizer": tokenizer.fingerprint, **data})
    workdir.save_frozen(frozen)
    state = jax.tree.map(np.asarray, init_state(params, build.optimizer(config), ema=False))
    with workdir.checkpoints(config) as checkpoints:
        checkpoints.save(state, {"best": None, "waited": 0}, None)


def small_config():
    config = base.get_config()
    config.dataset.image_size = 16
    config.encoder.update(width=16, depth=1, num_heads=2)
    config.decoder.update(width=16, num_layers=1, num_heads=2)
    return config


def fresh(config, tokenizer):
    model = build.captioner(config, tokenizer)
    return model.init_variables(jax.random.key(config.seed), build.resize(config.dataset).shape)


def write_small_run(directory) -> None:
    """A run whose word vectors lie in frozen.safetensors."""
    config, tokenizer = small_config(), train_word_tokenizer(["a cat sits", "a dog runs"])
    config.word_vectors.frozen = True
    config.decoding.max_length = 4
    write_run(directory, config, tokenizer, fresh(config, tokenizer), train="1")


def write_untrained_run(directory) -> None:
    """What is said of a picture is nonsense, but depends on it."""
    config, tokenizer = small_config(), train_word_tokenizer([WORDS] * 5)
    config.decoding.num_beams, config.decoding.max_length = 2, 6
    config.evaluation.batch_size = 4
    # Louder than training starts: captions of different pictures are to differ.
    loud = jax.tree.map(lambda leaf: np.asarray(leaf) * 3, fresh(config, tokenizer))
    write_run(directory, config, tokenizer, loud)


def write_first_stage(folder, workdir) -> None:
    """The workdir of `tiny_run.over_features` with drawn parameters, for others to start from."""
    config, rng = over_features(folder), np.random.default_rng(0)
    nouns = ("wall", "picture")
    tokenizer = train_word_tokenizer([f"a {colour} {noun}" for colour in COLOURS for noun in nouns])
    like = jax.eval_shape(lambda: fresh(config, tokenizer))

    def draw(path, leaf):
        middle = 1.0 if path[-1].key == "scale" else 0.0
        return (middle + 0.3 * rng.normal(size=leaf.shape)).astype(leaf.dtype)

    variables = jax.tree_util.tree_map_with_path(draw, like)
    variables["params"]["encoder"] = build.pretrained_encoder(config)["params"]
    write_run(workdir, config, tokenizer, variables)
