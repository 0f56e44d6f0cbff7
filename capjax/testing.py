"""Checks for a user's own decoder; each raises AssertionError.

    from capjax.testing import check_decoder

    def test_my_decoder():
        check_decoder(MyDecoder(vocab_size=8, width=16, banned=(0, 1, 3)))

Legend: B images, C captions an image, T tokens, S packed tokens, P memory positions, D memory
width, N attention maps, V vocabulary.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from capjax.data.batches import pack
from capjax.decode.beam import beam_search
from capjax.models.captioner import Captioner, FeatureEncoder
from capjax.models.contract import Decoder, Memory

_B, _C, _T, _P, _D = 2, 3, 5, 6, 8
_GRID = (2, 3)
_PAD, _BOS, _EOS = 0, 1, 2


def check_decoder(decoder: Decoder) -> None:
    """Runs all checks of this module.

    Args:
      decoder: must be small, with a vocabulary of 6 to 12 tokens (0 pad, 1 bos, 2 eos), room for 5
        tokens or more, and no dropout.
    """
    check_stepping(decoder)
    check_causality(decoder)
    check_packing(decoder)
    check_attention(decoder)
    check_beam_search(decoder)
    check_lowering(decoder)


def check_stepping(decoder: Decoder) -> None:
    """First law: stepping gives the logits of teacher forcing, and so do its states, if any."""
    model, variables, memory, tokens = _case(decoder)
    output = model.apply(variables, memory, tokens, method="decode")
    whole = output.logits
    if output.states is not None:
        found = model.apply(variables, output.states[:, :1, 1:], train=False, method="logits_of")
        _close(found, whole[:, :1, 1:], "logits_of(states) gives other logits than teacher forcing")
    carry = model.apply(variables, memory, _C, _T, method="init_carry")
    for leaf in jax.tree.leaves(carry.per_image):
        assert leaf.shape[0] == _B, f"a leaf of Carry.per_image has the shape {leaf.shape}"
    for leaf in jax.tree.leaves(carry.per_beam):
        assert leaf.shape[:2] == (_B, _C), f"a leaf of Carry.per_beam has the shape {leaf.shape}"
    step = jax.jit(functools.partial(model.apply, method="step"))
    for position in range(_T):
        assert int(carry.position) == position, "Carry.position counts the tokens fed"
        carry, logits, _ = step(variables, carry, tokens[..., position])
        message = f"stepping gives other logits than teacher forcing at token {position}"
        _close(logits, whole[:, :, position], message)


def check_causality(decoder: Decoder) -> None:
    """Second law: a future token, another caption or another image never changes a logit."""
    model, variables, memory, tokens = _case(decoder)
    decode = jax.jit(functools.partial(model.apply, method="decode"))
    before = decode(variables, memory, tokens).logits
    for position in range(1, _T):
        changed = tokens.at[0, 0, position].set((tokens[0, 0, position] + 1) % decoder.vocab_size)
        after = decode(variables, memory, changed).logits
        message = f"token {position} changes an earlier logit"
        _close(after[0, 0, :position], before[0, 0, :position], message)
        _close(after[0, 1:], before[0, 1:], "a caption changes the logits of another")
        _close(after[1], before[1], "an image's caption changes the logits of another image")
        assert not np.allclose(after[0, 0, position:], before[0, 0, position:], atol=1e-6), (
            f"token {position} changes no logit"
        )


def check_packing(decoder: Decoder) -> None:
    """Packed logits equal those at the same places unpacked."""
    model, variables, memory, tokens = _case(decoder)
    lengths = np.array([[_T, 2, 0], [1, 3, 4]], np.int32)
    packing = pack(lengths, _T, 2 * _T)

    def run(packing: jax.Array | None) -> jax.Array:
        options = {"packing": packing, "train": False}
        return model.apply(variables, memory.values, tokens, **options).logits

    packed, whole = run(jnp.asarray(packing)), run(None)
    for image in range(_B):
        places = packing[image][packing[image] >= 0]
        expected = whole[image].reshape(_C * _T, -1)[places]
        _close(packed[image, 0, : len(places)], expected, "packed logits differ from unpacked ones")


def check_attention(decoder: Decoder) -> None:
    """Attention maps have the contract's shape, and sum to 1 over the memory, or to its share."""
    model, variables, memory, tokens = _case(decoder)
    maps = model.apply(variables, memory, tokens, attention=True, method="decode").attention
    assert maps is not None, "attention=True gives no maps"
    shape = (_B, _C, _T, decoder.attention_maps, _P)
    assert maps.shape == shape, f"attention has the shape {maps.shape}, not [B, C, T, N, P] {shape}"
    assert decoder.attention_maps % decoder.attention_layers == 0, (
        f"{decoder.attention_maps} attention maps do not divide over the layers"
    )
    sums = maps.sum(-1)
    if decoder.attends_to_words:
        assert jnp.all((sums > 0) & (sums < 1 + 1e-5)), "attention maps do not sum to 0 to 1"
    else:
        _close(sums, jnp.ones(maps.shape[:-1]), "attention maps do not sum to 1")


def check_beam_search(decoder: Decoder) -> None:
    """A beam search that keeps all beams finds the likeliest caption, as brute force does."""
    model, variables, memory, _ = _case(decoder)
    allowed = [t for t in range(decoder.vocab_size) if t not in decoder.banned]
    words = [t for t in allowed if t != _EOS]
    steps = 3
    ended = [(*w, _EOS) for n in range(steps) for w in itertools.product(words, repeat=n)]
    captions = [*ended, *itertools.product(words, repeat=steps)]
    beams = len(words) ** (steps - 1)
    tokens = np.full((len(captions), steps + 1), _PAD, np.int32)
    tokens[:, 0] = _BOS
    for row, caption in enumerate(captions):
        tokens[row, 1 : len(caption) + 1] = caption
    inputs = jnp.broadcast_to(tokens[None, :, :-1], (_B, len(captions), steps))
    logits = model.apply(variables, memory, inputs, method="decode").logits
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    targets = jnp.broadcast_to(tokens[None, :, 1:, None], (*inputs.shape, 1))
    picked = np.asarray(jnp.take_along_axis(log_probs, targets, axis=-1)[..., 0])
    real = np.arange(steps) < np.array([[len(caption)] for caption in captions])
    totals = np.where(real, picked, 0.0).sum(axis=-1)

    carry = model.apply(variables, memory, beams, steps, method="init_carry")
    found = beam_search(
        lambda carry, token: model.apply(variables, carry, token, method="step"),
        carry,
        num_beams=beams,
        bos_id=_BOS,
        eos_id=_EOS,
        pad_id=_PAD,
        max_length=steps + 1,
        length_penalty=0.0,
        early_stopping="never",
    )
    _close(found.scores[:, 0], totals.max(axis=1), "beam search misses the likeliest caption")


def check_lowering(decoder: Decoder) -> None:
    """The gradient of teacher forcing and a step compile for CUDA and TPU in single precision."""
    model, variables, memory, tokens = _case(decoder)
    rngs = {"dropout": jax.random.key(0), "sample": jax.random.key(1)}

    def loss(variables: Any, values: jax.Array, tokens: jax.Array) -> jax.Array:
        return model.apply(variables, values, tokens, train=True, rngs=rngs).logits.sum()

    def step(variables: Any, memory: Memory, token: jax.Array) -> jax.Array:
        carry = model.apply(variables, memory, _C, _T, method="init_carry")
        return model.apply(variables, carry, token, method="step")[1]

    for platform in ("cuda", "tpu"):
        for function, arguments in (
            (jax.grad(loss), (variables, memory.values, tokens)),
            (step, (variables, memory, tokens[..., 0])),
        ):
            text = _lowered(function, platform, *arguments)
            assert "f64" not in text, f"a program for {platform} computes in double precision"
            assert "callback" not in text, f"a program for {platform} calls back to Python"


def _lowered(function: Callable, platform: str, *arguments: Any) -> str:
    lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,))
    return lowered.as_text()


@functools.cache
def _case(decoder: Decoder) -> tuple[Captioner, Any, Memory, jax.Array]:
    """A model of the decoder, random parameters without zeros, a memory and tokens [B, C, T]."""
    model = Captioner(FeatureEncoder(_GRID), decoder)
    rng = np.random.default_rng(0)
    fresh = model.init_variables(jax.random.key(0), (_P, _D))
    variables = jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape).astype(x.dtype), fresh)
    values = jnp.asarray(rng.normal(size=(_B, _P, _D)), jnp.float32)
    tokens = rng.integers(0, decoder.vocab_size, (_B, _C, _T))
    return model, variables, Memory(values, _GRID), jnp.asarray(tokens, jnp.int32)


def _close(found: jax.Array, expected: jax.Array, message: str) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4, err_msg=message)
