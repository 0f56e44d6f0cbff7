"""The config of TensorFlow's tutorial gives the decoder of its notebook, made of Keras's layers."""

import jax
import numpy as np
import pytest

from capjax.config import build
from capjax.data.tokenizer import SPECIAL_TOKENS
from capjax.models.contract import Memory
from configs import flickr8k_tf_tutorial

keras = pytest.importorskip("keras", reason="the reference implementation is Keras's")
# Keras 3 on NumPy 2: its own conversion of TensorFlow's variables.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

# The notebook's numbers, apart from the config.
V, LONGEST, UNITS, HEADS, LAYERS, RATE = 5000, 50, 256, 2, 2, 0.5
B, T, P, F = 2, 7, 49, 576
BANNED = (0, 1, 3)
TABLES = ("tokens", "positions")


def reference():
    """The decoder as a Keras model, and its layers with weights in the order of their use."""
    inner = keras.layers
    tokens, places = (keras.Input((T,), dtype="int32") for _ in range(2))
    memory = keras.Input((P, F))
    used = []

    def use(layer, *inputs, **options):
        used.append(layer)
        return layer(*inputs, **options)

    x = use(inner.Embedding(V, UNITS), tokens) + use(inner.Embedding(LONGEST, UNITS), places)
    for _ in range(LAYERS):
        for source in ("words", "image"):
            attention = inner.MultiHeadAttention(HEADS, key_dim=UNITS, dropout=RATE)
            given = x if source == "words" else memory
            y = use(attention, x, given, use_causal_mask=source == "words")
            x = use(inner.LayerNormalization(), x + y)
        y = use(inner.Dense(2 * UNITS, activation="relu"), x)
        y = inner.Dropout(RATE)(use(inner.Dense(UNITS), y))
        x = use(inner.LayerNormalization(), x + y)
    return keras.Model([tokens, places, memory], use(inner.Dense(V), x)), used


def randomise(layer, rng):
    """Sets weights that keep activations of natural size; biases and norms are not trivial."""
    found = []
    for weight in layer.get_weights():
        # Attention has kernels of width, heads and width of a head.
        inputs = np.prod(weight.shape) / UNITS if weight.ndim > 1 else 4
        near = 1.0 if isinstance(layer, keras.layers.LayerNormalization) and not found else 0.0
        found.append(rng.normal(near, inputs**-0.5, weight.shape).astype(np.float32))
    layer.set_weights(found)


def dense(weights):
    kernel, bias = weights
    return {"kernel": kernel, "bias": bias}


def attention(layer):
    """Keras has a kernel of heads for each of query, key, value and output."""
    q, bq, k, bk, v, bv, o, bo = layer.get_weights()
    flat = [kernel.reshape(kernel.shape[0], -1) for kernel in (q, k, v)]
    return {
        "query": {"kernel": flat[0], "bias": bq.ravel()},
        "key_value": {
            "kernel": np.concatenate(flat[1:], axis=1),
            "bias": np.concatenate([bk.ravel(), bv.ravel()]),
        },
        "out": {"kernel": o.reshape(-1, UNITS), "bias": bo},
    }


def params_of(layers):
    """The decoder's parameters."""
    layers = iter(layers)
    params = {name: {"embedding": next(layers).get_weights()[0]} for name in TABLES}
    for block in range(LAYERS):
        found = params[f"blocks_{block}"] = {}
        for number, name in enumerate(("self_attention", "cross_attention")):
            found[name] = attention(next(layers))
            scale, bias = next(layers).get_weights()
            found[f"norms_{number}"] = {"scale": scale, "bias": bias}
        found["feed_forward"] = {name: dense(next(layers).get_weights()) for name in ("up", "down")}
        scale, bias = next(layers).get_weights()
        found["norms_2"] = {"scale": scale, "bias": bias}
    kernel, params["bias"] = next(layers).get_weights()
    return params | {"output": {"kernel": kernel}}


def test_it_has_the_notebooks_parameters_and_logits():
    config = flickr8k_tf_tutorial.get_config()
    assert config.tokenizer.max_words + len(SPECIAL_TOKENS) == V
    model = build.captioner_of(config, V, banned=BANNED)
    params = build.shapes(config, model)["params"]["decoder"]
    theirs, layers = reference()
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == theirs.count_params() == 5_866_376

    rng = np.random.default_rng(0)
    for layer in layers:
        randomise(layer, rng)
    given = params_of(layers)
    assert jax.tree.map(np.shape, given) == jax.tree.map(np.shape, dict(params))
    tokens = rng.integers(4, V, (B, T)).astype(np.int32)
    features = rng.normal(size=(B, P, F)).astype(np.float32)
    places = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
    expected = theirs([tokens, places, features], training=False).numpy()

    @jax.jit
    def logits(params, features, tokens):
        memory = Memory(features, (7, 7))
        return model.decoder.apply({"params": params}, memory, tokens[:, None], train=False).logits

    found = np.asarray(logits(given, features, tokens))[:, 0]
    assert np.abs(expected).std() > 0.1
    np.testing.assert_allclose(found[..., 4:], expected[..., 4:], rtol=1e-4, atol=1e-4)
    assert np.all(found[..., list(BANNED)] < -1e8)
