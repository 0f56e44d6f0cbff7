"""JSON-lines files of captions that a later process can continue."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from capjax.evaluate.lines import json_line
from capjax.files.atomic import check_local, write_json
from capjax.files.errors import ReportedError
from capjax.files.locks import lock_open_file
from capjax.files.text import dotted


class CaptionFileError(ReportedError, ValueError):
    """A file of captions can't be used as requested; the message names it and a remedy."""


class CaptionFile:
    """JSON lines of {"image": ..., "caption": ... or "error": ...}, each written at once.

    FILE.meta.json holds the settings that made them. A lock admits one writing process.

    Attributes:
      done: images that had a caption when the file was opened.
    """

    def __init__(self, path: str, made_by: Mapping[str, Any], *, resume: bool):
        """Opens a new file, or with `resume` an existing one.

        A truncated last line and all errors are removed from an existing file, so that these images
        are captioned again.

        Args:
          path: path of the file.
          made_by: JSON values, all that the captions depend on besides the images.
          resume: True to continue a file with captions.

        Raises:
          CaptionFileError: the file has captions and `resume` is False; `made_by` differs, with
            the fields named; a line has another format; or another process writes the file.
          OSError: the file can't be written.
        """
        check_local(path)
        # The target of a link is replaced, not the link.
        self.path = os.path.realpath(path)
        self._meta = f"{self.path}.meta.json"
        made_by = json.loads(json.dumps(made_by))
        if os.path.exists(self.path) and not os.path.isfile(self.path):
            raise CaptionFileError(f"{path} is not a file; give the name of a new one")
        there = os.path.exists(self.path) and os.path.getsize(self.path) > 0
        if there and not resume:
            raise CaptionFileError(f"{path} has captions; continue with --resume or a new name")
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        self.done: set[str] = set()
        # Unbuffered: each line is one write.
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
        """Appends a row.

        Raises:
          CaptionFileError: writing fails, such as on a full disk.
        """
        line = memoryview(json_line(row))
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:  # Resuming removes the truncated line.
            raise CaptionFileError(
                f"{self.path}: {error.strerror}; fix that and continue with --resume"
            ) from error

    def close(self) -> None:
        self._file.close()

    def _lock(self) -> None:
        """Locks the file until it is closed."""
        descriptor = self._file.fileno()
        locked = lock_open_file(descriptor)
        # The previous owner of the lock may have replaced the file.
        if not locked or not os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
            raise CaptionFileError(
                f"{self.path}: another process is writing it; wait for it, or give a new name"
            )

    def _check_made_by(self, made_by: dict[str, Any]) -> None:
        try:
            with open(self._meta, encoding="utf-8") as stream:
                saved = dotted(json.load(stream))
        except (OSError, ValueError, AttributeError) as error:
            raise CaptionFileError(
                f"{self._meta}, with the settings of {self.path}, can't be read: {error}; "
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
                f"{self.path} has captions made with other settings; give a new name, or the "
                "same settings:\n" + "\n".join(changed)
            )

    def _keep_captions(self) -> None:
        """Removes all rows without a caption, and collects the images of the others."""
        rest = open(f"{self.path}.tmp", "wb")  # noqa: SIM115
        try:
            lock_open_file(rest.fileno())
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
    """Yields (image, line) of each caption of a file, without a truncated last line."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line)
                image, caption = row["image"], row.get("caption")
                if not isinstance(image, str) or (caption is None and "error" not in row):
                    raise ValueError("it has no image with a caption or an error")
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise CaptionFileError(
                    f"{path}: line {number} is not a row of captions ({error}); remove it, or give "
                    "a new name"
                ) from error
            if caption is not None:
                yield image, line
