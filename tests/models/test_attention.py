"""Attention by a fused kernel. The kernel needs a GPU; XLA's form of the same function is here."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.matmul_count import matmul_flops
from capjax.models import layers
from capjax.models.captioner import Captioner, FeatureEncoder
from capjax.models.decoders.git import GitDecoder
from capjax.models.decoders.transformer import TransformerDecoder
from capjax.models.encoders.patch import PatchEncoder
from capjax.models.encoders.vit import ViT
from capjax.models.lora_fields import Lora
from tests.helpers.effort import sweep


@pytest.fixture(name="calls", autouse=True)
def use_xla(monkeypatch):
    """Replaces cuDNN by XLA; lists the shapes of keys that it was given."""
    plain, calls = jax.nn.dot_product_attention, []

    def attend(query, key, value, *, implementation, **lengths):
        assert implementation == "cudnn"
        # What cuDNN's gradient refuses.
        assert query.shape[1] % 2 == key.shape[1] % 2 == 0
        calls.append(key.shape)
        return plain(query, key, value, implementation="xla", **lengths)

    monkeypatch.setattr(jax.nn, "dot_product_attention", attend)
    return calls


KIND = {"dtype": jnp.bfloat16}
DECODERS = {
    "transformer": TransformerDecoder(9, 4, 16, 1, 2, **KIND),
    "git": GitDecoder(9, 4, 16, 2, 2, **KIND),
}


def make_captioner(fused, **fields):
    encoder = PatchEncoder(2, 16, 1, 2, class_token=True, **KIND)
    return Captioner(encoder, TransformerDecoder(9, 4, 16, 1, 2, **KIND, **fields), fused=fused)


IMAGES = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8)
TOKENS = np.random.default_rng(1).integers(0, 9, (3, 2, 3), np.int32)


def run(model, variables, **options):
    apply = functools.partial(model.apply, train=True, rngs={"dropout": jax.random.key(0)})
    return jax.jit(functools.partial(apply, **options))(variables, IMAGES, TOKENS)


def test_fused_attention_is_attention(calls):
    model = make_captioner(True)
    variables = make_captioner(False).init_variables(jax.random.key(0), (4, 4, 3))
    fused = run(model, variables).logits
    # A block of the encoder, with 5 positions, and the captions' attention to the image.
    assert calls == [(3, 6, 2, 8), (3, 8, 2, 8)]
    explicit = run(make_captioner(False), variables).logits
    np.testing.assert_allclose(fused, explicit, rtol=0.05, atol=0.02)
    assert np.abs(np.asarray(explicit)).max() > 0.1


@pytest.mark.parametrize(
    ("name", "adapted"),
    sweep([("transformer", ()), ("transformer", ("key",)), ("git", ())], [("transformer", ())]),
)
def test_padding_once_and_what_is_recomputed_change_nothing(calls, name, adapted):
    encoder = ViT(2, 16, 1, 2, 32, (2, 2), **KIND)
    lora = Lora(2, 2.0, 0.0, adapted) if adapted else None
    model = Captioner(encoder, DECODERS[name], lora=lora)
    rng = np.random.default_rng(3)
    variables = jax.tree.map(
        lambda x: (rng.normal(size=x.shape) / max(x.shape[0], 4) ** 0.5).astype(x.dtype),
        jax.eval_shape(lambda: model.init_variables(jax.random.key(0), (4, 4, 3))),
    )

    def loss(variables, fused):
        logits = model.clone(fused=fused).apply(variables, IMAGES, TOKENS, train=False).logits
        return (jax.nn.log_softmax(logits)[..., 1] ** 2).mean()

    both = [jax.jit(jax.value_and_grad(loss), static_argnums=1)(variables, f) for f in (0, 1)]
    assert calls[0] == (3, 8, 2, 8)
    (explicit, wanted), (fused, found) = both
    assert float(fused) == pytest.approx(float(explicit), rel=0.02)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert ((one - other) ** 2).sum() <= 0.01 * (other**2).sum() + 1e-6


def test_a_gelu_on_gpus_is_exact_to_half_precision():
    x = jnp.arange(2**16, dtype=jnp.uint16).view(jnp.bfloat16)
    x = x[jnp.isfinite(x.astype(jnp.float32))]
    wanted = jax.nn.gelu(x.astype(jnp.float32), approximate=False)
    with layers.fused_attention(True):
        found = layers.recomputed(layers.activation("gelu_exact"))(x)
    np.testing.assert_allclose(found.astype(jnp.float32), wanted, rtol=2**-7, atol=2e-6)


@pytest.mark.parametrize(("queries", "keys"), sweep([(4, 6), (3, 5)], [(3, 5)]))
@pytest.mark.parametrize("count", [None, 2])
def test_any_number_of_positions(queries, keys, count):
    rng = np.random.default_rng(2)
    query, key, value = (
        jnp.asarray(rng.normal(size=(2, 3, size, 8)), jnp.float32) for size in (queries, keys, keys)
    )

    def explicit(query, key, value):
        return layers.attention_weights(query, key, count) @ value

    for function in (lambda f: f, lambda f: jax.grad(lambda *x: (f(*x) ** 2).sum(), (0, 1, 2))):
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
            function(functools.partial(layers._cudnn_attention, count=count))(query, key, value),
            function(explicit)(query, key, value),
        )


def test_maps_and_dropped_weights_are_explicit(calls):
    model = make_captioner(True, attention_dropout=0.5)
    variables = model.clone(fused=False).init_variables(jax.random.key(0), (4, 4, 3))
    assert run(model, variables, attention=True).attention is not None
    run(model, variables)
    assert calls == [(3, 6, 2, 8)] * 2  # The encoder's alone.
    run(model.clone(fused=False), variables)
    assert len(calls) == 2


def test_float32_is_explicit(calls):
    model = Captioner(FeatureEncoder((2, 2)), TransformerDecoder(9, 4, 8, 1, 2), fused=True)
    model.init_variables(jax.random.key(0), (4, 8))
    assert not calls


def test_arithmetic_is_counted():
    x, kernel = jnp.ones((2, 5, 5, 3)), jnp.ones((3, 3, 3, 7))

    def convolve(x, kernel):
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.lax.scan(lambda carry, _: (carry @ jnp.ones((7, 7)), None), y, length=4)[0]

    expected = 2 * 2 * 9 * 7 * 27 + 4 * 2 * 2 * 9 * 7 * 7
    assert matmul_flops(jax.jit(convolve), x, kernel) == expected
