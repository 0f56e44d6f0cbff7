"""Orbax checkpoints of a run: the latest two and the best, as unreplicated NumPy arrays.

In a run of several processes only the first writes. Each process reads independently, so orbax is
configured without barriers between processes.

The folder of a step holds the items `params`, `ema` (optional), `optimizer` and `progress` (JSON:
the early-stopping state with its metric and decoding, the metrics, and the checksums of all items).
The items are separate so that a captioner loads only the one it needs. A folder named by a plain
number is complete. Other folders:

N.orbax-checkpoint-tmp*    being written, or incomplete after the process was killed
N.replaced                 replaced by a newer checkpoint of the same step that is being written
N.deleted                  being removed
N.damaged                  unusable; training continued from an older checkpoint
"""

import errno
import json
import logging
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from capjax.files.atomic import remove_busy
from capjax.files.errors import ReportedError, reason
from capjax.files.small import read_small
from capjax.files.text import parse_json
from capjax.metrics.direction import TEACHER_FORCED, direction
from capjax.parallel import processes
from capjax.train.finite import bad_parts
from capjax.train.state import TrainState

T = TypeVar("T")

_logger = logging.getLogger(__name__)

# If the latest is damaged, the one before it is used.
_LATEST = 2
# Upper bound on the bytes of a checkpoint without its arrays.
_OVERHEAD = 1_000_000


class CheckpointError(ReportedError, ValueError):
    """A checkpoint can't be read or written; the message names it and the reason."""


class Checkpoints:
    """The checkpoints of one run.

    Attributes:
      directory: absolute path of the folder with one folder for each step.
    """

    def __init__(
        self,
        directory: str,
        metric: str,
        mode: str,
        *,
        decoding: Callable[[], str] = str,
        read_only: bool = False,
    ):
        """Opens `directory`.

        Args:
          directory: created if missing, and cleaned of what a killed process left incomplete.
          metric: the metric that ranks checkpoints whose progress names none.
          mode: "auto", "max" or "min", of these; see `direction`.
          decoding: gives the label of the decoding of checkpoints whose progress has none.
          read_only: leaves the folder unchanged.

        Raises:
          OSError: the folder can't be created or written.
        """
        if mode not in ("auto", "max", "min"):
            raise ValueError(f"early_stopping.mode is {mode!r}; it must be 'auto', 'max' or 'min'")
        self.directory = os.path.abspath(directory)
        self._defaults = {"metric": metric, "mode": mode}
        self._decoding = decoding
        # No barriers: each process uses its checkpointer independently.
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
        self._failed = False
        if not read_only:
            os.makedirs(self.directory, exist_ok=True)
            self._tidy()

    def save(
        self, state: TrainState, progress: dict[str, Any], metrics: dict[str, float] | None
    ) -> None:
        """Writes a checkpoint in the background, replacing one of the same step.

        Only the first process writes.

        Args:
          state: unreplicated, on the host.
          progress: JSON values to restore with the state.
          metrics: of the evaluation at this step; None if there was none.

        Raises:
          CheckpointError: this checkpoint or the previous one could not be written. Complete
            checkpoints are unchanged.
        """
        if not processes.is_primary():
            return
        self._finish()
        step = int(state.step)
        trees = {"params": state.params, "optimizer": _optimizer_item(state)}
        if state.ema is not None:
            trees["ema"] = state.ema
        checksums = {name: _checksum(tree) for name, tree in trees.items()}
        progress = {**progress, "metrics": metrics, "checksums": checksums}
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        items["progress"] = ocp.args.JsonSave({**progress, "checksum": _json_checksum(progress)})
        self._writing, self._failed = step, False
        try:
            _check_room(self.directory, trees)
            if os.path.isdir(self._folder(step)):
                os.rename(self._folder(step), f"{self._folder(step)}.replaced")
            self._checkpointer.save(self._folder(step), args=ocp.args.Composite(**items))
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: no more threads.
            raise self._not_written(error) from error

    def steps(self) -> list[int]:
        """The steps of all complete checkpoints, in ascending order."""
        if not os.path.isdir(self.directory):
            return []
        return sorted(int(name) for name in os.listdir(self.directory) if name.isdecimal())

    def latest_step(self) -> int | None:
        """The newest saved step, or None."""
        return max(self.steps(), default=None)

    def ranking(self) -> list[int]:
        """All steps, best metric first; then those without a metric, newest first.

        Values that can be compared with the newest one, see `ranked_by`, come before others.
        """
        values = {}
        for step in (steps := self.steps()):
            try:
                values[step] = self._value(step)
            except CheckpointError as error:
                _logger.warning("%s: it is not ranked", error)
        evaluated = [step for step in values if values[step] is not None]
        newest, _ = values[evaluated[-1]] if evaluated else (None, None)

        def rank(step: int) -> tuple[bool, float, int]:
            by, goodness = values[step]
            # The newest of equals is the best, as in orbax.
            return by == newest, goodness, step

        evaluated.sort(key=rank, reverse=True)
        return evaluated + sorted({*steps} - {*evaluated}, reverse=True)

    def first_whole(self, steps: Iterable[int], read: Callable[[int], T]) -> tuple[int, T]:
        """Reads the first undamaged step of `steps`; warns of damaged ones.

        Args:
          steps: tried in this order.
          read: reads a step, or raises CheckpointError.

        Returns:
          (step, the result of `read`).

        Raises:
          CheckpointError: none of the steps can be read.
        """
        reasons = []
        for step in steps:
            try:
                return step, read(step)
            except CheckpointError as error:
                reasons.append(str(error))
                _logger.warning("%s: trying the next one", error)
        raise CheckpointError(
            f"no checkpoint in {self.directory} can be used ({'; '.join(reasons)}). Nothing was "
            "deleted: copy the folder again from its original place, or give another --workdir"
        )

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Restores the state, as NumPy in the structure of `like`, and the progress of `step`.

        Raises:
          CheckpointError: the checkpoint is damaged, or its structure is not that of `like`.
        """
        trees = {"params": like.params, "optimizer": _optimizer_item(like)}
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
        """Restores the newest undamaged step, as `restore`, and renames newer ones to N.damaged.

        Raises:
          CheckpointError: every checkpoint is damaged.
        """
        newest_first = sorted(self.steps(), reverse=True)
        step, found = self.first_whole(newest_first, lambda step: self.restore(step, like))
        for damaged in newest_first[: newest_first.index(step)]:
            # Training saves this step again. Renamed, not removed: it might be repaired by hand.
            aside = f"{self._folder(damaged)}.damaged"
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(self._folder(damaged), aside)
        return found

    def restore_params(self, step: int, like: Any) -> Any:
        """Restores the parameters for captioning as NumPy: the moving average if it was saved.

        Raises:
          CheckpointError: the checkpoint is damaged, or its structure is not that of `like`.
        """
        progress = self.progress(step)
        # Checkpoints written by earlier versions have no checksums.
        average = "ema" in progress.get("checksums", os.listdir(self._folder(step)))
        item = "ema" if average else "params"
        return self._read(step, {item: like}, progress)[item]

    def progress(self, step: int) -> dict[str, Any]:
        """The progress saved at `step`, with its metrics and checksums.

        Checkpoints of earlier versions lack metric, mode or decoding; they get those of the run.

        Raises:
          CheckpointError: the checkpoint is damaged.
        """
        try:
            file = os.path.join(self._folder(step), "progress", "metadata")
            progress = parse_json(read_small(file))
            checksum = progress.pop("checksum", None)
            if checksum is not None and checksum != _json_checksum(progress):
                raise ValueError("progress: the checksum does not match")
        except Exception as error:  # Of JSON: any content.
            raise self._damaged(step, error) from error
        if "decoding" not in progress:
            progress["decoding"] = self._decoding()
        return self._defaults | progress

    def close(self) -> None:
        """Waits for the checkpoint being written. Raises CheckpointError if that fails.

        After an error nothing is waited for: orbax may wait for a thread that did not start.
        """
        if self._failed:
            return
        try:
            self._finish()
        finally:
            self._checkpointer.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _read(self, step: int, trees: dict[str, Any], progress: dict[str, Any]) -> dict[str, Any]:
        try:
            args = {name: ocp.args.StandardRestore(_as_numpy(like)) for name, like in trees.items()}
            saved = self._checkpointer.restore(self._folder(step), args=ocp.args.Composite(**args))
            # TensorStore detects missing and truncated data, but not every changed byte.
            sums = progress.get("checksums", {})
            for name in trees:
                if name in sums and _checksum(saved[name]) != sums[name]:
                    raise ValueError(f"{name}: the checksum does not match")
                if name != "optimizer" and (bad := bad_parts(saved[name])):
                    raise ValueError(f"{name}: {', '.join(bad)} not finite or beyond 1e19")
        except Exception as error:  # Of orbax and TensorStore: any damage gives any error.
            raise self._damaged(step, error) from error
        return {name: saved[name] for name in trees}

    def _value(self, step: int) -> tuple[tuple[str, str], float] | None:
        """What ranks a step, see `ranked_by`, and how good its value is; None without one."""
        progress = self.progress(step)
        if "metrics" not in progress:  # Earlier versions wrote them to a separate item.
            try:
                file = os.path.join(self._folder(step), "metrics", "metrics")
                progress["metrics"] = parse_json(read_small(file))
            except FileNotFoundError:
                return None
            except Exception as error:
                raise self._damaged(step, error) from error
        if progress["metrics"] is None:
            return None
        metric = progress["metric"]
        try:
            sign = 1 if direction(metric, progress["mode"]) == "max" else -1
            return ranked_by(progress), sign * float(progress["metrics"][metric])
        except (LookupError, TypeError, ValueError) as error:
            raise self._damaged(step, error) from error

    def _folder(self, step: int) -> str:
        return os.path.join(self.directory, str(step))

    def _finish(self) -> None:
        """Waits for the current write, then removes all but the latest two and the best."""
        if self._writing is None:
            return
        try:
            self._checkpointer.wait_until_finished()
        except (OSError, ValueError, RuntimeError) as error:
            raise self._not_written(error) from error
        self._writing = None
        self._tidy()
        for step in set(self.steps()[:-_LATEST]) - set(self.ranking()[:1]):
            _remove(self._folder(step))

    def _tidy(self) -> None:
        """Removes the incomplete folders that a killed process left."""
        for name in os.listdir(self.directory):
            path = os.path.join(self.directory, name)
            if re.fullmatch(r"\d+\.orbax-checkpoint-tmp.*|\d+\.deleted", name):
                remove_busy(path)
            elif re.fullmatch(r"\d+\.replaced", name):
                newer = path.removesuffix(".replaced")
                if os.path.isdir(newer):
                    shutil.rmtree(path)
                else:
                    os.rename(path, newer)

    def _not_written(self, error: Exception) -> CheckpointError:
        self._failed = True
        return CheckpointError(
            f"the checkpoint of step {self._writing} could not be written to {self.directory}: "
            f"{reason(error)}. Earlier ones are intact; the same command continues from them"
        )

    def _damaged(self, step: int, error: Exception) -> CheckpointError:
        return CheckpointError(f"checkpoint {self._folder(step)} can't be used: {reason(error)}")


def ranked_by(progress: Mapping[str, Any]) -> tuple[str, str]:
    """Metric and decoding whose values can be compared; "" for a metric that needs no decoding."""
    metric = progress["metric"]
    return metric, "" if metric in TEACHER_FORCED else progress["decoding"]


def _remove(folder: str) -> None:
    """Removes a folder, renamed first so that an incomplete folder never has the name of a step."""
    os.rename(folder, f"{folder}.deleted")
    shutil.rmtree(f"{folder}.deleted")


def _check_room(directory: str, trees: Any) -> None:
    """Raises a short OSError if the disk has too little space; that of orbax fills pages."""
    disk = shutil.disk_usage(directory)
    needed = _OVERHEAD + sum(leaf.nbytes for leaf in jax.tree.leaves(trees))
    if disk.total and disk.free < needed:  # A total of 0 is unknown.
        text = f"it needs {needed / 1e6:.1f} MB, and {disk.free / 1e6:.1f} MB are free"
        raise OSError(errno.ENOSPC, text)


def _checksum(tree: Any) -> int:
    """CRC-32 of the values of all leaves, in tree order."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        total = zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8), total)
    return total


def _json_checksum(value: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def _optimizer_item(state: TrainState) -> dict[str, Any]:
    """The part of the state that only training needs."""
    rest = {"step": state.step, "state": state.opt_state}
    return rest if state.baseline is None else {**rest, "baseline": state.baseline}


def _as_numpy(tree: Any) -> Any:
    """NumPy leaves of the same shapes, so that orbax restores to the host, not to devices."""
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), tree)
