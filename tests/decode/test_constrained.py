"""Constrained beam search against enumeration, and its promises."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capjax.decode.beam import beam_search
from capjax.decode.constrained import Banks, _places, constrained_beam_search
from capjax.decode.processors import Processors
from tests.helpers.effort import sweep

BOS, EOS, PAD = 1, 2, 0
IDS = {"bos_id": BOS, "eos_id": EOS, "pad_id": PAD}

fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def search(decoder, images, *, method=constrained_beam_search, num_beams=6, **options):
    """A search on the toy decoder, jitted, as NumPy arrays."""
    options = {"max_length": 9, **IDS, **options}
    attention = options.get("return_attention", False)
    step = functools.partial(decoder.step, attention=attention)
    run = fast_jit(lambda carry: method(step, carry, num_beams=num_beams, **options))
    return jax.tree.map(np.asarray, run(decoder.carry(images, num_beams)))


def holds(caption, constraints):
    """Whether the caption has every phrase."""
    return all(
        any(tuple(caption[i : i + len(phrase)]) == phrase for i in range(len(caption)))
        for phrase in constraints
    )


def captions(result, row):
    fields = (result.tokens, result.lengths, result.scores, result.met)
    return [
        (tuple(tokens[:length].tolist()), float(score), bool(met))
        for tokens, length, score, met in zip(*(field[row] for field in fields), strict=True)
        if length
    ]


def enumerate_all(decoder, image, steps, power):
    """Every caption of at most `steps` tokens and its score."""
    words = [token for token in range(3, decoder.logits.shape[1]) if token != EOS]
    ended = [(*w, EOS) for n in range(steps) for w in itertools.product(words, repeat=n)]
    for caption in [*ended, *itertools.product(words, repeat=steps)]:
        each = [decoder.log_probs(image, (BOS, *caption[:t]))[w] for t, w in enumerate(caption)]
        yield caption, sum(each) / len(caption) ** power


SETS = [(((3, 4),), 1.0), (((3,), (4, 4)), 0.7), (((4,), (4, 3)), 0.0)]


@pytest.mark.parametrize(("constraints", "penalty"), sweep(SETS, SETS[1:2]))
def test_as_many_beams_as_captions_find_all_in_order(toy, constraints, penalty):
    decoder = toy(5, seed=41, banned=[PAD, BOS])  # Two words: 15 captions end, 16 are cut.
    images = np.arange(4)
    options = {"constraints": constraints, "max_length": 5, "length_penalty": penalty}
    result = search(decoder, images, num_beams=31, **options)
    for image in images:
        expected = sorted(
            enumerate_all(decoder, image, 4, penalty),
            key=lambda c: (not holds(c[0], constraints), -c[1]),
        )
        found = captions(result, image)
        assert [c[0] for c in found] == [c[0] for c in expected]
        np.testing.assert_allclose([c[1] for c in found], [c[1] for c in expected], rtol=1e-5)
        assert [c[2] for c in found] == [holds(c[0], constraints) for c in expected]


def met_of(phrases, caption):
    """Point 1 of the module's docstring, for each phrase."""
    return [
        len(phrase)
        if holds(caption, [phrase])
        else max(n for n in range(len(phrase)) if caption[len(caption) - n :] == phrase[:n])
        for phrase in phrases
    ]


def test_met_tokens_are_those_of_a_search_of_the_text():
    phrases = ((3, 3, 4), (3, 4, 3, 5), (5,), (4, 4))
    banks = Banks(phrases)
    rng = np.random.default_rng(0)
    text = rng.integers(3, 7, (1, 64, 24))

    def scan(met, tokens):
        met = banks.advance(met, tokens)
        return met, (met, banks.bank(met))

    start = jnp.zeros((1, 64, len(phrases)), jnp.int32)
    _, (met, bank) = fast_jit(lambda text: jax.lax.scan(scan, start, text))(
        jnp.moveaxis(jnp.asarray(text), -1, 0)
    )
    for row in range(64):
        for length in range(1, 25):
            expected = met_of(phrases, tuple(text[0, row, :length].tolist()))
            assert met[length - 1, 0, row].tolist() == expected
            whole = [m == len(p) for m, p in zip(expected, phrases, strict=True)]
            most = max((m for m, w in zip(expected, whole, strict=True) if not w), default=0)
            done = sum(m for m, w in zip(expected, whole, strict=True) if w)
            assert bank[length - 1, 0, row] == done + most
    assert (bank == 10).any()


def test_places_go_where_candidates_are():
    candidates = jnp.array([[9, 9, 9], [9, 0, 0], [9, 1, 9], [1, 9, 0], [1, 0, 2], [0, 9, 1]])
    places = np.asarray(_places(candidates, 7))
    assert places.tolist() == [[2, 2, 3], [7, 0, 0], [3, 1, 3], [1, 6, 0], [1, 0, 2], [0, 6, 1]]
    assert np.asarray(_places(candidates[:2], 2)).tolist() == [[0, 0, 2], [2, 0, 0]]


def restated(decoder, image, phrases, num_beams, steps):
    """The algorithm of the module's docstring in lists, for one image and a length penalty of 1."""
    total = sum(map(len, phrases))

    def bank(caption):
        met = met_of(phrases, caption)
        whole = [m == len(p) for m, p in zip(met, phrases, strict=True)]
        most = max((m for m, w in zip(met, whole, strict=True) if not w), default=0)
        return sum(m for m, w in zip(met, whole, strict=True) if w) + most

    live, done, others = [((), 0.0)], [], []
    for n in range(1, steps + 1):
        candidates = sorted(
            [
                ((*prefix, token), log_prob + own)
                for prefix, log_prob in live
                for token, own in enumerate(decoder.log_probs(image, (BOS, *prefix)).tolist())
                if own > -1e8
            ],
            key=lambda c: -c[1],
        )
        groups = [[c for c in candidates if bank(c[0]) == b] for b in range(total + 1)]
        share, rest = divmod(num_beams, total + 1)
        places = [share] * total + [share + rest]
        for b in [*range(total, -1, -1), *range(total, -1, -1)]:  # Excess goes to the bank below.
            excess = max(places[b] - len(groups[b]), 0)
            places[b] -= excess
            places[b - 1] += excess
        live = []
        for b, (group, room) in enumerate(zip(groups, places, strict=True)):
            ends = [c for c in group[:room] if c[0][-1] == EOS or n == steps]
            (done if b == total else others).extend((c[0], c[1] / n) for c in ends)
            live += [c for c in group if c[0][-1] != EOS][:room]
        done = sorted(done, key=lambda d: -d[1])[:num_beams]
        others = sorted(others, key=lambda d: -d[1])[:num_beams]
        if len(done) == num_beams and max(c[1] for c in live) / n <= done[-1][1]:
            break
    return [*((*d, True) for d in done), *((*o, False) for o in others)][:num_beams]


CASES = [
    (((5,), (6, 7)), 8),
    (((4, 4, 5), (4, 5, 6)), 10),  # Both begin alike, and one can end within the other.
    (((3,), (4,), (5,), (6,)), 3),  # Fewer beams than banks.
    (((7, 3, 7, 4),), 1),
    (((3, 4, 5), (4, 6), (5, 5)), 12),
]


@pytest.mark.parametrize(("constraints", "num_beams"), sweep(CASES, CASES[:3]))
def test_narrow_beams_follow_the_algorithm_and_meet_every_phrase(toy, constraints, num_beams):
    decoder = toy(9, seed=42, boost=[(EOS, 1.0)], banned=[PAD, BOS])
    images = np.arange(16)
    options = {"constraints": constraints, "return_attention": True}
    result = search(decoder, images, num_beams=num_beams, **options)
    assert result.met[:, 0].all()
    for image in images:
        expected = restated(decoder, image, constraints, num_beams, 8)
        found = captions(result, image)
        assert [c[0] for c in found] == [c[0] for c in expected]
        np.testing.assert_allclose([c[1] for c in found], [c[1] for c in expected], rtol=1e-5)
        assert [c[2] for c in found] == [c[2] for c in expected]
        assert [c[2] for c in found] == [holds(c[0], constraints) for c in found]
        best = found[0][0]
        rows = [decoder.row(image, (BOS, *best[:t])) for t in range(len(best))]
        np.testing.assert_array_equal(result.attention[image, : len(best)], decoder.maps[rows])


PROCESSED = {"processors": Processors(no_repeat_ngram_size=2, min_length=4), "prompt": (5, 3)}


@pytest.mark.parametrize("options", [{}, {**PROCESSED, "early_stopping": True}])
def test_no_constraint_is_beam_search(toy, options):
    decoder = toy(9, seed=43, boost=[(EOS, 1.0)])
    images = np.arange(16)
    expected = search(decoder, images, method=beam_search, **options)
    result = search(decoder, images, constraints=(), **options)
    np.testing.assert_array_equal(result.tokens, expected.tokens)
    np.testing.assert_array_equal(result.finished, expected.finished)
    np.testing.assert_allclose(result.scores, expected.scores, rtol=1e-5)
    np.testing.assert_allclose(result.log_probs, expected.log_probs, rtol=1e-5)
    assert (result.met == (result.lengths > 0)).all()


def test_an_image_alone_is_an_image_in_a_batch_and_a_prompt_does_not_count(toy):
    decoder = toy(9, seed=44, boost=[(EOS, 1.0)], banned=[PAD, BOS])
    options = {**IDS, **PROCESSED, "max_length": 10, "constraints": ((3,), (6, 4))}
    run = fast_jit(
        lambda carry: constrained_beam_search(decoder.step, carry, num_beams=8, **options)
    )
    whole = run(decoder.carry(np.arange(6), 8))
    for image in range(6):
        alone = run(decoder.carry([image], 8))
        np.testing.assert_array_equal(alone.tokens[0], whole.tokens[image])
        np.testing.assert_allclose(alone.scores[0], whole.scores[image], rtol=1e-6)
        best = whole.tokens[image, 0, : whole.lengths[image, 0]].tolist()
        assert whole.met[image, 0]
        assert holds(best, options["constraints"])
        assert (
            len({*itertools.pairwise([5, 3, *best])}) == len(best) + 1
        )  # No pair of tokens twice.


def test_what_the_decoder_bans_is_not_met_and_the_image_has_a_caption(toy):
    decoder = toy(9, seed=45, boost=[(EOS, 1.0)], banned=[6])
    result = search(decoder, np.arange(8), constraints=((5,), (6,)))
    assert not result.met.any()
    assert (result.lengths[:, 0] > 0).all()
    assert result.finished[:, 0].any()


@pytest.mark.parametrize(
    ("constraints", "options", "message"),
    [
        (((3,), ()), {}, "empty phrase"),
        (((3, 9),), {}, r"\(3, 9\), whose token 9 is outside the vocabulary of 9"),
        (((3, EOS, 4),), {}, r"\(3, 2, 4\), with the end token 2"),
        (((3, 4), (5, 6, 7)), {"max_length": 5}, r"5 tokens, .*\(5, 6, 7\), and .* room for 4"),
        (((3, 4),), {"max_length": 5, "prompt": (3, 4, 5)}, "room for 1"),
        (((4,),), {"processors": Processors(suppress_tokens=(4,))}, "4 is in suppress_tokens"),
        (((3, 4, 5),), {"processors": Processors(bad_words_ids=((4, 5),))}, "bad_words_ids"),
    ],
)
def test_impossible_constraints_are_named(toy, constraints, options, message):
    decoder = toy(9)
    options = {**IDS, "max_length": 9, "num_beams": 2, **options}
    with pytest.raises(ValueError, match="constraints.*" + message):
        constrained_beam_search(
            decoder.step, decoder.carry([0], 2), constraints=constraints, **options
        )


def test_phrases_within_others_need_no_room(toy):
    decoder = toy(9, banned=[PAD, BOS])
    phrases = ((3, 4), (5, 3, 4), (5,), (3, 4))
    result = search(decoder, np.arange(2), constraints=phrases, max_length=4)
    assert (result.tokens[:, 0] == [5, 3, 4]).all()
    assert result.met[:, 0].all()
