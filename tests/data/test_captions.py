import numpy as np
import pytest

from capjax.data.batches import TrainBatches, eval_text
from capjax.data.captions import CaptionTable, encode_captions, read_captions, unigram_counts
from capjax.data.source import Example
from capjax.data.tokenizer import train_word_tokenizer
from capjax.files.arrays import read_arrays, write_arrays
from tests.helpers.sources import Source

CAPTIONS = (("a dog runs", "A dog."), (), ("...", "a cat sleeps on the red mat"), ("dog",))
TOKENIZER = train_word_tokenizer(["a dog runs", "a cat sleeps on the mat"])


def source(captions=CAPTIONS, fingerprint="abc", ids=None):
    found = Source(
        Example(b"", name, tuple(own))
        for name, own in zip(ids or [f"image-{i}" for i in range(9)], captions, strict=False)
    )
    found.fingerprint = fingerprint
    return found


def table(captions=CAPTIONS):
    return read_captions(source(captions), None)


def test_reads_once_with_a_cache(tmp_path):
    first = read_captions(source(), tmp_path)
    assert first == CaptionTable(("image-0", "image-1", "image-2", "image-3"), CAPTIONS, "abc")
    again = source()
    assert read_captions(again, tmp_path) == first
    assert not again.read
    other = source((("b",),), "def")
    assert read_captions(other, tmp_path).captions == (("b",),)


def fewer(arrays):
    return {
        **arrays,
        "counts": arrays["counts"][:-1],
        "lengths": arrays["lengths"][:-1],
        "flat": arrays["flat"][: -len("dog")],
        "id_lengths": arrays["id_lengths"][:-1],
        "ids": arrays["ids"][: -len("image-3")],
    }


@pytest.mark.parametrize(
    "damage",
    ["truncated", "foreign", "another's", "older", "fewer", "duplicate", "a letter", "no arrays"],
)
def test_damaged_cache_is_rebuilt(tmp_path, damage):
    whole = read_captions(source(), tmp_path)
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    about, arrays = read_arrays(path)
    assert about == {"format": "capjax captions 2", "fingerprint": "abc"}
    bad = {
        "truncated": good[:40],
        "no arrays": b"[1]",
        "foreign": good.replace(b"abc", b"def"),
        "duplicate": good.replace(b"image-1", b"image-0"),
        "a letter": good.replace(b"A dog.", b"A hog."),
    }
    # These have a checksum of their own.
    if damage == "fewer":
        write_arrays(path, about, fewer(arrays))
    elif damage == "another's":
        write_arrays(path, {**about, "fingerprint": "def"}, arrays)
    elif damage == "older":
        write_arrays(path, {**about, "format": "capjax captions 1"}, arrays)
    else:
        path.write_bytes(bad[damage])
    assert path.read_bytes() != good
    assert read_captions(source(), tmp_path) == whole
    assert path.read_bytes() == good


def test_duplicate_ids_are_named():
    with pytest.raises(ValueError, match="'x' occurs 2 times"):
        read_captions(source(ids="xyxz"), None)


@pytest.mark.parametrize("over_length", ["drop", "cut"])
def test_encodes_words_and_eos(over_length):
    encoded = encode_captions(table(), TOKENIZER, max_length=4, over_length=over_length)
    texts = [[TOKENIZER.decode(ids) for ids in captions] for captions in encoded.tokens]
    long = ["a cat sleeps"] if over_length == "cut" else []
    assert texts == [["a dog runs", "a dog"], [], long, ["dog"]]
    for ids in (ids for captions in encoded.tokens for ids in captions):
        assert ids.dtype == np.int32
        assert ids[-1] == TOKENIZER.eos_id
        assert len(ids) <= encoded.max_length
        assert TOKENIZER.bos_id not in ids
    assert encoded.most_captions == 2


def test_report_counts_everything():
    dropped = encode_captions(table(), TOKENIZER, max_length=4, over_length="drop").report
    assert (dropped.images, dropped.captions, dropped.kept) == (4, 5, 3)
    assert (dropped.dropped, dropped.cut, dropped.empty) == (1, 0, 1)
    assert (dropped.bare_images, dropped.bare_image_ids) == (2, ("image-1", "image-2"))
    assert dropped.lengths.tolist() == [0, 0, 1, 1, 1]
    assert (dropped.words, dropped.unknown) == (6, 0)
    cut = encode_captions(table(), TOKENIZER, max_length=4, over_length="cut").report
    assert (cut.kept, cut.dropped, cut.cut, cut.bare_images) == (4, 0, 1, 1)
    assert "1 cut" in cut.summary()
    assert "image-1" in cut.summary()
    assert len(cut.summary().splitlines()) == 3


def test_report_names_unknown_words():
    captions = (("a pink dog", "a pink PIG runs and runs and runs"), ("the pig",))
    report = encode_captions(table(captions), TOKENIZER, max_length=5, over_length="cut").report
    assert report.frequent_unknown == (("pig", 2), ("pink", 2))  # "and" was cut off
    assert (report.unknown, report.words) == (4, 9)
    assert "pink 2" in report.summary()
    assert "44.44%" in report.summary()


def test_the_limit_counts_eos():
    seven = (("a cat sleeps on the RED mat",),)
    fits = encode_captions(table(seven), TOKENIZER, max_length=8, over_length="drop")
    assert fits.report.kept == 1
    assert len(fits.tokens[0][0]) == 8
    assert fits.report.dropped == 0
    misses = encode_captions(table(seven), TOKENIZER, max_length=7, over_length="drop")
    assert misses.tokens == ((),)
    assert (misses.report.dropped, misses.report.unknown) == (1, 0)


def test_a_prompt_is_before_every_caption():
    captions = (("a pink dog", "", "a dog runs and a dog runs"), ("dog",), ("",), ("dog",))
    given = {"max_length": 6, "over_length": "drop", "prompt": "A cat"}
    encoded = encode_captions(table(captions), TOKENIZER, **given)
    texts = [[TOKENIZER.decode(ids) for ids in captions] for captions in encoded.tokens]
    assert texts == [["a cat a dog"], ["a cat dog"], [], ["a cat dog"]]
    assert encoded.prompt == 2
    batch = TrainBatches(encoded, TOKENIZER, batch_size=3, captions_per_image=2, seed=0)(0)
    for text in (batch.text(), eval_text(encoded, np.arange(3), TOKENIZER)):
        assert text["prompt"].tolist() == [2, 2, 2]
    report = encoded.report
    assert (report.kept, report.dropped, report.empty) == (3, 1, 2)
    assert (report.words, report.unknown) == (5, 1)
    counts = unigram_counts(encoded, TOKENIZER.vocab_size)
    assert counts.sum() == 8
    assert counts[TOKENIZER.encode("cat")[0]] == 0


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="'truncate'"):
        encode_captions(table(), TOKENIZER, max_length=4, over_length="truncate")
    with pytest.raises(ValueError, match="max_length"):
        encode_captions(table(), TOKENIZER, max_length=1, over_length="cut")
    with pytest.raises(ValueError, match=r"max_length must be at least 3, .* after the prompt 'a'"):
        encode_captions(table(), TOKENIZER, max_length=2, over_length="cut", prompt="a")


@pytest.mark.parametrize("at_once", [1, 4, 2**22])
def test_unigram_counts_are_of_targets(at_once, monkeypatch):
    monkeypatch.setattr("capjax.data.captions._COUNTED", at_once)
    encoded = encode_captions(table(), TOKENIZER, max_length=4, over_length="drop")
    counts = unigram_counts(encoded, TOKENIZER.vocab_size)
    assert counts.dtype == np.float64
    assert counts.shape == (TOKENIZER.vocab_size,)
    assert counts[TOKENIZER.eos_id] == 3
    assert counts[TOKENIZER.encode("dog")[0]] == 3
    assert counts.sum() == 9
    with pytest.raises(ValueError, match="vocab_size 4"):
        unigram_counts(encoded, 4)
