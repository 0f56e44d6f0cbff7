"""Low-rank adapters compute what their kernels would with them added, and at first nothing."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from capjax.models.adapter import Adapter
from capjax.models.captioner import Captioner, join_frozen, split_frozen
from capjax.models.decoders.bahdanau import BahdanauDecoder
from capjax.models.decoders.transformer import TransformerDecoder
from capjax.models.encoders.patch import PatchEncoder
from capjax.models.lora import Lora, is_adapter, merge

# Compiling takes longer than all else here.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
PARTS = ("encoder", "adapter", "decoder")
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
TOKENS = np.random.default_rng(1).integers(0, 9, (2, 2, 5), np.int32)
RECURRENT = ("context", "word", "hidden", "memory", "state", "initial_hidden", "projection")


def make(lora, *, recurrent=False):
    decoder = (
        BahdanauDecoder(9, 8, 8, attention_dim=8, initial_state="mean")
        if recurrent
        else TransformerDecoder(9, 6, 8, 1, 2)
    )
    return Captioner(PatchEncoder(4, 8, 1, 2), decoder, Adapter(8), lora=lora)


def loud(model, seed=0):
    """Random adapters, and other variables."""
    like = jax.eval_shape(lambda: model.init_variables(jax.random.key(0), (8, 8, 3)))
    rng = np.random.default_rng(seed)
    found = jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype("f"), like)
    return split_frozen(found, PARTS)


def logits(model):
    """variables -> logits of teacher forcing, and of three steps."""

    @jax.jit(compiler_options=QUICK)
    def both(variables):
        memory = model.apply(variables, IMAGES, method="encode")
        carry = model.apply(variables, memory, 2, 5, method="init_carry")
        stepped = []
        for place in range(3):
            token = TOKENS[:, :, place]
            carry, found, _ = model.apply(variables, carry, token, method="step")
            stepped.append(found)
        forced = model.apply(variables, IMAGES, TOKENS, train=False).logits
        return forced, jnp.stack(stepped, axis=2)

    return lambda variables: [np.asarray(found) for found in both(variables)]


def silent(adapters):
    """Adapters as they begin, with B zero."""
    flat = traverse_util.flatten_dict(adapters)
    return traverse_util.unflatten_dict(
        {at: leaf * 0 if at[-1] == "b" else leaf for at, leaf in flat.items()}
    )


@pytest.mark.parametrize(
    ("projections", "recurrent"),
    [
        (("query", "key", "up", "down", "decoder/value", "out", "output"), False),
        (RECURRENT, True),
    ],
)
def test_merged_it_computes_the_same(projections, recurrent):
    lora = Lora(2, 3.0, 0.0, projections)
    model, plain = make(lora, recurrent=recurrent), make(None, recurrent=recurrent)
    adapters, bare = loud(model)
    names = traverse_util.flatten_dict(adapters, sep="/")
    assert all(map(is_adapter, names))
    assert {name.split("/")[-2] for name in names} == {p.split("/")[-1] for p in projections}
    ours, theirs = logits(model), logits(plain)
    expected = theirs(bare)
    for found, wanted in zip(ours(join_frozen(silent(adapters), bare)), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
    variables = join_frozen(adapters, bare)
    merged = merge(variables, lora.scale)
    assert jax.tree.structure(merged) == jax.tree.structure(bare)
    forced, stepped = ours(variables)
    for found, wanted in zip((forced, stepped), theirs(merged), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(stepped, forced[:, :, :3], rtol=1e-4, atol=1e-4)
    assert np.abs(forced - expected[0]).max() > 0.05


def test_all_else_is_initialised_as_without_and_b_is_zero():
    def init(lora):
        decoder = TransformerDecoder(5, 6, 4, 1, 1)
        model = Captioner(PatchEncoder(8, 4, 1, 1), decoder, lora=lora)
        begin = jax.jit(functools.partial(model.init, train=False), compiler_options=QUICK)
        return begin(jax.random.key(0), IMAGES, TOKENS % 5)

    adapters, frozen = split_frozen(init(Lora(2, 3.0, 0.5, ("query", "value"))), PARTS)
    jax.tree.map(np.testing.assert_array_equal, frozen, init(None))
    for name, leaf in traverse_util.flatten_dict(adapters, sep="/").items():
        assert np.any(leaf) == name.endswith("/a"), name


def test_dropout_acts_on_adapters_alone_and_in_training_alone():
    model = make(Lora(2, 3.0, 0.5, ("query", "value")))
    adapters, bare = loud(model)

    @functools.partial(jax.jit, static_argnums=1, compiler_options=QUICK)
    def run(variables, train, seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply(variables, IMAGES, TOKENS, train=train, rngs=rngs).logits

    zero, variables = join_frozen(silent(adapters), bare), join_frozen(adapters, bare)
    np.testing.assert_allclose(run(zero, True, 1), run(zero, False, 1), rtol=1e-6, atol=1e-6)
    seen = [np.asarray(run(variables, *how)) for how in ((False, 1), (True, 1), (True, 2))]
    assert all(np.abs(a - b).max() > 1e-2 for a, b in itertools.combinations(seen, 2))


def test_a_name_may_be_of_one_part():
    lora = Lora(2, 3.0, 0.0, ("decoder/query", "value"))
    assert lora.adapted("decoder/blocks_0/cross_attention/query") == ("query",)
    assert lora.adapted("encoder/block_0/attention/query") == ()
    assert lora.adapted("encoder/block_0/attention/key_value") == ("value",)
    assert lora.adapts("encoder")
    assert not Lora(2, 3.0, 0.0, ("decoder/query",)).adapts("encoder")
