"""Reading a user's annotation files, with errors that say what is wrong and what would work."""

import difflib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from capjax.files.errors import DataError

_LISTED = 10


class LayoutError(ValueError):
    """A part of a JSON file that is not as it should be; the message says where."""


def first_few(items: Sequence[Any]) -> str:
    """The first ten of what an error message lists, and how many more there are."""
    listed = ", ".join(map(str, items[:_LISTED]))
    more = len(items) - _LISTED
    return f"{listed} and {more} more" if more > 0 else listed


def check_folder(path: str, *, field: str, what: str) -> None:
    """Raises DataError, naming the config field, where there is no such folder."""
    if not os.path.isdir(path):
        raise DataError(f"there is no folder {path!r}; set config.dataset.{field} to {what}")


def read_text(file: str, *, field: str, what: str) -> str:
    r"""A whole UTF-8 file, with or without a byte order mark, every line end a "\n".

    Args:
      file: its path.
      field: of `config.dataset`, where a user gives it.
      what: says what the file should be.

    Raises:
      DataError: it is not there, cannot be read or is not UTF-8.
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
    """The content of a JSON file; see `read_text`.

    Raises:
      DataError: also where it is no JSON; the message names line and column.
    """
    try:
        return parse_json(read_text(file, field=field, what=what))
    except ValueError as error:
        raise DataError(
            f"{file} is not JSON: {error}; config.dataset.{field} should be {what}"
        ) from error


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
      ValueError: it is no JSON, or no UTF-8, or nested deeper than Python reads.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def well_formed(text: str) -> str:
    r"""The text with a question mark for every half of a surrogate pair.

    JSON can spell one, "\ud83d", where a program cut an emoji in two. No file, terminal or
    tokenizer takes it.
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def member(row: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """`row[key]`, which must be there and of this kind.

    Raises:
      LayoutError: it is not; the message starts with `where`.
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    wanted = " or ".join(k.__name__ for k in kinds)
    if not isinstance(row, dict):
        raise LayoutError(f"{where} is a {type(row).__name__}, not an object with {key!r}")
    if key not in row:
        raise LayoutError(f"{where} has no {key!r} ({wanted})")
    # JSON's true and false are no numbers, though Python's are.
    if not isinstance(row[key], kinds) or isinstance(row[key], bool):
        raise LayoutError(f"{where}: {key!r} is {row[key]!r:.60}, not {wanted}")
    return row[key]


def dotted(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested objects by their dotted names, {"a": {"b": 1}} as {"a.b": 1}."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= dotted(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def nearest(name: str, names: Iterable[str]) -> str:
    """Names like one that there is not: "did you mean decoder.num_layers?", or all of a section."""
    names = sorted(names)
    section, _, last = name.rpartition(".")

    def likeness(other: str) -> tuple[float, float]:
        # By the last name: most often a slip is there, or the section is wrong or left out.
        pairs = (last, other.rpartition(".")[2]), (name, other)
        near, whole = (difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)
        return near, whole

    close = sorted(((*likeness(other), other) for other in names), reverse=True)[:3]
    if found := [other for near, _, other in close if near >= 0.75]:
        return f"did you mean {' or '.join(found)}?"
    there = [other for other in names if other.rpartition(".")[0] == section]
    return f"there are {', '.join(there)}" if there else "see configs/base.py"
