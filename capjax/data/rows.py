"""Rows of image and caption, in the files that people have.

- A table, `.csv`, `.tsv` or `.txt`, separated by commas, semicolons, tabs or `|`, whose first row
  names the columns:

      image,caption,split
      dogs/1.jpg,"A dog, running.",train

- `.jsonl`, an object a row: {"image": "dogs/1.jpg", "caption": "A dog runs.", "split": "train"}
- A folder with `metadata.jsonl` or `metadata.csv`, or with those in folders named by splits, as
  Hugging Face's imagefolder has them; or a folder of images, each with its captions as the lines of
  a text file beside it: `dogs/1.jpg` and `dogs/1.txt`.

The column of images is `image`, `file_name`, `filename` or `image_name`; that of captions is
`caption`, `captions`, `text` or, as in Flickr30k's file, `comment`. A row can have a list of
captions; in a table it is written as JSON, `["A dog.", "It runs."]`. `split` is optional: train,
validation (also val, valid or dev) or test. Other columns are not read.
"""

import contextlib
import csv
import io
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from capjax.data.images import has_image_name
from capjax.files.errors import DataError
from capjax.files.text import composed, first_few, parse_json, read_text

WHAT = "a .csv, .tsv or .jsonl file with image and caption in every row, or a folder of both"
_IMAGE = ("image", "file_name", "filename", "image_name")
_CAPTION = ("caption", "captions", "text")
# A caption only where no other column is one, since tables have comments, too.
_COMMENT = "comment"
_SPLITS = {name: name for name in ("train", "validation", "test")}
_SPLITS |= dict.fromkeys(("val", "valid", "dev"), "validation")
_DELIMITERS = (",", ";", "\t", "|")
_METADATA = ("metadata.jsonl", "metadata.csv")

# A row's fields by the names of the columns, or what is wrong with it.
Fields = dict[str, Any] | str


class Row(NamedTuple):
    """A row; `split` is "" where the row has none."""

    line: int
    image: str
    captions: tuple[str, ...]
    split: str


class Rows(NamedTuple):
    """The usable rows of a file, and a phrase with the counts of what was left out, or ""."""

    rows: list[Row]
    left_out: str


class _RowError(ValueError):
    """A row that cannot be used; the message is the reason."""


def folder_of(file: str) -> str:
    """The folder that image paths of a file are relative to."""
    return file if os.path.isdir(file) else os.path.dirname(file) or "."


def read_rows(file: str) -> Rows:
    """Reads all rows of a table or a folder, without repeated and empty captions.

    Raises:
      DataError: rows cannot be used; the message names the first ten.
    """
    left_out: Counter[str] = Counter()
    rows, problems = [], []
    said: set[tuple[str, str]] = set()
    spellings: dict[str, str] = {}
    for line, fields in _read(file, left_out):
        try:
            row = _row(line, fields)
        except _RowError as error:
            problems.append(f"line {line} ({error})")
            continue
        # Of several spellings of a path, the first.
        key = composed(row.image.replace("\\", "/"))
        image = spellings.setdefault(key, row.image)
        captions = []
        for caption in row.captions:
            if not caption:
                left_out["empty captions"] += 1
            elif (image, caption) in said:
                left_out["repeated captions of an image"] += 1
            else:
                said.add((image, caption))
                captions.append(caption)
        if captions:
            rows.append(row._replace(image=image, captions=tuple(captions)))
    if problems:
        raise DataError(
            f"{file} has {len(problems)} unusable rows: {first_few(problems)}; "
            f"config.dataset.file should be {WHAT}"
        )
    if not rows:
        raise DataError(f"{file} has no rows; config.dataset.file should be {WHAT}")
    return Rows(rows, ", ".join(f"{count} {what}" for what, count in left_out.items()))


def _read(file: str, left_out: Counter[str]) -> Iterator[tuple[int, Fields]]:
    """Yields (line, fields) of every row that is not blank."""
    if os.path.isdir(file):
        yield from _read_folder(file, left_out)
        return
    readers = {".jsonl": _read_jsonl, **dict.fromkeys((".csv", ".tsv", ".txt"), _read_table)}
    reader = readers.get(os.path.splitext(file)[1].lower())
    if reader is None:
        raise DataError(f"{file!r} has another file type; config.dataset.file should be {WHAT}")
    yield from reader(read_text(file, field="file", what=WHAT))


def _read_jsonl(text: str) -> Iterator[tuple[int, Fields]]:
    # Not splitlines, which also splits at characters that JSON allows in a string.
    for line, content in enumerate(text.split("\n"), 1):
        if content.strip():
            try:
                fields = parse_json(content)
            except ValueError as error:
                yield line, f"is not JSON: {error}"
            else:
                yield line, fields if isinstance(fields, dict) else "is not a JSON object"


def _read_table(text: str) -> Iterator[tuple[int, Fields]]:
    """The line is the first of a row."""
    before = 0
    if re.match(r"sep=.\n", text):  # Excel's, which names the delimiter.
        text, before = text.partition("\n")[2], 1
    delimiter, header = _header(text)
    line = before + 1
    if header is None:
        columns = ", ".join(name for name in _cells(text, delimiter) if name)
        images, captions = " or ".join(_IMAGE), " or ".join((*_CAPTION, _COMMENT))
        yield line, f"names the columns {columns or 'none'}; name one {images}, and one {captions}"
        return
    if doubled := [name for name, count in Counter(header).items() if name and count > 1]:
        yield line, f"names a column twice: {', '.join(doubled)}; give a caption its own row"
        return
    # Flickr30k's captions have quotation marks of their own.
    quoting = csv.QUOTE_NONE if delimiter == "|" else csv.QUOTE_MINIMAL
    stream = io.StringIO(text, newline="")
    reader = csv.reader(stream, strict=True, delimiter=delimiter, quoting=quoting)
    try:
        next(reader)
        while True:
            line = before + reader.line_num + 1
            row = next(reader, None)
            if row is None:
                return
            if any(map(str.strip, row)):
                yield line, _fields(header, row, delimiter)
    except csv.Error as error:
        yield line, f"is not CSV: {error}"


def _header(text: str) -> tuple[str, list[str] | None]:
    """The delimiter, and the names of the columns; no names where none has image and caption."""
    for delimiter in _DELIMITERS:
        header = _cells(text, delimiter)
        while header and not header[-1]:  # Excel's empty columns.
            header.pop()
        if {*header} & {*_IMAGE} and {*header} & {*_CAPTION, _COMMENT}:
            return delimiter, header
    return max(_DELIMITERS, key=lambda delimiter: len(_cells(text, delimiter))), None


def _cells(text: str, delimiter: str) -> list[str]:
    """The cells of the first row, in lower case; none where it can't be read."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        return [name.strip().lower() for name in next(rows, [])]
    except csv.Error:
        return []


def _fields(header: list[str], row: list[str], delimiter: str) -> Fields:
    while len(row) > len(header) and not row[-1].strip():
        row = row[:-1]
    # One row of Flickr30k's file lacks the mark between number and caption.
    joined = re.fullmatch(r"\s*(\d+)\s+(.+)", row[-1])
    if joined and delimiter == "|" and len(row) == len(header) - 1:
        row = [*row[:-1], *joined.groups()]
    if len(row) != len(header):
        return (
            f"has {len(row)} fields, not {len(header)}; a caption with {_NAMES[delimiter]} must be "
            "in quotes"
        )
    fields = dict(zip(header, row, strict=True))
    return {name: _listed(value) if name in _CAPTION else value for name, value in fields.items()}


def _listed(cell: str) -> str | list[str]:
    """The captions of a cell with a JSON list; any other text unchanged."""
    with contextlib.suppress(ValueError):
        found = parse_json(cell) if cell.startswith("[") else None
        if found and all(isinstance(caption, str) for caption in found):
            return found
    return cell


_NAMES = dict(zip(_DELIMITERS, ("commas", "semicolons", "tabs", "|"), strict=True))


def _read_folder(folder: str, left_out: Counter[str]) -> Iterator[tuple[int, Fields]]:
    """The rows of a folder's metadata, of those of its splits, or of its text files."""
    if table := _metadata(folder):
        yield from _read(table, left_out)
        return
    names = sorted(os.listdir(folder))
    splits = {name: _metadata(os.path.join(folder, name)) for name in names if name in _SPLITS}
    tables = {name: table for name, table in splits.items() if table}
    for name, table in tables.items():
        for row in read_rows(table).rows:
            image = posixpath.join(name, row.image)
            yield row.line, {"image": image, "captions": list(row.captions), "split": name}
    if not tables:
        yield from _read_text_files(folder, left_out)


def _metadata(folder: str) -> str | None:
    tables = (os.path.join(folder, name) for name in _METADATA)
    return next(filter(os.path.isfile, tables), None)


def _read_text_files(folder: str, left_out: Counter[str]) -> Iterator[tuple[int, Fields]]:
    for place, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(filter(has_image_name, files)):
            path = os.path.join(place, name)
            text = f"{os.path.splitext(path)[0]}.txt"
            if not os.path.isfile(text):
                left_out["images without a text file"] += 1
                continue
            image = os.path.relpath(path, folder).replace(os.sep, "/")
            lines = read_text(text, field="file", what=WHAT).split("\n")
            captions = [line for line in lines if line.strip()]
            yield 1, {"image": image, "captions": captions or [""]}


def _row(line: int, fields: Fields) -> Row:
    """Raises _RowError where the fields are not a row's."""
    if isinstance(fields, str):
        raise _RowError(fields)
    image = next((fields[name] for name in _IMAGE if fields.get(name) is not None), None)
    if image is None:
        raise _RowError("has no 'image'")
    if not isinstance(image, str) or not image.strip():
        raise _RowError(f"'image' is {image!r:.60}, not text")
    # One spelling, so that ./a.jpg and a.jpg are one image.
    image = image.strip()
    image = image if ".." in image.split("/") else posixpath.normpath(image)
    return Row(line, image, _captions(fields), _split(fields.get("split")))


def _captions(fields: dict[str, Any]) -> tuple[str, ...]:
    """The captions of a row without the spaces around them; "" for an empty one."""
    there = [name for name in _CAPTION if name in fields] or [_COMMENT]
    named = [name for name in there if fields.get(name) is not None]
    if len(named) > 1:
        raise _RowError(f"has {' and '.join(map(repr, named))}; give each caption its own row")
    name = named[0] if named else there[0]
    if name not in fields:
        raise _RowError("has no 'caption'")
    given = fields[name]
    captions: Sequence[Any] = given if isinstance(given, list) else [given]
    for caption in captions:
        if not isinstance(caption, str | None):
            raise _RowError(f"{name!r} is {caption!r:.60}, not text")
    return tuple((caption or "").strip() for caption in captions) or ("",)


def _split(value: Any) -> str:
    """The split of a row; "" for none."""
    if value is None or value == "":
        return ""
    name = _SPLITS.get(str(value).strip().lower())
    if name is None:
        raise _RowError(f"split {value!r:.60} is none of {', '.join(_SPLITS)}")
    return name
