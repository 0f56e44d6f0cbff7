"""Checkpoints by orbax: the latest two and the best, each one unreplicated NumPy copy.

Of several processes the first writes and all read, each by itself: orbax is told that it has no
other process to wait for.

A step's folder holds the items `params`, `ema` (where there is one), `optimizer` and `progress`
(JSON: the early-stopping state, the metrics, and the checksums of all items). They are separate so
that a captioner can load the one that it needs. A folder whose name is a plain number was written
to its end; beside such folders there may lie

N.orbax-checkpoint-tmp*    one that is being written, or was when the process was killed
N.replaced                 the older of two of one step, until the newer is written to its end
N.deleted                  one that is being removed
N.damaged                  one that could not be used; training went on from an older one
"""

import errno
import json
import os
import re
import shutil
import sys
import zlib
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from capjax.files.errors import ReportedError
from capjax.parallel import processes
from capjax.train.state import TrainState

T = TypeVar("T")

# So that there is one before the latest, should that be damaged.
_LATEST = 2
# Bytes of a checkpoint beside its numbers, at most.
_OVERHEAD = 1_000_000
# What orbax, TensorStore and JSON raise on damaged files; an OSError comes of the disk, too.
_DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError)


class CheckpointError(ReportedError, ValueError):
    """A checkpoint that can't be read or written; the message says which, and why."""


class Checkpoints:
    """The checkpoints of one run.

    Attributes:
      directory: where they lie, one folder a step.
    """

    def __init__(self, directory: str, metric: str, mode: str, *, read_only: bool = False):
        """Opens `directory`; unless `read_only`, makes it and tidies up after a killed process.

        `mode` "max" or "min" says which `metric` is best.

        Raises:
          OSError: the folder can't be made or written.
        """
        if mode not in ("max", "min"):
            raise ValueError(f"early_stopping.mode is {mode!r}; it may be 'max' or 'min'")
        self.directory = os.path.abspath(directory)
        self._metric, self._sign = metric, 1 if mode == "max" else -1
        # Of several processes, each acts by itself.
        alone = ocp.options.MultiprocessingOptions(
            primary_host=processes.index(),
            active_processes={processes.index()},
            barrier_sync_key_prefix=f"process_{processes.index()}",
        )
        handler = ocp.CompositeCheckpointHandler(
            composite_options=ocp.CompositeOptions(multiprocessing_options=alone)
        )
        self._checkpointer = ocp.AsyncCheckpointer(handler, multiprocessing_options=alone)
        self._writing: int | None = None
        if not read_only:
            os.makedirs(self.directory, exist_ok=True)
            self._tidy()

    def save(
        self, state: TrainState, progress: dict[str, Any], metrics: dict[str, float] | None
    ) -> None:
        """Writes in the background; `metrics` are None where nothing was evaluated.

        Another checkpoint of the same step is replaced. Of several processes only the first writes.

        Raises:
          CheckpointError: this one or the one before could not be written; those that were there
            still are.
        """
        if not processes.is_primary():
            return
        self._finish()
        step = int(state.step)
        trees = {"params": state.params, "optimizer": _rest(state)}
        if state.ema is not None:
            trees["ema"] = state.ema
        checksums = {name: _checksum(tree) for name, tree in trees.items()}
        progress = {**progress, "metrics": metrics, "checksums": checksums}
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        items["progress"] = ocp.args.JsonSave({**progress, "checksum": _json_checksum(progress)})
        self._writing = step
        try:
            _check_room(self.directory, trees)
            if os.path.isdir(self._folder(step)):
                os.rename(self._folder(step), f"{self._folder(step)}.replaced")
            self._checkpointer.save(self._folder(step), args=ocp.args.Composite(**items))
        except (OSError, ValueError) as error:
            raise self._not_written(error) from error

    def steps(self) -> list[int]:
        """Every step that is there, in order."""
        if not os.path.isdir(self.directory):
            return []
        return sorted(int(name) for name in os.listdir(self.directory) if name.isdecimal())

    def latest_step(self) -> int | None:
        """The newest step saved, or None."""
        return max(self.steps(), default=None)

    def ranking(self) -> list[int]:
        """All steps from the best by the metric to the worst; then, newest first, the unranked."""
        values = {}
        for step in self.steps():
            try:
                values[step] = self._value(step)
            except CheckpointError as error:
                print(f"{error}: it is not among the best", file=sys.stderr)
                values[step] = None
        ranked = [step for step in values if values[step] is not None]
        # Of equals the newest, as orbax has it.
        ranked.sort(key=lambda step: (self._sign * values[step], step), reverse=True)
        return ranked + sorted(values.keys() - set(ranked), reverse=True)

    def first_whole(self, steps: Iterable[int], read: Callable[[int], T]) -> tuple[int, T]:
        """The first of `steps` that can be read, and what was; names those before it on stderr.

        Args:
          steps: to be tried one after another.
          read: step -> what is wanted of it; raises CheckpointError.

        Raises:
          CheckpointError: none of them can be read.
        """
        reasons = []
        for step in steps:
            try:
                return step, read(step)
            except CheckpointError as error:
                reasons.append(str(error))
                print(f"{error}: trying another one", file=sys.stderr)
        raise CheckpointError(
            f"no checkpoint in {self.directory} can be used ({'; '.join(reasons)}). Nothing was "
            "deleted: copy the folder again from where the run was made, or give another --workdir"
        )

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state saved at `step`, as NumPy in the structure of `like`, and its progress.

        Raises:
          CheckpointError: it is damaged, or of another kind than `like`.
        """
        trees = {"params": like.params, "optimizer": _rest(like)}
        if like.ema is not None:
            trees["ema"] = like.ema
        progress = self.progress(step)
        saved = self._read(step, trees, progress)
        state = TrainState(
            step=saved["optimizer"]["step"],
            params=saved["params"],
            opt_state=saved["optimizer"]["state"],
            ema=saved.get("ema"),
            frozen=like.frozen,
            baseline=saved["optimizer"].get("baseline"),
        )
        return state, progress

    def restore_latest(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """As `restore`, of the newest step that can be used; newer ones are renamed N.damaged.

        Raises:
          CheckpointError: none can be used.
        """
        newest_first = sorted(self.steps(), reverse=True)
        step, found = self.first_whole(newest_first, lambda step: self.restore(step, like))
        for damaged in newest_first[: newest_first.index(step)]:
            # Training will come to this step again. Renamed, since a person may mend it.
            aside = f"{self._folder(damaged)}.damaged"
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(self._folder(damaged), aside)
        return found

    def restore_params(self, step: int, like: Any) -> Any:
        """What to caption with at `step`, the average where there is one, as NumPy.

        Raises:
          CheckpointError: it is damaged, or of another kind than `like`.
        """
        progress = self.progress(step)
        # Checkpoints of earlier versions have no checksums.
        average = "ema" in progress.get("checksums", os.listdir(self._folder(step)))
        item = "ema" if average else "params"
        return self._read(step, {item: like}, progress)[item]

    def progress(self, step: int) -> dict[str, Any]:
        """What `save` was given as progress at `step`, and the checksums.

        Raises:
          CheckpointError: it is damaged.
        """
        try:
            with open(os.path.join(self._folder(step), "progress", "metadata"), "rb") as file:
                progress = json.load(file)
            checksum = progress.pop("checksum", None)
            if checksum is not None and checksum != _json_checksum(progress):
                raise ValueError("progress: its checksum is another")
        except _DAMAGE as error:
            raise self._damaged(step, error) from error
        return progress

    def close(self) -> None:
        """Waits for what is being written. Raises CheckpointError where that fails."""
        try:
            self._finish()
        finally:
            self._checkpointer.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _read(self, step: int, trees: dict[str, Any], progress: dict[str, Any]) -> dict[str, Any]:
        args = {name: ocp.args.StandardRestore(_as_numpy(like)) for name, like in trees.items()}
        try:
            saved = self._checkpointer.restore(self._folder(step), args=ocp.args.Composite(**args))
            # TensorStore finds what is missing or cut short, not every byte that has changed.
            for name, checksum in progress.get("checksums", {}).items():
                if name in trees and _checksum(saved[name]) != checksum:
                    raise ValueError(f"{name}: its checksum is another")
        except _DAMAGE as error:
            raise self._damaged(step, error) from error
        return {name: saved[name] for name in trees}

    def _value(self, step: int) -> float | None:
        """The metric at a step, or None where nothing was evaluated."""
        progress = self.progress(step)
        if "metrics" not in progress:  # An earlier version had them in an item of their own.
            try:
                with open(os.path.join(self._folder(step), "metrics", "metrics"), "rb") as file:
                    progress["metrics"] = json.load(file)
            except FileNotFoundError:
                return None
            except _DAMAGE as error:
                raise self._damaged(step, error) from error
        return None if progress["metrics"] is None else progress["metrics"][self._metric]

    def _folder(self, step: int) -> str:
        return os.path.join(self.directory, str(step))

    def _finish(self) -> None:
        """Waits for what is being written, and removes what is then neither latest nor best."""
        if self._writing is None:
            return
        try:
            self._checkpointer.wait_until_finished()
        except (OSError, ValueError) as error:
            raise self._not_written(error) from error
        self._writing = None
        self._tidy()
        for step in set(self.steps()[:-_LATEST]) - set(self.ranking()[:1]):
            _remove(self._folder(step))

    def _tidy(self) -> None:
        """Removes what a killed process left half-written or half-removed."""
        for name in os.listdir(self.directory):
            path = os.path.join(self.directory, name)
            if re.fullmatch(r"\d+\.orbax-checkpoint-tmp.*|\d+\.deleted", name):
                shutil.rmtree(path)
            elif re.fullmatch(r"\d+\.replaced", name):
                newer = path.removesuffix(".replaced")
                if os.path.isdir(newer):
                    shutil.rmtree(path)
                else:
                    os.rename(path, newer)

    def _not_written(self, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"the checkpoint of step {self._writing} could not be written to {self.directory}: "
            f"{_reason(error)}. Those before it are whole; the same command continues from them"
        )

    def _damaged(self, step: int, error: Exception) -> CheckpointError:
        return CheckpointError(f"checkpoint {self._folder(step)} can't be used: {_reason(error)}")


def _remove(folder: str) -> None:
    """Renames first, so that a folder half removed has no step's name."""
    os.rename(folder, f"{folder}.deleted")
    shutil.rmtree(f"{folder}.deleted")


def _check_room(directory: str, trees: Any) -> None:
    """Raises OSError where there is too little; found while writing, orbax tells it in pages."""
    disk = shutil.disk_usage(directory)
    needed = _OVERHEAD + sum(leaf.nbytes for leaf in jax.tree.leaves(trees))
    if disk.total and disk.free < needed:  # A file system that does not tell has a total of 0.
        text = f"it takes {needed / 1e6:.1f} MB, and {disk.free / 1e6:.1f} MB are free"
        raise OSError(errno.ENOSPC, text)


def _reason(error: Exception) -> str:
    """An error in one short line; TensorStore's have pages of context."""
    if system := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(system[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def _checksum(tree: Any) -> int:
    """CRC-32 of all leaves' values, in the tree's order."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        total = zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8), total)
    return total


def _json_checksum(value: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def _rest(state: TrainState) -> dict[str, Any]:
    """What only training needs."""
    rest = {"step": state.step, "state": state.opt_state}
    return rest if state.baseline is None else {**rest, "baseline": state.baseline}


def _as_numpy(tree: Any) -> Any:
    """NumPy leaves, so that orbax restores to the host whatever devices there are."""
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), tree)
