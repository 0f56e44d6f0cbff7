"""What a run leaves on disk, and how it is read again.

config.json             the whole config
tokenizer.json          its tokenizer
data.json               fingerprints of the data
selection.json          what was drawn from a dataset or left out, where anything was
start.json              what was taken from another run, where anything was
frozen.safetensors      variables that training does not change, such as a frozen encoder's
checkpoints/            the latest and the best
metrics.jsonl           training and validation scalars
tensorboard/            the same, with texts and figures
figures/                fixed images, their captions and attention, at every evaluation
evaluation/             results of `--mode evaluate`
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from capjax.data.source import Source
from capjax.data.tokenizer import Tokenizer
from capjax.evaluate.results import write_json
from capjax.models.captioner import Variables
from capjax.pretrained.variables import load_variables, save_variables

# Fields of later versions of capjax, with the value that a run of an earlier one had.
_ADDED = {
    "dataset": {
        "crop_area": 1.0,
        "flip": False,
        "resize_to": 0,
        "keep_aspect": False,
        "interpolation": "bilinear",
        "antialias": True,
        "round_crop": False,
    },
    "word_vectors": {"file": "", "frozen": False},
    "init_from": "",
    "init_parts": ("all",),
    "init_tokenizer": True,
    "attention_penalty": 0.0,
    "hard_attention": {"reinforce_weight": 1.0, "entropy_weight": 0.01},
    "scheduled_sampling": {"kind": "none", "k": 1.0, "slope": 0.0001, "floor": 0.75},
    "adapter": {"norms": True, "activation": ""},
    "optimizer": {
        "schedule": "cosine",
        "encoder_learning_rate": 0.0,
        "encoder_start_step": 0,
        "clip_value": 0.0,
        "skip_nonfinite": 0,
    },
}

# Sections that not every run has.
_OPTIONAL = ("adapter",)

# Sections and fields that may change between two visits to a workdir: they change no update of the
# parameters, only what is looked at and when.
FREE = (
    "dataset.data_dir",
    "dataset.root",
    "dataset.file",
    "dataset.bad_images",
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

# Where a run is evaluated and no longer trained, its features may also be computed as it goes.
FREE_IN_EVALUATION = (*FREE, "encoder.cache")

_FROZEN = "frozen.safetensors"


class WorkdirError(ValueError):
    """A workdir that can't be used as asked; the message says what would work."""


def path(workdir: str, *parts: str) -> str:
    """A file of the workdir."""
    return os.path.join(workdir, *parts)


def check_place(workdir: str) -> None:
    """Raises WorkdirError where a file lies in the place of a workdir, or of a folder above it."""
    place = os.path.abspath(workdir)
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    if not os.path.isdir(place):
        raise WorkdirError(f"{place} is a file, and no folder can be made there: give a --workdir")


def save(
    workdir: str, config: ConfigDict, tokenizer: Tokenizer, fingerprints: dict[str, str]
) -> None:
    """Writes what a run needs before its first step."""
    write_json(path(workdir, "config.json"), config.to_dict())
    write_json(path(workdir, "data.json"), fingerprints)
    tokenizer.save(path(workdir, "tokenizer.json"))


def load_config(workdir: str) -> ConfigDict:
    """The config that made a workdir."""
    file = path(workdir, "config.json")
    if not os.path.isfile(file):
        raise WorkdirError(
            f"{workdir} is no run: it has no config.json. Train one with "
            "`python -m capjax.main --config configs/shapes_transformer.py`"
        )
    with open(file, encoding="utf-8") as stream:
        saved = _tuples(json.load(stream))
    for name, added in _ADDED.items():
        if not isinstance(added, dict):
            saved.setdefault(name, added)
        elif name in saved or name not in _OPTIONAL:
            saved[name] = {**added, **saved.get(name, {})}
    if "frozen" in saved["encoder"]:  # Before stages could be trained.
        saved["encoder"]["trainable"] = () if saved["encoder"].pop("frozen") else ("all",)
    return ConfigDict(saved)


def _tuples(value: Any) -> Any:
    """JSON has no tuples and the configs no lists."""
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def save_selection(workdir: str, sources: Mapping[str, Source]) -> None:
    """Writes what was drawn from a dataset or left out, by split; no file where nothing was."""
    drawn = {name: source.selection for name, source in sources.items() if source.selection}
    _save_if_any(path(workdir, "selection.json"), drawn)


def _save_if_any(file: str, value: Mapping[str, Any]) -> None:
    if value:
        write_json(file, value)
    elif os.path.exists(file):  # Of a start that came to nothing.
        os.remove(file)


def save_start(workdir: str, record: Mapping[str, Any]) -> None:
    """Writes what a run began with of another's parameters; no file where that is nothing."""
    _save_if_any(path(workdir, "start.json"), record)


def save_frozen(workdir: str, frozen: Variables) -> None:
    """Writes the variables that training does not change; no file where there are none."""
    file = path(workdir, _FROZEN)
    if frozen:
        save_variables(file, frozen)
    elif os.path.exists(file):  # Of a start that came to nothing.
        os.remove(file)


def load_frozen(workdir: str) -> Variables:
    """The variables that training did not change: those of a pretrained encoder.

    Raises:
      WorkdirError: the file is damaged or was not copied with the run.
    """
    file = path(workdir, _FROZEN)
    if not os.path.isfile(file):
        raise WorkdirError(
            f"{file} is missing, and what training left as it was is in it, such as an encoder: "
            "copy it from where the run was made"
        )
    try:
        return load_variables(file)
    except ValueError as error:
        raise WorkdirError(f"{error}; copy the run again from where it was made") from error


def load_tokenizer(workdir: str) -> Tokenizer:
    """The tokenizer of a run."""
    return Tokenizer.load(path(workdir, "tokenizer.json"))


def check_same_run(workdir: str, config: ConfigDict, free: Sequence[str] = FREE) -> None:
    """Raises WorkdirError, listing the fields, where `config` is not the run's own.

    The fields of `free` may differ.
    """
    saved, given = _flat(load_config(workdir)), _flat(config)
    changed = [
        f"  {name}: {saved.get(name, '(absent)')!r} in the run, {given.get(name, '(absent)')!r} now"
        for name in sorted(saved.keys() | given.keys())
        if saved.get(name) != given.get(name) and not _is_free(name, free)
    ]
    if changed:
        raise WorkdirError(
            f"{workdir} holds a run with another config; give another --workdir, or the same "
            "config:\n" + "\n".join(changed)
        )


def check_same_data(workdir: str, fingerprints: dict[str, str]) -> None:
    """Raises WorkdirError where the data or the tokenizer are not those the run began with."""
    with open(path(workdir, "data.json"), encoding="utf-8") as stream:
        saved = json.load(stream)
    changed = [name for name, value in fingerprints.items() if saved.get(name, value) != value]
    if changed:
        raise WorkdirError(
            f"{workdir} was trained on other data: {', '.join(changed)} changed. Give the data it "
            "began with (config.dataset names where it lies), or another --workdir"
        )


def _is_free(name: str, free: Sequence[str]) -> bool:
    return any(name == field or name.startswith(field + ".") for field in free)


def _flat(config: ConfigDict) -> dict[str, Any]:
    def walk(section, prefix):
        for name, value in section.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{name}.")
            else:
                yield prefix + name, value

    return dict(walk(_tuples(config.to_dict()), ""))
