"""A user's own images with a table of captions.

The table is a JSONL or CSV file with a caption a row:

    {"image": "dogs/1.jpg", "caption": "A dog runs.", "split": "train"}

    image,caption,split
    dogs/1.jpg,"A dog, running.",train

`split` is optional. A JSONL row can have several captions, {"image": ..., "captions": [...]}. The
names of Hugging Face's image folders are accepted: `file_name` for image, `text` for caption.
"""

import bisect
import csv
import dataclasses
import hashlib
import io
import json
import math
import os
import posixpath
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

from capjax.data.dataset import FilesDataset
from capjax.data.files_source import FilesSource
from capjax.data.source import Example
from capjax.files.errors import DataError
from capjax.files.text import check_folder, first_few, parse_json, read_text
from capjax.parts.types import OpenShare, Seed

_WHAT = "a .jsonl or .csv file with image and caption in every row"
_IMAGE = ("image", "file_name")
_CAPTION = ("caption", "text")
_SPLITS = {"train": "train", "validation": "validation", "test": "test"}
_SPLITS |= {"val": "validation", "dev": "validation"}
# Fewest images of a drawn validation split, since with one CIDEr-D is 0 for any caption; and of a
# folder for which a share is worth advising.
_LEAST, _WORTH_DRAWING = 2, 6


class Row(NamedTuple):
    """A row of the table; `split` is "" where the row has none."""

    line: int
    image: str
    captions: tuple[str, ...]
    split: str


class _RowError(ValueError):
    """A row that cannot be used; the message is the reason."""


@dataclasses.dataclass(frozen=True)
class Folder(FilesDataset):
    """A user's own images.

    Attributes:
      file: the table, see above.
      root: root of the image paths; "" is the table's folder.
      validation_share: share of the images in validation where no row names a split.
      split_seed: seed of that split.
    """

    file: str = ""
    root: str = ""
    validation_share: OpenShare = 0.1
    split_seed: Seed = 0

    may_change = (*FilesDataset.may_change, "file", "root")

    def open(self, split: str) -> FilesSource:
        """Opens one split; an image's id is its path.

        Where no row names a split, a share of the images is validation and the rest train. The
        choice is by a hash of path and seed alone, so that adding images moves none of the others.

        Args:
          split: "train", "validation" (in the table also "val" or "dev") or "test".

        Raises:
          DataError: a file is missing, rows cannot be used (the message has their lines), there is
            no such split, or the share gives validation fewer than two images.
        """
        file = self.path("file")
        rows = read_rows(file)
        folder = os.path.expanduser(self.root) or os.path.dirname(file) or "."
        check_folder(folder, field="root", what="the root of the image paths")
        captions: dict[str, list[str]] = {}
        for row in rows:
            captions.setdefault(row.image, []).extend(row.captions)
        splits = _named_splits(file, rows)
        if not splits:
            drawn = captions, self.validation_share, self.split_seed
            splits = _drawn_splits(*drawn)
            if split == "validation":
                _check_drawn(file, *drawn)
        counts = Counter(splits.values())
        if split not in counts:
            there = ", ".join(f"{name} ({count} images)" for name, count in sorted(counts.items()))
            raise DataError(
                f"{file} has no split {split!r}; it has {there}. Name splits in a column 'split', "
                "or draw a validation split with config.dataset.validation_share"
            )
        examples = [
            Example(image, image, tuple(texts))
            for image, texts in captions.items()
            if splits[image] == split
        ]
        stem = os.path.splitext(os.path.basename(file))[0]
        name = f"{stem}/{split}"
        return FilesSource(name, folder, examples, allow_outside=self.allow_outside)


PART = Folder


def _named_splits(file: str, rows: Sequence[Row]) -> dict[str, str]:
    """Each image's split in the table; empty where no row names one.

    Raises:
      DataError: some rows lack a split, or an image is in two splits.
    """
    if not any(row.split for row in rows):
        return {}
    if lacking := [row.line for row in rows if not row.split]:
        raise DataError(
            f"{file} names a split in some rows, but not in {len(lacking)}: lines "
            f"{first_few(lacking)}; name it in all or in none"
        )
    splits = {row.image: row.split for row in rows}
    if torn := dict.fromkeys(row.image for row in rows if splits[row.image] != row.split):
        raise DataError(
            f"{file} has {len(torn)} images in more than one split: {first_few(list(torn))}; "
            "all rows of an image must name the same split"
        )
    return splits


def _drawn_splits(images: Collection[str], share: float, seed: int) -> dict[str, str]:
    if not 0 < share < 1:
        raise DataError(f"config.dataset.validation_share must be between 0 and 1, not {share}")
    return {image: "validation" if _fraction(image, seed) < share else "train" for image in images}


def _check_drawn(file: str, images: Collection[str], share: float, seed: int) -> None:
    """Raises DataError if a share takes too few images for validation; says which is enough."""
    fractions = sorted(_fraction(image, seed) for image in images)
    count = bisect.bisect_left(fractions, share)
    if count >= _LEAST:
        return
    named = "name splits in a column 'split'"
    if len(fractions) >= _WORTH_DRAWING:
        # The next hundredth.
        enough = math.floor(100 * fractions[_LEAST - 1] + 1) / 100
        taken = bisect.bisect_left(fractions, enough)
        if 2 * taken <= len(fractions):
            named = f"--config.dataset.validation_share={enough} takes {taken}, or {named}"
    raise DataError(
        f"{file} has {len(fractions)} images, and config.dataset.validation_share={share} takes "
        f"{count} of them for validation, which needs {_LEAST}: {named}"
    )


def _fraction(image: str, seed: int) -> float:
    """A pseudorandom number in [0, 1) of path and seed."""
    digest = hashlib.sha256(json.dumps([seed, image]).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def read_rows(file: str) -> list[Row]:
    """Reads all rows of a table.

    Raises:
      DataError: rows cannot be used; the message names the first ten.
    """
    readers = {".jsonl": _read_jsonl, ".csv": _read_csv}
    reader = readers.get(os.path.splitext(file)[1].lower())
    if reader is None:
        raise DataError(f"{file!r} has another file type; config.dataset.file should be {_WHAT}")
    text = read_text(file, field="file", what=_WHAT)
    rows, problems = [], []
    lines: dict[tuple[str, str], int] = {}
    for line, fields in reader(text):
        try:
            row = _row(line, fields)
            for caption in row.captions:
                first = lines.setdefault((row.image, caption), line)
                if first != line:
                    raise _RowError(f"repeats image and caption of line {first}")
            rows.append(row)
        except _RowError as error:
            problems.append(f"line {line} ({error})")
    if problems:
        raise DataError(
            f"{file} has {len(problems)} unusable rows: {first_few(problems)}; "
            f"config.dataset.file should be {_WHAT}"
        )
    if not rows:
        raise DataError(f"{file} has no rows; config.dataset.file should be {_WHAT}")
    return rows


def _read_jsonl(text: str) -> Iterator[tuple[int, dict | str]]:
    """Yields (line, fields) of every line that is not blank; an error text for bad fields."""
    # Not splitlines, which also splits at characters that JSON allows in a string.
    for line, content in enumerate(text.split("\n"), 1):
        if content.strip():
            try:
                fields = parse_json(content)
            except ValueError as error:
                yield line, f"is not JSON: {error}"
            else:
                yield line, fields if isinstance(fields, dict) else "is not a JSON object"


def _read_csv(text: str) -> Iterator[tuple[int, dict | str]]:
    """As `_read_jsonl`; the line is the first of a row."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        if doubled := [name for name, count in Counter(header).items() if count > 1]:
            yield line, f"names a column twice: {', '.join(doubled)}; give a caption its own row"
            return
        if not set(header) & set(_IMAGE) or not set(header) & set(_CAPTION):
            yield line, f"names the columns {', '.join(header)}, not image and caption"
            return
        while True:
            line = reader.line_num + 1
            row = next(reader, None)
            if row is None:
                return
            if len(row) == len(header):
                yield line, dict(zip(header, row, strict=True))
            elif row:
                yield (
                    line,
                    f"has {len(row)} fields, not {len(header)}; a caption with commas "
                    "must be in quotes",
                )
    except csv.Error as error:
        yield line, f"is not CSV: {error}"


def _row(line: int, fields: dict | str) -> Row:
    """Raises _RowError where the fields are not a row's."""
    if isinstance(fields, str):
        raise _RowError(fields)
    image = _text(fields, _IMAGE)
    named = [name for name in ("captions", *_CAPTION) if fields.get(name) is not None]
    if len(named) > 1:
        raise _RowError(f"has {' and '.join(map(repr, named))}; give each caption its own row")
    if isinstance(fields.get("captions"), list):
        captions = tuple(_text({"caption": text}, _CAPTION) for text in fields["captions"])
        if len(set(captions)) < len(captions):
            raise _RowError("has the same caption twice")
    else:
        captions = (_text(fields, _CAPTION),)
    # One spelling a file, so that ./a.jpg and a.jpg are one image.
    image = image if ".." in image.split("/") else posixpath.normpath(image)
    return Row(line, image, captions, _split(fields.get("split")))


def _text(fields: dict[str, Any], names: tuple[str, ...]) -> str:
    """The first present one of the fields `names`, which must be text."""
    name = next((name for name in names if fields.get(name) is not None), None)
    if name is None:
        raise _RowError(f"has no {names[0]!r}")
    if not isinstance(fields[name], str) or not fields[name].strip():
        raise _RowError(f"{name!r} is {fields[name]!r:.60}, not text")
    return fields[name].strip()


def _split(value: Any) -> str:
    """The split of a row; "" for none."""
    if value is None or value == "":
        return ""
    name = _SPLITS.get(str(value).strip().lower())
    if name is None:
        raise _RowError(f"split {value!r:.60} is none of {', '.join(_SPLITS)}")
    return name
