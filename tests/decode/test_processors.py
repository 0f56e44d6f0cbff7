"""Processors and prompts in searches: their promises, without another library."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capjax.decode.beam import beam_search
from capjax.decode.processors import Processors
from capjax.decode.sampling import sample
from tests.helpers.effort import sweep

BOS, EOS, PAD = 1, 2, 0

fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def step_of(decoder, options):
    attention = options.get("return_attention", False)
    return lambda carry, token: decoder.step(carry, token, attention=attention)


def search(decoder, carry, **options):
    options = {"bos_id": BOS, "eos_id": EOS, "pad_id": PAD, "max_length": 9, **options}
    width = carry.per_beam["state"].shape[1]
    step = step_of(decoder, options)
    run = fast_jit(lambda carry: beam_search(step, carry, num_beams=width, **options))
    return jax.tree.map(np.asarray, run(carry))


def draw(decoder, carry, key=0, **options):
    options = {"eos_id": EOS, "pad_id": PAD, "max_length": 9, "temperature": 1.0, **options}
    options = {"bos_id": BOS, **options}
    run = fast_jit(lambda carry, key: sample(step_of(decoder, options), carry, key, **options))
    key = jax.random.key(key) if isinstance(key, int) else key
    return jax.tree.map(np.asarray, run(carry, key))


@pytest.mark.parametrize("method", [search, draw])
def test_a_prompt_is_as_if_fed_before(toy, method):
    decoder, images, prompt = toy(9, seed=1, boost=[(EOS, 1.0)]), np.arange(12), (5, 6, 7)
    found = method(
        decoder, decoder.carry(images, 2), prompt=prompt, max_length=10, return_attention=True
    )
    carry = decoder.carry(images, 2)
    for token in (BOS, *prompt[:-1]):
        carry, _, _ = decoder.step(carry, jnp.full((12, 2), token))
    wanted = method(decoder, carry, bos_id=prompt[-1], max_length=7, return_attention=True)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    assert found.tokens.shape == (12, 2, 6)


@pytest.mark.parametrize("width", [1, 3])
def test_processors_that_change_nothing_change_nothing(toy, width):
    decoder, images = toy(11, seed=2, boost=[(EOS, 1.0)], banned=[PAD]), np.arange(16)
    plain = search(decoder, decoder.carry(images, width))
    idle = Processors(suppress_tokens=(PAD,))
    found = search(decoder, decoder.carry(images, width), processors=idle)
    for name in ("tokens", "lengths", "finished"):
        np.testing.assert_array_equal(getattr(found, name), getattr(plain, name))
    for name in ("scores", "log_probs", "token_log_probs"):
        np.testing.assert_allclose(getattr(found, name), getattr(plain, name), atol=1e-5)


ALL = Processors(
    repetition_penalty=1.4,
    no_repeat_ngram_size=2,
    bad_words_ids=((3, 4), (5,)),
    min_new_tokens=3,
    bad_endings=(6, 7),
    suppress_tokens=(PAD,),
    begin_suppress_tokens=(8,),
)


@pytest.mark.parametrize("width", sweep([1, 3], [3]))
def test_an_image_alone_is_an_image_in_a_batch(toy, width):
    decoder, images = toy(11, seed=3, boost=[(EOS, 1.0)]), np.arange(8)
    keys = jax.vmap(jax.random.key)(images)
    for many, one in (
        (search(decoder, decoder.carry(images, width), processors=ALL), search),
        (draw(decoder, decoder.carry(images, width), keys, processors=ALL), draw),
    ):
        given = {"key": keys[5:6]} if one is draw else {}
        alone = one(decoder, decoder.carry(images[5:6], width), processors=ALL, **given)
        np.testing.assert_array_equal(alone.tokens[0], many.tokens[5])
        np.testing.assert_allclose(alone.scores[0], many.scores[5], rtol=1e-6)


def test_temperature_zero_is_greedy_with_processors_and_a_prompt(toy):
    decoder, images = toy(11, seed=7, boost=[(EOS, 1.0)]), np.arange(24)
    given = {"processors": ALL, "prompt": (9, 10, 9), "max_length": 12}
    found = draw(decoder, decoder.carry(images, 1), temperature=0.0, **given)
    greedy = search(decoder, decoder.carry(images, 1), length_penalty=0.0, **given)
    np.testing.assert_array_equal(found.tokens, greedy.tokens)
    for name in ("scores", "token_log_probs"):
        np.testing.assert_allclose(getattr(found, name), getattr(greedy, name), atol=1e-5)


def test_scores_of_a_sample_are_processed_and_log_probs_the_models_own(toy):
    decoder, penalty = toy(7, seed=4, boost=[(EOS, 0.5)]), 2.5
    found = draw(
        decoder,
        decoder.carry(np.arange(6), 3),
        temperature=0.7,
        processors=Processors(repetition_penalty=penalty),
    )
    for place in np.ndindex(6, 3):
        fed, score, own = [BOS], 0.0, 0.0
        for token in found.tokens[place][: found.lengths[place]]:
            logits = decoder.logits[decoder.row(place[0], fed)].astype(np.float64)
            own += decoder.log_probs(place[0], fed)[token]
            seen = np.unique(fed)
            logits[seen] *= np.where(logits[seen] < 0, penalty, 1 / penalty)
            score += logits[token] - np.logaddexp.reduce(logits)
            fed.append(token)
        np.testing.assert_allclose(found.log_probs[place], own, rtol=1e-4)
        np.testing.assert_allclose(found.scores[place], score, rtol=1e-4)


@pytest.mark.parametrize("method", [search, draw])
def test_no_caption_ends_badly_unless_it_is_cut(toy, method):
    bad = (3, 4, 5)
    decoder = toy(7, seed=5, boost=[(EOS, 2.0), (3, 1.0)])
    found = method(decoder, decoder.carry(np.arange(64), 2), processors=Processors(bad_endings=bad))
    rows, beams = np.nonzero(found.finished & (found.lengths > 1))
    before = found.tokens[rows, beams, found.lengths[rows, beams] - 2]
    assert len(before) > 20
    assert not np.isin(before, bad).any()
    assert np.isin(found.tokens[~found.finished][:, -1], bad).any()


@dataclasses.dataclass(frozen=True)
class OnlyWord:
    """A trie's stand-in that allows token 3 alone."""

    longest: int = 8

    def begins(self, prompt):
        return True

    def allowed(self, history, length):
        return jnp.broadcast_to(jnp.arange(5) == 3, (*history.shape[:2], 5))


@pytest.mark.parametrize("method", [search, draw])
@pytest.mark.parametrize("width", [1, 3])
def test_where_nothing_is_allowed_the_caption_ends(toy, method, width):
    # Two words, none twice, and the end only after 8 tokens.
    decoder = toy(5, seed=6, banned=[BOS])
    once = {"no_repeat_ngram_size": 1, "min_length": 8, "suppress_tokens": (PAD,)}
    carry = decoder.carry(np.arange(4), width)
    found = method(decoder, carry, processors=Processors(**once))
    exist = found.lengths > 0
    assert exist[:, 0].all()
    assert found.finished[exist].all()
    assert (found.lengths[exist] == 3).all()
    assert (np.sort(found.tokens[exist], axis=-1)[:, -3:] == [EOS, 3, 4]).all()
    assert np.isfinite(found.log_probs[exist]).all()
    # But none is outside a trie.
    found = method(decoder, carry, processors=Processors(**once, allowed=OnlyWord()))
    assert np.isneginf(found.log_probs).all()
    assert np.isneginf(found.scores).all()


@pytest.mark.parametrize(
    ("fields", "prompt", "message"),
    [
        ({"repetition_penalty": 0.0}, (), "repetition_penalty"),
        ({"repetition_penalty": float("nan")}, (), "repetition_penalty"),
        ({"no_repeat_ngram_size": -1}, (), "no_repeat_ngram_size"),
        ({"bad_words_ids": ((),)}, (), "bad_words_ids"),
        ({"bad_words_ids": ((3, 9),)}, (), "bad_words_ids has token 9"),
        ({"bad_endings": (-1,)}, (), "bad_endings"),
        ({"forced_eos_token_id": 9}, (), "forced_eos_token_id"),
        ({"min_length": 8}, (), "min_length"),
        ({"min_new_tokens": 5}, (3, 4), "min_new_tokens"),
        ({"forced_bos_token_id": 3}, (4,), "forced_bos_token_id"),
        ({"forced_bos_token_id": 3, "suppress_tokens": (3,)}, (), "forced_bos_token_id"),
        ({"suppress_tokens": range(8), "bad_words_ids": ((8,),)}, (), "suppress_tokens"),
        ({"allowed": OnlyWord()}, (), "allowed has a caption of 8 tokens"),
    ],
)
def test_impossible_settings_are_refused_by_name(fields, prompt, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Processors(**fields).check(vocab_size=9, eos_id=EOS, max_length=7, prompt=prompt)
