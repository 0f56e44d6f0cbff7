"""The workdir of a small run that was not trained, for what reads a workdir."""

import jax
import numpy as np

from capjax import build, workdir
from capjax.data.tokenizer import train_word_tokenizer
from capjax.models.captioner import split_frozen
from capjax.train.state import init_state
from configs import base


def write_small_run(directory):
    """A run with a checkpoint at step 0; its word vectors lie in frozen.safetensors."""
    config = base.get_config()
    config.dataset.image_size = 16
    config.encoder.update(width=16, depth=1, num_heads=2)
    config.decoder.update(width=16, num_layers=1, num_heads=2)
    config.word_vectors.frozen = True
    config.decoding.max_length = 4
    tokenizer = train_word_tokenizer(["a cat sits", "a dog runs"])
    model = build.captioner(config, tokenizer)
    variables = model.init_variables(jax.random.key(0), (16, 16, 3))
    params, frozen = split_frozen(variables, *build.frozen_parts(config))
    workdir.save(directory, config, tokenizer, {"tokenizer": tokenizer.fingerprint, "train": "1"})
    workdir.save_frozen(directory, frozen)
    state = jax.tree.map(np.asarray, init_state(params, build.optimizer(config), ema=False))
    with build.checkpoints(directory, config) as checkpoints:
        checkpoints.save(state, {"best": None, "waited": 0}, None)
