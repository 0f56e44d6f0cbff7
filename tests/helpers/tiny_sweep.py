"""A sweep of runs of seconds: tests/helpers/tiny_sweep.py:FOLDER, as `write_folder` makes one.

The variant "broken" can't be trained: what its words are to start from is no file of vectors. With
the environment variable HIT_AT, the sweep is hit by SIGTERM when a run has logged that step.
"""

import os
import signal
import time

from capjax.train.writer import Writer
from configs import base, folder_transformer
from experiments.variants import Sweep, Variant
from tests.helpers import small_files
from tests.helpers.small_pictures import write_pictures


def write_folder(folder) -> None:
    """Pictures and an encoder's weights."""
    write_pictures(folder)
    small_files.write_own(folder / "encoder.safetensors")


def get_config(folder: str):
    config = folder_transformer.get_config()
    base.use_encoder(config, f"{folder}/encoder.safetensors")
    config.dataset.file = f"{folder}/captions.csv"
    config.dataset.cache_dir = f"{folder}/cache"
    config.dataset.length_bucket = 0
    config.dataset.max_length = 8
    config.dataset.crop_area = 1.0
    config.dataset.flip = False
    config.tokenizer.min_count = 1
    config.encoder.cache_views = 1
    config.adapter.width = 8
    config.adapter.depth = 0
    config.decoder.update(width=8, num_layers=1, num_heads=1)
    config.batch_size = 4
    config.num_steps = config.eval_every = 10
    config.log_every = 1
    config.optimizer.warmup_steps = 1
    config.evaluation.batch_size = 4
    config.evaluation.num_samples = 0
    config.decoding.num_beams = 2
    config.decoding.max_length = 8
    return config


def hit_at(step: int) -> None:
    """Has this process end the sweep that started it, and wait until it is hit itself."""
    scalars = Writer.scalars

    def log(writer, at, group, values):
        scalars(writer, at, group, values)
        if at == step:
            os.kill(os.getppid(), signal.SIGTERM)
            # The first signal that is caught leaves the next to the system.
            while signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
                time.sleep(0.01)

    Writer.scalars = log


def get_sweep(folder: str):
    if "HIT_AT" in os.environ:
        hit_at(int(os.environ["HIT_AT"]))
    return Sweep(
        config=lambda: get_config(folder),
        variants=[Variant("plain"), Variant("broken", {"word_vectors.file": __file__})],
        evaluations={"beam2": {}, "the_same": {"num_beams": 2}},
        baseline="plain",
        seeds=(3,),
    )
