"""Scalars, text and pictures of a run, to JSON lines and TensorBoard."""

import json
import os
from collections.abc import Mapping

import numpy as np
from tensorboardX import SummaryWriter

from capjax.data.atomic import write_atomic


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
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 closed by close()
        self._events = SummaryWriter(
            os.path.join(directory, "tensorboard"), purge_step=resume_step + 1
        )

    def scalars(self, step: int, group: str, values: Mapping[str, float]) -> None:
        """One JSON line {"step", "group", ...values}, and a TensorBoard scalar each."""
        row = {"step": step, "group": group}
        row.update({name: float(value) for name, value in values.items()})
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(f"{group}/{name}", value, step)

    def text(self, step: int, name: str, text: str) -> None:
        """A Markdown text for TensorBoard."""
        self._events.add_text(name, text, step)

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """A picture for TensorBoard, uint8 [H, W, 3]."""
        self._events.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Flushes and closes both logs."""
        self._file.close()
        self._events.close()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_) -> None:
        self.close()


class NoWriter:
    """Writes nothing: for processes beside the first."""

    def scalars(self, step: int, group: str, values: Mapping[str, float]) -> None:
        """Nothing."""

    def __enter__(self) -> "NoWriter":
        return self

    def __exit__(self, *_) -> None:
        pass


def read_metrics(path: str) -> list[dict]:
    """The rows of a `metrics.jsonl`, less a last line that a crash left half written."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        lines = [line for line in file if line.endswith("\n")]
    return [json.loads(line) for line in lines]


def _cut_back(path: str, step: int) -> None:
    rows = [row for row in read_metrics(path) if row["step"] <= step]
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
