"""Which values of a metric are better, and which metrics do not depend on the decoding."""

from typing import Literal

from capjax.data.shapes import truth
from capjax.metrics import coco

TEACHER_FORCED = ("loss", "accuracy")
"""Metrics of the references, which no decoding changes."""

LESS_IS_BETTER = ("loss", "shuffled_truth_rate", "unscored_images")
"""Metrics of which less is better."""

_KNOWN = (*LESS_IS_BETTER, *TEACHER_FORCED, *coco.METRICS, "METEOR", "finished", *truth.METRICS)


def direction(metric: str, mode: str = "auto") -> Literal["max", "min"]:
    """Returns "max" if a higher value of the metric is better, "min" if a lower one is.

    `mode` decides on metrics of users alone, of which "auto" takes a higher value as better.
    """
    if metric in LESS_IS_BETTER or (mode == "min" and metric not in _KNOWN):
        return "min"
    return "max"


def contradicts(metric: str, mode: str) -> bool:
    """True if `mode` is not the direction of a known metric."""
    return mode != "auto" and mode != direction(metric, mode)
