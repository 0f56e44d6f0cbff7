"""A table of names turns tensors into variables and back."""

import jax
import numpy as np
import pytest

from capjax.pretrained import tables
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.tables import CONVOLUTION, SAME, Row, dense, norm

TABLE = (
    Row("stem.weight", "stem/kernel", CONVOLUTION),
    Row("h{}.{}.conv.weight", "block{}_{}/conv/kernel", CONVOLUTION),
    *norm("h{}.{}.ln", "block{}_{}/norm"),
    *dense(("q", "k", "v"), ("query", "key_value")),
    *dense("c_attn", ("self/query", "self/key_value"), SAME),
    *norm("not_there", "optional"),
)
SHAPES = {
    "stem": {"kernel": (2, 3, 4, 5)},
    "block0_1": {"conv": {"kernel": (4, 5)}, "norm": {"scale": (3,), "bias": (3,)}},
    "block10_2": {"conv": {"kernel": (1, 1, 4, 5)}, "norm": {"scale": (2,), "bias": (2,)}},
    "query": {"kernel": (6, 4), "bias": (4,)},
    "key_value": {"kernel": (6, 8), "bias": (8,)},
    "self": {
        "query": {"kernel": (6, 4), "bias": (4,)},
        "key_value": {"kernel": (6, 8), "bias": (8,)},
    },
}
TENSORS = {
    "stem.weight": (5, 4, 2, 3),
    "h0.1.conv.weight": (5, 4, 1, 1),
    "h0.1.ln.weight": (3,),
    "h0.1.ln.bias": (3,),
    "h10.2.conv.weight": (5, 4, 1, 1),
    "h10.2.ln.weight": (2,),
    "h10.2.ln.bias": (2,),
    **{f"{name}.weight": (4, 6) for name in "qkv"},
    **{f"{name}.bias": (4,) for name in "qkv"},
    "c_attn.weight": (6, 12),
    "c_attn.bias": (12,),
}


@pytest.fixture(name="variables")
def make_variables():
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda shape: rng.normal(size=shape).astype("f"), SHAPES, is_leaf=lambda x: type(x) is tuple
    )


def test_what_is_written_is_read_again(variables):
    assert tables.shapes(TABLE, variables) == TENSORS
    tensors = tables.write(TABLE, variables)
    assert {name: tensor.shape for name, tensor in tensors.items()} == TENSORS
    found = tables.read(TABLE, tensors, variables, "file")
    jax.tree.map(np.testing.assert_array_equal, found, variables)


def test_each_tensor_is_the_part_that_it_says(variables):
    tensors = tables.write(TABLE, variables)
    whole = np.concatenate([variables["query"]["kernel"], variables["key_value"]["kernel"]], 1)
    np.testing.assert_array_equal(np.concatenate([tensors[f"{n}.weight"] for n in "qkv"]), whole.T)
    kernels = [variables["self"][name]["kernel"] for name in ("query", "key_value")]
    np.testing.assert_array_equal(tensors["c_attn.weight"], np.concatenate(kernels, 1))
    kernel = variables["block0_1"]["conv"]["kernel"]
    np.testing.assert_array_equal(tensors["h0.1.conv.weight"][:, :, 0, 0], kernel.T)
    kernel = variables["stem"]["kernel"]
    assert tensors["stem.weight"][4, 3, 1, 2] == kernel[1, 2, 3, 4]


@pytest.mark.parametrize("prefix", ["model.", "{}.", "{0.__class__}.", "%s."])
def test_a_prefix_is_taken_as_it_is(variables, prefix):
    tensors = tables.write(TABLE, variables, prefix)
    assert set(tensors) == {prefix + name for name in TENSORS}
    assert tables.find_prefix(tensors, "stem.weight", "model", "file") == prefix
    found = tables.read(TABLE, tensors, variables, "file", prefix)
    jax.tree.map(np.testing.assert_array_equal, found, variables)


def test_misfits_are_named_as_in_the_file(variables):
    tensors = tables.write(TABLE, variables, "m.")
    del tensors["m.q.bias"]
    tensors["m.h0.1.conv.weight"] = np.zeros((5, 4, 3, 3))
    tensors["extra"] = np.zeros(2)
    with pytest.raises(WeightsError) as caught:
        tables.read(TABLE, tensors, variables, "file", "m.")
    assert str(caught.value) == (
        "file: does not fit the model: missing m.q.bias; unexpected extra [2]; "
        "m.h0.1.conv.weight is [5, 4, 3, 3] and should be [5, 4, 1, 1]"
    )


def test_a_variable_without_a_row_is_a_mistake_of_the_table(variables):
    with pytest.raises(ValueError, match="no tensor is other/kernel"):
        tables.write(TABLE, {**variables, "other": {"kernel": np.zeros(3)}})


def test_a_block_is_repeated():
    like = {"rest": 1, "block_0": {"a": 2}}
    assert tables.repeat(like, "block_", 2) == {"rest": 1, "block_0": {"a": 2}, "block_1": {"a": 2}}
    assert tables.repeat(like, "block_", 0) == {"rest": 1}
