"""Whatever is called an image gives pixels of the right shape, or an ImageError that names it."""

import os
import resource
import socket
import stat
import struct
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capjax.data.augment import Augmentation, draw_view
from capjax.data.check_images import find_bad_images
from capjax.data.images import (
    MAX_BYTES,
    ImageError,
    load_image,
    load_pixels,
    looks_like_image,
)
from capjax.data.reading import read_pixels
from capjax.data.resize import Resize
from capjax.data.source import Example
from tests.helpers.effort import examples, few
from tests.helpers.sources import Source
from tests.helpers.ugly_images import huge_headers, odd_files, whole_files

SIDE = 4
WHOLE, ODD, HUGE = whole_files(), odd_files(), huge_headers()


def pixels_of(content, name="photo 7.jpg"):
    """[H, W, 3], or None; everything but pixels and an ImageError fails the test."""
    try:
        image = load_image(content, name=name)
    except ImageError as error:
        assert str(error).startswith(f"{name}: ")  # noqa: PT017
        return None
    square = load_pixels(image, SIDE)
    assert (square.shape, square.dtype) == ((SIDE, SIDE, 3), np.uint8)
    return np.asarray(image)


def usable(content, name="photo 7.jpg") -> bool:
    return pixels_of(content, name) is not None


@pytest.mark.parametrize("kind", WHOLE)
def test_files_cut_at_every_length_are_refused_or_whole(kind):
    content = WHOLE[kind]
    whole = pixels_of(content)
    assert whole.shape[2:] == (3,)
    assert looks_like_image(content)
    # A file whose head alone is there has no picture.
    assert [cut for cut in few(range(len(content) // 8)) if usable(content[:cut])] == []
    for cut in few(range(len(content) // 8, len(content))):
        found = pixels_of(content[:cut])
        if found is not None:  # Other pictures may lack, or a mark that the file ends here.
            np.testing.assert_array_equal(found, whole, err_msg=str(cut))


@pytest.mark.parametrize("kind", WHOLE)
def test_files_with_one_damaged_byte(kind):
    content = WHOLE[kind]
    for place in few(range(len(content)), 4):
        damaged = bytearray(content)
        damaged[place] ^= (0xFF, 0x01, 0x80)[place % 3]
        usable(bytes(damaged))


@given(st.sampled_from([b"", *(content[:12] for content in WHOLE.values())]), st.binary())
@settings(max_examples=examples(300))
def test_random_bytes(head, rest):
    usable(head + rest)


@given(st.data())
@settings(max_examples=examples(300))
def test_files_with_pieces_of_others(data):
    """A piece of one file in the place of a piece of another, of another length; bytes damaged."""
    one, other = (data.draw(st.sampled_from(list(WHOLE.values()))) for _ in range(2))
    places = st.integers(0, max(len(one), len(other)))
    (a, b), (c, d) = (sorted(data.draw(st.tuples(places, places))) for _ in range(2))
    content = bytearray(one[:a] + other[c:d] + one[b:])
    for _ in range(data.draw(st.integers(0, 8)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    usable(bytes(content))


@pytest.mark.parametrize("kind", ODD)
def test_odd_pictures_are_read(kind):
    # But this one: it was cut in its comment.
    assert usable(ODD[kind]) == (kind != "long comment")


def peak_memory():
    """In bytes, of the process; macOS counts in them, Linux in kB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.parametrize("kind", HUGE)
def test_absurd_dimensions_cost_nothing(kind):
    before = peak_memory()
    why = "" if kind == "webp" else ".*the 80000000 (pixels )?taken"
    with pytest.raises(ImageError, match=rf"^huge\.png: {why}"):
        load_image(HUGE[kind], name="huge.png")
    assert peak_memory() - before < 100e6


def test_of_what_the_bytes_are_the_name_says_nothing(tmp_path):
    for number, content in enumerate(WHOLE.values()):
        path = tmp_path / f"{number}.txt.mp3"
        path.write_bytes(content)
        assert usable(str(path), str(path))


def test_what_is_no_file_is_refused_and_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "round.jpg").symlink_to("round.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        place = os.getcwd()
        os.chdir(tmp_path)  # A socket's whole path may have a hundred letters.
        try:
            listener.bind("socket.jpg")
        finally:
            os.chdir(place)
        assert stat.S_ISSOCK(os.stat(tmp_path / "socket.jpg").st_mode)
        for name in ("pipe.jpg", "zero.jpg", "socket.jpg"):
            with pytest.raises(ImageError, match=rf"{name}: .*no image file"):
                load_image(tmp_path / name)
    with pytest.raises(ImageError, match=r"round\.jpg: cannot be read: Too many levels"):
        load_image(tmp_path / "round.jpg")


def test_a_file_too_long_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "long.jpg"
    path.write_bytes(WHOLE["jpeg"])
    os.truncate(path, MAX_BYTES + 1)  # All but its head takes no disk.
    monkeypatch.setattr("builtins.open", None)
    with pytest.raises(ImageError, match=r"long\.jpg: 536870913 bytes are more than"):
        load_image(path)


def test_names_that_are_no_utf_8(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")
    with open(path, "wb") as file:
        file.write(WHOLE["jpeg"][:-50])
    assert not usable(path, path)
    with open(path, "wb") as file:
        file.write(WHOLE["jpeg"])
    assert usable(path, path)


def with_a_tag_beyond_its_end(tiff):
    """A little-endian TIFF with a tag whose value the file does not have."""
    (place,) = np.frombuffer(tiff, "<u4", 1, 4)
    (count,) = np.frombuffer(tiff, "<u2", 1, place)
    tags = tiff[place + 2 : place + 2 + 12 * count] + struct.pack("<HHII", 0x010E, 2, 999, 10**6)
    return tiff[:4] + struct.pack("<I", len(tiff)) + tiff[8:] + struct.pack("<H", count + 1) + tags


def test_what_pillow_warns_of_is_no_reason_to_lose_a_picture():
    """Whatever a process does with warnings."""
    content = with_a_tag_beyond_its_end(WHOLE["tiff"] + bytes(len(WHOLE["tiff"]) % 2)) + bytes(4)
    for action in ("error", "always"):
        with warnings.catch_warnings(record=action == "always") as said:
            warnings.simplefilter(action)
            assert usable(content)
            assert not said


@pytest.fixture(scope="module", name="folder")
def make_folder(tmp_path_factory):
    """Every whole file, and as many broken ones between them."""
    root, paths = tmp_path_factory.mktemp("ugly"), []
    for number, content in enumerate(WHOLE.values()):
        for name, bytes_of_it in (("good", content), ("bad", content[: len(content) // 8])):
            paths.append(root / f"{number}-{name}.jpg")
            paths[-1].write_bytes(bytes_of_it)
    paths.append(root / "pipe.jpg")
    os.mkfifo(paths[-1])
    paths += [root, root / "missing.jpg"]
    return Source(Example(str(path), f"id-{index}", ()) for index, path in enumerate(paths))


def test_a_check_of_all_names_the_bad_ones(folder):
    found = find_bad_images(folder, cache_dir=None, num_threads=2)
    bad = {x.image_id: x.image for x in folder.examples if "good" not in x.image}
    assert list(found) == list(bad)
    assert all(found[name].startswith(f"{path}: ") for name, path in bad.items())


def test_reading_by_index_names_image_source_and_path(folder):
    for index, (path, *_) in enumerate(folder.examples):
        if "good" in path:
            assert read_pixels(folder, index, Resize(SIDE)).shape == (SIDE, SIDE, 3)
            continue
        with pytest.raises(ImageError) as caught:
            read_pixels(folder, index, Resize(SIDE))
        assert str(caught.value).startswith(f"image 'id-{index}' of mine/train at {path}: ")


@pytest.mark.parametrize("kind", ["one pixel", "one row", "one column"])
@pytest.mark.parametrize("keep_aspect", [True, False])
def test_extreme_shapes_become_squares_cropped_or_not(kind, keep_aspect):
    resize = Resize(SIDE, SIDE + 1, keep_aspect)
    picture = load_image(ODD[kind])
    for position in range(5):
        crop, flip = draw_view(Augmentation(0.3, True), 0, position, picture.size)
        for part in (crop, None):
            pixels = load_pixels(ODD[kind], resize, crop=part, flip=flip)
            assert pixels.shape == (SIDE, SIDE, 3)
