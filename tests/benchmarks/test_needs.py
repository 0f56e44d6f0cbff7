"""Operations and bytes that a model needs, beside counts by hand and published ones."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.encoder_speed import image_flops
from benchmarks.matmul_count import matmul_flops
from benchmarks.needs import feature_flops, search_needs, training_flops
from capjax.models.captioner import Captioner, FeatureEncoder
from capjax.models.decoders.transformer import TransformerDecoder
from capjax.models.encoders.patch import PatchEncoder

VOCABULARY, WIDTH, LAYERS, HEADS = 11, 8, 2, 2
POSITIONS, FEATURES = 6, 5


def make_decoder(tied):
    return TransformerDecoder(VOCABULARY, 9, WIDTH, LAYERS, HEADS, tie_embeddings=tied)


def word_flops(length, positions):
    """A word's operations in a caption of `length`, attention to all its words included."""
    # Query, key, value and output; query and output of the cross-attention; the feed-forward.
    kernels = 4 * WIDTH**2 + 2 * WIDTH**2 + 2 * WIDTH * 4 * WIDTH
    attention = 2 * WIDTH * (length + positions)
    return 2 * (LAYERS * (kernels + attention) + WIDTH * VOCABULARY)


def test_captions_are_counted_without_padding():
    model = Captioner(FeatureEncoder((2, 3)), make_decoder(False))
    once, each = feature_flops(model, (POSITIONS, FEATURES), [3, 7, 3])
    assert once == 2 * LAYERS * POSITIONS * FEATURES * 2 * WIDTH
    assert each == sum(length * word_flops(length, POSITIONS) for length in (3, 7, 3))


def test_an_input_that_needs_no_gradient_has_one_backward_product():
    x, kernel, after = (jnp.ones(shape) for shape in ((3, 4), (4, 5), (5, 6)))

    def loss(kernel, after, x):
        return (x @ kernel @ after).sum()

    counted = matmul_flops(jax.grad(loss, (0, 1)), kernel, after, x)
    assert counted == training_flops(2 * 3 * 4 * 5, 2 * 3 * 5 * 6)


@pytest.mark.parametrize("tied", [True, False])
def test_a_search_needs_first_words_once_and_weights_at_each_step(tied):
    model = Captioner(PatchEncoder(2, WIDTH, 1, 2), make_decoder(tied))
    images = jax.ShapeDtypeStruct((3, 4, 4, 3), jnp.uint8)
    variables = jax.eval_shape(
        lambda key: model.init_variables(key, images.shape[1:]), jax.random.key(0)
    )
    needs = search_needs(model, variables, images, beams=4, words=5)
    keys = 2 * LAYERS * 4 * WIDTH * 2 * WIDTH
    words = 1 + 4 * (5 - 1)
    assert needs["decoding"]["flops"] == 3 * (keys + words * word_flops(5, 4))
    # Kernels, without those of the image's keys and values, and the output.
    kernels = LAYERS * (6 * WIDTH**2 + 8 * WIDTH**2) + WIDTH * VOCABULARY
    kept = 3 * LAYERS * 4 * 2 * WIDTH
    assert needs["decoding"]["bytes"] == 5 * 4 * (kernels + kept)
    both = needs["encoder"]["flops"] + needs["decoding"]["flops"]
    assert needs["generate"] == {"flops": both, "bytes": needs["decoding"]["bytes"]}


def test_of_branches_the_largest_counts():
    x = jnp.ones((3, 3))

    def choose(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x, x)

    assert matmul_flops(choose, x) == 2 * 2 * 27


# Multiply-adds in the papers' tables: Sandler et al. 2018, without its last layer of 1280 x 1000.
def test_an_encoder_needs_what_its_paper_says():
    assert image_flops("mobilenet_v2", 224) / 2 == pytest.approx(300e6 - 1.28e6, rel=0.01)
