import io
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from capjax.data import check_images
from capjax.data.check_images import find_bad_images, usable
from capjax.data.source import Example
from capjax.files.errors import DataError
from tests.helpers.sources import Source
from tests.helpers.ugly_images import encode

SHARED = Path(__file__).parents[3] / "shared"
IMAGES = 150


def jpeg(seed=0) -> bytes:
    return encode(np.random.default_rng(seed).integers(0, 255, (24, 32, 3), np.uint8), "JPEG")


class FilesOf(Source):
    """A source of files by name."""

    def __init__(self, paths):
        self.paths = list(paths)
        super().__init__(Example(str(path), f"id-{i}", ()) for i, path in enumerate(self.paths))

    def without(self, image_ids):
        gone = {int(image_id.removeprefix("id-")) for image_id in image_ids}
        return FilesOf([path for i, path in enumerate(self.paths) if i not in gone])


def find(source, cache_dir=None, num_threads=2):
    source.read = []
    return find_bad_images(source, cache_dir=cache_dir, num_threads=num_threads)


def make_files(folder, bad=()):
    """A source of JPEGs of which some are cut in the middle."""
    content = jpeg()
    paths = [folder / f"{i}.jpg" for i in range(IMAGES)]
    for i, path in enumerate(paths):
        path.write_bytes(content[:-200] if i in bad else content)
    return FilesOf(paths)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_finds_the_bad_ones_in_order(tmp_path, num_threads):
    bad = sorted(np.random.default_rng(num_threads).choice(IMAGES, 20, replace=False).tolist())
    source = make_files(tmp_path, bad)
    source.paths[bad[3]].unlink()
    source.paths[bad[5]].write_bytes(b"")
    source.paths[bad[7]].write_bytes(b"<html>404</html>")
    found = find(source, num_threads=num_threads)
    assert list(found) == [f"id-{i}" for i in bad]
    for i, reason in zip(bad, found.values(), strict=True):
        assert reason.startswith(f"{source.paths[i]}: ")
    reasons = [found[f"id-{bad[k]}"] for k in (0, 3, 5, 7)]
    for reason, part in zip(reasons, ("truncated", "No such", "empty", "not an im"), strict=True):
        assert part in reason
    assert sorted(source.read) == list(range(IMAGES))


def test_every_row_is_decoded(tmp_path):
    source = make_files(tmp_path)
    source.paths[9].write_bytes(jpeg()[:-30])
    assert list(find(source)) == ["id-9"]


def test_it_is_done_once(tmp_path):
    source, cache = make_files(tmp_path, [3, 70]), tmp_path / "new" / "cache"
    assert list(find(source, cache)) == ["id-3", "id-70"]
    assert len(source.read) == IMAGES
    (path,) = cache.iterdir()
    assert source.fingerprint in path.name
    assert list(find(source, cache)) == ["id-3", "id-70"]
    assert source.read == [3, 70]
    # What was mended is noticed, and then forgotten.
    source.paths[3].write_bytes(jpeg(1))
    for read in ([3, 70], [70]):
        assert list(find(source, cache)) == ["id-70"]
        assert source.read == read
    other = FilesOf(source.paths)
    other.fingerprint = "other"
    find(other, cache)
    assert len(other.read) == IMAGES


def test_a_clean_source_is_not_read_again(tmp_path):
    source = make_files(tmp_path)
    assert find(source, tmp_path / "cache") == find(source, tmp_path / "cache") == {}
    assert source.read == []
    assert find(source, None) == {}
    assert len(source.read) == IMAGES


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda _: b"\xff\xfe{",
        lambda _: b"[1, 2]",
        lambda content: json.dumps(content).encode()[:-5],
        lambda content: json.dumps(content | {"format": "capjax images 0"}).encode(),
        lambda content: json.dumps(content | {"fingerprint": "other"}).encode(),
        lambda content: json.dumps(content | {"images": 7}).encode(),
        lambda content: json.dumps(content | {"bad": [IMAGES]}).encode(),
        lambda content: json.dumps(content | {"bad": None}).encode(),
        lambda content: json.dumps(content | {"bad": ["3"]}).encode(),
    ],
)
def test_a_damaged_cache_is_made_again(tmp_path, damage):
    source, cache = make_files(tmp_path, [3]), tmp_path / "cache"
    find(source, cache)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(json.loads(whole)))
    assert list(find(source, cache)) == ["id-3"]
    assert len(source.read) == IMAGES
    assert path.read_bytes() == whole


def test_jobs_wait_for_the_slowest():
    started, slow_done = [], threading.Event()

    class Slow(FilesOf):
        def __getitem__(self, index):
            if index == 0:
                time.sleep(0.3)
                slow_done.set()
            if not slow_done.is_set():
                started.append(index)
            return Example(b"", f"id-{index}", ())

    assert len(find(Slow([None] * 5000), num_threads=2)) == 5000
    assert len(started) < 200


def test_an_error_of_the_source_comes_through(tmp_path):
    class Failing(FilesOf):
        def __getitem__(self, index):
            if index == 99:
                raise OSError("the disk is gone")
            return super().__getitem__(index)

    with pytest.raises(OSError, match="the disk is gone"):
        find(Failing(make_files(tmp_path).paths), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def use(source, bad_images):
    return usable(source, bad_images=bad_images, cache_dir=None, num_threads=2)


@pytest.mark.parametrize("bad_images", ["refuse", "skip"])
def test_a_clean_source_comes_back_as_it_is(tmp_path, bad_images, caplog):
    source = make_files(tmp_path)
    assert use(source, bad_images) is source
    assert not caplog.messages


def test_refusing_lists_the_first(tmp_path):
    source = make_files(tmp_path, range(20, 33))
    with pytest.raises(DataError) as caught:
        use(source, "refuse")
    first, *listed, last = str(caught.value).splitlines()
    assert first.startswith("mine/train: 13 of 150 images cannot be used")
    assert "--config.dataset.bad_images=skip" in first
    assert last == "... and 3 more"
    for i, line in enumerate(listed, 20):
        assert line.startswith(f"  id-{i}: {source.paths[i]}: damaged or truncated")
    assert len(listed) == 10
    with pytest.raises(DataError, match="2 of 150") as caught:
        use(make_files(tmp_path, [1, 2]), "refuse")
    assert "more" not in str(caught.value)


def test_skipping_leaves_them_out_and_says_so(tmp_path, caplog):
    source = make_files(tmp_path, range(20, 33))
    kept = use(source, "skip")
    assert kept.paths == source.paths[:20] + source.paths[33:]
    (line,) = caplog.messages
    assert line.startswith(
        "mine/train: left out 13 of 150 images that cannot be used: id-20, id-21"
    )
    assert line.endswith("id-29, ... and 3 more")


@pytest.mark.parametrize("bad_images", ["refuse", "skip"])
def test_no_image_at_all_is_refused(tmp_path, bad_images):
    with pytest.raises(DataError, match=r"150 of 150 .*folder") as caught:
        use(make_files(tmp_path, range(IMAGES)), bad_images)
    assert "skip" not in str(caught.value)


def test_other_values_are_refused_before_reading(tmp_path):
    source = make_files(tmp_path)
    with pytest.raises(DataError, match=r'config\.dataset\.bad_images .*"refuse".*"skip".*\'drop'):
        use(source, "drop")
    assert source.read == []


def test_the_bar_counts_all_images(tmp_path, monkeypatch):
    bars = []

    class Bar(check_images.tqdm):
        def __init__(self, **options):
            super().__init__(**options | {"disable": False, "file": io.StringIO()})
            bars.append(self)

    monkeypatch.setattr(check_images, "tqdm", Bar)
    find(make_files(tmp_path, [3]))
    (bar,) = bars
    assert (bar.n, bar.total, bar.desc) == (IMAGES, IMAGES, "check images of mine/train")


def test_real_photographs_are_good():
    folder = SHARED / "flickr8k" / "Images"
    if not folder.is_dir():
        pytest.skip("the shared photographs are not here")
    assert find(FilesOf(sorted(folder.glob("*.jpg"))[:100])) == {}
