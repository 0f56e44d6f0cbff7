"""The captioner that a command line names: a run's folder, or a captioner of transformers."""

import os

from capjax.pretrained.captioners.published import is_published
from capjax.run.load import Run, load
from capjax.run.workdir import Workdir, WorkdirError


def load_model(model: str, adapter: str = "") -> Run:
    """Loads a captioner of transformers, with PEFT's adapters if their folder is given.

    Raises WorkdirError if it is none.
    """
    if not is_published(model):
        raise WorkdirError(
            f"--model {model} is no captioner of transformers, whose config.json has "
            "a model_type; give a run's folder as --workdir"
        )
    return load(model, adapter=adapter)


def load_run(workdir: str, checkpoint: str | None, *, merged: bool = True) -> Run:
    """Loads a run, by default its best checkpoint; raises WorkdirError if it is none.

    `merged` is as of `capjax.load`.
    """
    if is_published(workdir) and os.path.exists(workdir):
        raise WorkdirError(
            f"--workdir {workdir} is a captioner of transformers: give it as --model"
        )
    Workdir(workdir).load_config()  # A missing workdir must not be looked up on huggingface.co.
    return load(workdir, checkpoint or "best", merged=merged)
