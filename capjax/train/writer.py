"""Logs of scalars, texts and images of a run, as JSON lines and for TensorBoard."""

import json
import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from capjax.files.atomic import write_atomic
from capjax.files.text import parse_json
from capjax.train.events import Events
from capjax.train.wandb_log import WandbLog


class Writer:
    """Appends to `metrics.jsonl` and to TensorBoard event files in a folder; and logs to wandb.

    A run that continues from a checkpoint first truncates both to that step, so that nothing is
    logged twice. Its "wall_seconds" continue from there: they include compilation and evaluations,
    but not pauses between starts or work lost by a kill.
    """

    def __init__(self, directory: str, resume_step: int = 0, wandb_project: str = ""):
        """Opens the logs, truncated to `resume_step`; without a project, none of wandb."""
        os.makedirs(directory, exist_ok=True)
        self._path = os.path.join(directory, "metrics.jsonl")
        times = [row.get("wall_seconds", 0) for row in _cut_back(self._path, resume_step)]
        self._began = time.perf_counter() - max(times, default=0)
        self._logs: list[Events | WandbLog]
        self._logs = [Events(os.path.join(directory, "tensorboard"), resume_step)]
        if wandb_project:
            self._logs.append(WandbLog(wandb_project, directory))
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 closed by close()

    def scalars(self, step: int, group: str, values: Mapping[str, float]) -> None:
        """Logs a JSON line {"step", "group", "wall_seconds", ...values}, and scalars elsewhere."""
        row = {"step": step, "group": group}
        row["wall_seconds"] = round(time.perf_counter() - self._began, 3)
        row.update({name: float(value) for name, value in values.items()})
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        named = {f"{group}/{name}": float(value) for name, value in values.items()}
        for log in self._logs:
            log.scalars(step, named)

    def text(self, step: int, name: str, text: str) -> None:
        """Logs a Markdown text."""
        for log in self._logs:
            log.text(step, name, text)

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Logs an image, uint8 [H, W, 3]."""
        for log in self._logs:
            log.image(step, name, pixels)

    def hyperparameters(self, fields: Mapping[str, Any]) -> None:
        """Logs the config of a new run, by dotted names, for the HParams table of TensorBoard."""
        values = {
            name: value if isinstance(value, bool | int | float) else str(value)
            for name, value in fields.items()
        }
        for log in self._logs:
            # At step 1, so that a restart at step 0 removes them and logs them again.
            log.hyperparameters(1, values)

    def sync(self) -> None:
        """Returns when all logs are on disk.

        Must be called before a checkpoint is saved: a run that continues from it does not log
        earlier steps again.
        """
        self._file.flush()
        os.fsync(self._file.fileno())
        for log in self._logs:
            log.flush()

    def close(self) -> None:
        """Flushes and closes the logs."""
        self._file.close()
        for log in self._logs:
            log.close()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_) -> None:
        self.close()


class NoWriter:
    """Writer of the processes other than the first, which writes nothing."""

    def scalars(self, step: int, group: str, values: Mapping[str, float]) -> None:
        """Does nothing."""

    def hyperparameters(self, fields: Mapping[str, Any]) -> None:
        """Does nothing."""

    def sync(self) -> None:
        """Does nothing."""

    def __enter__(self) -> "NoWriter":
        return self

    def __exit__(self, *_) -> None:
        pass


def read_metrics(path: str) -> list[dict]:
    """Reads the rows of a `metrics.jsonl`, without a last line that a crash truncated.

    Other damaged lines are skipped with a warning.
    """
    if not os.path.exists(path):
        return []
    rows = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            row = _row(line) if line.endswith("\n") else {}
            if row is None:
                logging.warning("%s: line %d is damaged and skipped", path, number)
            elif row:
                rows.append(row)
    return rows


def _row(line: str) -> dict | None:
    """Parses a line of step, group and numbers; None if it is damaged."""
    try:
        row = parse_json(line)
        numbers = {name: value for name, value in row.items() if name != "group"}
        whole = isinstance(row["group"], str) and type(numbers["step"]) is int
        return row if whole and all(type(n) in (int, float) for n in numbers.values()) else None
    except (ValueError, LookupError, AttributeError, TypeError):
        return None


def _cut_back(path: str, step: int) -> list[dict]:
    """Truncates a log to the rows up to `step`, and returns them."""
    rows = [row for row in read_metrics(path) if row["step"] <= step]
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return rows
