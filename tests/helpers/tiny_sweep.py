"""A sweep of runs of seconds: tests/helpers/tiny_sweep.py:FOLDER, as tiny_run.py fills one.

The variant "broken" can't be trained: what its words are to start from is no file of vectors. With
the environment variable HIT_AT, the sweep is hit by SIGTERM when a run has logged that step.
"""

import os
import signal
import time

from capjax.train.writer import Writer
from experiments.variants import Sweep, Variant
from tests.helpers.tiny_run import over_features


def get_config(folder: str):
    return over_features(folder, {"num_steps": 10, "eval_every": 10})


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
