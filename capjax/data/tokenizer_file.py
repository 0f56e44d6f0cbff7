"""Reads the tokenizer of a file that anybody may have made, by the library `tokenizers`."""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from typing import Any

import tokenizers

from capjax.files.small import MOST_TOKENIZER, read_small

# Times that normalizers, or decoders, may lengthen a text; of published ones twice at most.
_MOST_TIMES = 1000


def read_backend(path: str | os.PathLike) -> tokenizers.Tokenizer:
    """Reads a tokenizer.json.

    Raises:
      OSError: it can't be read.
      ValueError: it is damaged or no tokenizer, or made to fill the memory.
    """
    content = read_small(path, MOST_TOKENIZER).decode()
    with raised():
        backend = tokenizers.Tokenizer.from_str(content)
    for name, part in (("normalizer", backend.normalizer), ("decoder", backend.decoder)):
        times = 1 if part is None else _growth(json.loads(part.__getstate__()))
        if times > _MOST_TIMES:
            raise ValueError(f"its {name} may make texts {times} times as long")
    return backend


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Raises all errors of `tokenizers` as ValueError: its own are bare Exceptions or no such."""
    try:
        yield
    except (ValueError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # A panic of Rust is no Exception.
        raise ValueError(str(error)) from error


def _growth(step: dict[str, Any]) -> int:
    """Times that a normalizer or a decoder may lengthen a text: ten that double it, a thousand."""
    if step["type"] == "Replace":
        # A regular expression can match between any two letters.
        return max(1, len(step["content"]) + ("Regex" in step["pattern"]))
    steps = step.get("normalizers") or step.get("decoders") or ()
    return math.prod(map(_growth, steps))
