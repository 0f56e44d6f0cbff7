"""Low-rank adapters compute what their kernels would with them added, and at first nothing."""

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
    return Captioner(PatchEncoder(4, 8, 1, 2), decoder, Adapter(8, depth=1, num_heads=2), lora=lora)


def run(model, variables, key=None):
    """Logits of teacher forcing; of training, if there is a key of dropout."""

    @jax.jit(compiler_options=QUICK)
    def logits(variables):
        rngs = None if key is None else {"dropout": key}
        return model.apply(variables, IMAGES, TOKENS, train=rngs is not None, rngs=rngs).logits

    return np.asarray(logits(variables))


def init(model):
    return jax.jit(
        lambda: model.init(jax.random.key(0), IMAGES, TOKENS, train=False),
        compiler_options=QUICK,
    )()


def loud(tree, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype("f"), tree)


@pytest.mark.parametrize(
    ("projections", "recurrent"),
    [
        (("query", "key", "value", "out", "up", "down"), False),
        (("value", "output", "patch_embedding"), False),
        (RECURRENT, True),
    ],
)
def test_merged_it_computes_the_same(projections, recurrent):
    lora = Lora(2, 3.0, 0.0, projections)
    model, plain = make(lora, recurrent=recurrent), make(None, recurrent=recurrent)
    variables, bare = init(model), init(plain)
    # At first there is the model without, bit for bit: its parameters and what it computes.
    adapters, frozen = split_frozen(variables, PARTS)
    jax.tree.map(np.testing.assert_array_equal, frozen, bare)
    np.testing.assert_array_equal(run(model, variables), run(plain, bare))
    names = traverse_util.flatten_dict(adapters, sep="/")
    assert all(map(is_adapter, names))
    assert {name.split("/")[-2] for name in names} == {*projections}
    # Then all adapters matter, in every way the model is run.
    variables = join_frozen(loud(adapters), frozen)
    merged = merge(variables, lora.scale)
    assert jax.tree.structure(merged) == jax.tree.structure(bare)
    ours = run(model, variables)
    np.testing.assert_allclose(ours, run(plain, merged), rtol=1e-4, atol=1e-4)
    assert np.abs(ours - run(plain, bare)).max() > 0.05
    logits = [step(each, given) for each, given in ((model, variables), (plain, merged))]
    np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits[0], ours[:, :, :3], rtol=1e-4, atol=1e-4)


def step(model, variables):
    """Logits of a stepped decoder, [B, 2, 3, V]."""

    @jax.jit(compiler_options=QUICK)
    def logits(variables):
        memory = model.apply(variables, IMAGES, method="encode")
        carry = model.apply(variables, memory, 2, 5, method="init_carry")
        found = []
        for place in range(3):
            token = TOKENS[:, :, place]
            carry, logits, _ = model.apply(variables, carry, token, method="step")
            found.append(logits)
        return jnp.stack(found, axis=2)

    return np.asarray(logits(variables))


def test_dropout_acts_on_adapters_alone_and_in_training_alone():
    lora = Lora(2, 3.0, 0.5, ("query", "value"))
    model = make(lora)
    adapters, frozen = split_frozen(init(model), PARTS)
    key = jax.random.key(1)
    zero = join_frozen(adapters, frozen)
    np.testing.assert_array_equal(run(model, zero, key), run(model, zero))
    variables = join_frozen(loud(adapters), frozen)
    evaluated, trained = run(model, variables), run(model, variables, key)
    assert np.abs(trained - evaluated).max() > 1e-2
    other = run(model, variables, jax.random.key(2))
    assert np.abs(trained - other).max() > 1e-2


def test_a_name_may_be_of_one_part():
    lora = Lora(2, 3.0, 0.0, ("decoder/query", "value"))
    assert lora.adapted("decoder/blocks_0/cross_attention/query") == ("query",)
    assert lora.adapted("encoder/block_0/attention/query") == ()
    assert lora.adapted("encoder/block_0/attention/key_value") == ("value",)
    assert lora.adapts("encoder")
    assert not Lora(2, 3.0, 0.0, ("decoder/query",)).adapts("encoder")
