"""A run that was never trained: what is said of a picture is nonsense, but depends on it."""

import jax
import numpy as np

from capjax import build, workdir
from capjax.data.tokenizer import train_word_tokenizer
from capjax.train.state import init_state
from configs import base

WORDS = "a b c d e f g h i j k l m n o p"
SIDE = 16


def write_untrained_run(directory, seed=0) -> None:
    """Writes a workdir that `capjax.load` and `capjax.caption` take."""
    config = base.get_config()
    config.dataset.image_size = SIDE
    config.encoder.width, config.encoder.depth, config.encoder.num_heads = 16, 1, 2
    config.decoder.width, config.decoder.num_layers, config.decoder.num_heads = 16, 1, 2
    config.decoding.num_beams, config.decoding.max_length = 2, 6
    config.evaluation.batch_size = 4
    config.seed = seed
    tokenizer = train_word_tokenizer([WORDS] * 5)
    model = build.captioner(config, tokenizer)
    variables = model.init_variables(jax.random.key(seed), build.resize(config.dataset).shape)
    # Louder than training starts: captions of different pictures are to differ.
    params = jax.tree.map(lambda leaf: np.asarray(leaf) * 3, variables["params"])
    write_run(directory, config, tokenizer, params)


def write_run(directory, config, tokenizer, params) -> None:
    """Writes the workdir of a config with these parameters."""
    workdir.save(str(directory), config, tokenizer, {"tokenizer": tokenizer.fingerprint})
    state = init_state(params, build.optimizer(config), ema=False)
    with build.checkpoints(str(directory), config) as checkpoints:
        checkpoints.save(jax.tree.map(np.asarray, state), {"best": None, "waited": 0}, None)
