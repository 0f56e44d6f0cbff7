"""The folder of a run: what lies in it, and how it is written, read and checked."""

import contextlib
import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flax.errors import FlaxError
from ml_collections import ConfigDict

from capjax.config.identity import FREE, differences, tuples
from capjax.config.upgrade import upgrade
from capjax.data.source import Source
from capjax.data.tokenizer import Tokenizer
from capjax.files.atomic import remove_temporary, write_json
from capjax.files.errors import ReportedError
from capjax.files.text import parse_json
from capjax.models.captioner import Variables
from capjax.pretrained.variables import load_variables, save_variables
from capjax.pretrained.weights import WeightsError, check_variables
from capjax.run import environment
from capjax.run.lock import LockedError, only_one
from capjax.train.checkpoint import CheckpointError, Checkpoints

# The sections that every config has.
_SECTIONS = (
    "dataset",
    "tokenizer",
    "encoder",
    "decoder",
    "word_vectors",
    "optimizer",
    "early_stopping",
    "evaluation",
    "decoding",
)

# What fields of a wrong kind or size lead to when a model is made of them.
_WRONG = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, FlaxError)

# Errors of a disk, whichever file met them.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


class WorkdirError(ReportedError, ValueError):
    """A workdir that can't be used as asked; the message says what would work."""


def default_workdir(config_file: str) -> str:
    """runs/coco_transformer for configs/coco_transformer.py, and ..._karpathy for its :karpathy."""
    path, _, argument = config_file.partition(":")
    name = os.path.splitext(os.path.basename(path))[0]
    # An argument may be a path or a name with slashes.
    argument = re.sub(r"[^\w.-]+", "_", argument).strip("_")
    return os.path.join("runs", f"{name}_{argument}" if argument else name)


class Workdir:
    """The folder of a run. Its files and folders are the constants below.

    Attributes:
      directory: its path.
    """

    CONFIG = "config.json"  # The whole config.
    TOKENIZER = "tokenizer.json"  # The tokenizer.
    DATA = "data.json"  # Fingerprints of the data and the tokenizer.
    SELECTION = "selection.json"  # What was drawn from a dataset or left out, where anything was.
    START = "start.json"  # What was taken from another run, where anything was.
    FROZEN = "frozen.safetensors"  # Variables that training does not change, where there are any.
    ENVIRONMENT = "environment.json"  # Processors, devices and versions that it began with.
    CHECKPOINTS = "checkpoints"  # Folder: the latest two and the best.
    METRICS = "metrics.jsonl"  # Training and validation scalars.
    TENSORBOARD = "tensorboard"  # Folder: the same, with texts and figures; scores of evaluations.
    FIGURES = "figures"  # Folder: fixed images, their captions and attention; the curves.
    EVALUATION = "evaluation"  # Folder: results of `--mode evaluate`.
    LOCK = "lock"  # Held by the process that trains in it.

    def __init__(self, directory: str | os.PathLike):
        """The workdir `directory`, which need not be there yet."""
        self.directory = os.fspath(directory)

    def path(self, *parts: str) -> str:
        """The path of a file of the workdir."""
        return os.path.join(self.directory, *parts)

    def check_place(self) -> None:
        """Raises WorkdirError where a file lies in the workdir's place, or in a folder's above."""
        place = os.path.abspath(self.directory)
        while not os.path.lexists(place):
            place = os.path.dirname(place)
        if not os.path.isdir(place):
            raise WorkdirError(
                f"{place} is a file, and no folder can be made there: give a --workdir"
            )

    @contextlib.contextmanager
    def train_lock(self) -> Iterator[None]:
        """Makes the workdir and keeps other processes from training in it.

        Raises:
          WorkdirError: another process trains in it, or it, or what is written while this lasts,
            can't be read or written.
        """
        try:
            os.makedirs(self.directory, exist_ok=True)
            with only_one(self.path(self.LOCK)):
                for folder in (self.directory, self.path(self.FIGURES)):
                    remove_temporary(folder)
                yield
        except LockedError as error:
            raise WorkdirError(
                f"{error} trains in {self.directory}: wait for it, or give another --workdir"
            ) from error
        except CheckpointError as error:
            raise WorkdirError(str(error)) from error
        except OSError as error:
            # Errors of other files are other people's to explain.
            if not self._contains(error.filename) and error.errno not in _DISK:
                raise
            raise WorkdirError(
                f"{error.filename or self.directory} can't be read or written: {error.strerror}. "
                "When that is mended, the same command continues from the last checkpoint"
            ) from error

    def _contains(self, file: str | os.PathLike | int | None) -> bool:
        if not isinstance(file, str | os.PathLike):
            return False
        folder = os.path.abspath(self.directory)
        return os.path.commonpath([os.path.abspath(file), folder]) == folder

    def save(
        self, config: ConfigDict, tokenizer: Tokenizer, fingerprints: Mapping[str, str]
    ) -> None:
        """Writes what a run needs before its first step."""
        write_json(self.path(self.CONFIG), config.to_dict())
        write_json(self.path(self.DATA), fingerprints)
        tokenizer.save(self.path(self.TOKENIZER))

    def save_selection(self, sources: Mapping[str, Source]) -> None:
        """Writes what was drawn from a dataset or left out, by split; no file where nothing was."""
        drawn = {name: source.selection for name, source in sources.items() if source.selection}
        _save_if_any(self.path(self.SELECTION), drawn)

    def save_start(self, record: Mapping[str, Any]) -> None:
        """Writes what a run began with of another's parameters; no file where that is nothing."""
        _save_if_any(self.path(self.START), record)

    def save_environment(self) -> None:
        """Writes the processors, devices and versions that a run begins with."""
        write_json(self.path(self.ENVIRONMENT), environment.describe())

    def environment_changes(self) -> str:
        """The changes since then, in one line; "" where there are none, or nothing was written."""
        try:
            with open(self.path(self.ENVIRONMENT), encoding="utf-8") as stream:
                began = json.load(stream)
        except (OSError, ValueError):  # Of an imported run, or damaged: nothing rests on it.
            return ""
        return environment.changes(began)

    def load_config(self) -> ConfigDict:
        """The config of the run, with the fields of this version.

        Raises:
          WorkdirError: the workdir is no run, or its config is damaged.
        """
        file = self.path(self.CONFIG)
        if not os.path.isfile(file):
            raise WorkdirError(
                f"{self.directory} is no run: it has no config.json. Train one with "
                "`capjax train --config shapes_transformer`"
            )
        saved = tuples(_read_json(file))
        missing = [name for name in _SECTIONS if not isinstance(saved.get(name), dict)]
        if missing:
            raise _damaged(file, f"it has no section {missing[0]}")
        try:
            return ConfigDict(upgrade(saved))
        except (TypeError, ValueError) as error:
            raise _damaged(file, str(error)) from error

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """Errors of a config that makes no model name the workdir's file.

        Raises:
          WorkdirError: in place of the errors that values of a wrong kind or size lead to.
        """
        try:
            yield
        except _WRONG as error:
            reason = f"its fields make no model ({' '.join(str(error).split())[:300]})"
            raise _damaged(self.path(self.CONFIG), reason) from error

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer of the run.

        Raises:
          WorkdirError: it is missing, damaged, or another than the run began with.
        """
        file = self.path(self.TOKENIZER)
        try:
            tokenizer = Tokenizer.load(file)
            with open(file, "rb") as stream:
                digest = hashlib.sha256(stream.read()).hexdigest()
        except (OSError, ValueError) as error:
            raise _damaged(file, str(error)) from error
        # By the file's own bytes: another version of tokenizers may write the same one otherwise.
        data = self.path(self.DATA)
        if os.path.exists(data) and _read_json(data).get("tokenizer", digest) != digest:
            raise _damaged(file, "data.json says that the run was made with another")
        return tokenizer

    def save_frozen(self, frozen: Variables) -> None:
        """Writes the variables that training does not change; no file where there are none."""
        file = self.path(self.FROZEN)
        if frozen:
            save_variables(file, frozen)
        else:
            _remove_old(file)

    def load_frozen(self) -> Variables:
        """The variables that training did not change: those of a pretrained encoder.

        Raises:
          WorkdirError: the file is damaged or was not copied with the run.
        """
        file = self.path(self.FROZEN)
        if not os.path.isfile(file):
            raise WorkdirError(
                f"{file} is missing, and what training left as it was is in it, such as an "
                "encoder: copy it from where the run was made"
            )
        try:
            return load_variables(file)
        except ValueError as error:
            raise _damaged(file, str(error)) from error

    def check_frozen(self, frozen: Variables, like: Variables) -> None:
        """Raises WorkdirError where `frozen` does not fit `like`, the config's shapes."""
        file = self.path(self.FROZEN)
        try:
            check_variables(frozen, like, file)
        except WeightsError as error:
            raise _damaged(file, str(error)) from error

    def checkpoints(self, config: ConfigDict, *, read_only: bool = False) -> Checkpoints:
        """The checkpoints of the run, ranked by the early-stopping section's metric."""
        section = config.early_stopping
        return Checkpoints(
            self.path(self.CHECKPOINTS), section.metric, section.mode, read_only=read_only
        )

    def check_same_run(self, config: ConfigDict, free: Sequence[str] = FREE) -> None:
        """Raises WorkdirError, listing the fields, where `config` is not the run's own.

        The fields of `free` may differ.
        """
        if changed := differences(self.load_config(), config, free):
            raise WorkdirError(
                f"{self.directory} holds a run with another config; give another --workdir, or the "
                "same config:\n" + "\n".join(changed)
            )

    def check_same_data(self, fingerprints: Mapping[str, str]) -> None:
        """Raises WorkdirError where the data or the tokenizer are not those the run began with."""
        saved = _read_json(self.path(self.DATA))
        changed = [name for name, value in fingerprints.items() if saved.get(name, value) != value]
        if changed:
            raise WorkdirError(
                f"{self.directory} was trained on other data: {', '.join(changed)} changed. Give "
                "the data it began with (config.dataset names where it lies), or another --workdir"
            )


def _save_if_any(file: str, value: Mapping[str, Any]) -> None:
    if value:
        write_json(file, value)
    else:
        _remove_old(file)


def _remove_old(file: str) -> None:
    """Removes the file of a start that came to nothing."""
    if os.path.exists(file):
        os.remove(file)


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
