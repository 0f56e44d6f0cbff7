"""Cached features are what was computed, whatever interrupts their making."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from capjax.data import feature_cache
from capjax.data.batches import TrainBatches
from capjax.data.captions import CaptionTable, encode_captions
from capjax.data.feature_batches import train_feature_batches
from capjax.data.feature_cache import FeatureCache, FeatureShape, open_features
from capjax.data.tokenizer import train_word_tokenizer
from capjax.files.errors import DataError

REPOSITORY = Path(__file__).parents[2]
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
def test_features_come_back_rounded_once(tmp_path, dtype, caplog):
    cache = make(tmp_path, shape=SHAPE._replace(dtype=dtype))
    expected = features_of(EVERY).astype(feature_cache.DTYPES[dtype])
    assert cache.read(EVERY).dtype == expected.dtype
    np.testing.assert_array_equal(cache.read(EVERY), expected)
    np.testing.assert_array_equal(cache.read(np.array([7, -1, 2]))[[0, 2]], expected[[7, 2]])
    assert not cache.read(np.array([7, -1]))[1].any()
    size = f"features of some images: 10 images x 5 positions x 3 {dtype} = 0.00 GB"
    assert size in caplog.text


def test_a_cache_is_computed_once(tmp_path):
    compute = Compute()
    make(tmp_path, compute)
    assert compute.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, -1, -1]]
    make(tmp_path, Compute(stop_after=0))


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_an_interrupted_cache_continues_and_has_the_same_bits(tmp_path, stop_after, caplog):
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
        assert f"after {4 * stop_after} images" in caplog.text


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


def test_another_key_in_the_same_folder_is_refused(tmp_path):
    make(tmp_path)
    with pytest.raises(DataError, match="made from other inputs"):
        FeatureCache(tmp_path / "cache", {"source": "other"}, SHAPE)


def test_features_beyond_the_type_are_refused(tmp_path):
    def huge(batches):
        yield from (features_of(batch) * 1e6 for batch in batches)

    with pytest.raises(DataError, match=r"do not fit into float16.*bfloat16"):
        make(tmp_path, huge)
    make(tmp_path, huge, SHAPE._replace(dtype="bfloat16"))


def test_a_full_disk_is_said_before_anything_is_computed(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(DataError, match=r"no room for .* config.dataset.cache_dir"):
        make(tmp_path, Compute(stop_after=0))
    assert not list(tmp_path.glob("*.partial"))


# In processes of their own: a fork of one that runs JAX may hang.
SLOWLY = """
import sys, time
import numpy as np
from capjax.cli.log import show_log
from capjax.data.feature_cache import FeatureShape, open_features

def compute(batches):
    print("ready", flush=True)
    for batch in batches:
        time.sleep(0.1)
        yield np.repeat(batch, 15).reshape(-1, 5, 3).astype(np.float32)

show_log()
shape = FeatureShape(10, 5, 3, (2, 2), 1, "float16")
open_features(sys.argv[1], {}, shape, compute, batch_size=4, name="slow images")
"""
COUNTS = np.repeat(EVERY, 15).reshape(-1, 5, 3)


def start(folder):
    command = [sys.executable, "-c", SLOWLY, str(folder / "cache")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    return subprocess.Popen(command, cwd=REPOSITORY, **pipes)


def test_killed_processes_leave_a_cache_that_continues(tmp_path):
    for wait in (0.05, 0.15, 0.05):
        with start(tmp_path) as process:
            while "ready" not in process.stdout.readline():
                pass
            time.sleep(wait)
            process.kill()
        assert not (tmp_path / "cache").exists()
    with start(tmp_path) as process:
        assert "continuing the features of slow images" in process.stdout.read()
    cache = FeatureCache(tmp_path / "cache", {}, SHAPE)
    np.testing.assert_array_equal(cache.read(EVERY), COUNTS)


def test_two_processes_compute_once(tmp_path):
    with start(tmp_path) as one, start(tmp_path) as other:
        said = [one.stdout.read(), other.stdout.read()]
    assert one.returncode == other.returncode == 0
    assert sum("ready" in text for text in said) == 1
    assert not list(tmp_path.glob("*.partial"))
    np.testing.assert_array_equal(FeatureCache(tmp_path / "cache", {}, SHAPE).read(EVERY), COUNTS)


def test_a_cache_deleted_in_use_goes_on_being_read(tmp_path):
    cache = make(tmp_path)
    shutil.rmtree(tmp_path / "cache")
    np.testing.assert_array_equal(cache.read(EVERY), features_of(EVERY).astype(np.float16))


def test_a_cache_deleted_while_it_is_written_is_said(tmp_path):
    class Deleting(Compute):
        def __call__(self, batches):
            yield from super().__call__(batches)
            shutil.rmtree(tmp_path / "cache.partial")

    with pytest.raises(DataError, match="was deleted while the features of some images were"):
        make(tmp_path, Deleting())
    np.testing.assert_array_equal(make(tmp_path).read(EVERY), features_of(EVERY).astype(np.float16))


def test_views_are_drawn_by_position_and_evenly(tmp_path):
    """Which crop of an image is seen hangs on its place in the stream, on nothing else."""
    captions = CaptionTable(tuple("abcdefghij"), (("a cat",),) * 10, "")
    tokenizer = train_word_tokenizer(["a cat"])
    encoded = encode_captions(captions, tokenizer, max_length=4, over_length="drop")

    def level(value):
        def compute(batches):
            for batch in batches:
                yield (value * 100 + np.repeat(batch, 15).reshape(-1, 5, 3)).astype(np.float32)

        return open_features(
            tmp_path / str(value), {"view": value}, SHAPE, compute, batch_size=4, name="a view"
        )

    views = [level(value) for value in range(3)]

    def stream(batch_size, first, count, seed=0):
        batches = TrainBatches(
            encoded, tokenizer, batch_size=batch_size, captions_per_image=1, seed=seed
        )
        found = train_feature_batches(views, batches, seed=seed, first_step=first)
        return np.concatenate([next(found)["features"][:, 0, 0] for _ in range(count)])

    whole = stream(10, 0, 60)
    np.testing.assert_array_equal(stream(5, 0, 120), whole)
    np.testing.assert_array_equal(stream(10, 40, 20), whole[400:])
    assert np.any(stream(10, 0, 60, seed=1) != whole)
    drawn = np.bincount((whole // 100).astype(int), minlength=3)
    assert drawn.min() > 150  # Of 600: 200 each, four deviations are 46.
    np.testing.assert_array_equal(np.unique(whole), np.unique([EVERY + 100 * v for v in range(3)]))
    only = train_feature_batches(
        views[:1],
        TrainBatches(encoded, tokenizer, batch_size=4, captions_per_image=1, seed=0),
        seed=0,
    )
    assert next(only)["features"].max() < 100
