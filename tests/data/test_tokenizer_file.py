"""Tokenizers made to fill the memory, or that fail when they are used: an error that says so."""

import json
import os

import pytest

from capjax.data import tokenizer_file
from capjax.data.tokenizer import Tokenizer, train_word_tokenizer
from capjax.data.tokenizer_file import TokenizerError

WHOLE = json.loads(train_word_tokenizer(["a dog"]).text)
DOUBLE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
BOMB = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}
COPIES = [{"Sequence": {"id": "A", "type_id": 0}}] * 2000
ENDLESS = {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None}
ENDLESS |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}
MODEL = WHOLE["model"]


def load(tmp_path, **changes):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**WHOLE, **changes}))
    return Tokenizer.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"normalizer": {"type": "Sequence", "normalizers": [DOUBLE] * 40}},
            "its normalizer may make texts 1099511627776 times as long",
        ),
        (
            {"decoder": {"type": "Sequence", "decoders": [DOUBLE] * 40}},
            "its decoder may make texts 1099511627776 times as long",
        ),
        ({"normalizer": {"type": "Prepend", "prepend": "x" * 2000}}, "texts 2001 times as long"),
        (
            {
                "post_processor": {
                    "type": "TemplateProcessing",
                    "single": COPIES,
                    "pair": [],
                    "special_tokens": {},
                }
            },
            "its post_processor may make texts 2000 times as long",
        ),
        (
            {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAAAAAA"}},
            "its normalizer is SentencePiece's",
        ),
        ({"model": {**MODEL, "unk_token": "zzz"}}, "the tokenizer fails: .*Missing \\[UNK\\]"),
        (
            {"model": {**MODEL, "vocab": {**MODEL["vocab"], "x" * 20_000: 6}}},
            "a token of 20000 letters",
        ),
        (
            {"decoder": {"type": "Strip", "content": "a", "start": 9**9, "stop": 9**9}},
            "the tokenizer fails: ",  # A panic of Rust.
        ),
    ],
)
def test_what_fills_the_memory_or_fails_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=rf"tokenizer\.json.*{message}"):
        load(tmp_path, **changes)


def test_a_failure_at_use_is_a_sentence(tmp_path):
    tokenizer = load(tmp_path, normalizer=BOMB)
    with pytest.raises(TokenizerError, match=r"the tokenizer fails: .*retry-limit"):
        tokenizer.encode("a" * 40 + "!")


def test_padding_truncation_and_chance_are_switched_off(tmp_path):
    assert load(tmp_path, padding=ENDLESS).encode("a dog") == [4, 5]
    pieces = {"type": "BPE", "vocab": {**MODEL["vocab"], "ad": 6}, "merges": ["a d"]}
    pieces |= {"dropout": 0.5, "unk_token": "<unk>", "fuse_unk": False, "byte_fallback": False}
    pieces |= {"continuing_subword_prefix": None, "end_of_word_suffix": None}
    vocabulary = {"a": 4, "d": 7, **MODEL["vocab"], "ad": 6}
    tokenizer = load(tmp_path, model={**pieces, "vocab": vocabulary, "ignore_merges": False})
    assert {tuple(tokenizer.encode("ad")) for _ in range(20)} == {(6,)}


def test_a_file_without_end_or_too_long_is_not_read(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="a pipe, socket or device"):
        tokenizer_file.read_backend(tmp_path / "pipe")
    monkeypatch.setattr(tokenizer_file, "MOST_TOKENIZER", 100)
    with pytest.raises(ValueError, match=r"can't be read: \d+ bytes are more than the 100 taken"):
        load(tmp_path)
