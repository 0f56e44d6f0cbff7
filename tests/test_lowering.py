"""The training step and the beam search lower for accelerators that are not here."""

import jax
import jax.numpy as jnp
import pytest

from capjax.data.tokenizer import train_word_tokenizer
from capjax.evaluate.captioning import BeamSearch, make_decode
from capjax.models.captioner import Captioner
from capjax.models.decoders.transformer import TransformerDecoder
from capjax.models.encoders.conv import ConvEncoder
from capjax.models.encoders.patch import PatchEncoder
from capjax.parallel import devices
from capjax.train.objectives.cross_entropy import CrossEntropy
from capjax.train.optimizer import adamw, clipped, learning_rate_schedule
from capjax.train.state import init_state
from capjax.train.step import make_train_step
from tests.helpers.effort import sweep

TOKENIZER = train_word_tokenizer(["a cat on a red mat", "two dogs in the park"])
ENCODERS = {
    "patch": PatchEncoder(8, 16, 1, 2, class_token=True, dtype=jnp.bfloat16),
    "conv": ConvEncoder((8, 16), 1, groups=4, dtype=jnp.bfloat16),
}


def make_model(encoder):
    decoder = TransformerDecoder(
        TOKENIZER.vocab_size, 8, 16, 2, 2, dropout=0.1, banned=(0, 1, 3), dtype=jnp.bfloat16
    )
    return Captioner(ENCODERS[encoder], decoder)


def one_device(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), tree)


def lower(function, platform, *arguments):
    """Over an axis of one device, as `pmap` maps it."""
    mapped = jax.jit(jax.vmap(function, axis_name=devices.AXIS))
    text = mapped.trace(*map(one_device, arguments)).lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo" in text
    return text


STEPS = [
    ("conv", "tpu", True),
    ("conv", "cuda", False),
    ("patch", "tpu", False),
    ("patch", "cuda", True),
]


@pytest.mark.parametrize(("encoder", "platform", "packed"), sweep(STEPS, STEPS[:1]))
def test_training_step(encoder, platform, packed):
    model = make_model(encoder)
    rule = adamw(learning_rate_schedule(1e-3, 1, 10), b1=0.9, b2=0.98, weight_decay=0.1)
    optimizer = clipped(rule, clip_norm=1.0)
    state = jax.eval_shape(
        lambda: init_state(
            model.init_variables(jax.random.key(0), (16, 16, 3))["params"], optimizer, ema=True
        )
    )
    batch = {
        "image": jax.ShapeDtypeStruct((4, 16, 16, 3), jnp.uint8),
        "tokens": jax.ShapeDtypeStruct((4, 3, 9), jnp.int32),
        "lengths": jax.ShapeDtypeStruct((4, 3), jnp.int32),
    }
    if packed:
        batch["packing"] = jax.ShapeDtypeStruct((4, 20), jnp.int32)
    step = make_train_step(
        model, optimizer, seed=0, objective=CrossEntropy(), accumulate=2, ema_decay=0.9
    )
    assert lower(step, platform, state, batch)


SEARCHES = [("conv", "tpu"), ("patch", "cuda")]


@pytest.mark.parametrize(("encoder", "platform"), sweep(SEARCHES, SEARCHES[:1]))
def test_beam_search_with_attention(encoder, platform):
    model = make_model(encoder)
    variables = jax.eval_shape(lambda: model.init_variables(jax.random.key(0), (16, 16, 3)))
    method = BeamSearch(num_beams=3, length_penalty=1.0, early_stopping=True, max_length=9)
    decode = make_decode(model, TOKENIZER, method, attention=True)

    def caption(variables, images, index):
        return decode(variables, model.apply(variables, images, method="encode"), index)

    images = jax.ShapeDtypeStruct((4, 16, 16, 3), jnp.uint8)
    text = lower(caption, platform, variables, images, jax.ShapeDtypeStruct((4,), jnp.int32))
    assert "while" in text
