"""Stacked blocks compute what the blocks do, and their parameters are the same ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from capjax.models import stacks
from capjax.models.captioner import Captioner, FeatureEncoder, join_frozen, split_frozen
from capjax.models.decoders.blip import BlipDecoder
from capjax.models.decoders.git import GitDecoder
from capjax.models.decoders.gpt2 import GPT2Decoder
from capjax.models.decoders.transformer import TransformerDecoder
from capjax.models.encoders.vit import ViT
from capjax.models.layers import Dropout
from capjax.models.lora_fields import Lora
from capjax.models.stacks import stacked, stacks_of, unstacked
from capjax.train.finite import part_names, part_squares
from capjax.train.optimizer import adamw

VIT = ViT(4, 8, 2, 2, 16, (2, 2), layer_scale=True, gated=True)
WORDS = {"vocab_size": 11, "max_length": 6, "width": 8, "num_layers": 2, "num_heads": 2}
WHOLE = {"encoder": ["block_0to1"], "decoder": ["blocks_0to1"]}


@pytest.fixture(autouse=True)
def two_blocks_are_enough(monkeypatch):
    monkeypatch.setattr(stacks, "FEWEST", 2)


def shapes(model, shape=(8, 8, 3)):
    return jax.eval_shape(lambda: model.init_variables(jax.random.key(0), shape))


def draw(like):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 2, like)


def own(tree):
    """With dicts of its own, since `stacked` changes them."""
    return jax.tree.map(lambda leaf: leaf, tree)


@pytest.mark.parametrize(
    ("decoder", "projections", "attention"),
    [
        (GPT2Decoder, (), True),
        pytest.param(
            BlipDecoder,
            ("query", "value"),
            False,
            marks=pytest.mark.slow(reason="the loop of GPT-2 runs every day"),
        ),
    ],
)
def test_outputs_and_gradients_are_those_of_the_blocks(decoder, projections, attention):
    lora = Lora(2, 4.0, 0.0, projections) if projections else None
    model = Captioner(VIT, decoder(**WORDS, dropout=0.0, attention_dropout=0.0), lora=lora)
    params, frozen = split_frozen(draw(shapes(model)), ("encoder", "decoder") if lora else ())
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (2, 8, 8, 3), np.uint8)
    tokens = rng.integers(0, 10, (2, 3, 5)).astype(np.int32)

    def value(params, frozen):
        variables = join_frozen(params, frozen)
        found = model.apply(variables, images, tokens, train=True, attention=attention)
        extra = jnp.square(found.attention).sum() if attention else 0.0
        return jnp.square(found.logits).mean() + extra, found.attention

    gradient = jax.jit(jax.value_and_grad(value, has_aux=True))
    (expected, maps), slope = gradient(params, frozen)
    assert stacks_of(model, params, frozen) == WHOLE
    (found, same), stack = gradient(*stacked(own((params, frozen)), WHOLE))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    if attention:
        np.testing.assert_allclose(same, maps, atol=1e-6)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(slope))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * largest),
        unstacked(stack),
        slope,
    )


class Dropped(nn.Module):
    """Two blocks that drop half of the ones that they are given, and say what is left."""

    @nn.compact
    def __call__(self, x):
        return stacks.apply_blocks(self.drop, Dropout(0.5, name="blocks_0to1"), x)[1]

    @staticmethod
    def drop(block, x):
        x = block(x, train=True)
        return x, x


def test_blocks_of_a_stack_drop_different_numbers():
    first, second = Dropped().apply({}, jnp.ones(1000), rngs={"dropout": jax.random.key(0)})
    left = [int((x > 0).sum()) for x in (first, second)]
    assert 400 < left[0] < 600
    assert 150 < left[1] < 350


@pytest.mark.parametrize(
    ("decoder", "freeze", "expected"),
    [
        (GPT2Decoder, (), {"encoder": ["block_0to3"], "decoder": ["blocks_0to3"]}),
        # Its blocks compute the image for the next one.
        (GitDecoder, (), {"encoder": ["block_0to3"]}),
        (
            GPT2Decoder,
            ("encoder/block_0", "decoder/blocks_2/norms_0"),
            {"encoder": ["block_1to3"], "decoder": ["blocks_0to1"]},
        ),
        # Two are trained and two are not.
        (
            GPT2Decoder,
            ("encoder/block_0", "encoder/block_1"),
            {"encoder": ["block_0to1", "block_2to3"], "decoder": ["blocks_0to3"]},
        ),
    ],
)
def test_equal_blocks_of_which_the_same_is_trained_are_stacked(decoder, freeze, expected):
    model = Captioner(VIT.clone(depth=4), decoder(**{**WORDS, "num_layers": 4}))
    params, frozen = split_frozen(shapes(model), freeze)
    assert stacks_of(model, params, frozen) == expected


def test_few_blocks_and_those_of_other_widths_are_not_stacked(monkeypatch):
    model = Captioner(FeatureEncoder((1, 1)), TransformerDecoder(**WORDS))
    params = shapes(model, (1, 8))["params"]
    assert stacks_of(model, params, {}) == {"decoder": ["blocks_0to1"]}
    params["decoder"]["blocks_1"]["norms_0"]["scale"] = np.zeros(9)
    assert stacks_of(model, params, {}) == {}
    monkeypatch.setattr(stacks, "FEWEST", 3)
    assert stacks_of(model, shapes(model, (1, 8))["params"], {}) == {}


def blocks(*names):
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 4), "bias": (4,)}
    return {
        name: {leaf: rng.normal(size=shape).astype(np.float32) for leaf, shape in shapes.items()}
        for name in names
    }


def tree():
    return {
        "encoder": blocks("block_0", "block_1", "norm"),
        "decoder": blocks("blocks_0", "output"),
    }


STACKS = {"encoder": ["block_0to1"]}


def test_unstacking_gives_back_each_array():
    state = optax.adamw(1e-3).init(tree()), {"params": tree(), "batch_stats": {"encoder": {}}}
    found = stacked(own(state), STACKS)
    assert found[1]["params"]["encoder"].keys() == {"block_0to1", "norm"}
    assert found[0][0].mu["encoder"]["block_0to1"]["kernel"].shape == (2, 3, 4)
    jax.tree.map(np.testing.assert_array_equal, unstacked(found), state)
    # On the host it copies nothing.
    host = jax.tree.map(np.asarray, found[1])
    leaf = unstacked(host)["params"]["encoder"]["block_1"]["bias"]
    assert np.shares_memory(leaf, host["params"]["encoder"]["block_0to1"]["bias"])


def test_what_is_there_twice_is_stacked_once():
    params = tree()
    first, second = stacked((params, {"began": params}), STACKS)
    assert (
        first["encoder"]["block_0to1"]["bias"] is second["began"]["encoder"]["block_0to1"]["bias"]
    )


def test_norms_of_gradients_are_each_blocks():
    plain = tree()
    stack = stacked(own(plain), STACKS)
    assert part_names(stack) == part_names(plain)
    assert "encoder/block_1" in part_names(plain)
    np.testing.assert_allclose(part_squares(stack), part_squares(plain), rtol=1e-6)


def test_biases_of_a_stack_do_not_decay():
    rule = adamw(optax.constant_schedule(1.0), b1=0.9, b2=0.99, weight_decay=0.5)

    def after(params):
        zeros = jax.tree.map(np.zeros_like, params)
        return optax.apply_updates(params, rule.update(zeros, rule.init(params), params)[0])

    plain = tree()
    found = unstacked(after(stacked(own(plain), STACKS)))
    jax.tree.map(np.testing.assert_array_equal, found, after(plain))
    np.testing.assert_array_equal(
        found["encoder"]["block_0"]["bias"], plain["encoder"]["block_0"]["bias"]
    )
