"""Files of `dataset.cache_dir` that spare a start what an earlier one made of the same captions.

A file that is damaged or belongs to something else is ignored and written again.
"""

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from capjax.data import tokenizer_kinds
from capjax.data.captions import CaptionReport, CaptionTable, EncodedCaptions, encode_captions
from capjax.data.ragged import Ragged
from capjax.data.tokenizer import Tokenizer
from capjax.files.arrays import read_arrays, write_arrays
from capjax.files.atomic import read_cached, write_cached

# Another normalisation, training or encoding needs a new number.
_TOKENIZER, _ENCODED = "capjax tokenizer 1", "capjax encoded captions 1"
_REFERENCES = "capjax references 1"


def open_tokenizer(
    train: CaptionTable, section: Mapping[str, Any], cache_dir: str | os.PathLike | None
) -> Tokenizer:
    """Trains a tokenizer, or reads a cached one of the same captions.

    Args:
      train: the captions of the train split.
      section: the arguments of `tokenizer_kinds.train`.
      cache_dir: the folder of the cached file; None for none.

    Raises:
      DataError: the cached file cannot be written.
      ValueError: a limit is out of range, or nothing is left.
    """
    key = _key(_TOKENIZER, captions=train.fingerprint, section=dict(section))
    path = _path(cache_dir, "tokenizer", key, "json")
    tokenizer = _load_tokenizer(path, key) if path else None
    if tokenizer is None:
        texts = itertools.chain.from_iterable(train.captions.blocks())
        tokenizer = tokenizer_kinds.train(texts, **section)
        if path:
            write_cached(path, {"key": key, "tokenizer": tokenizer.text})
    elif section.get("kind", "words") == "words":
        tokenizer_kinds.warn_without_spaces(next(train.captions.blocks(), []))
    return tokenizer


def _load_tokenizer(path: Path, key: dict[str, Any]) -> Tokenizer | None:
    """The tokenizer in `path`; None where the file is missing, damaged or another's."""
    content = read_cached(path) or {}
    if content.get("key") != key:
        return None
    try:
        return Tokenizer.parse(content["tokenizer"])
    except ValueError:
        return None


def open_encoded(
    table: CaptionTable,
    tokenizer: Tokenizer,
    cache_dir: str | os.PathLike | None,
    *,
    max_length: int,
    over_length: str,
    prompt: str = "",
) -> EncodedCaptions:
    """Encodes all captions, or reads a cached file of them; arguments as of `encode_captions`.

    Raises:
      DataError: the cached file cannot be written.
      ValueError: as `encode_captions`.
    """
    given = {"max_length": max_length, "over_length": over_length, "prompt": prompt}
    fingerprints = {"captions": table.fingerprint, "tokenizer": tokenizer.fingerprint}
    key = _key(_ENCODED, **fingerprints, **given)
    path = _path(cache_dir, "tokens", key, "safetensors")
    encoded = _load_encoded(path, key, table) if path else None
    if encoded is None:
        encoded = encode_captions(table, tokenizer, **given)
        if path:
            report = dataclasses.asdict(encoded.report)
            arrays = {**encoded.tokens.arrays(), "by_length": report.pop("lengths")}
            about = {"key": key, "report": report, "prompt": encoded.prompt}
            write_arrays(path, about, arrays)
    return encoded


def _load_encoded(path: Path, key: dict[str, Any], table: CaptionTable) -> EncodedCaptions | None:
    """The captions in `path`; None where the file is missing, damaged or another's."""
    about, arrays = read_arrays(path) or ({}, {})
    if about.get("key") != key or len(arrays["counts"]) != len(table.image_ids):
        return None
    report = {**about["report"], "lengths": arrays.pop("by_length")}
    report["bare_image_ids"] = tuple(report["bare_image_ids"])
    report["frequent_unknown"] = tuple(map(tuple, report["frequent_unknown"]))
    return EncodedCaptions(
        table.image_ids,
        Ragged(**arrays),
        key["max_length"],
        table.fingerprint,
        CaptionReport(**report),
        about["prompt"],
    )


def open_references(
    table: CaptionTable,
    tokenizer: Tokenizer,
    cache_dir: str | os.PathLike | None,
    encode: Callable[[], Ragged],
) -> Ragged:
    """All captions of each image, encoded by `encode` or read from a cached file.

    Args:
      table: the captions.
      tokenizer: encodes them.
      cache_dir: the folder of the cached file; None for none.
      encode: `corpus_ids` of the captions.

    Raises:
      DataError: the cached file cannot be written.
    """
    key = _key(_REFERENCES, captions=table.fingerprint, tokenizer=tokenizer.fingerprint)
    path = _path(cache_dir, "references", key, "safetensors")
    about, arrays = (read_arrays(path) if path else None) or ({}, {})
    if about == key and len(arrays["counts"]) == len(table.image_ids):
        return Ragged(**arrays)
    found = encode()
    if path:
        write_arrays(path, key, found.arrays())
    return found


def _key(form: str, **values: Any) -> dict[str, Any]:
    """All that the content of a file depends on, JSON values."""
    return {"format": form, "tokenizers": tokenizers.__version__, **values}


def _path(
    cache_dir: str | os.PathLike | None, name: str, key: dict[str, Any], suffix: str
) -> Path | None:
    """A path of its own for each key."""
    if not cache_dir:
        return None
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return Path(cache_dir) / f"{name}-{digest[:32]}.{suffix}"
