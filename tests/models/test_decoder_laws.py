"""The laws that every decoder keeps, and that padding, captions and images do not mix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capjax.data.batches import pack
from capjax.models.captioner import Captioner, FeatureEncoder
from capjax.models.decoders.blip import BlipDecoder
from capjax.models.decoders.git import GitDecoder
from capjax.models.decoders.gpt2 import GPT2Decoder
from capjax.models.decoders.transformer import TransformerDecoder
from capjax.models.layers import NEVER
from tests.helpers.effort import sweep
from tests.helpers.recurrent_cases import (
    BANNED,
    B,
    C,
    F,
    P,
    T,
    V,
    captioner,
    compiled,
    data,
    variables,
)

SIZES = {"max_length": 9, "width": 16, "num_layers": 2, "num_heads": 2}


def transformer(**fields):
    return Captioner(FeatureEncoder((2, 3)), TransformerDecoder(V, banned=BANNED, **SIZES | fields))


def gpt2():
    return Captioner(FeatureEncoder((2, 3)), GPT2Decoder(V, banned=BANNED, **SIZES))


def bert(kind):
    rates = {"dropout": 0.0, "attention_dropout": 0.0}
    return Captioner(FeatureEncoder((2, 3)), kind(V, banned=BANNED, **SIZES, **rates))


DECODERS = {
    "pre": transformer(),
    "post, wide heads": transformer(norm="post", activation="relu", head_dim=12),
    "gpt2": gpt2(),
    "blip": bert(BlipDecoder),
    "git": bert(GitDecoder),
    "gru": captioner(cell="gru", gate="vector", initial_state="zero", output="hidden"),
    "lstm, deep": captioner(output="deep", gate="scalar", attention_activation="relu"),
    "gru, hard": captioner(cell="gru", attention="hard", output="deep"),
    "no attention": captioner(attention="none"),
}
DAILY = ("gpt2", "git", "gru, hard")


@pytest.fixture(params=sweep(DECODERS, DAILY), name="case", scope="module")
def make_case(request):
    model = DECODERS[request.param]
    # Larger than fresh parameters, so that every path bends the logits.
    return model, variables(model), *data()


def outputs(case):
    """Logits and maps of teacher forcing: of the one program that most laws ask."""
    model, variables, features, tokens = case
    return compiled(model)(variables, features, tokens, train=False, attention=True)


def is_transformer(model):
    return isinstance(model.decoder, TransformerDecoder)


def test_stepping_equals_teacher_forcing(case):
    model, variables, features, tokens = case
    memory, whole = compiled(model)(variables, features, method="encode"), outputs(case)
    carry = model.apply(variables, memory, C, T, method="init_carry")
    step = jax.jit(
        lambda carry, token: model.apply(variables, carry, token, attention=True, method="step")
    )
    for position in range(T):
        carry, logits, attention = step(carry, tokens[:, :, position])
        np.testing.assert_allclose(logits, whole.logits[:, :, position], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(attention, whole.attention[:, :, position], atol=1e-5)
    assert int(carry.position) == T


def test_states_make_the_logits_token_by_token(case):
    model, variables, whole = *case[:2], outputs(case)
    some = whole.states[0, 1:, 2:4].reshape(4, -1)
    found = model.apply(variables, some, train=False, method="logits_of")
    np.testing.assert_allclose(found, whole.logits[0, 1:, 2:4].reshape(4, V), atol=1e-4)


def test_a_carry_says_what_follows_the_beams(case):
    model, variables, features, _ = case
    memory = compiled(model)(variables, features, method="encode")
    carry = model.apply(variables, memory, 5, T, method="init_carry")
    assert all(leaf.shape[0] == B for leaf in jax.tree.leaves(carry.per_image))
    assert all(leaf.shape[:2] == (B, 5) for leaf in jax.tree.leaves(carry.per_beam))


def test_the_future_never_changes_the_past(case):
    model, variables, features, tokens = case
    memory = compiled(model)(variables, features, method="encode")

    # A tied embedding is in the output as well, where positions are not.
    table = "positions" if is_transformer(model) else "tokens"

    def logits(embedding):
        params = dict(variables["params"], decoder=dict(variables["params"]["decoder"]))
        params["decoder"][table] = {"embedding": embedding}
        return model.apply({"params": params}, memory, tokens, method="decode").logits

    embedding = variables["params"]["decoder"][table]["embedding"]
    # Rows stand for inputs: d logits[t] / d input[s] must vanish for s > t, and only there.
    jacobian = jax.jit(jax.jacobian(lambda e: logits(e)[0, 0, :, 4:].sum(-1)))(embedding)
    rows = np.arange(T) if is_transformer(model) else np.asarray(tokens[0, 0])
    flow = np.abs(np.asarray(jacobian)).sum(-1)[:, rows]
    assert np.all(flow[np.triu_indices(T, 1)] == 0)
    assert np.all(flow[np.tril_indices(T)] > 0)


def test_captions_and_images_do_not_mix(case):
    model, variables, features, tokens = case
    whole = outputs(case).logits
    changed = tokens.at[0, 1].set((tokens[0, 1] + 5) % V)
    again = outputs((model, variables, features, changed)).logits
    np.testing.assert_array_equal(again[1], whole[1])
    np.testing.assert_allclose(again[0, [0, 2]], whole[0, [0, 2]], atol=1e-6)
    assert np.abs(again[0, 1] - whole[0, 1]).max() > 1e-2
    other = features.at[0].add(1.0)
    moved = outputs((model, variables, other, tokens)).logits
    np.testing.assert_allclose(moved[1], whole[1], atol=1e-6)
    assert np.abs(moved[0] - whole[0])[..., 4:].max() > 1e-3


def test_packed_values_are_the_same_values(case):
    model, variables, features, tokens = case
    lengths = np.array([[3, 7, 0], [1, 2, 6]], np.int32)
    packing = pack(lengths, T, 12)
    options = {"train": False, "attention": True}
    unpacked = outputs(case)
    output = compiled(model)(variables, features, tokens, packing=packing, **options)
    packed, whole, maps = output.logits, unpacked.logits, unpacked.attention
    assert packed.shape == (B, 1, 12, V)
    for image in range(B):
        places = packing[image][packing[image] >= 0]
        assert len(places) == lengths[image].sum()
        expected = whole[image].reshape(C * T, V)[places]
        np.testing.assert_allclose(packed[image, 0, : len(places)], expected, atol=1e-4)
        expected = maps[image].reshape(C * T, *maps.shape[3:])[places]
        got = output.attention[image, 0, : len(places)]
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_attention_sums_to_one(case):
    model, attention = case[0], outputs(case).attention
    decoder = model.decoder
    maps = decoder.num_layers * decoder.num_heads if is_transformer(model) else 1
    assert attention.shape == (B, C, T, maps, P)
    assert decoder.attention_layers == (decoder.num_layers if is_transformer(model) else 1)
    sums = np.asarray(attention.sum(-1))
    if decoder.attends_to_words:
        # The first token sees itself and the image, and each further one another token, too.
        assert 0 < sums.min() < sums.max() < 1
    else:
        np.testing.assert_allclose(sums, 1.0, atol=1e-5)


def test_banned_tokens_are_out_of_reach_and_eos_is_not(case):
    logits = outputs(case).logits
    assert np.all(logits[..., list(BANNED)] == NEVER)
    allowed = np.delete(np.asarray(logits), BANNED, axis=-1)
    assert np.abs(allowed).max() < 1e3


def test_output_bias_is_the_first_prediction():
    shares = np.log(np.arange(1, V + 1) / 30.0)
    model = transformer(output_bias=tuple(shares), num_layers=1)
    params = model.init_variables(jax.random.key(0), (P, F))["params"]
    np.testing.assert_allclose(params["decoder"]["bias"], shares, rtol=1e-6)
    zero = dict(params, decoder=dict(params["decoder"]))
    zero["decoder"]["output"] = {"kernel": jnp.zeros_like(params["decoder"]["output"]["kernel"])}
    tokens = jnp.ones((1, 1, 2), jnp.int32)
    logits = compiled(model)({"params": zero}, jnp.ones((1, P, F)), tokens, train=False).logits
    np.testing.assert_allclose(logits[0, 0, 0, 4:], shares[4:], rtol=1e-6)


def test_too_many_tokens_are_refused():
    model, (features, _) = DECODERS["gpt2"], data()
    params = variables(model)
    with pytest.raises(ValueError, match="max_length=9"):
        model.apply(params, features, jnp.zeros((B, 1, 10), jnp.int32), train=False)
    memory = compiled(model)(params, features, method="encode")
    with pytest.raises(ValueError, match="max_length=9"):
        model.apply(params, memory, 2, 10, method="init_carry")


# The others drop what one of these drops.
@pytest.mark.slow(reason="compiles decoders twice more; runs are seeded every day")
@pytest.mark.parametrize("case", ["pre", "git", "lstm, deep", "gru, hard"], indirect=True)
def test_dropout_acts_in_training_alone(case):
    model, variables, features, tokens = case
    more = ("feed_forward_dropout", "attention_dropout")
    fields = ("dropout", *(more if is_transformer(model) else ("embedding_dropout",)))

    def run(key, train, rates):
        dropping = Captioner(model.encoder, model.decoder.clone(**rates))
        rngs = {"dropout": jax.random.key(key), "sample": jax.random.key(0)}
        return compiled(dropping)(variables, features, tokens, train=train, rngs=rngs).logits

    np.testing.assert_allclose(
        run(0, False, dict.fromkeys(fields, 0.5)), outputs(case).logits, atol=1e-6
    )
    for field in fields:
        first, again, other = (run(key, True, {field: 0.5}) for key in (0, 0, 1))
        np.testing.assert_array_equal(first, again)
        assert np.abs(first - other).max() > 1e-2


def test_dropout_of_feed_forward_blocks_is_nowhere_else():
    model, (features, tokens) = transformer(feed_forward_dropout=0.5), data()
    params = variables(model)["params"]
    for block in ("blocks_0", "blocks_1"):
        down = params["decoder"][block]["feed_forward"]["down"]
        params["decoder"][block]["feed_forward"]["down"] = jax.tree.map(jnp.zeros_like, down)
    rngs = {"dropout": jax.random.key(0)}
    found = [
        compiled(model)({"params": params}, features, tokens, train=train, rngs=rngs).logits
        for train in (True, False)
    ]
    np.testing.assert_array_equal(*found)


def test_bfloat16_compute_stays_near():
    half = transformer(dtype=jnp.bfloat16)
    whole = transformer()
    params, (features, tokens) = variables(whole, scale=0.1), data()
    logits = compiled(half)(params, features, tokens, train=False).logits
    assert logits.dtype == jnp.float32
    reference = compiled(whole)(params, features, tokens, train=False).logits
    np.testing.assert_allclose(logits[..., 4:], reference[..., 4:], atol=0.1)
    assert np.abs(logits[..., 4:] - reference[..., 4:]).max() > 0
