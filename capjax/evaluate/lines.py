"""Captions as lines of text and of JSON."""

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from capjax.files.text import finite

if TYPE_CHECKING:  # A served artefact has rows without Flax.
    from capjax.evaluate.captioning import Caption
    from capjax.evaluate.stream import Answer

# Line ends, control characters and surrogates, which UTF-8 can't encode.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def answer_row(answer: "Answer") -> dict[str, Any]:
    """JSON row of an answer: "image" with "caption", "log_prob", ..., or with "error".

    "log_probs" has a number for each of "words", and last that of the end of a finished caption.
    "met" is there, and False, where a caption lacks a word that it must include.
    "attended" holds the caption of the attended image, if there is one.
    """
    if answer.error:
        return {"image": answer.name, "error": str(answer.error)}
    row = {"image": answer.name, **caption_row(answer.caption)}
    if answer.attended:
        row["attended"] = caption_row(answer.attended.caption)
    return row


def caption_row(caption: "Caption") -> dict[str, Any]:
    """JSON row of a caption; see `answer_row`."""
    row = {
        "caption": caption.text,
        "log_prob": caption.log_prob,
        "score": caption.score,
        "finished": caption.finished,
        "words": caption.words,
        "log_probs": caption.log_probs,
    }
    if not caption.met:
        row["met"] = False
    if caption.alternatives:
        row["alternatives"] = [caption_row(other) for other in caption.alternatives]
    return row


def json_line(row: Mapping[str, Any]) -> bytes:
    """Encodes a row as a line of UTF-8 JSON; NaN and infinity become null.

    Bytes of a name that is not UTF-8 are escaped.
    """
    text = json.dumps(finite(row), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def text_line(answer: "Answer") -> bytes:
    """UTF-8 line of the name and the caption of an image, separated by a tab.

    Each alternative has a line like it. The caption of the attended image, if there is one, has a
    last line with "attended: ".
    """
    name = printable(answer.name)
    lines = "".join(f"{name}\t{printable(each.text)}\n" for each in answer.caption)
    if answer.attended:
        lines += f"{name}\tattended: {printable(answer.attended.caption.text)}\n"
    return lines.encode()


def printable(text: str) -> str:
    """Text on one line: control characters and bytes that are not UTF-8 as Python escapes."""
    return _UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], text)
