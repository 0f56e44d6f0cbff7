"""What recurrent decoders promise beside the laws of `test_decoder_laws.py`."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capjax.data.batches import pack
from capjax.decode.beam import beam_search
from capjax.models.contract import gather_packed, scatter_packed
from capjax.parallel.platform import traced_for
from tests.helpers.effort import sweep
from tests.helpers.recurrent_cases import B, C, P, T, V, captioner, compiled, data, variables

SEARCHED = [{"output": "deep", "gate": "vector"}, {"cell": "gru"}]
KEYS = {"sample": jax.random.key(3), "dropout": jax.random.key(4)}


def run(model, params, features, tokens, *, train=False, **options):
    rngs = KEYS if train else None
    apply = compiled(model)
    return apply(params, features, tokens, train=train, attention=True, rngs=rngs, **options)


ACTIVATIONS = [("tanh", "cpu"), ("relu", "gpu"), ("relu", "cpu"), ("tanh", "gpu")]


@pytest.mark.parametrize(("activation", "backend"), sweep(ACTIVATIONS, ACTIVATIONS[1:2]))
def test_recomputing_attention_changes_no_gradient(activation, backend, monkeypatch):
    """Neither as CPUs do it, nor as accelerators do."""
    recomputed = []
    checkpoint = jax.checkpoint
    monkeypatch.setattr(
        jax, "checkpoint", lambda *args, **more: recomputed.append(1) or checkpoint(*args, **more)
    )
    features, tokens = data()
    params = variables(captioner())
    recomputed.clear()

    def gradient(remat):
        model = captioner(remat=remat, attention_activation=activation)

        def loss(params):
            # Not `compiled`, whose trace may be another backend's.
            logits = model.apply(params, features, tokens, train=False).logits
            return (logits[..., 4:] ** 2).mean()

        with traced_for(backend):
            return jax.jit(jax.grad(loss))(params)

    kept = gradient(False)
    assert not recomputed
    again = gradient(True)
    assert bool(recomputed) == (backend == "gpu")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), kept, again)


def test_output_bias_is_the_first_prediction():
    shares = np.log(np.arange(1, V + 1) / 30.0)
    model = captioner(output_bias=tuple(shares))
    fresh = model.init_variables(jax.random.key(0), (P, 8))
    np.testing.assert_allclose(fresh["params"]["decoder"]["bias"], shares, rtol=1e-6)


def test_bfloat16_compute_stays_near():
    features, tokens = data()
    params = variables(captioner(), scale=0.1)
    half = run(captioner(dtype=jnp.bfloat16), params, features, tokens)
    whole = run(captioner(), params, features, tokens)
    assert half.logits.dtype == jnp.float32
    gap = np.abs(half.logits - whole.logits)[..., 4:]
    assert 0 < gap.max() < 0.05


def test_without_attention_the_image_comes_in_once_and_everywhere_alike():
    features, tokens = data()
    model = captioner(attention="none")
    params = variables(model)
    output = run(model, params, features, tokens)
    np.testing.assert_allclose(output.attention, 1 / P, rtol=1e-6)
    # Only the mean counts: its places may change.
    moved = run(model, params, features[:, ::-1], tokens)
    np.testing.assert_allclose(moved.logits, output.logits, atol=1e-5)
    other = run(model, params, features + 1, tokens)
    assert np.abs(other.logits - output.logits)[..., 4:].max() > 1e-2
    with pytest.raises(ValueError, match="attention='none' sees the image in the initial state"):
        variables(captioner(attention="none", initial_state="zero"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("cell", "rnn"), ("gate", "sigmoid"), ("output", "mlp"), ("attention_activation", "gelu")],
)
def test_a_wrong_choice_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field}='{value}' must be one of '"):
        variables(captioner(**{field: value}))


def test_a_scalar_gate_scales_the_whole_context():
    features, tokens = data()
    model = captioner(gate="scalar")
    params = variables(model)
    dense = params["params"]["decoder"]["gate_context"]["dense"]
    assert dense["kernel"].shape == (12, 1)
    # A closed gate leaves the image's values no way but the initial state.
    closed = jax.tree.map(lambda x: x, params)
    closed["params"]["decoder"]["gate_context"]["dense"] = {
        "kernel": jnp.zeros_like(dense["kernel"]),
        "bias": jnp.full_like(dense["bias"], -1e4),
    }
    closed["params"]["decoder"]["initial_hidden"] = jax.tree.map(
        jnp.zeros_like, params["params"]["decoder"]["initial_hidden"]
    )
    closed["params"]["decoder"]["initial_cell"] = closed["params"]["decoder"]["initial_hidden"]
    blind = run(model, closed, features, tokens).logits
    same = run(model, closed, features + 1, tokens).logits
    np.testing.assert_allclose(blind, same, atol=1e-6)
    assert np.abs(run(model, params, features, tokens).logits - blind)[..., 4:].max() > 1e-2


def test_hard_attention_takes_one_place_and_says_how_likely_it_was():
    features, tokens = data()
    model = captioner(attention="hard", expected_rate=0.0)
    params = variables(model)
    output = run(model, params, features, tokens, train=True)
    log_prob = output.aux["location_log_prob"]
    weights = output.attention[..., 0, :]
    assert log_prob.shape == (B, C, T)
    # It is the log of one of the weights, each the drawn place's.
    gap = np.abs(np.exp(log_prob)[..., None] - weights).min(axis=-1)
    assert gap.max() < 1e-6
    entropy = -(weights * np.log(weights)).sum(-1)
    np.testing.assert_allclose(output.aux["location_entropy"], entropy, rtol=1e-4)
    again = run(model, params, features, tokens, train=True)
    np.testing.assert_array_equal(again.logits, output.logits)
    keys = {"sample": jax.random.key(9)}
    other = compiled(model)(params, features, tokens, train=True, rngs=keys)
    assert np.abs(other.logits - output.logits).max() > 1e-3
    # Afterwards the likeliest place alone is seen: nothing is drawn.
    assert not run(model, params, features, tokens).aux


def test_images_that_take_the_mean_are_soft_attention():
    features, tokens = data()
    params = variables(captioner())
    soft = run(captioner(), params, features, tokens, train=True)
    expected = run(
        captioner(attention="hard", expected_rate=1.0), params, features, tokens, train=True
    )
    np.testing.assert_allclose(expected.logits, soft.logits, atol=1e-5)
    np.testing.assert_array_equal(expected.aux["location_log_prob"], 0.0)


@pytest.mark.slow(reason="the exact gradient of hard attention is estimated every day")
def test_drawn_places_come_as_often_as_their_weights_say():
    features, tokens = data()
    model = captioner(attention="hard", expected_rate=0.0)
    params = variables(model)
    first = tokens[:1, :1, :1]

    def log_prob(key):
        output = compiled(model)(params, features[:1], first, train=True, rngs={"sample": key})
        return output.aux["location_log_prob"][0, 0, 0]

    drawn = np.exp(jax.vmap(log_prob)(jax.random.split(jax.random.key(0), 4000)))
    weights = run(model, params, features[:1], first).attention[0, 0, 0, 0]
    # The mean of a weight drawn by itself is the sum of squares.
    error = drawn.std() / np.sqrt(len(drawn))
    assert abs(drawn.mean() - (weights**2).sum()) < 4 * error


def test_own_words_at_no_share_is_teacher_forcing_and_at_full_share_ignores_references():
    features, tokens = data()
    model = captioner(output="deep")
    params = variables(model)
    forced = run(model, params, features, tokens, train=True)
    none = run(model, params, features, tokens, train=True, own_words=jnp.float32(0))
    np.testing.assert_allclose(none.logits, forced.logits, atol=1e-5)
    own = run(model, params, features, tokens, train=True, own_words=jnp.float32(1))
    others = tokens.at[..., 1:].set((tokens[..., 1:] + 7) % V)
    same = run(model, params, features, others, train=True, own_words=jnp.float32(1))
    np.testing.assert_array_equal(own.logits, same.logits)
    assert np.abs(own.logits - forced.logits)[:, :, 1:, 4:].max() > 1e-2
    np.testing.assert_allclose(own.logits[:, :, 0], forced.logits[:, :, 0], atol=1e-5)


@pytest.mark.slow(reason="that they are drawn is tested every day, not how often each is")
def test_own_words_are_drawn_from_the_model():
    """With bos alone given, the second place's logits mix over the first's distribution."""
    features, tokens = data()
    model = captioner()
    params = variables(model)
    image, start = features[:1], tokens[:1, :1, :2]

    def second(key):
        output = compiled(model)(
            params, image, start, train=True, own_words=1.0, rngs={"sample": key}
        )
        return jax.nn.softmax(output.logits[0, 0, 1])

    drawn = jax.vmap(second)(jax.random.split(jax.random.key(1), 3000))
    shares = jax.nn.softmax(run(model, params, image, start).logits[0, 0, 0])
    every = jnp.stack([start.at[0, 0, 1].set(word)[0] for word in range(V)])
    after = run(model, params, jnp.repeat(image, V, 0), every).logits[:, 0, 1]
    expected = shares @ jax.nn.softmax(after)
    error = np.asarray(drawn).std(0) / np.sqrt(len(drawn)) + 1e-5
    assert np.all(np.abs(drawn.mean(0) - expected) < 5 * error)


@pytest.mark.parametrize("fields", sweep(SEARCHED, SEARCHED[:1]))
def test_beam_search_finds_the_best_of_all_captions(fields):
    """With as many beams as captions, the search is exhaustive."""
    words, length = 5, 4
    model = captioner(vocab_size=words, banned=(0, 1), **fields)
    params = variables(model, scale=0.8)
    features, _ = data()
    memory = compiled(model)(params, features, method="encode")
    beams = 81

    @jax.jit
    def search(memory):
        return beam_search(
            lambda carry, token: model.apply(params, carry, token, method="step"),
            model.apply(params, memory, beams, length, method="init_carry"),
            num_beams=beams,
            bos_id=1,
            eos_id=2,
            pad_id=0,
            max_length=length + 1,
            length_penalty=0.0,
            early_stopping="never",
        )

    found = search(memory)
    allowed = (2, 3, 4)
    captions = sorted(
        {
            caption[: caption.index(2) + 1] if 2 in caption else caption
            for caption in itertools.product(allowed, repeat=length)
        }
    )
    padded = [caption + (0,) * (length - len(caption)) for caption in captions]
    for image in range(B):
        fed = jnp.asarray([[(1, *caption[:-1]) for caption in padded]], jnp.int32)
        logits = run(model, params, features[image : image + 1], fed).logits[0]
        log_probs = np.asarray(jax.nn.log_softmax(logits))
        scores = {
            caption: float(sum(log_probs[row, t, word] for t, word in enumerate(caption)))
            for row, caption in enumerate(captions)
        }
        best = sorted(scores, key=scores.get, reverse=True)
        for rank in range(3):
            got = tuple(np.asarray(found.tokens[image, rank])[: int(found.lengths[image, rank])])
            assert got == best[rank]
            np.testing.assert_allclose(found.log_probs[image, rank], scores[got], rtol=1e-4)


def test_put_back_undoes_packing():
    lengths = np.array([[3, 7, 0], [1, 2, 6]], np.int32)
    packing = pack(lengths, T, 12)
    x = np.random.default_rng(0).normal(size=(B, C, T, 2)).astype(np.float32)
    back = scatter_packed(gather_packed(jnp.asarray(x), packing), packing, C, T)
    real = np.arange(T) < lengths[..., None]
    np.testing.assert_array_equal(back, np.where(real[..., None], x, 0))
