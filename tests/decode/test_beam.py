"""Beam search against enumeration, a plain re-statement, and its own promises."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capjax.decode.beam import beam_search
from capjax.decode.processors import Processors
from capjax.models.contract import Carry

BOS, EOS, PAD = 1, 2, 0

# Nearly all of these tests' time is compilation, and halves like this.
fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def search(decoder, images, *, num_beams, bos_id=BOS, **options):
    """Beam search on the toy decoder, jitted, as NumPy arrays."""
    options = {"eos_id": EOS, "pad_id": PAD, "max_length": 9, "chunk": 4, **options}
    attention = options.get("return_attention", False)

    def step(carry, token):
        return decoder.step(carry, token, attention=attention)

    @fast_jit
    def run(carry):
        return beam_search(step, carry, num_beams=num_beams, bos_id=bos_id, **options)

    return jax.tree.map(np.asarray, run(decoder.carry(images, num_beams)))


def captions(result, row):
    """The hypotheses of an image as (tokens, finished, score), best first."""
    fields = (result.tokens, result.lengths, result.finished, result.scores)
    return [
        (tuple(tokens[:length].tolist()), bool(finished), float(score))
        for tokens, length, finished, score in zip(*(f[row] for f in fields), strict=True)
        if length
    ]


def assert_same(ours, theirs):
    assert [c[:2] for c in ours] == [c[:2] for c in theirs]
    np.testing.assert_allclose([c[2] for c in ours], [c[2] for c in theirs], rtol=1e-5, atol=1e-5)


def enumerate_all(decoder, image, steps, penalty):
    """Every caption of at most `steps` tokens with its score, best first."""
    found, prefixes = [], [((), 0.0)]
    for length in range(1, steps + 1):
        grown = []
        for prefix, total in prefixes:
            log_probs = decoder.log_probs(image, (BOS, *prefix))
            for token, log_prob in enumerate(log_probs):
                caption = ((*prefix, token), total + log_prob)
                if token == EOS or length == steps:
                    found.append((caption[0], token == EOS, caption[1] / length**penalty))
                else:
                    grown.append(caption)
        prefixes = grown
    return sorted(found, key=lambda caption: -caption[2])


MORE = pytest.mark.slow(reason="a sweep: others of these cases run every day")


def more(*setting):
    return pytest.param(*setting, marks=MORE)


@pytest.mark.parametrize("penalty", [-0.5, 1.0, more(0.0), more(2.0)])
def test_a_beam_as_wide_as_the_tree_finds_every_caption_in_order(toy, penalty):
    decoder = toy(4, seed=3)
    images = np.arange(5)
    result = search(decoder, images, num_beams=256, max_length=5, length_penalty=penalty)
    for image in images:
        expected = enumerate_all(decoder, image, 4, penalty)
        assert len(expected) == 121
        assert_same(captions(result, image), expected)


def power(n, penalty):
    return n**penalty


def gnmt(n, penalty):
    return ((5 + n) / 6) ** penalty


def restated(decoder, image, num_beams, steps, penalty, early_stopping, norm=power, repetition=1):
    """The algorithm of the module's docstring in lists and tuples, for one image.

    With `early_stopping` None the search never ends early.
    """

    def scores(prefix):
        fed = (BOS, *prefix)
        scores = decoder.log_probs(image, fed).copy()
        scores[list(fed)] *= repetition
        return enumerate(scores.tolist())

    live, done = [((), 0.0)], []
    for n in range(1, steps + 1):
        extensions = [
            ((*prefix, token), total + score)
            for prefix, total in live
            for token, score in scores(prefix)
        ]
        candidates = sorted(extensions, key=lambda e: -e[1])[: 2 * num_beams]
        for rank, (prefix, total) in enumerate(candidates):
            if (prefix[-1] == EOS or n == steps) and rank < num_beams:
                done.append((prefix, prefix[-1] == EOS, total / norm(n, penalty)))
        done = sorted(done, key=lambda d: -d[2])[:num_beams]
        live = [c for c in candidates if c[0][-1] != EOS][:num_beams]
        if len(done) < num_beams or early_stopping is None:
            continue
        horizon = steps if early_stopping == "never" and penalty > 0 else n
        hopeless = not live or live[0][1] / norm(horizon, penalty) <= done[-1][2]
        if early_stopping is True or num_beams == 1 or hopeless:
            break
    return done


# Each number of beams, and each rule where it matters most.
DAILY = [(1, False), (2, True), (3, False), (4, "never"), (6, True)]


@pytest.mark.parametrize(
    ("num_beams", "vocabulary", "penalty", "early_stopping"),
    [
        (*search, rule) if (search[0], rule) in DAILY else more(*search, rule)
        for search in [(1, 5, 1.0), (2, 5, 0.0), (3, 7, 1.0), (4, 9, 0.6), (6, 4, -1.0)]
        for rule in (True, False, "never")
    ],
)
def test_narrow_beams_follow_the_algorithm(toy, num_beams, vocabulary, penalty, early_stopping):
    decoder = toy(vocabulary, seed=num_beams, boost=[(EOS, 0.5)])
    images = np.arange(40)
    result = search(
        decoder,
        images,
        num_beams=num_beams,
        length_penalty=penalty,
        early_stopping=early_stopping,
    )
    for image in images:
        expected = restated(decoder, image, num_beams, 8, penalty, early_stopping)
        assert_same(captions(result, image), expected)


@pytest.mark.parametrize(
    ("penalty", "norm", "repetition"),
    [(1.5, gnmt, 0.6), more(-1.0, power, 1.5), more(0.0, power, 0.6), more(2.0, power, 1.5)],
)
def test_never_cannot_change_the_hypotheses(toy, penalty, norm, repetition):
    """Those of a search that goes on to the length limit."""
    decoder = toy(7, seed=12, boost=[(EOS, 1.0)])
    result = search(
        decoder,
        np.arange(40),
        num_beams=3,
        length_penalty=penalty,
        length_normalization=norm.__name__,
        early_stopping="never",
        processors=Processors(repetition_penalty=repetition),
    )
    for image in range(40):
        expected = restated(decoder, image, 3, 8, penalty, None, norm, repetition)
        assert_same(captions(result, image), expected)


def test_the_options_change_captions(toy):
    decoder = toy(30, seed=2, boost=[(EOS, 2.0)])

    def best(**options):
        return search(decoder, np.arange(256), num_beams=3, **options)

    plain, long = best(length_penalty=0.0), best(length_penalty=2.0)
    assert plain.lengths[:, 0].mean() < long.lengths[:, 0].mean() - 0.5
    rules = [best(early_stopping=rule).tokens for rule in (True, False, "never")]
    for one, other in itertools.combinations(rules, 2):
        assert (one != other).any(axis=(1, 2)).sum() >= 5


def test_markov_chain_where_greedy_is_wrong():
    #   bos -- .6 --> a -- .5 --> c -- 1 --> eos        .30   (greedy)
    #    |            `--- .5 --> d -- 1 --> eos        .30
    #    ` --- .4 --> b -- .9 --> e -- 1 --> eos        .36   (best)
    #                 `--- .1 --> d -- 1 --> eos        .04
    a, b, c, d, e = range(3, 8)
    chain = np.zeros((8, 8))
    chain[BOS, [a, b]] = 0.6, 0.4
    chain[a, [c, d]] = 0.5, 0.5
    chain[b, [e, d]] = 0.9, 0.1
    chain[[c, d, e], EOS] = 1
    chain[[PAD, EOS], PAD] = 1
    with np.errstate(divide="ignore"):
        logits = jnp.asarray(np.log(chain), jnp.float32)

    def step(carry, token):
        return carry.replace(position=carry.position + 1), logits[token], None

    def run(num_beams):
        carry = Carry(per_image=None, per_beam=jnp.zeros((1, num_beams)), position=jnp.int32(0))
        options = {"num_beams": num_beams, "bos_id": BOS, "eos_id": EOS, "pad_id": PAD}
        result = fast_jit(lambda carry: beam_search(step, carry, max_length=6, **options))(carry)
        assert not any(np.isnan(leaf).any() for leaf in jax.tree.leaves(result))
        return result.tokens[0, 0].tolist(), float(jnp.exp(result.log_probs[0, 0]))

    assert run(1) == ([a, c, EOS, PAD, PAD], pytest.approx(0.3))  # c before d: the lower id
    assert run(2) == ([b, e, EOS, PAD, PAD], pytest.approx(0.36))


@pytest.mark.parametrize(("penalty", "early_stopping"), [(0.0, False), more(2.0, "never")])
def test_one_beam_is_the_argmax_rollout(toy, penalty, early_stopping):
    decoder = toy(12, seed=5, boost=[(EOS, 1.0)])
    result = search(
        decoder,
        np.arange(64),
        num_beams=1,
        length_penalty=penalty,
        early_stopping=early_stopping,
    )
    for image in range(64):
        fed = [BOS]
        while len(fed) < 9 and (len(fed) == 1 or fed[-1] != EOS):
            fed.append(int(np.argmax(decoder.log_probs(image, fed))))
        [(tokens, finished, _)] = captions(result, image)
        assert (tokens, finished) == (tuple(fed[1:]), fed[-1] == EOS)
    assert 0.2 < result.finished.mean() < 1  # both ways of stopping were seen


def test_log_probs_and_attention_are_those_of_feeding_the_winner(toy):
    decoder = toy(9, seed=6, boost=[(EOS, 1.0)])
    images = np.arange(48)
    result = search(
        decoder, images, num_beams=4, length_penalty=0.8, max_length=8, return_attention=True
    )
    assert set(result.lengths[:, 0]) >= {1, 2, 3, 7}
    assert result.attention.shape == (48, 7, 2, 3)
    for image in images:
        for k in range(4):
            tokens, length = result.tokens[image, k], result.lengths[image, k]
            fed = [BOS, *tokens]
            each = [decoder.log_probs(image, fed[: t + 1])[tokens[t]] for t in range(length)]
            got = result.token_log_probs[image, k]
            np.testing.assert_allclose(got[:length], each, rtol=1e-5, atol=1e-5)
            assert (got[length:] == 0).all()
            np.testing.assert_allclose(result.log_probs[image, k], sum(each), rtol=1e-5)
            score = result.log_probs[image, k] / length**0.8
            np.testing.assert_allclose(result.scores[image, k], score, rtol=1e-5)
        tokens, length = result.tokens[image, 0], result.lengths[image, 0]
        rows = [decoder.row(image, [BOS, *tokens[:t]]) for t in range(length)]
        np.testing.assert_array_equal(result.attention[image, :length], decoder.maps[rows])
        assert (result.attention[image, length:] == 0).all()


def test_an_image_alone_is_an_image_in_a_batch(toy):
    decoder = toy(11, seed=7, boost=[(EOS, 1.0)])
    images = np.arange(64)
    options = {"num_beams": 3, "bos_id": BOS, "eos_id": EOS, "pad_id": PAD, "max_length": 13}
    run = fast_jit(lambda carry: beam_search(decoder.step, carry, **options))
    whole = run(decoder.carry(images, 3))
    rows = [run(decoder.carry([image], 3)) for image in images]
    alone = jax.tree.map(lambda *leaves: np.concatenate(leaves), *rows)
    for name in ("tokens", "lengths", "finished"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(whole, name))
    np.testing.assert_allclose(alone.scores, whole.scores, rtol=1e-6)


@pytest.mark.parametrize("chunk", [3, more(50)])
def test_chunks_change_nothing(toy, chunk):
    decoder = toy(11, seed=8, boost=[(EOS, 1.0)])
    expected = search(decoder, np.arange(16), num_beams=3, return_attention=True)
    result = search(decoder, np.arange(16), num_beams=3, return_attention=True, chunk=chunk)
    jax.tree.map(np.testing.assert_array_equal, result, expected)


def test_a_finished_batch_stops_and_no_step_is_past_the_limit(toy):
    fed = []

    def run(decoder, max_length):
        def step(carry, token):
            jax.debug.callback(lambda position: fed.append(int(position)), carry.position)
            return decoder.step(carry, token)

        fed.clear()
        carry = decoder.carry(np.arange(4), 2)
        options = {"num_beams": 2, "bos_id": BOS, "eos_id": EOS, "pad_id": PAD, "chunk": 3}
        run = fast_jit(lambda carry: beam_search(step, carry, max_length=max_length, **options))
        jax.block_until_ready(run(carry))
        jax.effects_barrier()
        return sorted(fed)

    assert run(toy(9, boost=[(EOS, 50.0)]), 41) == list(range(4))  # 40 % 3, then one chunk of 3
    assert run(toy(9, boost=[(EOS, -50.0)]), 9) == list(range(8))


def test_eos_at_once(toy):
    result = search(toy(9, boost=[(EOS, 60.0)]), np.arange(3), num_beams=3)
    assert (result.tokens[:, 0] == [EOS] + [PAD] * 7).all()
    assert (result.lengths[:, 0] == 1).all()
    assert result.finished[:, 0].all()


def test_what_never_ends_is_cut_and_says_so(toy):
    decoder = toy(9, banned=[PAD, BOS, EOS])
    result = search(decoder, np.arange(3), num_beams=3)
    assert not result.finished.any()
    assert (result.lengths == 8).all()
    assert (result.tokens > EOS).all()
    assert np.isfinite(result.scores).all()


@pytest.mark.parametrize("num_beams", [more(1), 4])
def test_one_id_for_bos_eos_and_pad(toy, num_beams):
    """The table does not care for the ids' names, so swapping them must change nothing else."""
    decoder = toy(9, seed=9, boost=[(EOS, 1.0)])
    options = {"num_beams": num_beams, "bos_id": EOS}
    apart = search(decoder, np.arange(32), pad_id=PAD, **options)
    one = search(decoder, np.arange(32), pad_id=EOS, **options)
    np.testing.assert_array_equal(one.lengths, apart.lengths)
    np.testing.assert_array_equal(one.finished, apart.finished)
    inside = np.arange(8) < one.lengths[..., None]
    np.testing.assert_array_equal(one.tokens, np.where(inside, apart.tokens, EOS))
    assert apart.finished.any()


def test_ranks_beyond_what_exists_are_empty(toy):
    # Two tokens are allowed beside eos (id 0 here), and two may be said: 1 + 2 + 4 captions.
    decoder, exist = toy(6, banned=[1, 2, 3]), 1 + 2 + 4
    result = search(decoder, np.arange(8), num_beams=9, max_length=3, eos_id=0, pad_id=3)
    assert (result.lengths[:, :exist] > 0).all()
    assert np.isfinite(result.scores[:, :exist]).all()
    assert (result.lengths[:, exist:] == 0).all()
    assert (result.tokens[:, exist:] == 3).all()
    assert (result.scores[:, exist:] == -np.inf).all()
    assert not result.finished[:, exist:].any()
    inside = np.arange(2) < result.lengths[..., None]
    assert not np.isin(result.tokens[inside], [1, 2, 3]).any()
    assert not any(np.isnan(leaf).any() for leaf in jax.tree.leaves(result))


def test_carry_leaves_of_any_kind_follow_their_beam(toy):
    decoder = toy(9, seed=10, boost=[(EOS, 0.5)])
    kinds = {"bool": jnp.bool_, "uint8": jnp.uint8, "bfloat16": jnp.bfloat16, "int16": jnp.int16}

    def witness(state):
        return {
            name: jnp.broadcast_to((state % 2)[..., None, None], (*state.shape, 3, 2)).astype(kind)
            for name, kind in kinds.items()
        }

    def step(carry, token):
        last, state = carry.per_beam["witness"], carry.per_beam["state"]
        agree = jax.tree.map(lambda x, y: (x == y).all((2, 3)), last, witness(state))
        agree = jnp.stack(list(agree.values())).all(0)
        carry, logits, maps = decoder.step(carry, token)
        state = carry.per_beam["state"]
        carry = carry.replace(per_beam={"state": state, "witness": witness(state)})
        return carry, jnp.where(agree[..., None], logits, 0), maps

    carry = decoder.carry(np.arange(32), 4)
    state = carry.per_beam["state"]
    carry = carry.replace(per_beam={"state": state, "witness": witness(state)})
    options = {"num_beams": 4, "eos_id": EOS, "pad_id": PAD, "max_length": 9}
    result = fast_jit(lambda carry: beam_search(step, carry, bos_id=BOS, **options))(carry)
    expected = search(decoder, np.arange(32), **options)
    np.testing.assert_array_equal(result.tokens, expected.tokens)
