"""The masked loss against optax, and what must not count."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from capjax.models.layers import NEVER
from capjax.train.loss import chunked_losses, token_losses

B, C, T, V = 3, 2, 5, 11
BANNED = (0, 1, 3)
# Compiling takes longer than all else here.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def real(lengths):
    return jnp.arange(T) < jnp.asarray(lengths)[..., None]


def case(seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(B, C, T, V)).astype(np.float32) * 3
    logits[..., list(BANNED)] = NEVER
    targets = rng.choice([2, *range(4, V)], (B, C, T)).astype(np.int32)
    lengths = np.array([[5, 0], [1, 3], [4, 2]], np.int32)
    return jnp.asarray(logits), jnp.asarray(targets), real(lengths)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_sums_equal_optax_over_allowed_tokens(smoothing):
    logits, targets, lengths = case()
    sums = token_losses(logits, targets, lengths, banned=BANNED, label_smoothing=smoothing).sums()
    allowed = [2, *range(4, V)]
    mask = np.asarray(lengths)
    position = {token: index for index, token in enumerate(allowed)}
    onehot = jax.nn.one_hot(np.vectorize(position.get)(targets), len(allowed))
    each = optax.softmax_cross_entropy(
        logits[..., np.array(allowed)], optax.smooth_labels(onehot, smoothing)
    )
    np.testing.assert_allclose(sums["loss"], (each * mask).sum(), rtol=1e-5)
    assert float(sums["tokens"]) == mask.sum() == 15
    right = (np.argmax(logits, -1) == targets) & mask
    assert float(sums["correct"]) == right.sum()


def test_chunks_change_no_loss_and_no_gradient():
    """Of optax's cross-entropy, too; 4 tokens at once do not divide the 30."""
    _, targets, real = case()
    rng = np.random.default_rng(1)
    shapes = (8, V), (B, C, T, 8), (B, C, T)
    kernel, states, upstream = (jnp.asarray(rng.normal(size=one), jnp.float32) for one in shapes)
    rules = {"banned": (3,), "label_smoothing": 0.1}

    def whole(kernel, states):
        return token_losses(states @ kernel, targets, real, **rules)

    def chunked(kernel, states):
        return chunked_losses(lambda x, _: x @ kernel, states, targets, real, chunk=4, **rules)

    def peer(kernel, states):
        each = optax.softmax_cross_entropy_with_integer_labels(states @ kernel, targets)
        return jnp.where(real, each, 0.0)

    def pulled(of):
        value, pull = jax.vjp(of, kernel, states)
        return value, pull(upstream)

    @jax.jit(compiler_options=QUICK)
    def both():
        found = (
            chunked(kernel, states),
            *map(pulled, (lambda *x: chunked(*x).loss, lambda *x: chunked(*x).nll)),
        )
        return found, (whole(kernel, states), pulled(lambda *x: whole(*x).loss), pulled(peer))

    found, wanted = both()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, wanted)


def test_smoothing_stays_finite_and_the_nll_is_not_smoothed():
    logits, targets, lengths = case()
    plain = token_losses(logits, targets, lengths, banned=BANNED).sums()
    smooth = token_losses(logits, targets, lengths, banned=BANNED, label_smoothing=0.1).sums()
    assert float(smooth["loss"]) < 1e3
    np.testing.assert_allclose(smooth["nll"], plain["nll"])


def test_a_banned_target_has_no_weight_and_no_gradient():
    logits, targets, lengths = case()
    unknown = targets.at[0, 0, 1].set(3)
    sums = token_losses(logits, unknown, lengths, banned=BANNED, label_smoothing=0.1).sums()
    assert float(sums["tokens"]) == 14
    gradient = jax.grad(lambda x: token_losses(x, unknown, lengths, banned=BANNED).sums()["loss"])(
        logits
    )
    assert np.all(np.isfinite(gradient))
    assert np.all(gradient[0, 0, 1] == 0)
    assert np.any(gradient[0, 0, 0] != 0)


def test_padding_counts_by_length_not_by_id():
    """With one id for bos, eos and pad, the one end token counts and the padding does not."""
    logits, _, _ = case()
    end = 7
    targets = jnp.full((B, C, T), end, jnp.int32).at[:, :, :2].set(4)
    lengths = real(jnp.full((B, C), 3))
    sums = token_losses(logits, targets, lengths).sums()
    assert float(sums["tokens"]) == B * C * 3
    elsewhere = targets.at[:, :, 3:].set(9)
    again = token_losses(logits, elsewhere, lengths).sums()
    np.testing.assert_allclose(again["loss"], sums["loss"])


def test_no_caption_at_all_is_no_nan():
    logits, targets, _ = case()
    sums = token_losses(logits, targets, real(jnp.zeros((B, C))), banned=BANNED).sums()
    assert all(float(value) == 0 for value in sums.values())
