"""Variables survive their file, and their fingerprint tells them apart."""

import jax
import numpy as np
import pytest

from capjax.pretrained.variables import fingerprint, load_variables, save_variables

TREE = {
    "params": {"encoder": {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2)}},
    "batch_stats": {"encoder": {"a": np.zeros(3, np.float32)}},
}


def test_they_come_back_as_they_were(tmp_path):
    save_variables(tmp_path / "v.safetensors", TREE)
    found = load_variables(tmp_path / "v.safetensors")
    jax.tree.map(np.testing.assert_array_equal, found, TREE)
    assert fingerprint(found) == fingerprint(TREE)


def test_views_of_arrays_are_saved_by_value(tmp_path):
    turned = {"a": np.arange(6, dtype=np.float32).reshape(2, 3).T[::-1]}
    save_variables(tmp_path / "v.safetensors", turned)
    np.testing.assert_array_equal(load_variables(tmp_path / "v.safetensors")["a"], turned["a"])


def test_the_fingerprint_sees_names_types_shapes_and_values():
    a = np.arange(6, dtype=np.float32)
    others = [{"b": a}, {"a": a.astype(int)}, {"a": a.reshape(2, 3)}, {"a": a + 1}, {"x": {"a": a}}]
    assert len({fingerprint(tree) for tree in [{"a": a}, *others]}) == 6
    assert fingerprint({"a": a, "b": a}) == fingerprint({"b": a, "a": jax.numpy.asarray(a)})


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "v.safetensors"
    path.write_bytes(b"not tensors")
    with pytest.raises(ValueError, match=r"v\.safetensors is not a readable safetensors file"):
        load_variables(path)
