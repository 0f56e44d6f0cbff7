"""Word vectors: which rows are taken from which files, and what is said of files that won't do."""

import gzip
import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capjax.pretrained.errors import WeightsError
from capjax.pretrained.word_vectors import fill_rows, load_word_vectors
from tests.helpers.effort import examples

WORDS = (None, None, None, "a", "dog", "été", "runs", "paris")
ROWS = {"the": [9.0, 9.0, 9.0], "dog": [1.0, -2.0, 3e-4], "été": [0.5, 0.25, 4.0], "a": [7, 8, 9]}


def text(rows, header=False, end="\n"):
    lines = [f"{word} {' '.join(map(str, numbers))}" for word, numbers in rows]
    if header:
        lines.insert(0, f"{len(lines)} 3")
    return "".join(line + end for line in lines)


def load(tmp_path, content, words=WORDS, width=3, name="vectors.txt"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_word_vectors(path, words, width)


@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("end", ["\n", "\r\n", " \n"])  # word2vec's own tool ends lines by a space.
@pytest.mark.parametrize("gap", [" ", "\t", "  "])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_every_form_of_file_gives_the_same_rows(tmp_path, header, end, gap, pack, mark):
    content = text(ROWS.items(), header, end).replace(" ", gap)
    found = load(tmp_path, pack(mark + content.encode()))
    assert found.found.tolist() == [False, False, False, True, True, True, False, False]
    for place, word in enumerate(WORDS):
        np.testing.assert_array_equal(
            found.values[place], np.float32(ROWS[word]) if found.found[place] else np.zeros(3)
        )
    assert found.values.dtype == np.float32
    assert found.coverage == 3 / 5


# Few letters, so that words meet: themselves, and each other in lower case.
spelling = st.text("aÉé", min_size=1, max_size=2)
spaced = st.tuples(spelling, st.sampled_from(["@", "a", "."])).map(" ".join)
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(deadline=None, max_examples=examples(100))
@given(
    rows=st.lists(st.tuples(spelling | spaced, st.tuples(floats, floats))),
    words=st.lists(spelling.map(str.lower), max_size=9),
    whole_last_line=st.booleans(),
)
def test_the_rows_are_those_of_the_rule(tmp_path_factory, rows, words, whole_last_line):
    """Its own spelling first, else lower case; the first of several; no word with a space."""
    rows, words = [*rows, ("x", (1.0, 2.0))], [None, "x", *words]
    single = [(word, numbers) for word, numbers in rows if " " not in word]
    own = dict(reversed(single))
    lower = {word.lower(): numbers for word, numbers in reversed(single)}
    expected = {**lower, **own}
    path = tmp_path_factory.mktemp("vectors") / "v.txt"
    content = text(rows)
    path.write_text(content if whole_last_line else content[:-1], encoding="utf-8")
    found = load_word_vectors(path, words, 2)
    assert found.found.tolist() == [word in expected for word in words]
    for value, word in zip(found.values, words, strict=True):
        np.testing.assert_array_equal(value, np.float32(expected.get(word, (0.0, 0.0))))


def test_words_of_another_encoding_are_left_out(tmp_path):
    content = b"\xe9t\xe9 1 2 3\n\xff\xfe 1 2 3\n" + text(ROWS.items()).encode()
    found = load(tmp_path, content, words=(None, "été", "�t�", "dog"))
    assert found.found.tolist() == [False, True, False, True]
    np.testing.assert_array_equal(found.values[1], ROWS["été"])


def test_a_first_word_with_a_space_does_not_hide_the_width(tmp_path):
    assert load(tmp_path, "at a@b.com 1 2 3\n" + text(ROWS.items())).coverage == 3 / 5
    with pytest.raises(WeightsError, match="vectors of 3 numbers and the embedding is 4 wide"):
        load(tmp_path, "at a@b.com 1 2 3\n" + text(ROWS.items()), width=4)


def test_the_summary_counts_words_and_tokens(tmp_path):
    found = load(tmp_path, text(ROWS.items()))
    # Special tokens, the first three, count for nothing.
    counts = np.array([1000.0, 1000, 1000, 50, 30, 10, 3, 7])
    assert found.summary(counts) == (
        "vectors.txt: 3 of 5 words (60.0%), 90.0% of the train split's tokens; "
        "missing most often: paris, runs"
    )
    whole = load(tmp_path, text(ROWS.items()), words=(None, "dog", "a"))
    assert whole.summary(np.array([5.0, 1, 1])) == (
        "vectors.txt: 2 of 2 words (100.0%), 100.0% of the train split's tokens"
    )


def test_found_rows_fill_an_embedding_and_the_others_stay(tmp_path):
    vectors = load(tmp_path, text(ROWS.items()))
    fresh = np.random.default_rng(0).normal(size=(len(WORDS), 3)).astype(np.float32)
    filled = fill_rows(fresh, vectors)
    np.testing.assert_array_equal(filled[vectors.found], vectors.values[vectors.found])
    np.testing.assert_array_equal(filled[~vectors.found], fresh[~vectors.found])
    assert filled.dtype == fresh.dtype
    assert (fresh[vectors.found] != filled[vectors.found]).all()
    with pytest.raises(ValueError, match=r"vectors \[8, 3\] for an embedding \[8, 4\]"):
        fill_rows(np.zeros((8, 4)), vectors)


def test_memory_is_the_vocabularys(tmp_path):
    """A file of 4 MB leaves a few rows."""
    path = tmp_path / "large.txt.gz"
    line = "w{} " + " ".join(["0.12345"] * 100) + "\n"
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.writelines(line.format(number) for number in range(5000))
    tracemalloc.start()
    found = load_word_vectors(path, [None, "w7", "w4999"], 100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.found.tolist() == [False, True, True]
    assert peak < 1e6


@pytest.mark.parametrize("header", [False, True])
def test_another_width_is_refused_by_name(tmp_path, header):
    with pytest.raises(
        WeightsError,
        match=r"^glove\.txt has vectors of 3 numbers and the embedding is 256 wide: set "
        r"config\.decoder\.embed_dim=3 or give another file$",
    ):
        load(tmp_path, text(ROWS.items(), header), width=256, name="glove.txt")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("dog 1 2", r"line 3 has 2 numbers and not 3: 'dog 1 2'"),
        ("dog 1 2 ", r"line 3 has 2 numbers and not 3: 'dog 1 2'"),
        ("dog  1 2", r"line 3 has 2 numbers and not 3"),
        ("elsewhere 1", r"line 3 has 1 numbers and not 3"),
        ("dog 1 2 3 4", r"line 3 has more than 3 numbers: 'dog 1 2 3 4'"),
        ("dog 1 2 x", r"line 3 is no word with numbers \(.*x.*\): 'dog 1 2 x'"),
        ("dog 1 nan 3", r"line 3 has a number that is not finite: 'dog 1 nan 3'"),
        ("dog 1 -inf 3", r"line 3 has a number that is not finite"),
        ("dog 1 1e39 3", r"line 3 has a number that is not finite"),
    ],
)
@pytest.mark.parametrize("header", [False, True])
def test_a_line_that_will_not_do_is_named(tmp_path, line, problem, header):
    content = text(list(ROWS.items())[:1] + ([] if header else [("x", (1, 2, 3))]), header)
    with pytest.raises(WeightsError, match=rf"vectors\.txt: {problem}"):
        load(tmp_path, f"{content}{line}\n{text(ROWS.items())}")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "line 1 is no word with numbers: ''"),
        (b'{"dog": [1, 2, 3]}\n', r"line 1 is no word with numbers: '\{"),
        (b"dog 1 x 3\n", "line 1 is no word with numbers: 'dog 1 x 3'"),
        (b"2 3\n", "a vector for none of the vocabulary's words"),
        (b"hund 1 2 3\n", r"none of the vocabulary's words \(a, dog, .*the captions' language"),
        (
            b"1 3\ndog " + np.float32([1, 2, 3]).tobytes(),
            "binary file; convert it to text",
        ),
        (b"PK\x03\x04" + bytes(30), "is a zip archive; unpack it"),
        (
            gzip.compress(b"dog 1 2 3\n" * 99, mtime=0)[:-12],
            r"cannot be read to its end.*fetch it again",
        ),
        (b"\x1f\x8bnothing", "cannot be read to its end"),
        (gzip.compress(b"\0" * 99, mtime=0), "binary file"),
    ],
)
def test_what_is_no_file_of_vectors_is_refused(tmp_path, content, problem):
    with pytest.raises(WeightsError, match=rf"vectors\.txt: .*{problem}"):
        load(tmp_path, content)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"none\.txt: no such file of word vectors"):
        load_word_vectors(tmp_path / "none.txt", WORDS, 3)


def test_damage_anywhere_is_never_another_kind_of_error(tmp_path):
    """A gzipped file with one byte changed is read, or refused by name."""
    packed, refused = gzip.compress(text(ROWS.items()).encode()), []
    for place, change in itertools.product(range(len(packed)), (1, 128)):
        damaged = bytearray(packed)
        damaged[place] ^= change
        try:
            load(tmp_path, bytes(damaged))
        except WeightsError as error:
            refused.append(str(error))
    assert len(refused) > len(packed)
    assert all("vectors.txt" in message for message in refused)
