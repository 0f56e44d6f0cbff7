"""TensorBoard event files that can be truncated to a step.

The SummaryWriter of tensorboardX writes events in a thread, up to two minutes later. If the process
is killed, events of steps that a checkpoint already contains are lost. Here all events are on disk
when `flush` returns. tensorboardX has no reader of its own files, hence `read_events`.
"""

import contextlib
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

# Seconds between flushes, so that a running TensorBoard shows recent events.
_FLUSH = 30.0


class Events:
    """Appends to the event files of a folder, after truncating them to a step."""

    def __init__(self, directory: str, resume_step: int):
        """Removes events after `resume_step` and opens a new file for the next ones."""
        os.makedirs(directory, exist_ok=True)
        for path in sorted(Path(directory).glob("*tfevents*")):
            _cut_back(path, resume_step)
        # The suffix separates files that are opened within the same second.
        self._file = EventsWriter(os.path.join(directory, "events"), f".{time.time_ns()}")
        self._flushed = time.monotonic()
        # A running TensorBoard has already read the removed events; START makes it drop them.
        after = resume_step + 1
        self._file.write_event(Event(step=after, file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)
        self._file.write_event(Event(step=after, session_log=start))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds scalars."""
        for name, value in values.items():
            self._add(step, summary.scalar(name, value))

    def text(self, step: int, name: str, text: str) -> None:
        """Adds a Markdown text."""
        self._add(step, summary.text(name, text))

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Adds an image, uint8 [H, W, 3]."""
        self._add(step, summary.image(name, pixels, dataformats="HWC"))

    def hyperparameters(self, step: int, values: Mapping[str, str | bool | float]) -> None:
        """Adds the hyperparameters of a run to TensorBoard's HParams table.

        No experiment summary is written, so the table has the columns of all runs.
        """
        _, start, _ = summary.hparams(values, {})
        self._add(step, start)

    def flush(self) -> None:
        """Returns when all added events are on disk."""
        self._file.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Flushes and closes the file."""
        self._file.close()

    def _add(self, step: int, value: summary.Summary) -> None:
        self._file.write_event(Event(step=step, wall_time=time.time(), summary=value))
        if time.monotonic() - self._flushed > _FLUSH:
            self.flush()


def write_scalars(directory: str, step: int, values: Mapping[str, float]) -> None:
    """Replaces the event files of a folder by one with these scalars."""
    with contextlib.closing(Events(directory, -1)) as events:
        events.scalars(step, values)


def read_events(path: str | os.PathLike) -> list[tuple[int, Event]]:
    """Reads the (end offset, event) of each record of an event file, up to a truncated one.

    A record is the length (uint64), its checksum (uint32), the event and its checksum (uint32).
    """
    content = Path(path).read_bytes()
    found, start = [], 0
    while start + 12 <= len(content):
        (length,) = struct.unpack_from("<Q", content, start)
        end = start + 12 + length + 4
        if end > len(content):
            break
        try:
            found.append((end, Event.FromString(content[start + 12 : end - 4])))
        except DecodeError:
            break
        start = end
    return found


def _cut_back(path: Path, step: int) -> None:
    """Truncates a file, whose steps ascend, after `step`; removes it if no values are left."""
    kept, values = 0, False
    for end, event in read_events(path):
        if event.HasField("summary"):
            if event.step > step:
                break
            values = True
        kept = end
    if not values:
        path.unlink()
    elif kept < path.stat().st_size:
        os.truncate(path, kept)
