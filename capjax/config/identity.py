"""The fields that identify a run, and those that may change when it is continued."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from capjax.config.upgrade import upgrade
from capjax.files.text import dotted

# Sections and fields that may change when a run is continued: they change no update of the
# parameters, only where data lie and what is logged and evaluated.
FREE = (
    "dataset.data_dir",
    "dataset.root",
    "dataset.file",
    "dataset.bad_images",
    "dataset.allow_outside",
    "dataset.train_file",
    "dataset.train_root",
    "dataset.validation_file",
    "dataset.validation_root",
    "dataset.cache_dir",
    "dataset.num_threads",
    # It changes nothing as long as no update was left out.
    "optimizer.skip_nonfinite",
    "log_every",
    "eval_every",
    "checkpoint_every",
    "evaluation",
    "decoding",
)

# An evaluation can also compute features without a cache, and does not need the encoder's original
# file, since the workdir has a copy.
FREE_IN_EVALUATION = (*FREE, "encoder.cache", "encoder.weights")


def differences(saved: ConfigDict, given: ConfigDict, free: Sequence[str] = FREE) -> list[str]:
    """Lists the fields in which a config differs from a run's, a line each.

    Args:
      saved: the run's config.
      given: the config to compare.
      free: fields that may differ.
    """
    old, new = (dotted(tuples(upgrade(config.to_dict()))) for config in (saved, given))
    return [
        f"  {name}: {old.get(name, '(absent)')!r} in the run, {new.get(name, '(absent)')!r} now"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and not _is_free(name, free)
    ]


def shared_fields(config: ConfigDict) -> dict[str, Any]:
    """The fields that all processes must agree on: all except the dataset fields of `FREE`."""
    of_a_host = [field for field in FREE if field.startswith("dataset.")]
    return {name: value for name, value in flat(config).items() if not _is_free(name, of_a_host)}


def fixed_fields(config: ConfigDict) -> dict[str, Any]:
    """The fields that must not change while a run is trained: all except `FREE`."""
    return {name: value for name, value in flat(config).items() if not _is_free(name, FREE)}


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
