"""Captions as lines of text, for people and for programs."""

import json
import re
from collections.abc import Mapping
from typing import Any

from capjax.evaluate.captioning import Caption
from capjax.evaluate.stream import Answer

# What ends a line, moves a terminal's cursor or is no UTF-8.
_ODD = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def answer_row(answer: Answer) -> dict[str, Any]:
    """An answer for JSON: "image" with "caption" and its figures, or with "error".

    What the caption saw has its own under "attended", where it was captioned.
    """
    if answer.error:
        return {"image": answer.name, "error": str(answer.error)}
    row = {"image": answer.name, **_caption_row(answer.caption)}
    if answer.attended:
        row["attended"] = _caption_row(answer.attended.caption)
    return row


def _caption_row(caption: Caption) -> dict[str, Any]:
    return {
        "caption": caption.text,
        "log_prob": caption.log_prob,
        "score": caption.score,
        "finished": caption.finished,
    }


def json_line(row: Mapping[str, Any]) -> bytes:
    """A row as a line of UTF-8 JSON; of a file name that is no UTF-8, JSON's escapes."""
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def text_line(answer: Answer) -> bytes:
    """Name and caption of a captioned image, with a tab between, in UTF-8.

    The caption of what it saw, where there is one, has a second line: "attended: " and the caption.
    """
    name = printable(answer.name)
    lines = f"{name}\t{printable(answer.caption.text)}\n"
    if answer.attended:
        lines += f"{name}\tattended: {printable(answer.attended.caption.text)}\n"
    return lines.encode()


def printable(text: str) -> str:
    """Text on one line: control characters and bytes that are no UTF-8 as Python spells them."""
    return _ODD.sub(lambda found: repr(found[0])[1:-1], text)
