"""Reads a user's annotation files; errors say what is wrong and what would work."""

import difflib
import json
import math
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from capjax.files.errors import DataError

_LISTED = 10


class LayoutError(ValueError):
    """A JSON file of another layout than expected; the message says where."""


def first_few(items: Sequence[Any]) -> str:
    """The first ten items, for an error message, and how many more there are."""
    listed = ", ".join(map(str, items[:_LISTED]))
    more = len(items) - _LISTED
    return f"{listed} and {more} more" if more > 0 else listed


def check_folder(path: str, *, field: str, what: str) -> None:
    """Raises DataError, naming the config field, where there is no such folder."""
    if not os.path.isdir(path):
        raise DataError(f"there is no folder {path!r}; set config.dataset.{field} to {what}")


def read_text(file: str, *, field: str, what: str) -> str:
    r"""Reads a UTF-8 file, with or without a byte order mark; line ends become "\n".

    Args:
      file: its path.
      field: field of `config.dataset` that names the file, for error messages.
      what: what the file must be, for error messages.

    Raises:
      DataError: it is missing, cannot be read or is not UTF-8.
    """
    try:
        with open(file, encoding="utf-8-sig") as stream:
            return stream.read()
    except FileNotFoundError as error:
        raise DataError(
            f"there is no file {file!r}; set config.dataset.{field} to {what}"
        ) from error
    except OSError as error:
        raise DataError(
            f"{file} cannot be read: {error.strerror}; config.dataset.{field} should be {what}"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} is not UTF-8 text (at byte {error.start}); save it as UTF-8, and see that "
            f"config.dataset.{field} is {what}"
        ) from error


def read_json(file: str, *, field: str, what: str) -> Any:
    """Reads a JSON file; see `read_text`.

    Raises:
      DataError: as `read_text`, or it is not JSON; the message names line and column.
    """
    try:
        return parse_json(read_text(file, field=field, what=what))
    except ValueError as error:
        raise DataError(
            f"{file} is not JSON: {error}; config.dataset.{field} should be {what}"
        ) from error


def parse_json(text: str | bytes) -> Any:
    """Parses a JSON text.

    Raises:
      ValueError: it is not JSON, not UTF-8, or nested deeper than Python can read.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def finite(value: Any) -> Any:
    """Replaces numbers that JSON lacks, infinity and NaN, by None."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def composed(name: str) -> str:
    """The name with composed accents: archives of macOS have them decomposed."""
    return unicodedata.normalize("NFC", name)


def well_formed(text: str) -> str:
    r"""Replaces each lone surrogate by a question mark.

    JSON can contain one, "\ud83d", where a program cut an emoji in two. No file, terminal or
    tokenizer accepts it.
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def member(row: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """Returns `row[key]`, which must exist and be of type `kind`.

    Raises:
      LayoutError: it does not exist or has another type; the message starts with `where`.
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    wanted = " or ".join(k.__name__ for k in kinds)
    if not isinstance(row, dict):
        raise LayoutError(f"{where} is a {type(row).__name__}, not an object with {key!r}")
    if key not in row:
        raise LayoutError(f"{where} has no {key!r} ({wanted})")
    # A bool is an int in Python, but true and false are not numbers in JSON.
    if not isinstance(row[key], kinds) or isinstance(row[key], bool):
        raise LayoutError(f"{where}: {key!r} is {row[key]!r:.60}, not {wanted}")
    return row[key]


def dotted(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested dicts to dotted names: {"a": {"b": 1}} to {"a.b": 1}."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= dotted(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint for an unknown name: "did you mean decoder.num_layers?", or a section's names."""
    names = sorted(names)
    section, _, last = name.rpartition(".")

    def likeness(other: str) -> tuple[float, float]:
        # By the last name first: most slips are there, or the section is wrong or missing.
        pairs = (last, other.rpartition(".")[2]), (name, other)
        near, whole = (difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)
        return near, whole

    close = sorted(((*likeness(other), other) for other in names), reverse=True)[:3]
    if found := [other for near, _, other in close if near >= 0.75]:
        return f"did you mean {' or '.join(found)}?"
    there = [other for other in names if other.rpartition(".")[0] == section]
    return f"there are {', '.join(there)}" if there else "see configs/base.py"
