"""The fields that identify a run, and those that may change when it is continued."""

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from capjax.config.upgrade import upgrade
from capjax.data.dataset import CommonFields
from capjax.files.text import dotted
from capjax.metrics.direction import direction
from capjax.parts import DATASETS
from capjax.parts.registry import PartError

# Sections and fields that may change when a run is continued, besides `dataset_fields`: they change
# no update of the parameters, only what is logged and evaluated.
FREE = (
    # It changes nothing as long as no update was left out.
    "optimizer.skip_nonfinite",
    "log_every",
    "eval_every",
    "checkpoint_every",
    "wandb_project",
    "evaluation",
    "decoding",
)

# An evaluation can also compute features without a cache, and does not need the encoder's original
# file, since the workdir has a copy. The length of the training is over by then.
FREE_IN_EVALUATION = (*FREE, "encoder.cache", "encoder.weights", "num_steps")


def differences(saved: ConfigDict, given: ConfigDict, free: Sequence[str] = FREE) -> list[str]:
    """Lists the fields in which a config differs from a run's, a line each.

    Args:
      saved: the run's config.
      given: the config to compare.
      free: fields that may differ, besides those of the dataset.
    """
    before, now = (upgrade(config.to_dict()) for config in (saved, given))
    old, new = (canonical(dotted(tuples(fields))) for fields in (before, now))
    free = (*free, *_free_of_dataset(now))
    return [
        f"  {name}: {old.get(name, '(absent)')!r} in the run, {new.get(name, '(absent)')!r} now"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and not _is_free(name, free)
    ]


def canonical(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields by dotted name, with "auto" for a mode that `early_stopping.metric` implies.

    Earlier configs had to name a mode, and could name the wrong one.
    """
    metric, mode = fields.get("early_stopping.metric", ""), fields.get("early_stopping.mode")
    implied = mode in ("max", "min") and direction(metric, mode) == direction(metric)
    return {**fields, "early_stopping.mode": "auto"} if implied else dict(fields)


def shared_fields(config: ConfigDict) -> dict[str, Any]:
    """The fields that all processes must agree on: all except those of `dataset_fields`."""
    free = _free_of_dataset(config)
    return {name: value for name, value in flat(config).items() if not _is_free(name, free)}


def fixed_fields(config: ConfigDict) -> dict[str, Any]:
    """The fields that must not change while a run is trained."""
    free = (*FREE, *_free_of_dataset(config))
    return {name: value for name, value in flat(config).items() if not _is_free(name, free)}


def dataset_fields(section: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the fields of a `dataset` section that may change: they say where data lie."""
    try:
        own = DATASETS.get(section["name"]).may_change
    except PartError:  # A user's own that is not registered, which can't be opened either.
        own = ()
    return (*CommonFields.may_change, *own)


def _free_of_dataset(config: Mapping[str, Any]) -> list[str]:
    return [f"dataset.{name}" for name in dataset_fields(config["dataset"])]


def _is_free(name: str, free: Sequence[str]) -> bool:
    return any(name == field or name.startswith(field + ".") for field in free)


def flat(config: ConfigDict) -> dict[str, Any]:
    """Every field by its dotted name."""
    return dotted(tuples(config.to_dict()))


def tuples(value: Any) -> Any:
    """A JSON value with its lists as tuples: JSON has no tuples, and the configs no lists."""
    if isinstance(value, dict):
        return {name: tuples(item) for name, item in value.items()}
    return tuple(map(tuples, value)) if isinstance(value, list) else value
