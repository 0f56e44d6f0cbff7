"""Arrays of a dataset's cache: read as they were written, or not at all."""

import json
import os
import threading

import numpy as np
import pytest
import safetensors.numpy

from capjax.files.arrays import read_arrays, write_arrays
from tests.helpers.damage import OTHER, cut, flipped

ABOUT = {"format": "mine", "counts": [1, 2], "name": "\ud83d é"}
ARRAYS = {
    "tokens": np.arange(-3, 4, dtype=np.int32),
    "bytes": np.frombuffer(b"a dog", np.uint8),
    "long": np.array([2**40, -1]),
    "empty": np.zeros(0, np.int32),
}


@pytest.fixture(name="path")
def make_path(tmp_path):
    write_arrays(tmp_path / "new" / "a.safetensors", ABOUT, ARRAYS)
    return tmp_path / "new" / "a.safetensors"


def assert_arrays(found):
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_what_is_read_was_written(path):
    about, found = read_arrays(path)
    assert about == ABOUT
    assert_arrays(found)
    assert all(array.flags.writeable for array in found.values())
    assert [file.name for file in path.parent.iterdir()] == ["a.safetensors"]
    assert read_arrays(path.parent / "none.safetensors") is None
    # The same file for the library.
    assert_arrays(safetensors.numpy.load_file(path))


def test_damage_is_no_file(path):
    content = path.read_bytes()
    for damaged in (*OTHER, *cut(content, 60), *flipped(content, 400), content + b"\0"):
        if damaged is not None:
            path.write_bytes(damaged)
            assert read_arrays(path) is None
    for old, new in ((b"mine", b"ours"), (b"a dog", b"a hog"), (b"[1, 2]", b"[1, 3]")):
        assert old in content
        path.write_bytes(content.replace(old, new))
        assert read_arrays(path) is None
    path.write_bytes(content)
    assert read_arrays(path) is not None


@pytest.mark.parametrize(
    ("arrays", "metadata"),
    [
        (ARRAYS, None),
        (ARRAYS, {"about": json.dumps(ABOUT)}),
        (ARRAYS, {"about": json.dumps(ABOUT), "sha256": "0" * 64}),
        (ARRAYS, {"about": "{", "sha256": "0" * 64}),
        ({"a": np.zeros((2, 3), np.int32)}, {"about": "{}", "sha256": ""}),
        ({"a": np.array(3, np.int32)}, {"about": "{}", "sha256": ""}),
        ({"a": np.zeros(3)}, {"about": "{}", "sha256": ""}),
    ],
)
def test_the_librarys_other_files_are_none_of_ours(path, arrays, metadata):
    safetensors.numpy.save_file(arrays, path, metadata)
    assert read_arrays(path) is None


def test_descriptions_are_short_objects(path):
    for about in ([1], "text", {"long": "x" * 2**20}):
        write_arrays(path, about, ARRAYS)
        assert read_arrays(path) is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    found = []
    reading = threading.Thread(
        target=lambda: found.append(read_arrays(tmp_path / "pipe")), daemon=True
    )
    reading.start()
    reading.join(10)
    assert found == [None]
