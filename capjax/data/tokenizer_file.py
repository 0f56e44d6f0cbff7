"""Reads the tokenizer of a file that anybody may have made, by the library `tokenizers`."""

import contextlib
import itertools
import json
import math
import os
from collections.abc import Iterator
from typing import Any

import tokenizers

from capjax.files.errors import ReportedError
from capjax.files.small import MOST_TOKENIZER, read_small

# Times that a part may lengthen a text; those of published tokenizers do it twice at most.
_MOST_TIMES = 1000
# Letters, a word that none knows, and a symbol.
_PROBE = "a dog zqx \N{SNOWMAN}"


class TokenizerError(ReportedError, ValueError):
    """A tokenizer that fails; the message says why."""


def read_backend(path: str | os.PathLike) -> tokenizers.Tokenizer:
    """Reads a tokenizer.json.

    Raises:
      OSError: it can't be read.
      ValueError: it is damaged or no tokenizer, or made to fill the memory.
    """
    return parse_backend(read_small(path, MOST_TOKENIZER).decode())


def parse_backend(content: str) -> tokenizers.Tokenizer:
    """Reads the text of a tokenizer.json; raises ValueError as `read_backend`."""
    with raised():
        backend = tokenizers.Tokenizer.from_str(content)
    backend.no_padding()
    backend.no_truncation()
    for name in ("normalizer", "post_processor", "decoder"):
        part = getattr(backend, name)
        times = 1 if part is None else _growth(json.loads(part.__getstate__()))
        if times > _MOST_TIMES:
            raise TokenizerError(f"its {name} may make texts {times} times as long")
    with raised():  # What does not fit together shows at use alone.
        backend.decode(backend.encode(_PROBE, add_special_tokens=False).ids)
    return backend


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Raises TokenizerError for all errors of `tokenizers`, which are bare or no Exceptions."""
    try:
        yield
    except (TokenizerError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # A panic of Rust is no Exception.
        raise TokenizerError(f"the tokenizer fails: {error}") from error


def _growth(step: dict[str, Any]) -> int:
    """Times that a part may lengthen a text: ten steps that double it, a thousand."""
    if step["type"] == "Precompiled":
        raise TokenizerError("its normalizer is SentencePiece's, whose table can't be checked")
    if step["type"] == "Prepend":
        return 1 + len(step["prepend"])
    if step["type"] == "Replace":
        # A regular expression can match between any two letters.
        return max(1, len(step["content"]) + ("Regex" in step["pattern"]))
    if step["type"] == "TemplateProcessing":
        return sum("Sequence" in piece for piece in step["single"])
    kinds = (step.get(kind, ()) for kind in ("normalizers", "processors", "decoders"))
    return math.prod(map(_growth, itertools.chain.from_iterable(kinds)))
