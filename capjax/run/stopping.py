"""Early stopping of a run that begins or continues: by which metric, and from which best value."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from capjax.config import build
from capjax.metrics import coco
from capjax.metrics.direction import contradicts
from capjax.train.checkpoint import ranked_by
from capjax.train.early_stopping import EarlyStopping

_logger = logging.getLogger(__name__)


def new_stopping(config: ConfigDict, references: Sequence[Sequence[str]]) -> EarlyStopping:
    """Early stopping of a new run: by the loss where CIDEr-D is 0 for any captions.

    Args:
      config: the run's.
      references: raw captions of each validation image; images without any are not scored.
    """
    stopping = _configured(config)
    # The first few tell it of most splits.
    scored = (captions for captions in references if captions)
    if stopping.metric == "CIDEr-D" and not coco.cider_can_vary(scored):
        count = sum(map(bool, references))
        stopping.metric, stopping.mode = "loss", "auto"
        _logger.warning(
            "CIDEr-D is 0 for any caption of validation's %d image%s, since no n-gram of the "
            "references tells images apart: checkpoints are chosen by loss",
            count,
            "s" if count > 1 else "",
        )
    return stopping


def restored_stopping(config: ConfigDict, progress: Mapping[str, Any], step: int) -> EarlyStopping:
    """Early stopping as a checkpoint's progress has it, by the metric that it names.

    The best starts anew where its value can't be compared: it was of another decoding, or chosen
    with the worse values taken for the better ones, which earlier versions allowed.
    """
    stopping = _configured(config)
    stopping.metric, stopping.mode = metric, mode = progress["metric"], progress["mode"]
    same = ranked_by(progress) == ranked_by(dataclasses.asdict(stopping))
    if same and not contradicts(metric, mode):
        stopping.best, stopping.waited = progress["best"], progress["waited"]
    # An imported run was never evaluated and has no such entry.
    stopping.evaluated = progress.get("evaluated", step)
    return stopping


def _configured(config: ConfigDict) -> EarlyStopping:
    label = build.decoding_method(config.decoding).label
    return EarlyStopping(**config.early_stopping, decoding=label)
