"""A second start has what the first one made of the captions, without making it again."""

import dataclasses
import json

import numpy as np
import pytest
import tokenizers

from capjax.data import tokenizer_kinds
from capjax.data.batches import TrainBatches
from capjax.data.caption_cache import open_encoded, open_tokenizer
from capjax.data.captions import CaptionTable, encode_captions, unigram_counts
from capjax.data.tokenizer import Tokenizer, train_word_tokenizer
from capjax.files.arrays import read_arrays, write_arrays
from capjax.files.atomic import read_cached, write_cached
from capjax.files.errors import DataError

CAPTIONS = (
    ("a dog runs", "A dog.", "a pink PIG"),
    (),
    ("...", "a cat sleeps on the red mat"),
    ("dog", "a pig \ud83d runs"),
)
TABLE = CaptionTable(("a\ud83d", "b", "c", "d"), CAPTIONS, "abc")
TOKENIZER = train_word_tokenizer(["a dog runs", "a cat sleeps on the mat"])
GIVEN = {"max_length": 6, "over_length": "cut", "prompt": ""}
SECTION = {
    "kind": "words",
    "min_count": 1,
    "max_words": 0,
    "alphabetic_only": False,
}


@pytest.fixture(name="no_work")
def make_no_work(monkeypatch):
    """Call it, and captions are neither encoded nor a tokenizer trained."""

    def refuse(*_, **__):
        raise AssertionError("made again")

    def start():
        monkeypatch.setattr(Tokenizer, "encode_batch", refuse)
        monkeypatch.setattr(Tokenizer, "unknown", refuse)
        monkeypatch.setattr(tokenizer_kinds, "train", refuse)

    return start


def assert_same(one, other):
    """All fields are equal, bit for bit."""
    for name, value in vars(other.tokens).items():
        found = getattr(one.tokens, name)
        assert (found == value).all(), name
        assert found.dtype == value.dtype, name
    for field in dataclasses.fields(other.report):
        found, value = (getattr(each.report, field.name) for each in (one, other))
        if field.name == "lengths":
            assert found.dtype == value.dtype
            found, value = found.tolist(), value.tolist()
        assert found == value
    assert one.report.summary() == other.report.summary()
    rest = ("image_ids", "max_length", "fingerprint", "prompt", "most_captions")
    for name in rest:
        assert getattr(one, name) == getattr(other, name)


@pytest.mark.parametrize(
    "given",
    [
        GIVEN,
        {"max_length": 4, "over_length": "drop", "prompt": ""},
        {"max_length": 6, "over_length": "drop", "prompt": "A cat"},
    ],
)
def test_a_second_start_encodes_nothing(tmp_path, no_work, given):
    plain = encode_captions(TABLE, TOKENIZER, **given)
    assert_same(open_encoded(TABLE, TOKENIZER, None, **given), plain)
    assert_same(open_encoded(TABLE, TOKENIZER, tmp_path, **given), plain)
    options = {"batch_size": 3, "captions_per_image": 2, "seed": 0, "length_bucket": 3}
    first = [TrainBatches(plain, TOKENIZER, packed=True, **options)(step) for step in range(4)]
    (path,) = tmp_path.iterdir()
    written = path.stat().st_mtime_ns
    no_work()
    again = open_encoded(TABLE, TOKENIZER, tmp_path, **given)
    assert_same(again, plain)
    assert path.stat().st_mtime_ns == written
    np.testing.assert_array_equal(unigram_counts(again, 99), unigram_counts(plain, 99))
    batches = TrainBatches(again, TOKENIZER, packed=True, **options)
    for step, whole in enumerate(first):
        for name, value in whole.text().items():
            np.testing.assert_array_equal(batches(step).text()[name], value)


@pytest.mark.parametrize("kind", ["words", "characters", "bpe"])
def test_a_second_start_trains_no_tokenizer(tmp_path, no_work, kind):
    section = {**SECTION, "kind": kind, "max_words": 30}
    plain = tokenizer_kinds.train([text for own in CAPTIONS for text in own], **section)
    texts = ["a dog \N{SNOWMAN} <pad> CATS", "a\u0308 pig"]
    first = open_tokenizer(TABLE, section, tmp_path)
    expected = plain.encode_batch(texts)
    no_work()
    again = open_tokenizer(TABLE, section, tmp_path)
    for found in (first, again):
        assert found.text == plain.text
        assert found.fingerprint == plain.fingerprint
        assert [found.encode(text) for text in texts] == expected


def test_a_second_start_warns_too(tmp_path, caplog):
    table = CaptionTable(("a",), (("一个红色的盒子靠在第3面墙上",),), "abc")
    for _ in range(2):
        open_tokenizer(table, SECTION, tmp_path)
        assert "Chinese or Japanese without spaces" in caplog.text
        caplog.clear()
    for _ in range(2):
        open_tokenizer(table, {**SECTION, "kind": "characters"}, tmp_path)
        assert not caplog.text


def test_what_differs_has_a_file_of_its_own(tmp_path, monkeypatch):
    other = train_word_tokenizer(["a dog"])
    given = (
        (TABLE, TOKENIZER, GIVEN),
        (dataclasses.replace(TABLE, fingerprint="def"), TOKENIZER, GIVEN),
        (TABLE, other, GIVEN),
        (TABLE, TOKENIZER, {**GIVEN, "max_length": 5}),
        (TABLE, TOKENIZER, {**GIVEN, "over_length": "drop"}),
        (TABLE, TOKENIZER, {**GIVEN, "prompt": "a"}),
    )

    def start():
        for table, tokenizer, options in given:
            encoded = open_encoded(table, tokenizer, tmp_path, **options)
            assert_same(encoded, encode_captions(table, tokenizer, **options))

    def train():
        for table in (TABLE, dataclasses.replace(TABLE, fingerprint="def")):
            for section in (SECTION, {**SECTION, "min_count": 2}, {**SECTION, "max_words": 2}):
                found = open_tokenizer(table, section, tmp_path / "tokenizers")
                assert found.text == open_tokenizer(table, section, None).text

    for _ in range(2):
        start()
        assert len(list(tmp_path.iterdir())) == 6
    for _ in range(2):
        train()
        assert len(list((tmp_path / "tokenizers").iterdir())) == 6
    monkeypatch.setattr(tokenizers, "__version__", "999")
    start()
    train()
    assert len(list(tmp_path.glob("tokens-*.safetensors"))) == 12
    assert len(list(tmp_path.glob("tokenizers/tokenizer-*.json"))) == 12


@pytest.mark.parametrize("damage", ["key", "format", "fewer", "nothing"])
def test_another_file_of_that_name_is_written_again(tmp_path, damage):
    """Its checksum is right, and its content not what its name says."""
    plain = open_encoded(TABLE, TOKENIZER, tmp_path, **GIVEN)
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    about, arrays = read_arrays(path)
    if damage == "key":
        about["key"]["captions"] = "def"
    elif damage == "format":
        about["key"]["format"] = "capjax encoded captions 0"
    elif damage == "fewer":
        arrays = {name: array[:0] for name, array in arrays.items()}
    else:
        about = {}
    write_arrays(path, about, arrays)
    assert_same(open_encoded(TABLE, TOKENIZER, tmp_path, **GIVEN), plain)
    assert path.read_bytes() == good


@pytest.mark.parametrize("damage", ["key", "no tokenizer", "nothing"])
def test_another_tokenizer_of_that_name_is_written_again(tmp_path, damage):
    plain = open_tokenizer(TABLE, SECTION, tmp_path)
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    content = read_cached(path)
    if damage == "key":
        content["key"]["captions"] = "def"
    elif damage == "no tokenizer":
        content["tokenizer"] = json.dumps({"version": "1.0"})
    else:
        content = {}
    write_cached(path, content)
    assert open_tokenizer(TABLE, SECTION, tmp_path).text == plain.text
    assert path.read_bytes() == good


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    for start in (
        lambda: open_encoded(TABLE, TOKENIZER, tmp_path / "file", **GIVEN),
        lambda: open_tokenizer(TABLE, SECTION, tmp_path / "file"),
    ):
        with pytest.raises(DataError, match=r"cannot be written: .*config\.dataset\.cache_dir"):
            start()


def test_wrong_arguments_write_nothing(tmp_path):
    with pytest.raises(ValueError, match="'truncate'"):
        open_encoded(TABLE, TOKENIZER, tmp_path, max_length=4, over_length="truncate")
    with pytest.raises(ValueError, match="occurs 99 times"):
        open_tokenizer(TABLE, {**SECTION, "min_count": 99}, tmp_path)
    assert not list(tmp_path.iterdir())
