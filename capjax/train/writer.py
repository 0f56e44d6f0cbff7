"""Scalars, text and pictures of a run, to JSON lines and TensorBoard."""

import json
import os
from collections.abc import Mapping

import numpy as np

from capjax.data.atomic import write_atomic
from capjax.train.events import Events


class Writer:
    """Appends to `metrics.jsonl` and to TensorBoard event files in a folder.

    A run that continues from a checkpoint first cuts both back to that step, so that nothing is
    logged twice.
    """

    def __init__(self, directory: str, resume_step: int = 0):
        """Opens the logs of a run that continues after `resume_step` updates."""
        os.makedirs(directory, exist_ok=True)
        self._path = os.path.join(directory, "metrics.jsonl")
        _cut_back(self._path, resume_step)
        self._events = Events(os.path.join(directory, "tensorboard"), resume_step)
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 closed by close()

    def scalars(self, step: int, group: str, values: Mapping[str, float]) -> None:
        """One JSON line {"step", "group", ...values}, and a TensorBoard scalar each."""
        row = {"step": step, "group": group}
        row.update({name: float(value) for name, value in values.items()})
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._events.scalar(step, f"{group}/{name}", value)

    def text(self, step: int, name: str, text: str) -> None:
        """A Markdown text for TensorBoard."""
        self._events.text(step, name, text)

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """A picture for TensorBoard, uint8 [H, W, 3]."""
        self._events.image(step, name, pixels)

    def sync(self) -> None:
        """Returns when all that was logged is on the disk.

        To be called before a checkpoint is saved: a run that continues from it logs none of it
        again.
        """
        self._file.flush()
        os.fsync(self._file.fileno())
        self._events.flush()

    def close(self) -> None:
        """Flushes and closes both logs."""
        self._file.close()
        self._events.close()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def read_metrics(path: str) -> list[dict]:
    """The rows of a `metrics.jsonl`, up to a line that a crash left half written."""
    rows = []
    if not os.path.exists(path):
        return rows
    with open(path, "rb") as file:
        for line in file:
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    return rows


def _cut_back(path: str, step: int) -> None:
    rows = [row for row in read_metrics(path) if row["step"] <= step]
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
