"""Sampling: the distribution it draws from, and what it shares with beam search."""

import functools

import jax
import numpy as np
import pytest
from scipy import stats

from capjax.decode.beam import beam_search
from capjax.decode.sampling import restrict, sample
from tests.helpers.effort import sweep

BOS, EOS, PAD = 1, 2, 0

# Nearly all of these tests' time is compilation, and halves like this.
fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def draw(decoder, images, width, *, seed=0, **options):
    """Samples from the toy decoder, jitted, as NumPy arrays."""
    options = {"eos_id": EOS, "pad_id": PAD, "max_length": 9, "temperature": 1.0, **options}
    options = {"bos_id": BOS, "chunk": 4, **options}
    attention = options.get("return_attention", False)

    def step(carry, token):
        return decoder.step(carry, token, attention=attention)

    run = fast_jit(lambda carry, key: sample(step, carry, key, **options))
    return jax.tree.map(np.asarray, run(decoder.carry(images, width), jax.random.key(seed)))


def softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


@pytest.mark.parametrize("temperature", sweep([0.5, 1.0, 2.0], [0.5]))
def test_frequencies_are_softmax_of_logits_over_temperature(toy, temperature):
    decoder, draws = toy(7, seed=1, scale=1.0), 20_000
    result = draw(decoder, [0, 1], draws, max_length=2, temperature=temperature)
    for image in (0, 1):
        expected = softmax(decoder.log_probs(image, [BOS]) / temperature)
        counts = np.bincount(result.tokens[image, :, 0], minlength=7)
        # Pearson's statistic has mean 6 and standard deviation 3.5 here.
        assert ((counts - draws * expected) ** 2 / (draws * expected)).sum() < 6 + 5 * 3.5


def test_the_second_token_is_drawn_given_the_first(toy):
    decoder, draws = toy(4, seed=2, scale=1.0), 20_000
    tokens = draw(decoder, [5], draws, max_length=3).tokens[0]
    after = tokens[tokens[:, 0] == 3, 1]
    expected = len(after) * softmax(decoder.log_probs(5, [BOS, 3]))
    counts = np.bincount(after, minlength=4)
    assert len(after) > 1000
    assert ((counts - expected) ** 2 / expected).sum() < 3 + 5 * 2.5


KEPT = [
    (1, None, None),
    (3, None, None),
    (99, None, None),
    (None, 0.01, None),
    (None, 0.7, None),
    (4, 0.6, None),
    (None, None, 0.3),
    (6, None, 0.5),
]


@pytest.mark.parametrize(("top_k", "top_p", "min_p"), sweep(KEPT, [KEPT[1], KEPT[5], KEPT[6]]))
def test_draws_keep_to_the_likeliest(toy, top_k, top_p, min_p):
    decoder, draws, temperature = toy(8, seed=3, scale=0.7), 8000, 1.5
    limits = {"top_k": top_k, "top_p": top_p, "min_p": min_p}
    result = draw(decoder, [4], draws, max_length=2, temperature=temperature, **limits)
    probs = softmax(decoder.log_probs(4, [BOS]) / temperature)
    order = np.argsort(-probs)
    kept = order[: top_k or 8]
    if top_p is not None:
        share = np.cumsum(probs[kept]) / probs[kept].sum()
        kept = kept[: 1 + np.searchsorted(share, top_p)]
    if min_p is not None:
        kept = kept[probs[kept] >= min_p * probs.max()]
        assert len(kept) > 1
    expected = np.zeros(8)
    expected[kept] = probs[kept] / probs[kept].sum()
    counts = np.bincount(result.tokens[0, :, 0], minlength=8)
    assert (counts[expected == 0] == 0).all()
    np.testing.assert_allclose(counts / draws, expected, atol=5 * 0.5 / np.sqrt(draws))
    # Whatever was left out, log_probs are the model's own.
    model = decoder.log_probs(4, [BOS])[result.tokens[0, :, 0]]
    np.testing.assert_allclose(result.log_probs[0], model, rtol=1e-5)


@pytest.mark.parametrize("typical_p", sweep([0.2, 0.6, 0.9], [0.6]))
def test_typical_draws_pass_a_chi_squared_test(toy, typical_p):
    """Were the seed drawn anew, right draws would fail once in a million times."""
    decoder, draws, temperature = toy(8, seed=3, scale=0.9), 8000, 1.5
    options = {"temperature": temperature, "typical_p": typical_p, "max_length": 2}
    tokens = draw(decoder, [4], draws, **options).tokens[0, :, 0]
    probs = softmax(decoder.log_probs(4, [BOS]) / temperature)
    order = np.argsort(np.abs(np.log(probs) - probs @ np.log(probs)))
    kept = order[: 1 + np.searchsorted(np.cumsum(probs[order]), typical_p)]
    assert typical_p != 0.6 or probs.argmax() not in kept  # which no other restriction does
    expected = draws * probs[kept] / probs[kept].sum()
    counts = np.bincount(tokens, minlength=8)
    assert counts.sum() == counts[kept].sum()
    statistic = ((counts[kept] - expected) ** 2 / expected).sum()
    assert statistic < stats.chi2.isf(1e-6, len(kept) - 1)


def test_temperature_zero_is_greedy(toy):
    decoder = toy(11, seed=4, boost=[(EOS, 1.0)])
    images = np.arange(32)
    result = draw(decoder, images, 3, temperature=0.0)
    options = {"num_beams": 1, "bos_id": BOS, "eos_id": EOS, "pad_id": PAD, "max_length": 9}
    greedy = fast_jit(lambda carry: beam_search(decoder.step, carry, **options))(
        decoder.carry(images, 1)
    )
    for name in ("tokens", "lengths", "finished"):
        three, one = getattr(result, name), getattr(greedy, name)
        np.testing.assert_array_equal(three, np.repeat(one, 3, axis=1))
    np.testing.assert_allclose(result.log_probs[:, :1], greedy.log_probs, rtol=1e-5)


def test_log_probs_lengths_and_attention_are_those_of_the_sample(toy):
    decoder = toy(9, seed=5, boost=[(EOS, 1.5)])
    result = draw(decoder, np.arange(8), 6, max_length=8, return_attention=True)
    assert set(result.lengths.flat) >= {1, 2, 3, 7}
    assert result.attention.shape == (8, 6, 7, 2, 3)
    for image, k in np.ndindex(8, 6):
        tokens, length = result.tokens[image, k], result.lengths[image, k]
        fed = [BOS, *tokens]
        each = [decoder.log_probs(image, fed[: t + 1])[tokens[t]] for t in range(length)]
        got = result.token_log_probs[image, k]
        np.testing.assert_allclose(got[:length], each, rtol=1e-5, atol=1e-5)
        assert (got[length:] == 0).all()
        np.testing.assert_allclose(result.log_probs[image, k], sum(each), rtol=1e-5)
        assert result.finished[image, k] == (tokens[length - 1] == EOS)
        assert EOS not in tokens[: length - 1]
        assert (tokens[length:] == PAD).all()
        rows = [decoder.row(image, fed[: t + 1]) for t in range(length)]
        attention = result.attention[image, k]
        np.testing.assert_array_equal(attention[:length], decoder.maps[rows])
        assert (attention[length:] == 0).all()


def test_the_key_decides_and_later_rows_and_samples_do_not(toy):
    decoder, same_image = toy(11, seed=6, boost=[(EOS, 0.5)]), np.zeros(8, int)
    tokens = draw(decoder, same_image, 4).tokens
    assert len(np.unique(tokens.reshape(32, -1), axis=0)) > 16  # rows and samples are independent
    assert (draw(decoder, same_image, 4, seed=1).tokens != tokens).any()
    np.testing.assert_array_equal(draw(decoder, same_image[:3], 2).tokens, tokens[:3, :2])


@pytest.mark.parametrize("chunk", [3, 50])
def test_chunks_change_nothing(toy, chunk):
    decoder = toy(11, seed=7, boost=[(EOS, 0.5)])
    expected = draw(decoder, np.arange(8), 4, return_attention=True)
    result = draw(decoder, np.arange(8), 4, return_attention=True, chunk=chunk)
    np.testing.assert_array_equal(result.tokens, expected.tokens)
    np.testing.assert_array_equal(result.attention, expected.attention)


def test_a_batch_that_ends_at_once_is_padded_with_any_id(toy):
    result = draw(toy(9, boost=[(EOS, 60.0)]), np.arange(3), 2, max_length=30, pad_id=7)
    assert (result.tokens == [EOS] + [7] * 28).all()
    assert (result.lengths == 1).all()
    assert result.finished.all()


def test_what_never_ends_is_cut_and_says_so(toy):
    result = draw(toy(9, banned=[PAD, BOS, EOS]), np.arange(3), 4)
    assert not result.finished.any()
    assert (result.lengths == 8).all()
    assert (result.tokens > EOS).all()
    assert np.isfinite(result.log_probs).all()


def test_one_id_for_bos_eos_and_pad(toy):
    decoder = toy(9, seed=9, boost=[(EOS, 1.0)])
    apart = draw(decoder, np.arange(16), 4, bos_id=EOS)
    one = draw(decoder, np.arange(16), 4, bos_id=EOS, pad_id=EOS)
    np.testing.assert_array_equal(one.lengths, apart.lengths)
    np.testing.assert_array_equal(one.finished, apart.finished)
    inside = np.arange(8) < one.lengths[..., None]
    np.testing.assert_array_equal(one.tokens, np.where(inside, apart.tokens, EOS))


@pytest.mark.parametrize(
    "limits",
    [
        {"top_k": 5},
        {"top_p": 0.8},
        {"min_p": 0.1},
        {"typical_p": 0.3},
        {"typical_p": 0.9},
        {"top_k": 20, "top_p": 0.7},
        {"top_k": 20, "min_p": 0.1, "typical_p": 0.6},
        {"top_p": 0.9, "min_p": 0.2},
        {"top_k": 30, "top_p": 0.95, "min_p": 0.05},
    ],
)
def test_restrictions_are_those_of_transformers(limits):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    logits = np.random.default_rng(0).normal(size=(64, 50)).astype(np.float32) * 3
    warpers = {
        "top_k": transformers.TopKLogitsWarper,
        "top_p": transformers.TopPLogitsWarper,
        "min_p": transformers.MinPLogitsWarper,
        "typical_p": transformers.TypicalLogitsWarper,
    }
    wanted = torch.tensor(logits)
    for name in warpers:
        if name in limits:
            wanted = warpers[name](limits[name])(None, wanted)
    given = {name: limits.get(name) for name in warpers}
    found = np.asarray(restrict(logits, **given))
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(wanted.numpy()))


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_lowers_for_accelerators(toy, platform):
    decoder = toy(300)
    options = {"bos_id": BOS, "eos_id": EOS, "pad_id": PAD, "max_length": 20}
    run = functools.partial(sample, decoder.step, temperature=0.8, top_k=50, top_p=0.9, **options)
    traced = jax.jit(run).trace(decoder.carry(np.arange(8), 5), jax.random.key(0))
    assert "while" in traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"min_p": 1.5}, "min_p"),
        ({"typical_p": 0.0}, "typical_p"),
        ({"max_length": 1}, "max_length"),
    ],
)
def test_options_without_meaning_are_refused(toy, options, message):
    with pytest.raises(ValueError, match=message):
        draw(toy(9), [0], 2, **options)
