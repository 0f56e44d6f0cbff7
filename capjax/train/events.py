"""TensorBoard event files that can be cut back to a step.

tensorboardX's own SummaryWriter hands events to a thread that writes them up to two minutes later;
those of a killed process are lost, though a checkpoint says that their steps are done. Here they
are on disk when `flush` returns.
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

# Seconds after which what was added is shown to a TensorBoard that looks on.
_FLUSH = 30.0


class Events:
    """Adds to the event files of a folder, after cutting them back to a step."""

    def __init__(self, directory: str, resume_step: int):
        """Opens a new file for what comes after `resume_step`."""
        os.makedirs(directory, exist_ok=True)
        for path in sorted(Path(directory).glob("*tfevents*")):
            _cut_back(path, resume_step)
        # Of two files opened in one second, the second would overwrite the first.
        self._file = EventsWriter(os.path.join(directory, "events"), f".{time.time_ns()}")
        self._flushed = time.monotonic()
        # A TensorBoard that looks on has read what was cut off, and forgets it by this.
        after = resume_step + 1
        self._file.write_event(Event(step=after, file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)
        self._file.write_event(Event(step=after, session_log=start))

    def scalar(self, step: int, name: str, value: float) -> None:
        """A number."""
        self._add(step, summary.scalar(name, value))

    def text(self, step: int, name: str, text: str) -> None:
        """A Markdown text."""
        self._add(step, summary.text(name, text))

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """A picture, uint8 [H, W, 3]."""
        self._add(step, summary.image(name, pixels, dataformats="HWC"))

    def hyperparameters(self, step: int, values: Mapping[str, str | bool | float]) -> None:
        """What a run was made with, for TensorBoard's table of runs.

        Its columns are those of all runs together, since no file says which they are to be.
        """
        _, start, _ = summary.hparams(values, {})
        self._add(step, start)

    def flush(self) -> None:
        """Returns when all that was added is on the disk."""
        self._file.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Flushes and closes."""
        self._file.close()

    def _add(self, step: int, value: summary.Summary) -> None:
        self._file.write_event(Event(step=step, wall_time=time.time(), summary=value))
        if time.monotonic() - self._flushed > _FLUSH:
            self.flush()


def write_scalars(directory: str, step: int, values: Mapping[str, float]) -> None:
    """Makes an event file with these scalars all that a folder has."""
    with contextlib.closing(Events(directory, -1)) as events:
        for name, value in values.items():
            events.scalar(step, name, value)


def read_events(path: str | os.PathLike) -> list[tuple[int, Event]]:
    """The (offset of its end, event) of an event file's records, up to one that is cut short.

    A record is: length uint64, its checksum, the event, its checksum (each uint32).
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
    """Cuts off all after `step`; a file adds steps in order. One with nothing left is removed."""
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
