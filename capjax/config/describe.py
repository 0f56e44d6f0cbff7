"""Lists the fields of a config with their comments, which its source file has above them."""

import ast
import os
import textwrap
from collections.abc import Iterator

from ml_collections import ConfigDict

from capjax.config import shipped


def lines(config: ConfigDict) -> Iterator[str]:
    """Lines of --help for each field: its flag with its value, then its comment."""
    comments = _comments()
    for name, value in config.items():
        if not isinstance(value, ConfigDict):
            yield from _field(name, value, comments.get(("get_config", f"config.{name}"), ""))
            continue
        for field, leaf in value.items():
            yield from _field(f"{name}.{field}", leaf, _comment(name, value, field, comments))


def _field(name: str, value: object, comment: str) -> Iterator[str]:
    yield f"  --config.{name}={value!r}"
    yield from textwrap.wrap(comment, 94, initial_indent=" " * 6, subsequent_indent=" " * 6)


def _comment(section: str, fields: ConfigDict, field: str, comments: dict) -> str:
    """The comment of a section's field, first from the function of the section's own kind."""
    kind = fields.get("name", "")
    for function in (f"{kind}_{section}", kind):
        if found := comments.get((function, f"{section}.{field}")):
            return found
    targets = (f"{section}.{field}", f"config.{section}.{field}")
    return next((text for (_, target), text in comments.items() if target in targets), "")


def _comments() -> dict[tuple[str, str], str]:
    """The comment above each assignment of the shipped configs, by (function, target)."""
    found: dict[tuple[str, str], str] = {}
    for name in shipped.files():
        with open(os.path.join(shipped.folder(), name), encoding="utf-8") as file:
            text = file.read()
        rows = text.splitlines()
        for function in ast.parse(text).body:
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Assign) and (comment := _above(rows, node.lineno - 1)):
                    found.setdefault((function.name, ast.unparse(node.targets[0])), comment)
    return found


def _above(rows: list[str], row: int) -> str:
    """The comment that ends above a row, on one line."""
    comment: list[str] = []
    while row and (text := rows[row - 1].strip()).startswith("#"):
        comment.insert(0, text.lstrip("# "))
        row -= 1
    return " ".join(comment)
