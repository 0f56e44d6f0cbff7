"""What the adapter between a pretrained encoder and a decoder keeps and changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capjax.models.adapter import Adapter
from capjax.models.captioner import (
    Captioner,
    FeatureEncoder,
    init_around,
    join_frozen,
    split_frozen,
)
from capjax.models.contract import Memory
from capjax.models.decoders.transformer import TransformerDecoder
from capjax.models.encoders.patch import PatchEncoder

MEMORY = Memory(
    jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 12)), jnp.float32), (2, 3), prefix=1
)


def run(adapter, memory=MEMORY, train=False, key=0):
    variables = adapter.init(jax.random.key(0), memory, train=False)
    return adapter.apply(variables, memory, train=train, rngs={"dropout": jax.random.key(key)})


@pytest.mark.parametrize("depth", [0, 2])
def test_width_changes_and_places_stay(depth):
    found = run(Adapter(8, depth, 2))
    assert found.values.shape == (2, 7, 8)
    assert (found.grid, found.prefix) == ((2, 3), 1)


def test_the_same_feature_elsewhere_is_another_memory_but_in_the_prefix():
    """Attention has no other way to know where a feature lies."""
    same = MEMORY.replace(values=jnp.broadcast_to(MEMORY.values[:, :1], MEMORY.values.shape))
    values = np.asarray(run(Adapter(8), same).values)
    distances = np.abs(values[0, None] - values[0, :, None]).max(-1)
    assert distances[~np.eye(7, dtype=bool)].min() > 1e-3
    # A class token has no place, so another grid does not move it.
    other = Memory(same.values, (3, 2), prefix=1)
    np.testing.assert_array_equal(run(Adapter(8), other).values[:, 0], values[:, 0])


@pytest.mark.parametrize(("depth", "mixes"), [(0, False), (1, True)])
def test_only_blocks_let_features_see_each_other(depth, mixes):
    adapter = Adapter(8, depth, 2)
    variables = adapter.init(jax.random.key(0), MEMORY, train=False)

    def first(values):
        return adapter.apply(variables, MEMORY.replace(values=values), train=False).values[0, 0, 0]

    gradient = np.abs(jax.grad(first)(MEMORY.values)).max(-1)
    assert gradient[0, 0] > 0
    assert (gradient[0, 1:] > 0).all() == mixes
    assert not gradient[1].any()


def test_dropout_acts_in_training_alone():
    for rates in ({"dropout": 0.5}, {"input_dropout": 0.5}):
        adapter = Adapter(8, **rates)
        values = [np.asarray(run(adapter, train=True, key=key).values) for key in (0, 0, 1)]
        np.testing.assert_array_equal(values[0], values[1])
        assert np.abs(values[0] - values[2]).max() > 0
        np.testing.assert_array_equal(run(adapter).values, run(Adapter(8)).values)


def test_half_precision_features_are_taken():
    half = MEMORY.replace(values=MEMORY.values.astype(jnp.float16))
    whole = MEMORY.replace(values=half.values.astype(jnp.float32))
    np.testing.assert_array_equal(run(Adapter(8), half).values, run(Adapter(8), whole).values)


def test_variables_come_apart_and_together():
    model = Captioner(FeatureEncoder((2, 3), 1), TransformerDecoder(9, 5, 8, 1, 2), Adapter(8))
    variables = model.init_variables(jax.random.key(0), (7, 12))
    assert variables["params"].keys() == {"adapter", "decoder"}
    encoder = {"params": {"a": jnp.ones(2)}, "batch_stats": {"a": jnp.zeros(2)}}
    whole = {
        "params": {**variables["params"], "encoder": encoder["params"]},
        "batch_stats": {"encoder": encoder["batch_stats"]},
    }
    for freeze, trained in (
        (True, {"adapter", "decoder"}),
        (False, {"adapter", "decoder", "encoder"}),
    ):
        params, frozen = split_frozen(whole, ("encoder",) if freeze else ())
        assert params.keys() == trained
        assert frozen["batch_stats"] == whole["batch_stats"]
        assert jax.tree.structure(join_frozen(params, frozen)) == jax.tree.structure(whole)


def test_thawed_parts_train_but_for_their_batch_norms():
    names = ("layer1_conv", "layer10_conv", "layer1_norm", "layer1", "layer2_conv")
    variables = {
        "params": {"encoder": {name: {"w": jnp.ones(2)} for name in names}, "decoder": {}},
        "batch_stats": {"encoder": {"layer1_norm": {"mean": jnp.ones(2)}}},
    }
    params, frozen = split_frozen(variables, ("encoder",), ("encoder/layer1",))
    assert params["encoder"].keys() == {"layer1_conv", "layer1"}
    assert frozen["params"]["encoder"].keys() == {"layer10_conv", "layer1_norm", "layer2_conv"}
    params, frozen = split_frozen(variables, ("encoder",), ("encoder",))
    assert params["encoder"].keys() == set(names) - {"layer1_norm"}
    assert join_frozen(params, frozen)["params"]["encoder"].keys() == set(names)


@pytest.mark.slow(reason="compiles an encoder; runs start around one every day")
def test_starting_around_an_encoder_is_starting_with_it():
    model = Captioner(
        PatchEncoder(4, 8, 1, 2, class_token=True), TransformerDecoder(9, 5, 8, 1, 2), Adapter(8)
    )
    whole = model.init_variables(jax.random.key(0), (8, 8, 3))
    encoder = {"params": whole["params"]["encoder"]}
    found = init_around(model, jax.random.key(0), (8, 8, 3), encoder)
    jax.tree.map(np.testing.assert_array_equal, found, whole)
    zeros = init_around(model, jax.random.key(0), (8, 8, 3), None)
    assert jax.tree.structure(zeros) == jax.tree.structure(whole)
