"""Messages of a training that tell a model from a guess, and the user what comes next."""

import logging
import shlex
from typing import Any

import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from capjax.config import build
from capjax.models.captioner import Captioner
from capjax.models.lora import is_adapter
from capjax.models.summary import model_summary
from capjax.parallel import programs
from capjax.run.workdir import Workdir

_logger = logging.getLogger(__name__)


def log_smart_start(counts: np.ndarray, banned: tuple[int, ...]) -> None:
    """Logs the losses of a uniform guess and of the words' frequencies, as baselines."""
    allowed = np.delete(counts, list(banned))
    share = allowed[allowed > 0] / allowed.sum()
    uniform, frequencies = np.log(len(counts)), -(share * np.log(share)).sum()
    _logger.info(
        "vocabulary %d: a uniform guess costs %.3f nats a token, "
        "the train split's frequencies %.3f",
        len(counts),
        uniform,
        frequencies,
    )


def log_summary(config: ConfigDict, model: Captioner, params: Any) -> None:
    """Logs the model's modules, of parameters such as `params`, and the share of adapters.

    A part that is frozen as a whole is one row.
    """
    freeze, thaw = build.frozen_parts(config)
    whole = {part for part in freeze if not any(name.startswith(part) for name in thaw)}
    lengths = (config.dataset.captions_per_image, config.dataset.max_length)
    shape = build.resize(config.dataset).shape
    made_from = model, shape, lengths, sorted(whole)
    _logger.info(
        programs.text_of(lambda: model_summary(model, shape, *lengths, frozen=whole), made_from)
    )
    if model.lora is not None:
        sizes = {at: leaf.size for at, leaf in traverse_util.flatten_dict(params, sep="/").items()}
        adapters = sum(size for at, size in sizes.items() if is_adapter(at))
        _logger.info(
            "adapters train: %s of %s parameters", f"{adapters:,}", f"{sum(sizes.values()):,}"
        )


def log_best(config: ConfigDict, workdir: Workdir) -> None:
    """Logs the best checkpoint, and the commands that use it."""
    with workdir.checkpoints(config, read_only=True) as checkpoints:
        best = checkpoints.ranking()[0]
        progress = checkpoints.progress(best)
    metric = progress["metric"]
    score = f": {metric} {progress['metrics'][metric]:.4g}" if progress.get("metrics") else ""
    where = shlex.quote(workdir.directory)
    _logger.info(
        "the best checkpoint is step %d%s. What comes next:\n"
        "    capjax caption --workdir %s photo.jpg\n"
        "    capjax evaluate %s --split validation",
        *(best, score, where, where),
    )
