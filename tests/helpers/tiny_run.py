"""Configs of runs of seconds, on the pictures of `small_pictures`.

As --config tests/helpers/tiny_run.py:FOLDER, of a folder that `write_folder` filled.
"""

from configs import folder_transformer
from tests.helpers import small_files
from tests.helpers.small_pictures import write_pictures

_SHORT = {
    "dataset.length_bucket": 0,
    "dataset.max_length": 8,
    "tokenizer.min_count": 1,
    "batch_size": 4,
    "num_steps": 4,
    "eval_every": 4,
    "log_every": 1,
    "optimizer.warmup_steps": 1,
    "evaluation.batch_size": 4,
    "evaluation.num_samples": 0,
    "decoding.num_beams": 2,
    "decoding.max_length": 8,
}
_OVER_FEATURES = {
    "dataset.crop_area": 1.0,
    "encoder.cache_views": 1,
    "early_stopping.patience": 0,
    "adapter.width": 8,
    "adapter.depth": 0,
    "adapter.dropout": 0.0,
    "decoder.width": 8,
    "decoder.num_layers": 1,
    "decoder.num_heads": 2,
    "decoder.dropout": 0.0,
}


def write_folder(folder) -> None:
    """Pictures, and the weights of a ViT of one block."""
    write_pictures(folder)
    small_files.write_own(folder / "encoder.safetensors")


def shorten(config, folder, fields=()):
    """Has a config of a folder's dataset take `write_pictures`' and few short steps."""
    short = {**_SHORT, "dataset.file": f"{folder}/captions.csv"}
    config.update_from_flattened_dict({**short, **dict(fields)})
    return config


def over_features(folder, fields=()):
    """A run over the cached features of the folder's frozen ViT."""
    config = folder_transformer.get_config(f"{folder}/encoder.safetensors")
    cache = {"dataset.cache_dir": f"{folder}/cache"}
    return shorten(config, folder, {**_OVER_FEATURES, **cache, **dict(fields)})


def get_config(folder: str):
    """With views, an average and several checkpoints, and nothing that is drawn."""
    fields = {"dataset.crop_area": 0.5, "encoder.cache_views": 2, "dataset.length_bucket": 2}
    fields |= {"ema_decay": 0.9}
    fields |= {"batch_size": 8, "num_steps": 16, "eval_every": 8, "checkpoint_every": 4}
    # Of validation's three images, one is left alone in its batch.
    fields |= {"optimizer.learning_rate": 0.02, "evaluation.batch_size": 2}
    return over_features(folder, fields)
