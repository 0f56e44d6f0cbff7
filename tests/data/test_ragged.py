"""Captions in one flat array are the sequences that they were made of."""

import numpy as np
import pytest

from capjax.data.ragged import Ragged, Texts
from tests.helpers.effort import examples

hypothesis = pytest.importorskip("hypothesis")
given, settings, st = hypothesis.given, hypothesis.settings, hypothesis.strategies

NUMBERS = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4)
# With lone surrogates, which `characters` leaves out unless asked for.
TEXT = st.text(st.characters(exclude_categories=()), max_size=6)


def nested(items):
    return st.lists(st.lists(items, max_size=3), max_size=6)


@given(nested(NUMBERS), st.data())
@settings(max_examples=examples(60), deadline=None)
def test_ragged_is_what_it_was_made_of(numbers, data):
    whole = tuple(tuple(np.array(ids, np.int32) for ids in own) for own in numbers)
    ragged = Ragged.of(whole)
    assert [[ids.tolist() for ids in own] for own in ragged] == numbers
    assert ragged == whole
    assert whole == ragged
    assert ragged == Ragged(**ragged.arrays())
    assert len(ragged) == len(numbers)
    assert bool(ragged) == bool(numbers)
    assert ragged.counts.tolist() == [len(own) for own in numbers]
    assert ragged.lengths.tolist() == [len(ids) for own in numbers for ids in own]
    for name, array in ragged.arrays().items():
        assert array.dtype == np.int32, name
    for place in (data.draw(st.integers(-8, 8)), np.int32(-1)):
        if -len(numbers) <= place < len(numbers):
            assert [ids.tolist() for ids in ragged[place]] == numbers[place]
            assert all(np.shares_memory(ids, ragged.flat) for ids in ragged[place] if len(ids))
        else:
            with pytest.raises(IndexError, match=f"no image {place} among {len(numbers)}"):
                ragged[place]
    part = data.draw(st.slices(len(numbers)))
    assert [[ids.tolist() for ids in own] for own in ragged[part]] == numbers[part]
    assert isinstance(ragged[part], tuple)


@given(nested(NUMBERS), st.data())
@settings(max_examples=examples(40), deadline=None)
def test_numbers_of_captions_are_combined_by_image(numbers, data):
    ragged = Ragged.of(numbers)
    lengths = [[len(ids) for ids in own] for own in numbers]
    for combine, over in ((np.add, sum), (np.maximum, lambda own: max(own, default=0))):
        found = ragged.of_images(combine, ragged.lengths)
        assert found.tolist() == list(map(over, lengths))
        assert found.dtype == np.int64
    kept = [[data.draw(st.booleans()) for _ in own] for own in numbers]
    some = ragged.select(np.array([keep for own in kept for keep in own], bool))
    assert [[ids.tolist() for ids in own] for own in some] == [
        [ids for ids, keep in zip(*both, strict=True) if keep]
        for both in zip(numbers, kept, strict=True)
    ]


@given(nested(TEXT), st.integers(1, 5))
@hypothesis.example([["a \ud83d dog", "\N{SNOWMAN}"], [""]], 2)
@settings(max_examples=examples(60), deadline=None)
def test_texts_are_what_they_were_made_of(texts, size):
    whole = tuple(map(tuple, texts))
    found = Texts.of(texts)
    assert tuple(found) == whole
    assert found == whole
    assert whole == found
    assert found == Texts(Ragged(**found.utf8.arrays()))
    assert found.utf8.flat.dtype == np.uint8
    assert found[1:] == whole[1:]
    assert [found[i] for i in range(-len(whole), 0)] == list(whole)
    blocks = list(found.blocks(size))
    assert [text for block in blocks for text in block] == [text for own in texts for text in own]
    assert all(len(block) == size for block in blocks[:-1])


def test_others_differ():
    texts = (("a dog", "a cat"), ("ab",))
    for other in (
        (("a dog", "a cat"), ("ab",), ()),
        (("a dog",), ("a cat", "ab")),
        (("a dog", "a cab"), ("ab",)),
        (("a dog", "a catab"), ("",)),
        (),
        None,
        "a dog",
    ):
        assert Texts.of(texts) != other
        if isinstance(other, tuple):
            assert Texts.of(texts) != Texts.of(other)
    for other in (((np.array([1, 2]),), ()), ((np.array([1]), np.array([3])),), None):
        assert Ragged.of([[[1], [2]]]) != other


@pytest.mark.parametrize(
    ("counts", "lengths", "flat"),
    [([1], [2, 1], 3), ([2], [2, 1], 4), ([3, -1], [2, 1], 3), ([2], [4, -1], 3)],
)
def test_arrays_that_do_not_fit_are_refused(counts, lengths, flat):
    with pytest.raises(ValueError, match=r"the numbers of \w+ are not those of"):
        Ragged(counts, lengths, np.zeros(flat, np.int32))
