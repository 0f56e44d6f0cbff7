"""The folder of a run: writes, reads and checks its files."""

import contextlib
import errno
import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from flax.errors import FlaxError
from ml_collections import ConfigDict

from capjax.config import build
from capjax.config.identity import FREE, differences, tuples
from capjax.config.upgrade import upgrade
from capjax.data.source import Source
from capjax.data.tokenizer import Tokenizer
from capjax.files.atomic import check_local, remove_temporary, write_json
from capjax.files.errors import ReportedError
from capjax.files.small import read_small
from capjax.files.text import parse_json
from capjax.models.captioner import Variables
from capjax.parts.registry import PartError
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.variables import load_variables, save_variables
from capjax.pretrained.weights import check_variables
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

# Errors that a model built from fields of a wrong type or size may raise.
_WRONG = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, FlaxError)

# Errors of a disk, whichever file caused them.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


class WorkdirError(ReportedError, ValueError):
    """A workdir that can't be used; the message says what would work."""


def default_workdir(config_file: str) -> str:
    """The default workdir of a config: runs/mine for mine.py, runs/mine_small for mine.py:small."""
    path, _, argument = config_file.partition(":")
    name = os.path.splitext(os.path.basename(path))[0]
    # An argument can be a path or a name with slashes.
    argument = re.sub(r"[^\w.-]+", "_", argument).strip("_")
    return os.path.join("runs", f"{name}_{argument}" if argument else name)


class Workdir:
    """The folder of a run; the constants below name its files and folders.

    Attributes:
      directory: its path.
    """

    CONFIG = "config.json"  # The whole config.
    TOKENIZER = "tokenizer.json"  # The tokenizer.
    DATA = "data.json"  # Fingerprints of the data and the tokenizer.
    SELECTION = "selection.json"  # Samples drawn from a dataset and images left out, if any.
    START = "start.json"  # Parts and words taken from another run, if any.
    FROZEN = "frozen.safetensors"  # Variables that training does not change, if any.
    BEGAN = "began.safetensors"  # Parameters before the first step, if the objective needs them.
    ENVIRONMENT = "environment.json"  # Processors, devices and versions at the start.
    CHECKPOINTS = "checkpoints"  # Folder: the latest two and the best.
    METRICS = "metrics.jsonl"  # Training and validation scalars.
    TENSORBOARD = "tensorboard"  # Folder: the same, with texts and figures; scores of evaluations.
    FIGURES = "figures"  # Folder: fixed images, their captions and attention; the curves.
    EVALUATION = "evaluation"  # Folder: results of `capjax evaluate`.
    PROFILE = "profile"  # Folder: traces of `capjax train --profile`.
    LOCK = "lock"  # Held by the process that trains the run.

    def __init__(self, directory: str | os.PathLike):
        """The workdir `directory`, which need not exist yet."""
        self.directory = os.fspath(directory)

    def path(self, *parts: str) -> str:
        """The path of a file of the workdir."""
        return os.path.join(self.directory, *parts)

    def check_place(self) -> None:
        """Raises WorkdirError if no folder can be made: a URL, or a file in its place."""
        try:
            check_local(self.directory)
        except OSError as error:
            raise WorkdirError(f"--workdir {self.directory} is {error.strerror}") from error
        try:
            self.directory.encode()
        except UnicodeEncodeError as error:
            raise WorkdirError(
                f"--workdir {self.directory!a} is not UTF-8, which checkpoints need: give another"
            ) from error
        place = os.path.abspath(self.directory)
        while not os.path.lexists(place):
            place = os.path.dirname(place)
        if not os.path.isdir(place):
            raise WorkdirError(
                f"{place} is a file, and no folder can be made there: give another --workdir"
            )

    @contextlib.contextmanager
    def train_lock(self) -> Iterator[None]:
        """Makes the workdir and keeps other processes from training in it.

        Raises:
          WorkdirError: another process trains in it, or a file can't be read or written while the
            lock is held.
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
            # Errors of files elsewhere are not the workdir's.
            if not self._contains(error.filename) and error.errno not in _DISK:
                raise
            raise WorkdirError(
                f"{error.filename or self.directory} can't be read or written: {error.strerror}. "
                "Once this is fixed, the same command continues from the last checkpoint"
            ) from error

    def _contains(self, file: str | os.PathLike | int | None) -> bool:
        if not isinstance(file, str | os.PathLike):
            return False
        folder = os.path.abspath(self.directory)
        return os.path.commonpath([os.path.abspath(file), folder]) == folder

    def save(
        self, config: ConfigDict, tokenizer: Tokenizer, fingerprints: Mapping[str, str]
    ) -> None:
        """Writes the files that a run needs before its first step."""
        write_json(self.path(self.CONFIG), config.to_dict())
        write_json(self.path(self.DATA), fingerprints)
        tokenizer.save(self.path(self.TOKENIZER))

    def save_num_steps(self, num_steps: int) -> None:
        """Changes the length of the training in the run's config, and nothing else there."""
        file = self.path(self.CONFIG)
        write_json(file, {**_read_json(file), "num_steps": num_steps})

    def save_selection(self, sources: Mapping[str, Source]) -> None:
        """Writes samples drawn from the datasets and images left out; no file if there are none."""
        drawn = {name: source.selection for name, source in sources.items() if source.selection}
        _save_if_any(self.path(self.SELECTION), drawn)

    def save_start(self, record: Mapping[str, Any]) -> None:
        """Writes the record of parameters taken from another run; no file if there are none."""
        _save_if_any(self.path(self.START), record)

    def save_environment(self) -> None:
        """Writes the processors, devices and versions that a run begins with."""
        write_json(self.path(self.ENVIRONMENT), environment.describe())

    def environment_changes(self) -> str:
        """The changes since `save_environment`, on one line; "" if none or nothing was saved."""
        try:
            with open(self.path(self.ENVIRONMENT), encoding="utf-8") as stream:
                began = json.load(stream)
        except (OSError, ValueError):  # An imported run has none, and a damaged one does no harm.
            return ""
        return environment.changes(began)

    def changes_now(self, config: ConfigDict) -> str:
        """Fields that are changed for one start, on one line; "" if none."""
        changed = differences(self.load_config(), config, ("num_steps",))
        found = "; ".join(line.strip() for line in changed)
        return f"for this start alone, so give it again at the next: {found}" if found else ""

    def load_config(self) -> ConfigDict:
        """Loads the run's config, upgraded to the fields of this version.

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
        """Turns errors of a config's model into errors that name the workdir's file.

        Raises:
          WorkdirError: a field of the saved config has a wrong type or size.
        """
        try:
            yield
        except _WRONG as error:
            if isinstance(error.__cause__, PartError):  # Its advice must not be cut off.
                raise _damaged(self.path(self.CONFIG), str(error)) from error
            reason = f"its fields make no model ({' '.join(str(error).split())[:300]})"
            raise _damaged(self.path(self.CONFIG), reason) from error

    def load_tokenizer(self) -> Tokenizer:
        """Loads the run's tokenizer.

        Raises:
          WorkdirError: it is missing, damaged, or not the one that the run began with.
        """
        file = self.path(self.TOKENIZER)
        try:
            tokenizer = Tokenizer.load(file)
            with open(file, "rb") as stream:
                digest = hashlib.sha256(stream.read()).hexdigest()
        except (OSError, ValueError) as error:
            raise _damaged(file, str(error)) from error
        # By the file's bytes: another version of `tokenizers` may write a tokenizer differently.
        data = self.path(self.DATA)
        if os.path.exists(data) and _read_json(data).get("tokenizer", digest) != digest:
            raise _damaged(file, "data.json says that the run was made with another")
        return tokenizer

    def save_frozen(self, frozen: Variables) -> None:
        """Writes the variables that training does not change; no file if there are none."""
        file = self.path(self.FROZEN)
        if frozen:
            save_variables(file, frozen)
        else:
            _remove_old(file)

    def load_frozen(self) -> Variables:
        """Loads the variables that training did not change, for example a frozen encoder's.

        Raises:
          WorkdirError: the file is damaged or was not copied with the run.
        """
        what = "the variables that training did not change, for example an encoder"
        return self._load_variables(self.FROZEN, what)

    def check_frozen(self, frozen: Variables, like: Variables) -> None:
        """Raises WorkdirError if `frozen` does not fit `like`, the shapes of the config's model."""
        self._check_variables(self.FROZEN, frozen, like)

    def save_beginning(self, params: Any) -> None:
        """Writes the trained parameters before the first step."""
        save_variables(self.path(self.BEGAN), {"params": params})

    def load_beginning(self, like: Any) -> Any:
        """Loads the trained parameters before the first step, of the shapes of `like`.

        Raises:
          WorkdirError: the file is damaged, was not copied with the run, or does not fit.
        """
        found = self._load_variables(self.BEGAN, "the parameters that training began with")
        self._check_variables(self.BEGAN, found, {"params": like})
        return found["params"]

    def _load_variables(self, name: str, what: str) -> Variables:
        file = self.path(name)
        if not os.path.isfile(file):
            raise WorkdirError(
                f"{file} is missing; it holds {what}: copy it from where the run was made"
            )
        try:
            return load_variables(file)
        except ValueError as error:
            raise _damaged(file, str(error)) from error

    def _check_variables(self, name: str, found: Variables, like: Variables) -> None:
        file = self.path(name)
        try:
            check_variables(found, like, file)
        except WeightsError as error:
            raise _damaged(file, str(error)) from error

    def checkpoints(self, config: ConfigDict, *, read_only: bool = False) -> Checkpoints:
        """Opens the run's checkpoints, ranked by the metric that each names.

        Those of earlier versions may name none: they have `config`'s, and the run's first decoding.
        """
        section = config.early_stopping
        return Checkpoints(
            self.path(self.CHECKPOINTS),
            section.metric,
            section.mode,
            decoding=self._first_decoding,
            read_only=read_only,
        )

    def _first_decoding(self) -> str:
        """The label of the decoding with which the run began."""
        config = self.load_config()
        with self.blamed():
            return build.decoding_method(config.decoding).label

    def check_same_run(self, config: ConfigDict, free: Sequence[str] = FREE) -> None:
        """Raises WorkdirError, listing the fields, if `config` differs from the run's.

        The fields of `free` may differ.
        """
        if changed := differences(self.load_config(), config, free):
            raise WorkdirError(
                f"{self.directory} holds a run with another config; give another --workdir, or the "
                "same config:\n" + "\n".join(changed)
            )

    def check_same_data(self, found: Mapping[str, Collection[str]]) -> None:
        """Raises WorkdirError if the data or the tokenizer differ from those the run began with.

        Args:
          found: by name, fingerprints of which the run has one.
        """
        saved = _read_json(self.path(self.DATA))
        changed = [name for name in found if name in saved and saved[name] not in found[name]]
        if changed:
            raise WorkdirError(
                f"{self.directory} was trained on other data: {', '.join(changed)} changed. Give "
                "the original data (config.dataset has their paths; a run of an earlier version "
                "also needs the same record files of TFDS), or another --workdir"
            )


def _save_if_any(file: str, value: Mapping[str, Any]) -> None:
    if value:
        write_json(file, value)
    else:
        _remove_old(file)


def _remove_old(file: str) -> None:
    """Removes a file of an earlier start that made no checkpoint."""
    if os.path.exists(file):
        os.remove(file)


def _read_json(file: str) -> dict[str, Any]:
    """Reads the object in a JSON file of a workdir."""
    try:
        found = parse_json(read_small(file))
    except (OSError, ValueError) as error:
        raise _damaged(file, getattr(error, "strerror", None) or str(error)) from error
    if not isinstance(found, dict):
        raise _damaged(file, f"it holds no JSON object, but {type(found).__name__}")
    return found


def _damaged(file: str, reason: str) -> WorkdirError:
    # Some reasons name the file already.
    where = reason if file in reason else f"{file} can't be used: {reason}"
    return WorkdirError(
        f"{where}; copy it again from where the run was made, or train in another --workdir"
    )
