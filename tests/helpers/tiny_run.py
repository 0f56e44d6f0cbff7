"""A run of seconds over the features of a small frozen encoder.

As --config tests/helpers/tiny_run.py:FOLDER.

FOLDER has the pictures of `small_pictures` and the weights of `small_weights`.
"""

from configs import base, folder_transformer
from tests.helpers.small_weights import ALPHA


def get_config(folder: str):
    config = folder_transformer.get_config()
    config.dataset.file = f"{folder}/captions.csv"
    config.dataset.cache_dir = f"{folder}/cache"
    config.dataset.image_size = 64
    config.dataset.crop_area = 0.5
    config.dataset.length_bucket = 2
    config.dataset.max_length = 8
    config.tokenizer.min_count = 1
    config.encoder.weights = f"{folder}/small.weights.h5"
    config.encoder.alpha = ALPHA
    config.encoder.cache_views = 2
    config.adapter = base.adapter()
    config.adapter.width = 16
    config.adapter.dropout = 0.0
    config.decoder.width = 16
    config.decoder.num_layers = 1
    config.decoder.num_heads = 2
    config.decoder.dropout = 0.0
    config.ema_decay = 0.9
    config.batch_size = 8
    config.num_steps = 30
    config.eval_every = 15
    config.checkpoint_every = 5
    config.log_every = 1
    config.optimizer.learning_rate = 0.02
    config.optimizer.warmup_steps = 1
    # Of validation's three images, one is left alone in its batch.
    config.evaluation.batch_size = 2
    config.evaluation.num_samples = 0
    config.decoding.num_beams = 2
    config.decoding.max_length = 8
    return config
