"""Kernels transposed before a search: the same numbers, where there are few rows."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from capjax.evaluate.captioning import BeamSearch, make_decode
from capjax.models import few_rows
from capjax.models.captioner import Captioner, FeatureEncoder
from capjax.models.contract import Memory
from capjax.models.decoders.bahdanau import BahdanauDecoder
from capjax.models.decoders.blip import BlipDecoder
from capjax.models.decoders.git import GitDecoder
from capjax.models.decoders.gpt2 import GPT2Decoder
from capjax.models.decoders.transformer import TransformerDecoder
from capjax.models.lora_fields import Lora
from capjax.parallel import platform

VOCABULARY, END = 19, 18
SIZES = {"max_length": 9, "width": 16, "num_layers": 2, "num_heads": 2}
DECODERS = {
    "transformer": TransformerDecoder(VOCABULARY, **SIZES),
    "gpt2": GPT2Decoder(VOCABULARY, **SIZES),
    "blip": BlipDecoder(VOCABULARY, **SIZES),
    "git": GitDecoder(VOCABULARY, **SIZES),
    "gru": BahdanauDecoder(VOCABULARY, 16, 16, attention_dim=8, cell="gru"),
    "lstm": BahdanauDecoder(VOCABULARY, 16, 16, attention_dim=8, cell="lstm", output="deep"),
}


def captioner(decoder, lora=None):
    return Captioner(FeatureEncoder((2, 3)), decoder, lora=lora)


def random_variables(model):
    like = jax.eval_shape(lambda: model.init_variables(jax.random.key(0), (6, 16)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype("f"), like)


def memory(images=2):
    features = np.random.default_rng(1).normal(size=(images, 6, 16)).astype("f")
    return Memory(jnp.asarray(features), (2, 3))


def without_kernels(variables):
    """Kernels of dense layers become NaN, but for those that are transposed beside them."""
    flat = traverse_util.flatten_dict(variables["params"], sep="/")
    lost = {
        name: leaf * np.nan if name.endswith("kernel") and leaf.ndim == 2 else leaf
        for name, leaf in flat.items()
    }
    return {**variables, "params": traverse_util.unflatten_dict(lost, sep="/")}


def step(model, variables, carry, tokens):
    return model.apply(variables, carry, tokens, method="step")[1]


def stepped(model):
    """Random variables, a carry and tokens, and the logits of a step as kernels give them.

    Those by transposed kernels are the same, without any other kernel.
    """
    variables = random_variables(model)
    carry = model.apply(variables, memory(), 3, 5, method="init_carry")
    tokens = jnp.arange(6).reshape(2, 3)
    ready = without_kernels(few_rows.prepared(variables))
    plain = step(model, variables, carry, tokens)
    found = step(model, ready, carry, tokens)
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-5)
    return variables, carry, tokens, plain


@pytest.mark.parametrize("name", DECODERS)
def test_a_step_needs_no_other_kernel_and_has_the_same_logits(name):
    stepped(captioner(DECODERS[name]))


def test_adapters_are_added():
    decoder = TransformerDecoder(VOCABULARY, **SIZES)
    adapters = Lora(2, 3.0, 0.0, ("query", "value", "up", "output"))
    *given, found = stepped(captioner(decoder, adapters))
    plain = step(captioner(decoder), *given)
    assert np.abs(found - plain).max() > 0.1


class Doubled(nn.Dense):
    def __call__(self, x):
        return 2 * super().__call__(x)


@pytest.mark.parametrize(
    ("layer", "rows", "taken"),
    [
        (nn.Dense(4), 3, True),
        (nn.Dense(4, use_bias=False), 48, True),
        (nn.Dense(4), 49, False),
        (nn.Dense(4), 1, False),
        (nn.Dense(4, dtype=jnp.bfloat16), 3, False),
        (nn.Dense(4, precision="highest"), 3, False),
        (nn.Dense(4, dot_general=lambda *a, **k: 2 * jax.lax.dot_general(*a, **k)), 3, False),
        (Doubled(4), 3, False),
    ],
)
def test_a_layer_of_another_kind_or_with_many_rows_multiplies_as_it_does(layer, rows, taken):
    x = np.random.default_rng(0).normal(size=(rows, 5)).astype("f")
    variables = layer.init(jax.random.key(0), x)
    ready = few_rows.prepared(variables)
    with few_rows.few_rows():
        np.testing.assert_allclose(layer.apply(ready, x), layer.apply(variables, x), rtol=1e-5)
        used = np.isfinite(np.asarray(layer.apply(without_kernels(ready), x), "f")).all()
    assert used == taken


def test_nothing_is_transposed_for_many_rows_elsewhere_or_twice():
    variables = {"params": {"encoder": {"kernel": jnp.ones((2, 3))}, "kernel": jnp.ones((2, 3))}}
    ready = few_rows.prepared(variables, 8)
    assert jax.tree.map(jnp.shape, ready["transposed"]) == {"kernel": (3, 2)}
    assert few_rows.prepared(ready, 8) is ready
    assert few_rows.prepared(variables, 49) is variables
    with platform.traced_for("gpu"):
        assert few_rows.prepared(variables, 8) is variables


@pytest.mark.parametrize("name", ["gpt2", "lstm"])
def test_a_search_takes_them_and_finds_the_same(name, monkeypatch):
    model = captioner(DECODERS[name])
    variables = random_variables(model)
    ids = types.SimpleNamespace(bos_id=0, eos_id=END, pad_id=END)
    method = BeamSearch(4, length_penalty=1.0, early_stopping=False, max_length=8)

    def found(variables):
        decode = jax.jit(make_decode(model, ids, method, attention=False))
        program = decode.trace(variables, memory(), np.arange(2))
        result = program.lower().compile()(variables, memory(), np.arange(2))
        return str(program.jaxpr).count("optimization_barrier"), result

    count, quick = found(variables)
    ready, given = found(few_rows.prepared(variables))
    monkeypatch.setattr(few_rows, "few", lambda *_: False)
    none, plain = found(variables)
    assert none == 0
    assert count == ready
    assert count > 4
    for result in (quick, given):
        np.testing.assert_array_equal(result.tokens, plain.tokens)
        np.testing.assert_allclose(result.scores, plain.scores, rtol=1e-5)
