"""Cached features are what was computed, whatever interrupts their making."""

import json
import multiprocessing
import os
import shutil
import signal
import time

import numpy as np
import pytest

from capjax.data import feature_cache
from capjax.data.feature_cache import FeatureCache, FeatureShape, open_features
from capjax.data.source import DataError

KEY = {"source": "abc", "encoder": {"name": "small"}}
SHAPE = FeatureShape(images=10, positions=5, width=3, grid=(2, 2), prefix=1, dtype="float16")


def features_of(index):
    """Features that tell which image they are of."""
    rng = np.random.default_rng(7)
    table = rng.normal(size=(SHAPE.images + 1, SHAPE.positions, SHAPE.width)).astype(np.float32)
    return table[index]


class Compute:
    """Computes batches, notes which, and stops in the middle when told to."""

    def __init__(self, stop_after=None):
        self.batches, self.stop_after = [], stop_after

    def __call__(self, batches):
        for batch in batches:
            if len(self.batches) == self.stop_after:
                raise KeyboardInterrupt
            self.batches.append(batch.tolist())
            yield features_of(batch)


def make(folder, compute=None, shape=SHAPE, key=KEY):
    return open_features(
        folder / "cache", key, shape, compute or Compute(), batch_size=4, name="some images"
    )


EVERY = np.arange(SHAPE.images)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_features_come_back_rounded_once(tmp_path, dtype, capsys):
    cache = make(tmp_path, shape=SHAPE._replace(dtype=dtype))
    expected = features_of(EVERY).astype(feature_cache.DTYPES[dtype])
    assert cache.read(EVERY).dtype == expected.dtype
    np.testing.assert_array_equal(cache.read(EVERY), expected)
    np.testing.assert_array_equal(cache.read(np.array([7, -1, 2]))[[0, 2]], expected[[7, 2]])
    assert not cache.read(np.array([7, -1]))[1].any()
    said = capsys.readouterr().out
    assert f"features of some images: 10 images x 5 positions x 3 {dtype} = 0.00 GB" in said


def test_a_cache_is_computed_once(tmp_path):
    compute = Compute()
    make(tmp_path, compute)
    assert compute.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, -1, -1]]
    make(tmp_path, Compute(stop_after=0))


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_an_interrupted_cache_continues_and_has_the_same_bits(tmp_path, stop_after, capsys):
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, Compute(stop_after))
    assert not (tmp_path / "cache").exists()
    compute = Compute()
    make(tmp_path, compute)
    assert len(compute.batches) == 3 - stop_after
    whole = tmp_path / "whole"
    make(whole)
    for file in ("features.npy", "checksums.npy", "meta.json"):
        assert (tmp_path / "cache" / file).read_bytes() == (whole / "cache" / file).read_bytes()
    if stop_after:
        assert f"after {4 * stop_after} images" in capsys.readouterr().out


def test_a_partial_cache_is_not_trusted(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, Compute(2))
    partial = np.load(tmp_path / "cache.partial/features.npy", mmap_mode="r+")
    partial[5] = 1
    partial.flush()
    compute = Compute()
    cache = make(tmp_path, compute)
    assert compute.batches[0] == [4, 5, 6, 7]
    np.testing.assert_array_equal(cache.read(EVERY), features_of(EVERY).astype(np.float16))


def test_a_partial_cache_of_something_else_starts_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, Compute(2), key={"source": "other"})
    compute = Compute()
    make(tmp_path, compute)
    assert len(compute.batches) == 3


def test_changed_features_are_never_given(tmp_path):
    make(tmp_path)
    features = np.load(tmp_path / "cache/features.npy", mmap_mode="r+")
    features[6, 2, 1] += 1
    features.flush()
    cache = make(tmp_path)
    cache.read(np.array([5, 7]))
    with pytest.raises(DataError, match=r"features of image 6 have changed. Delete the folder"):
        cache.read(np.array([6]))


@pytest.mark.parametrize("file", ["features.npy", "checksums.npy", "meta.json"])
def test_damaged_files_are_refused_by_name(tmp_path, file):
    make(tmp_path)
    path = tmp_path / "cache" / file
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError, match="cache can't be used"):
        make(tmp_path)


def test_another_key_in_the_same_folder_is_refused(tmp_path):
    make(tmp_path)
    with pytest.raises(DataError, match="made of something else"):
        FeatureCache(tmp_path / "cache", {"source": "other"}, SHAPE)


def test_features_beyond_the_type_are_refused(tmp_path):
    def huge(batches):
        yield from (features_of(batch) * 1e6 for batch in batches)

    with pytest.raises(DataError, match=r"don't fit into float16.*bfloat16"):
        make(tmp_path, huge)
    make(tmp_path, huge, SHAPE._replace(dtype="bfloat16"))


def test_a_full_disk_is_said_before_anything_is_computed(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(DataError, match=r"no room for .* config.dataset.cache_dir"):
        make(tmp_path, Compute(stop_after=0))
    assert not list(tmp_path.glob("*.partial"))


def slowly(folder):
    def compute(batches):
        for batch in batches:
            time.sleep(0.05)
            yield features_of(batch)

    make(folder, compute)


def test_killed_processes_leave_a_cache_that_continues(tmp_path):
    context = multiprocessing.get_context("fork" if os.name == "posix" else "spawn")
    for wait in (0.02, 0.08, 0.12):
        process = context.Process(target=slowly, args=(tmp_path,))
        process.start()
        time.sleep(wait)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    cache = make(tmp_path)
    np.testing.assert_array_equal(cache.read(EVERY), features_of(EVERY).astype(np.float16))


def test_two_processes_compute_once(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=slowly, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert json.loads((tmp_path / "cache/meta.json").read_text())["key"] == KEY
    assert not list(tmp_path.glob("*.partial"))


def test_a_cache_deleted_in_use_goes_on_being_read(tmp_path):
    cache = make(tmp_path)
    shutil.rmtree(tmp_path / "cache")
    np.testing.assert_array_equal(cache.read(EVERY), features_of(EVERY).astype(np.float16))
