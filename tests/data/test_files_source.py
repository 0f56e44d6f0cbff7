import concurrent.futures
import os
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from capjax.data import files_source
from capjax.data.captions import read_captions
from capjax.data.files_source import FilesSource
from capjax.data.source import Example, fingerprints
from capjax.files.errors import DataError
from tests.helpers.effort import examples

COUNT = 150  # More than one thread's share.


def rows(count=COUNT):
    return [
        Example(f"{'ab'[i % 2]}/{i}.jpg", f"id-{i}", (f"caption {i}", "é")) for i in range(count)
    ]


def write(root, examples):
    for i, example in enumerate(examples):
        path = root / example.image
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([i % 251]) * (9000 + i))
    return root


@pytest.fixture(scope="module", name="root")
def make_root(tmp_path_factory):
    return write(tmp_path_factory.mktemp("images"), rows())


def fingerprint(root, examples, name="files/train"):
    return FilesSource(name, str(root), examples).fingerprint


def test_gives_the_rows_with_full_paths(root):
    source = FilesSource("files/train", str(root), rows())
    assert (source.name, len(source), source.selection) == ("files/train", COUNT, {})
    for index in (0, np.int32(1), COUNT - 1):
        image, *rest = source[index]
        assert image == str(root / rows()[index].image)
        assert rest == list(rows()[index][1:])
    assert read_captions(source, None).image_ids == tuple(row.image_id for row in rows())


def test_indices_out_of_range_end_a_loop(root):
    source = FilesSource("files/train", str(root), rows(3))
    assert len(list(source)) == 3
    for index in (-1, 3):
        with pytest.raises(IndexError, match="only 3"):
            source[index]


def test_fingerprint_is_of_the_content_wherever_it_lies(root, tmp_path, monkeypatch):
    ours = fingerprint(root, rows())
    assert fingerprint(root, rows(), name="other") == ours
    shutil.copytree(root, tmp_path / "copy")
    os.utime(tmp_path / "copy" / rows()[0].image, (1, 1))
    monkeypatch.setattr(files_source, "_THREADS", 1)
    monkeypatch.setattr(files_source, "_CHUNK", 7)
    assert fingerprint(tmp_path / "copy", rows()) == ours
    monkeypatch.chdir(tmp_path)
    assert fingerprint("copy", rows()) == ours


def test_fingerprint_sees_every_change(root, tmp_path):
    examples = rows(4)
    seen = [fingerprint(root, examples)]
    first = examples[0]
    for changed in (
        first._replace(image_id="other"),
        first._replace(captions=("caption 0",)),
        first._replace(captions=first.captions[::-1]),
        first._replace(captions=("caption 0é",)),
    ):
        seen.append(fingerprint(root, [changed, *examples[1:]]))
    seen.append(fingerprint(root, examples[::-1]))
    seen.append(fingerprint(root, examples[:3]))
    copy = write(tmp_path, examples)
    assert fingerprint(copy, examples) == seen[0]
    path = copy / first.image
    content = path.read_bytes()
    # The last byte, one 4 KiB from the end, and the size alone.
    for changed in (content[:-1] + b"x", content[:-4096] + b"x" + content[-4095:], b"\0" + content):
        path.write_bytes(changed)
        seen.append(fingerprint(copy, examples))
    path.write_bytes(b"")
    seen.append(fingerprint(copy, examples))
    path.write_bytes(content)
    (copy / "c").mkdir()
    path.rename(copy / "c" / "0.jpg")
    seen.append(fingerprint(copy, [first._replace(image="c/0.jpg"), *examples[1:]]))
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("kind", ["BMP", "PPM", "TIFF", "GIF", "JPEG", "PNG", "WEBP"])
def test_fingerprint_sees_an_edit_inside_of_an_image(tmp_path, kind):
    pixels = np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8)
    example = Example("0", "id", ("caption",))

    def source(pixels):
        Image.fromarray(pixels).save(tmp_path / "0", kind)
        return FilesSource("files/train", str(tmp_path), [example])

    before = source(pixels)
    pixels[40:50, 40:50] ^= 255
    after = source(pixels)
    assert before.fingerprint != after.fingerprint
    if kind in ("BMP", "PPM", "TIFF"):
        assert before.former_fingerprint == after.former_fingerprint


def test_of_a_compressed_image_only_both_ends_are_read(root, tmp_path):
    examples = rows(1)
    path = write(tmp_path, examples) / examples[0].image
    content = path.read_bytes()
    seen = []
    for middle in (b"a", b"b"):
        path.write_bytes(b"\xff\xd8\xff" + content[3:4500] + middle + content[4501:])
        seen.append(fingerprints(FilesSource("files/train", str(tmp_path), examples)))
    assert seen[0] == seen[1]
    assert len(seen[0]) == 1


@settings(max_examples=examples(20), deadline=None, suppress_health_check=list(HealthCheck))
@given(dropped=st.sets(st.integers(0, 29), max_size=29))
def test_without_is_what_opening_fewer_gives(root, dropped):
    examples = rows(30)
    source = FilesSource("files/train", str(root), examples, selection={"count": 30})
    left = source.without([f"id-{i}" for i in dropped])
    fresh = FilesSource(
        "files/train", str(root), [examples[i] for i in sorted({*range(30)} - dropped)]
    )
    assert (list(left), left.fingerprint, left.name) == (list(fresh), fresh.fingerprint, fresh.name)
    gone = sorted(f"id-{i}" for i in dropped)
    assert left.selection == {"count": 30, "left_out": gone}
    assert len(source) == 30
    assert (left.fingerprint == source.fingerprint) == (not dropped)


def test_without_refuses_unknown_ids(root):
    with pytest.raises(ValueError, match="files/train has no image other"):
        FilesSource("files/train", str(root), rows(3)).without(["id-1", "other"])


def test_all_problems_are_reported_together(root):
    missing = [Example(f"a/none-{i}.jpg", f"missing-{i}", ("x",)) for i in range(12)]
    bad = [
        Example("../a/0.jpg", "up", ("x",)),
        Example("a/../a/0.jpg", "up-and-down", ("x",)),
        Example(str(root / "a/0.jpg"), "absolute", ("x",)),
        Example("a/0.jpg", "bare", ()),
        Example("a/2.jpg", "blank", (" ", "")),
        Example("a/4.jpg", "id-1", ("x",)),
        Example("a", "folder", ("x",)),
        Example("nowhere/0.jpg", "nowhere", ("x",)),
        Example("a\0/0.jpg", "null", ("x",)),
    ]
    with pytest.raises(DataError) as caught:
        FilesSource("files/train", str(root), [*rows(3), *bad, *missing])
    title, outside, absent, bare, twice = str(caught.value).splitlines()
    assert title == f"files/train in {str(root)!r} cannot be used:"
    assert "3 paths outside" in outside
    assert outside.endswith(f"../a/0.jpg, a/../a/0.jpg, {root}/a/0.jpg")
    assert "15 missing files" in absent
    assert absent.endswith("none-5.jpg, a/none-6.jpg and 5 more")
    assert "a, nowhere/0.jpg, a\0/0.jpg, a/none-0.jpg" in absent
    assert "2 images without a caption" in bare
    assert bare.endswith("bare, blank")
    assert twice.endswith(": id-1")


def test_unreadable_files_are_reported_together(root, monkeypatch):
    def refuse(path, mode):
        if path.endswith(("1.jpg", "2.jpg")):
            raise PermissionError(13, "Permission denied")
        return open(path, mode)

    monkeypatch.setattr(files_source, "open", refuse, raising=False)
    message = r"2 files that cannot be read: b/1.jpg \(Permission denied\), a/2.jpg"
    with pytest.raises(DataError, match=message):
        FilesSource("files/train", str(root), rows(4))


def test_empty_splits_are_refused(root):
    with pytest.raises(DataError, match="files/train has no images"):
        FilesSource("files/train", str(root), [])


def test_links_are_followed_inside_of_the_root(root, tmp_path):
    images = tmp_path / "images"
    images.symlink_to(root)  # The root may be a link itself.
    write(tmp_path / "real", rows(2))
    (tmp_path / "real" / "c").symlink_to("a")
    (tmp_path / "real" / "one.jpg").symlink_to(tmp_path / "real" / "b" / "1.jpg")
    examples = [Example("c/0.jpg", "zero", ("x",)), Example("one.jpg", "one", ("x",))]
    assert len(FilesSource("files/train", str(tmp_path / "real"), examples)) == 2
    assert len(FilesSource("files/train", str(images), rows(2))) == 2
    (tmp_path / "real" / "broken.jpg").symlink_to("nothing")
    with pytest.raises(DataError, match=r"1 missing files.*broken\.jpg"):
        FilesSource("files/train", str(tmp_path / "real"), [Example("broken.jpg", "one", ("x",))])


def test_no_path_leaves_the_root_unless_allowed(root, tmp_path):
    write(tmp_path, rows(2))
    (tmp_path / "rooted").mkdir()
    write(tmp_path / "rooted-not", rows(1))
    inside = tmp_path / "rooted"
    (inside / "a").symlink_to(tmp_path / "a")
    (inside / "one.jpg").symlink_to("../b/1.jpg")
    (inside / "sibling").symlink_to(tmp_path / "rooted-not")
    (inside / "hop").symlink_to("one.jpg")
    ways = ("../b/1.jpg", str(tmp_path / "a/0.jpg"), "a/0.jpg", "one.jpg", "hop", "sibling/a/0.jpg")
    examples = [Example(path, path, ("x",)) for path in ways]
    for example in examples:
        with pytest.raises(DataError, match=r"1 paths outside.*dataset\.allow_outside=True"):
            FilesSource("files/train", str(inside), [example])
    source = FilesSource("files/train", str(inside), examples, allow_outside=True)
    for example in source:
        with open(example.image, "rb") as file:
            assert file.read(1) in (b"\0", b"\1")
    # What is not there can lead out, too.
    (inside / "broken.jpg").symlink_to("../nothing.jpg")
    with pytest.raises(DataError, match=r"1 paths outside"):
        FilesSource("files/train", str(inside), [Example("broken.jpg", "1", ("x",))])
    # What is allowed must still be there, and be a file.
    gone = [Example("../nothing.jpg", "1", ("x",)), Example("a\0b", "2", ("x",))]
    with pytest.raises(DataError, match=r"2 missing files"):
        FilesSource("files/train", str(inside), gone, allow_outside=True)


def test_missing_images_and_those_without_caption_are_left_out_where_asked(root, caplog):
    caplog.set_level("INFO", logger="capjax")
    bad = [Example("none.jpg", "none", ("x",)), Example("a/4.jpg", "bare", (" ",))]
    source = FilesSource("files/train", str(root), [*bad, *rows(3)], skip=True)
    assert list(source) == list(FilesSource("files/train", str(root), rows(3)))
    assert source.fingerprint == FilesSource("files/train", str(root), rows(3)).fingerprint
    assert source.without(["id-1"]).selection == {"left_out": ["bare", "id-1", "none"]}
    assert "left out 1 of 5 images whose files are missing: none.jpg" in caplog.text
    assert "left out 1 of 5 images without a caption: a/4.jpg" in caplog.text
    with pytest.raises(DataError, match="1 missing files"):  # Of all: the folder is wrong.
        FilesSource("files/train", str(root), bad[:1], skip=True)
    with pytest.raises(DataError, match="1 paths outside"):
        FilesSource("files/train", str(root), [Example("../x", "x", ("x",)), *rows(3)], skip=True)


@pytest.mark.parametrize(
    ("there", "named"),
    [
        ("caf\u00e9/\u00fc.jpg", "cafe\u0301/u\u0308.jpg"),
        ("cafe\u0301/u\u0308.jpg", "caf\u00e9/\u00fc.jpg"),
        ("a/b/c.jpg", "a\\b\\c.jpg"),
    ],
)
def test_names_of_other_systems_are_found(tmp_path, there, named):
    (tmp_path / there).parent.mkdir(parents=True)
    (tmp_path / there).write_bytes(b"x")
    source = FilesSource("files/train", str(tmp_path), [Example(named, named, ("x",))])
    assert source[0].image == str(tmp_path / there)
    assert source[0].image_id == named
    with pytest.raises(DataError, match="1 missing files"):
        FilesSource("files/train", str(tmp_path), [Example("x" + named, "1", ("x",))])


def test_an_absolute_path_is_not_searched_for_in_the_root(root):
    with pytest.raises(DataError, match="1 missing files"):
        FilesSource("x", str(root), [Example("/a/0.jpg", "1", ("x",))], allow_outside=True)


def test_no_file_is_asked_for_alone(root, monkeypatch):
    """100,000 files on a network's disk: a listing a folder, not a look-up a file."""
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    monkeypatch.setattr(os, "stat", None)
    FilesSource("files/train", str(root), rows())
    assert sorted(listed) == [str(root / "a"), str(root / "b")]


def test_threads_read_what_one_reads(root):
    source = FilesSource("files/train", str(root), rows())
    order = np.random.default_rng(0).integers(0, COUNT, 400).tolist()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.__getitem__, order)) == [source[i] for i in order]
