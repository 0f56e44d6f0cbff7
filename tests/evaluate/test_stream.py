"""Answers come in order, in batches of one shape, and nothing of a picture is kept."""

import threading
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from capjax.data.images import ImageError
from capjax.data.resize import Resize
from capjax.evaluate.captioning import Caption
from capjax.evaluate.stream import Answer, Picture, caption_stream, picture_reader
from tests.helpers.effort import examples

SHAPE = (2, 2, 3)


def picture_of(name):
    """A picture whose pixels tell its name, unless this is bad."""
    if name.startswith("bad"):
        raise ImageError(f"{name}: bad")
    return Picture(np.full(SHAPE, int(name), np.uint8), None)


class Captioner:
    """Says of each picture what its pixels are and what its index is; notes the batches."""

    def __init__(self):
        self.batches = []

    def __call__(self, batches):
        for batch in batches:
            self.batches.append(batch)
            for row in np.flatnonzero(batch["index"] >= 0):
                index = int(batch["index"][row])
                yield index, Caption(f"{batch['image'][row].max()} at {index}", -1, -1, True, ())


def stream(batches, read=picture_of, caption=None, size=3, **options):
    return caption_stream(
        batches, read, caption or Captioner(), size=size, num_threads=2, **options
    )


NAMES = st.one_of(st.integers(0, 255).map(str), st.just("bad"))
BATCHES = st.lists(st.lists(NAMES, max_size=3), max_size=6)


@given(BATCHES)
@settings(max_examples=examples(60))
def test_every_name_has_its_answer_in_order(names):
    places = iter(range(1000))
    batches = [[(next(places), name) for name in batch] for batch in names]
    captioner = Captioner()
    answers = [answer for part in stream(batches, caption=captioner) for answer in part]
    told = [pair for batch in batches for pair in batch]
    assert [answer.name for answer in answers] == [name for _, name in told]
    for answer, (place, name) in zip(answers, told, strict=True):
        if name == "bad":
            assert (answer.caption, str(answer.error)) == (None, "bad: bad")
        else:
            assert (answer.caption.text, answer.error) == (f"{name} at {place}", None)
    # One shape, compiled once; and none for nothing.
    for batch in captioner.batches:
        assert batch["image"].shape == (3, *SHAPE)
        assert batch["index"].shape == (3,)
        assert (batch["index"] >= 0).any()


def test_the_next_batch_is_read_while_one_is_captioned():
    began = threading.Event()

    def read(name):
        if name == "2":
            began.set()
        return picture_of(name)

    class Waits(Captioner):
        def __call__(self, batches):
            if not self.batches:  # Without reading ahead this would wait for ever.
                assert began.wait(600)
            return super().__call__(batches)

    parts = stream([[(0, "1")], [(1, "2")]], read, Waits())
    assert [answer.name for part in parts for answer in part] == ["1", "2"]


def test_a_silence_brings_what_is_in_hand_to_its_end():
    asked = []

    def batches():
        for batch in ([(0, "1")], [], [(1, "2")]):
            asked.append(batch)
            yield batch

    parts = stream(batches())
    assert next(parts) == []
    (answer,) = next(parts)
    assert answer.name == "1"
    assert asked == [[(0, "1")], []]  # Nothing more was waited for.
    assert [answer.name for part in parts for answer in part] == ["2"]


def test_of_what_was_answered_nothing_is_kept():
    class Pixels(np.ndarray):
        pass

    def read(_):
        pixels = np.zeros(SHAPE, np.uint8).view(Pixels)
        read_so_far.append(weakref.ref(pixels))
        return Picture(pixels, None)

    read_so_far, most = [], 0
    for part in stream(([(i, "x"), (i, "y")] for i in range(20)), read):
        del part
        most = max(most, sum(pixels() is not None for pixels in read_so_far))
    assert len(read_so_far) == 40
    assert most == 2  # The batch that was read ahead.


class Looker(Captioner):
    """Says the picture's corners; it looked at the left half alone."""

    attention = np.array([[[0.9, 0.1, 0.0]]], np.float32)

    def __call__(self, batches):
        for batch in batches:
            self.batches.append(batch)
            for row in np.flatnonzero(batch["index"] >= 0):
                said = "{} {}".format(*batch["image"][row, 0, :, 0])
                words = () if said == "7 7" else ("word",)
                seen = {"attention": self.attention[: len(words)], "grid": (1, 2), "prefix": 1}
                yield int(batch["index"][row]), Caption(said, -1, -1, True, words, **seen)


@given(BATCHES)
@settings(max_examples=examples(30))
def test_what_a_caption_saw_is_captioned_in_a_batch_of_the_same_shape(names):
    places = iter(range(1000))
    batches = [[(next(places), name) for name in batch] for batch in names]
    captioner, plain = Looker(), Looker()
    answers = [a for part in stream(batches, caption=captioner, attended=True) for a in part]
    alone = [a for part in stream(batches, caption=plain) for a in part]
    for answer, expected in zip(answers, alone, strict=True):
        assert (answer.name, str(answer.error)) == (expected.name, str(expected.error))
        assert expected.attended is None
        if answer.error:
            assert answer.attended is None
            continue
        assert answer.caption.text == expected.caption.text == f"{answer.name} {answer.name}"
        right = 7 if answer.name == "7" else 0  # Without words nothing is left out.
        assert answer.attended.caption.text == f"{answer.name} {right}"
        assert (answer.attended.pixels[:, 0] == int(answer.name)).all()
        assert (answer.attended.pixels[:, 1] == right).all()
    assert len(captioner.batches) == 2 * len(plain.batches)
    for first, second in zip(captioner.batches[::2], captioner.batches[1::2], strict=True):
        assert first["image"].shape == second["image"].shape
        assert first["index"].tolist() == second["index"].tolist()
        assert first["image"] is not second["image"]


def test_stopping_early_starts_no_more_reading():
    begun, released, read = threading.Semaphore(0), threading.Event(), []

    def slow(name):
        if name != "0":
            read.append(name)
            begun.release()
            assert released.wait(600)
        return picture_of(name)

    before = set(threading.enumerate())
    parts = stream([[(0, "0")], [(1, "1"), (2, "2"), (3, "3")], [(4, "4")]], slow)
    assert [len(next(parts)), len(next(parts))] == [0, 1]
    begun.acquire()
    begun.acquire()
    readers = set(threading.enumerate()) - before
    parts.close()
    released.set()
    for reader in readers:
        reader.join()
    assert sorted(read) == ["1", "2"]


def test_an_error_that_is_no_images_comes_through():
    def read(_):
        raise RuntimeError("a mistake in the program")

    with pytest.raises(RuntimeError, match="a mistake"):
        list(stream([[(0, "1")]], read))


def test_a_picture_is_read_with_what_is_drawn_of_it():
    whole = Image.fromarray(np.zeros((900, 1800, 3), np.uint8))
    small = picture_reader(lambda _: whole.copy(), Resize(8), thumbnail=True)("x")
    assert (small.pixels.shape, small.thumbnail.shape) == ((8, 8, 3), (224, 448, 3))
    assert picture_reader(lambda _: whole, Resize(8), thumbnail=False)("x").thumbnail is None
    # Of what is cut off nothing is drawn on.
    square = picture_reader(lambda _: whole, Resize(8, 8, True), thumbnail=True)("x")
    assert square.thumbnail.shape == (448, 448, 3)
    (answer,) = list(stream([[(0, "x")]], lambda _: Picture(small.thumbnail[:2, :2], "seen")))[-1]
    assert answer == Answer("x", answer.caption, "seen")
