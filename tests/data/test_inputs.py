"""Names from a command line or a pipe, and what they stand for."""

import os
import threading
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capjax.data import inputs
from capjax.data.images import ImageError, formats, load_image
from capjax.data.inputs import batches, expand, read_input, read_lines
from tests.helpers.effort import examples
from tests.helpers.ugly_images import PICTURE, encode


def test_folders_are_their_images_sorted(tmp_path):
    for name in ("b.JPG", "a/z.png", "a/notes.txt", "a/b/c.webp", "empty/x.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    found = [str(tmp_path / name) for name in ("a/b/c.webp", "a/z.png", "b.JPG")]
    url = "https://example.org/x"
    assert list(expand([url, str(tmp_path), None, "nowhere.jpg"])) == [
        url,
        *found,
        None,
        "nowhere.jpg",
    ]
    empty = str(tmp_path / "empty")
    assert list(expand([empty])) == [empty]
    with pytest.raises(ImageError, match=f"^{empty}: no files ending in .jpg"):
        read_input(empty)


def test_a_folder_that_can_not_be_listed_is_an_input_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.png").write_bytes(encode(PICTURE, "PNG"))
    closed, scandir, listdir = str(tmp_path / "closed"), os.scandir, os.listdir

    def refuse(path, ask):
        if path == closed:
            raise PermissionError(13, "Permission denied", path)
        return ask(path)

    monkeypatch.setattr(os, "scandir", lambda path: refuse(path, scandir))
    monkeypatch.setattr(os, "listdir", lambda path: refuse(path, listdir))
    assert list(expand([str(tmp_path)])) == [str(tmp_path / "a.png"), closed]
    assert load_image(read_input(str(tmp_path / "a.png"))).size == PICTURE.size
    with pytest.raises(ImageError, match=f"^{closed}: cannot be read: Permission denied"):
        read_input(closed)


def test_a_folder_counts_what_it_leaves_out(tmp_path, caplog):
    for name in ("a.jpg", "b.JFIF", "c.pgm", "d.avif", "x.txt", "y.TXT", "z"):
        (tmp_path / name).write_bytes(b"")
    found = list(expand([str(tmp_path)]))
    assert [os.path.basename(name) for name in found] == ["a.jpg", "b.JFIF", "c.pgm", "d.avif"]
    assert "left out 3 files whose names are no image's: 2 .txt, 1 no ending" in caplog.text


def test_a_pattern_is_its_files(tmp_path):
    for name in ("a.jpg", "b/c.jpg", "[x].jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    here = f"{tmp_path}/"
    assert list(expand([f"{here}*.jpg"])) == [f"{here}[x].jpg", f"{here}a.jpg"]
    assert list(expand([f"{here}**/c.jpg", f"{here}?"])) == [f"{here}b/c.jpg"] * 2
    for unchanged in (f"{here}[x].jpg", f"{here}*.png", "https://example.org/*.jpg", "a\0*"):
        assert list(expand([unchanged])) == [unchanged]


def test_avif_is_read_and_heic_says_what_it_needs(tmp_path):
    PICTURE.save(tmp_path / "a.avif")
    assert load_image(str(tmp_path / "a.avif")).size == PICTURE.size
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    if "HEIF" not in formats():
        with pytest.raises(ImageError, match="a HEIC image, which needs a package: pip install pi"):
            load_image(str(tmp_path / "a.heic"))


def test_an_image_on_standard_input_is_one_image():
    for kind in ("PNG", "JPEG", "BMP"):
        (sent,) = lines_of(encode(PICTURE, kind))
        assert sent == "-"
        assert next(expand([sent])) is sent
        assert load_image(read_input(sent)).size == PICTURE.size
    assert lines_of(b"BMW.jpg\nP1 x.jpg\n") == ["BMW.jpg", "P1 x.jpg"]


def lines_of(content):
    """What is read of a pipe that holds it all, without silences."""
    reading, writing = os.pipe()
    writer = threading.Thread(target=lambda: (os.write(writing, content), os.close(writing)))
    writer.start()
    try:
        return [line for line in read_lines(reading) if line is not None]
    finally:
        writer.join()
        os.close(reading)


# No name has a null character; a first line that has one may be an image.
@given(st.lists(st.binary(max_size=9).filter(lambda line: not {*b"\n\0"} & {*line}), max_size=9))
@settings(max_examples=examples(100))
def test_lines_are_names_whatever_their_bytes(names):
    names = [name for name in names if not name.endswith(b"\r")]
    expected = [os.fsdecode(name) for name in names if name]
    content = b"\n".join(names)
    assert lines_of(content) == lines_of(content + b"\n") == expected
    assert lines_of(content.replace(b"\n", b"\r\n")) == expected


def test_a_line_without_end_is_kept_short(monkeypatch):
    monkeypatch.setattr(inputs, "MAX_LINE", 100)
    long, after, last = lines_of(b"x" * 50_000 + b"\nafter.jpg\n" + b"y" * 101)
    assert long.startswith("(a line of more than 100 bytes) xxxx")
    assert last.startswith("(a line of more than 100 bytes) yyyy")
    assert max(len(long), len(last)) < 150
    assert after == "after.jpg"
    with pytest.raises(ImageError, match="a line of more than 100 bytes"):
        load_image(read_input(long))


def test_a_line_without_end_takes_no_memory():
    content = b"x" * 20_000_000
    tracemalloc.start()
    try:
        (long,) = lines_of(content)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert long.startswith("(a line of more than 65536 bytes) xxxx")


def test_silence_is_told_and_the_end_ends():
    reading, writing = os.pipe()
    lines = read_lines(reading)
    assert next(lines) is None
    os.write(writing, b"a.jpg\nb.j")
    assert next(line for line in lines if line) == "a.jpg"
    assert next(lines) is None  # Half a name is none.
    os.write(writing, b"pg\n")
    assert next(line for line in lines if line) == "b.jpg"
    os.close(writing)
    assert [line for line in lines if line] == []
    os.close(reading)


@given(
    st.lists(st.one_of(st.none(), st.sampled_from("abcdef")), max_size=30),
    st.integers(1, 5),
    st.sets(st.sampled_from("abcdef")),
)
def test_batches_have_every_name_at_its_place(names, size, skip):
    made = list(batches(names, size, skip))
    there = [name for name in names if name is not None]
    expected = [(i, name) for i, name in enumerate(there) if name not in skip]
    assert [pair for batch in made for pair in batch] == expected
    assert all(len(batch) <= size for batch in made)
    if None not in names:
        assert [len(batch) for batch in made] == [
            min(size, len(expected) - start) for start in range(0, len(expected), size)
        ]


@given(
    st.lists(st.one_of(st.none(), st.sampled_from("abcdef")), max_size=30),
    st.integers(1, 5),
    st.sets(st.sampled_from("abcdef")),
)
def test_nothing_waits_during_a_silence(names, size, skip):
    given_away = []

    def watched():
        for place, name in enumerate(names):
            if place and names[place - 1] is None:
                told = [name for name in names[:place] if name and name not in skip]
                assert given_away == told
            yield name

    for batch in batches(watched(), size, skip):
        given_away += [name for _, name in batch]
