"""What a run leaves on disk, and how it is read again.

config.json             the whole config
tokenizer.json          its tokenizer
data.json               fingerprints of the data
selection.json          what was drawn from a dataset or left out, where anything was
start.json              what was taken from another run, where anything was
frozen.safetensors      variables that training does not change, such as a frozen encoder's
environment.json        processors, devices and versions that it began with
checkpoints/            the latest two and the best
metrics.jsonl           training and validation scalars
tensorboard/            the same, with texts and figures; in folders, scores of evaluations
figures/                fixed images, their captions and attention, at every evaluation
evaluation/             results of `--mode evaluate`
lock                    held by the process that trains in it
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flax.errors import FlaxError
from ml_collections import ConfigDict

from capjax.data.source import Source
from capjax.data.tokenizer import Tokenizer
from capjax.files.atomic import write_json
from capjax.files.errors import ReportedError
from capjax.files.text import dotted, parse_json
from capjax.models.captioner import Variables
from capjax.pretrained.variables import load_variables, save_variables
from capjax.pretrained.weights import WeightsError, check_variables

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

# The same, where the dataset is a user's files.
_ADDED_TO_FILES = {"allow_outside": False}

# What a config can't be read without.
_SECTIONS = ("dataset", "tokenizer", "encoder", "decoder", "optimizer", "decoding")

# Sections that not every run has.
_OPTIONAL = ("adapter",)

# Sections and fields that may change between two visits to a workdir: they change no update of the
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

# What fields of a wrong kind or size lead to when a model is made of them.
_WRONG = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, FlaxError)

_FROZEN = "frozen.safetensors"


class WorkdirError(ReportedError, ValueError):
    """A workdir that can't be used as asked; the message says what would work."""


def path(workdir: str, *parts: str) -> str:
    """A file of the workdir."""
    return os.path.join(workdir, *parts)


def default_workdir(config_file: str) -> str:
    """runs/coco_transformer for configs/coco_transformer.py, and ..._karpathy for its :karpathy."""
    path, _, argument = config_file.partition(":")
    name = os.path.splitext(os.path.basename(path))[0]
    # An argument may be a path or a name with slashes.
    argument = re.sub(r"[^\w.-]+", "_", argument).strip("_")
    return os.path.join("runs", f"{name}_{argument}" if argument else name)


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
            "`capjax train --config shapes_transformer`"
        )
    saved = _tuples(_read_json(file))
    missing = [name for name in _SECTIONS if not isinstance(saved.get(name), dict)]
    if missing:
        raise _damaged(file, f"it has no section {missing[0]}")
    for name, added in _ADDED.items():
        if not isinstance(added, dict):
            saved.setdefault(name, added)
        elif name in saved or name not in _OPTIONAL:
            if not isinstance(section := saved.get(name, {}), dict):
                raise _damaged(file, f"{name} is no section")
            saved[name] = {**added, **section}
    if "bad_images" in saved["dataset"]:
        saved["dataset"] = {**_ADDED_TO_FILES, **saved["dataset"]}
    if "frozen" in saved["encoder"]:  # Before stages could be trained.
        saved["encoder"]["trainable"] = () if saved["encoder"].pop("frozen") else ("all",)
    try:
        return ConfigDict(saved)
    except (TypeError, ValueError) as error:
        raise _damaged(file, str(error)) from error


@contextlib.contextmanager
def blamed(workdir: str) -> Iterator[None]:
    """What a config makes impossible is said of the workdir's file.

    Raises:
      WorkdirError: in place of the errors that values of a wrong kind or size lead to.
    """
    try:
        yield
    except _WRONG as error:
        reason = f"its fields make no model ({' '.join(str(error).split())[:300]})"
        raise _damaged(path(workdir, "config.json"), reason) from error


def _read_json(file: str) -> dict[str, Any]:
    """The object in a JSON file of a workdir."""
    try:
        with open(file, "rb") as stream:
            found = parse_json(stream.read())
    except (OSError, ValueError) as error:
        raise _damaged(file, str(error)) from error
    if not isinstance(found, dict):
        raise _damaged(file, f"it holds no JSON object, but {type(found).__name__}")
    return found


def _damaged(file: str, reason: str) -> WorkdirError:
    # Some reasons begin with the file.
    where = reason if file in reason else f"{file} can't be used: {reason}"
    return WorkdirError(
        f"{where}; copy it again from where the run was made, or train in another --workdir"
    )


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
        raise _damaged(file, str(error)) from error


def check_frozen(workdir: str, frozen: Variables, like: Variables) -> None:
    """Raises WorkdirError where what did not change does not fit `like`, the config's shapes."""
    try:
        check_variables(frozen, like, path(workdir, _FROZEN))
    except WeightsError as error:
        raise _damaged(path(workdir, _FROZEN), str(error)) from error


def load_tokenizer(workdir: str) -> Tokenizer:
    """The tokenizer of a run.

    Raises:
      WorkdirError: it is missing, damaged, or another than the run began with.
    """
    file = path(workdir, "tokenizer.json")
    try:
        tokenizer = Tokenizer.load(file)
        with open(file, "rb") as stream:
            digest = hashlib.sha256(stream.read()).hexdigest()
    except (OSError, ValueError) as error:
        raise _damaged(file, str(error)) from error
    # By the file's own bytes: another version of tokenizers may write the same one otherwise.
    data = path(workdir, "data.json")
    if os.path.exists(data) and _read_json(data).get("tokenizer", digest) != digest:
        raise _damaged(file, "data.json says that the run was made with another")
    return tokenizer


def check_same_run(workdir: str, config: ConfigDict, free: Sequence[str] = FREE) -> None:
    """Raises WorkdirError, listing the fields, where `config` is not the run's own.

    The fields of `free` may differ.
    """
    saved, given = flat(load_config(workdir)), flat(config)
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
    saved = _read_json(path(workdir, "data.json"))
    changed = [name for name, value in fingerprints.items() if saved.get(name, value) != value]
    if changed:
        raise WorkdirError(
            f"{workdir} was trained on other data: {', '.join(changed)} changed. Give the data it "
            "began with (config.dataset names where it lies), or another --workdir"
        )


def shared_fields(config: ConfigDict) -> dict[str, Any]:
    """What all processes of a run must agree on: all but where a host keeps its data."""
    of_a_host = [field for field in FREE if field.startswith("dataset.")]
    return {name: value for name, value in flat(config).items() if not _is_free(name, of_a_host)}


def fixed_fields(config: ConfigDict) -> dict[str, Any]:
    """What must stay as it is while a run is trained: all but `FREE`."""
    return {name: value for name, value in flat(config).items() if not _is_free(name, FREE)}


def _is_free(name: str, free: Sequence[str]) -> bool:
    return any(name == field or name.startswith(field + ".") for field in free)


def flat(config: ConfigDict) -> dict[str, Any]:
    """Every field by its dotted name."""
    return dotted(_tuples(config.to_dict()))
