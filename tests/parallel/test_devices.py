import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capjax.parallel import devices

# Tests run with one device or with many, and only one can take over what it holds.
ONE = pytest.mark.skipif(jax.local_device_count() > 1, reason="a copy to several devices")


def twice():
    """A tree of which a part is there twice, as parameters and the policy that they start from."""
    params = {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)}
    return {"params": params, "policy": dict(params), "step": np.int32(4), "none": None}


def as_numpy(tree):
    return jax.tree.map(np.asarray, tree)


@pytest.mark.parametrize("donate", [False, True])
def test_a_replicated_tree_is_the_tree(donate):
    expected = as_numpy(twice())
    replicated = devices.replicate(twice(), donate=donate)
    assert all(len(x) == jax.local_device_count() for x in jax.tree.leaves(replicated))
    jax.tree.map(np.testing.assert_array_equal, devices.unreplicate(replicated), expected)


@pytest.mark.parametrize("donate", [False, True])
def test_leaves_of_the_same_array_are_given_away_one_by_one(donate):
    """A step to which the state is donated writes over one of them."""
    state = devices.replicate(twice(), donate=donate)

    def update(state):
        return state | {"params": jax.tree.map(lambda x: x - 1, state["params"])}

    step = devices.map_devices(update, donate=(0,))
    after = devices.unreplicate(functools.reduce(lambda x, _: step(x), range(3), state))
    given = as_numpy(twice())
    jax.tree.map(np.testing.assert_array_equal, after["policy"], given["policy"])
    moved = jax.tree.map(lambda x: x - 3, given["params"])
    jax.tree.map(np.testing.assert_array_equal, after["params"], moved)


@ONE
def test_a_device_takes_over_what_is_on_it():
    tree = twice()
    devices.replicate(tree, donate=True)
    assert all(x.is_deleted() for x in jax.tree.leaves(tree["params"]))
