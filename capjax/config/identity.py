"""The fields that identify a run, and those that may differ between two visits to it."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from capjax.config.upgrade import upgrade
from capjax.files.text import dotted

# Sections and fields that may change between two visits to a run: they change no update of the
# parameters, only what is looked at and when.
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
    # As long as none was left out, training went as it would have gone with any number.
    "optimizer.skip_nonfinite",
    "log_every",
    "eval_every",
    "checkpoint_every",
    "evaluation",
    "decoding",
)

# Where a run is evaluated and no longer trained, its features may also be computed as it goes; and
# the file that its encoder started from may have moved, since the workdir has a copy.
FREE_IN_EVALUATION = (*FREE, "encoder.cache", "encoder.weights")


def differences(saved: ConfigDict, given: ConfigDict, free: Sequence[str] = FREE) -> list[str]:
    """A line for every field in which two configs are not of the same run.

    Args:
      saved: of the run.
      given: of now.
      free: the fields that may differ.
    """
    old, new = (dotted(tuples(upgrade(config.to_dict()))) for config in (saved, given))
    return [
        f"  {name}: {old.get(name, '(absent)')!r} in the run, {new.get(name, '(absent)')!r} now"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and not _is_free(name, free)
    ]


def shared_fields(config: ConfigDict) -> dict[str, Any]:
    """The fields that all processes must agree on: all but the places where a host keeps data."""
    of_a_host = [field for field in FREE if field.startswith("dataset.")]
    return {name: value for name, value in flat(config).items() if not _is_free(name, of_a_host)}


def fixed_fields(config: ConfigDict) -> dict[str, Any]:
    """The fields that must stay as they are while a run is trained: all but `FREE`."""
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
