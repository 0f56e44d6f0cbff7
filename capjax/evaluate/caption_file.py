"""Captions on disk, a line an image, that a later process may add to."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from capjax.evaluate.lines import json_line
from capjax.files.atomic import write_json
from capjax.files.errors import ReportedError
from capjax.files.text import dotted


class CaptionFileError(ReportedError, ValueError):
    """A file of captions that can't be used as asked; the message names it and what would work."""


class CaptionFile:
    """JSON lines of {"image": ..., "caption": ... or "error": ...}, each complete when written.

    What made them lies beside, in FILE.meta.json. A process at a time writes.

    Attributes:
      done: images that had a caption when the file was opened.
    """

    def __init__(self, path: str, made_by: Mapping[str, Any], *, resume: bool):
        """Opens a new file, or with `resume` goes on with one that is there.

        From the latter a last line that was cut short and all errors are removed: these images are
        to be tried again.

        Args:
          path: the file.
          made_by: all that the captions depend on beside the images, for JSON.
          resume: whether the file may have captions.

        Raises:
          CaptionFileError: there are captions and no `resume`; or they were made by something
            else, by fields; or a line is none of this format; or another process writes.
          OSError: it can't be written.
        """
        # A link is to stay one when its file is replaced.
        self.path = os.path.realpath(path)
        self._meta = f"{self.path}.meta.json"
        made_by = json.loads(json.dumps(made_by))
        if os.path.exists(self.path) and not os.path.isfile(self.path):
            raise CaptionFileError(f"{path} is no file; give the name of a new one")
        there = os.path.exists(self.path) and os.path.getsize(self.path) > 0
        if there and not resume:
            raise CaptionFileError(f"{path} has captions; go on with --resume, or give a new name")
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        self.done: set[str] = set()
        # Of a file's bytes nothing waits in this process: each line is one write.
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115
        try:
            self._lock()
            if there:
                self._check_made_by(made_by)
                self._keep_captions()
            else:
                write_json(self._meta, made_by)
        except BaseException:
            self._file.close()
            raise

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds a row.

        Raises:
          CaptionFileError: the disk is full, or gone.
        """
        line = memoryview(json_line(row))
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:  # What was written of the line is cut when the file is resumed.
            raise CaptionFileError(
                f"{self.path}: {error.strerror}; mend that and go on with --resume"
            ) from error

    def close(self) -> None:
        self._file.close()

    def _lock(self) -> None:
        """Keeps the file to this process until it is closed."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who had it may have put another in its place.
            mine = os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.path))
        except BlockingIOError:
            mine = False
        if not mine:
            raise CaptionFileError(
                f"{self.path}: another process is writing it; wait for it, or give a new name"
            )

    def _check_made_by(self, made_by: dict[str, Any]) -> None:
        try:
            with open(self._meta, encoding="utf-8") as stream:
                saved = dotted(json.load(stream))
        except (OSError, ValueError, AttributeError) as error:
            raise CaptionFileError(
                f"{self._meta}, which says what made {self.path}, can't be read: {error}; "
                "give a new name"
            ) from error
        given = dotted(made_by)
        changed = [
            f"  {name}: {saved.get(name, '(absent)')!r} in the file, "
            f"{given.get(name, '(absent)')!r} now"
            for name in sorted(saved.keys() | given.keys())
            if saved.get(name) != given.get(name)
        ]
        if changed:
            raise CaptionFileError(
                f"{self.path} has captions that something else made; give a new name, or the "
                "same settings:\n" + "\n".join(changed)
            )

    def _keep_captions(self) -> None:
        """Replaces the file by its captions alone, and remembers whose they are."""
        rest = open(f"{self.path}.tmp", "wb")  # noqa: SIM115
        try:
            fcntl.flock(rest, fcntl.LOCK_EX)
            for image, line in _captions(self.path):
                self.done.add(image)
                rest.write(line)
            rest.flush()
            os.fsync(rest.fileno())
            shutil.copymode(self.path, rest.name)
            os.replace(rest.name, self.path)
        except BaseException:
            rest.close()
            os.unlink(rest.name)
            raise
        self._file.close()
        self._file = rest.detach()


def _captions(path: str) -> Iterator[tuple[str, bytes]]:
    """(image, line) of the captions of a file whose last line may be incomplete."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line)
                image, caption = row["image"], row.get("caption")
                if not isinstance(image, str) or (caption is None and "error" not in row):
                    raise ValueError("neither a caption nor an error of an image")
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise CaptionFileError(
                    f"{path}: line {number} is no row of captions ({error}); remove it, or give "
                    "a new name"
                ) from error
            if caption is not None:
                yield image, line
