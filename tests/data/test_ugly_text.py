"""Ugly captions through the readers, the tokenizer and the encoded captions."""

import csv
import io
import json
import re
import time

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from capjax.data.captions import CaptionTable, encode_captions, read_captions
from capjax.data.datasets.coco_json import CocoJson
from capjax.data.datasets.flickr8k import Flickr8k
from capjax.data.datasets.folder import Folder
from capjax.data.datasets.karpathy import Karpathy
from capjax.data.tokenizer import Tokenizer, train_word_tokenizer
from capjax.files.atomic import write_json
from capjax.files.errors import DataError
from capjax.files.text import well_formed
from tests.helpers.effort import examples
from tests.helpers.ugly_text import LOOK_ALIKES, TEXT, UGLY

WORDS = train_word_tokenizer(["a dog runs", "eos pad unk bos endoftext", "x"])
SPECIAL = {WORDS.pad_id, WORDS.bos_id, WORDS.eos_id}


def byte_level():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(alphabet)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>"])
    return Tokenizer(backend)


BYTES = byte_level()


@given(TEXT)
def test_no_text_becomes_a_special_id_and_words_come_back(text):
    ids = WORDS.encode(text)
    assert not SPECIAL & set(ids)
    assert WORDS.encode_batch([text]) == [ids]
    assert len(WORDS.split(text)) == len(ids)
    known = [token for token in ids if token != WORDS.unk_id]
    assert WORDS.encode(WORDS.decode(ids)) == known
    assert BYTES.eos_id not in BYTES.encode(text)


@given(TEXT.filter(lambda text: len(text) < 10_000))
def test_a_byte_level_tokenizer_gives_back_every_text(text):
    assert BYTES.decode(BYTES.encode(text)) == well_formed(text)


@pytest.mark.slow(reason="a property over many drawn tokenizers")
@given(st.lists(TEXT, max_size=5))
def test_a_tokenizer_of_any_captions_is_read_back_the_same(tmp_path_factory, texts):
    tokenizer = train_word_tokenizer([*texts, "a dog"])
    path = tmp_path_factory.getbasetemp() / "tokenizer.json"
    tokenizer.save(path)
    again = Tokenizer.load(path)
    assert again.fingerprint == tokenizer.fingerprint
    for text in texts:
        ids = tokenizer.encode(text)
        assert min(ids, default=4) > 3  # Every word of it was seen.
        assert again.encode(text) == tokenizer.encode(tokenizer.decode(ids)) == ids


@given(st.lists(st.lists(TEXT, max_size=4), min_size=1, max_size=4), st.integers(2, 20))
@settings(max_examples=examples(30))
def test_encoded_captions_account_for_every_caption(captions, max_length):
    ids = tuple(map(str, range(len(captions))))
    table = CaptionTable(ids, tuple(map(tuple, captions)), "0")
    for over_length in ("drop", "cut"):
        encoded = encode_captions(table, WORDS, max_length=max_length, over_length=over_length)
        report = encoded.report
        assert report.kept + report.dropped + report.empty == report.captions
        assert report.captions == sum(map(len, captions))
        report.summary().encode()  # Can be printed.
        for tokens in (tokens for image in encoded.tokens for tokens in image):
            assert tokens.dtype == np.int32
            assert 2 <= len(tokens) <= max_length
            assert tokens[-1] == WORDS.eos_id
            assert not SPECIAL & set(tokens[:-1].tolist())


def as_csv(rows, *more):
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("image", "caption", *more), *rows])
    return text.getvalue()


def write_all(root, captions):
    """The same captions in every format; returns a function that opens each."""
    (root / "Images").mkdir(exist_ok=True)
    (root / "Images" / "a.jpg").write_bytes(b"a")
    images = str(root / "Images")
    rows = [{"image": "a.jpg", "caption": text, "split": "train"} for text in captions]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sentences = [{"raw": text} for text in captions]
    karpathy = {"images": [{"filename": "a.jpg", "split": "train", "sentences": sentences}]}
    (root / "karpathy.json").write_text(json.dumps(karpathy))
    annotations = [{"id": i, "image_id": 1, "caption": text} for i, text in enumerate(captions)]
    coco = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": annotations}
    (root / "coco.json").write_text(json.dumps(coco))
    whole = [("a.jpg", well_formed(text)) for text in captions]
    named = as_csv([(*row, "train") for row in whole], "split")
    (root / "rows.csv").write_text(named, encoding="utf-8", newline="")
    (root / "captions.txt").write_text(as_csv(whole), encoding="utf-8", newline="")
    (root / "Flickr_8k.trainImages.txt").write_text("a.jpg\n")
    return {
        "jsonl": lambda: Folder(str(root / "rows.jsonl"), images).open("train"),
        "csv": lambda: Folder(str(root / "rows.csv"), images).open("train"),
        "karpathy": lambda: Karpathy(str(root / "karpathy.json"), images).open("train"),
        "coco": lambda: CocoJson(str(root / "coco.json"), images).open("train"),
        "flickr8k": lambda: Flickr8k(str(root)).open("train"),
    }


@given(st.lists(TEXT, min_size=1, max_size=4, unique_by=lambda text: well_formed(text).strip()))
@settings(max_examples=examples(30))
def test_readers_give_the_captions_or_say_which_they_cannot(tmp_path_factory, captions):
    root = tmp_path_factory.getbasetemp() / "ugly"
    root.mkdir(exist_ok=True)
    for kind, read in write_all(root, captions).items():
        # A csv cell ends somewhere, and an image needs one caption that is not blank.
        blank = [not text.strip() for text in captions]
        long = any(len(text) > 100_000 for text in captions)
        if all(blank) or (long and kind in ("csv", "flickr8k")):
            with pytest.raises(DataError, match=re.escape(str(root))):
                read()
            continue
        table = read_captions(read(), root / "cache")
        if kind in ("karpathy", "coco"):
            assert table.captions == (tuple(map(well_formed, captions)),)
        if kind == "jsonl":  # Without those that are blank.
            said = (well_formed(text).strip() for text in captions)
            assert table.captions == (tuple(filter(None, said)),)
        "".join(table.captions[0]).encode()  # Can be printed and written.
        assert read_captions(read(), root / "cache") == table


@pytest.mark.parametrize(
    "name", ["é\udce9.jpg", "../../etc/passwd", "a\0.jpg", "\ud83d", "x" * 5000]
)
def test_an_ugly_path_is_a_missing_one(tmp_path, name):
    row = {"image": name, "caption": "a dog", "split": "train"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"1 (missing files|paths outside)") as caught:
        Folder(str(tmp_path / "rows.jsonl")).open("train")
    str(caught.value).encode()


def test_results_of_ugly_names_can_be_written(tmp_path):
    """An argument of a command line that is no UTF-8 reaches the config so."""
    write_json(str(tmp_path / "config.json"), {"root": "caf\udce9", "look": list(LOOK_ALIKES)})
    found = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert found["root"] == "caf\udce9"


def test_long_captions_cost_what_their_length_does():
    """Quadratic ways would take hours on these."""
    start = time.process_time()
    for text in UGLY:
        train_word_tokenizer([text, "a"]).encode(text)
        WORDS.split(text)
    assert time.process_time() - start < 30
