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


def convolve(state, batch):
    """A step of gradient descent through a convolution; the loss is of all devices."""

    def loss(kernel):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return (
            jax.lax.conv_general_dilated(batch, kernel, (1, 1), "SAME", None, None, dimensions) ** 2
        ).sum()

    value, gradient = jax.value_and_grad(loss)(state)
    return state - 1e-4 * devices.psum(gradient), devices.psum(value)


@pytest.fixture(name="ask_again")
def make_ask_again():
    devices.compiler_options.cache_clear()
    yield
    devices.compiler_options.cache_clear()


def test_an_option_of_another_version_is_left_out(monkeypatch, ask_again):
    assert devices.compiler_options() == devices.WITHOUT_YNN_CONVOLUTIONS
    devices.compiler_options.cache_clear()
    monkeypatch.setattr(devices, "WITHOUT_YNN_CONVOLUTIONS", {"xla_of_another_version": "1"})
    assert devices.compiler_options() == {}


@pytest.mark.parametrize("known", [True, False])
def test_a_step_is_the_function_whatever_its_convolutions_are(monkeypatch, known):
    if not known:
        monkeypatch.setattr(devices, "compiler_options", dict)
    count, random = jax.local_device_count(), np.random.default_rng(0)
    kernel = random.normal(size=(3, 3, 3, 4)).astype(np.float32)
    batches = [random.normal(size=(2 * count, side, 8, 3)).astype(np.float32) for side in (8, 5, 8)]
    ends = []
    for mapped in (devices.map_devices(convolve), devices.map_step(convolve)):
        state, losses = devices.replicate(kernel), []
        for batch in batches:
            state, loss = mapped(state, devices.shard(batch))
            losses.append(devices.unreplicate(loss))
        ends.append((devices.unreplicate(state), *losses))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), *ends)
