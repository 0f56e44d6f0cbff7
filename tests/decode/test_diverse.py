"""Group-diverse beam search against a plain re-statement, and its promises."""

import functools

import jax
import numpy as np
import pytest

from capjax.decode.beam import beam_search
from capjax.decode.diverse import Groups, diverse_beam_search
from capjax.decode.processors import Processors
from tests.helpers.effort import sweep

BOS, EOS, PAD = 1, 2, 0
IDS = {"bos_id": BOS, "eos_id": EOS, "pad_id": PAD}

fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def search(decoder, images, *, method=diverse_beam_search, num_beams=6, **options):
    """A search on the toy decoder, jitted, as NumPy arrays."""
    options = {"max_length": 8, **IDS, **options}
    attention = options.get("return_attention", False)
    step = functools.partial(decoder.step, attention=attention)
    run = fast_jit(lambda carry: method(step, carry, num_beams=num_beams, **options))
    return jax.tree.map(np.asarray, run(decoder.carry(images, num_beams)))


def restated(decoder, image, num_beams, groups, penalty, steps, power, early_stopping):
    """The algorithm of the module's docstring in lists and tuples, for one image."""
    width = num_beams // groups
    state = [([((), 0.0)], [], True) for _ in range(groups)]
    for n in range(1, steps + 1):
        said: list[int] = []
        for group, (live, done, open_) in enumerate(state):
            if not open_:
                continue
            candidates = sorted(
                [
                    ((*prefix, token), total + log_prob - penalty * said.count(token))
                    for prefix, total in live
                    for token, log_prob in enumerate(decoder.log_probs(image, (BOS, *prefix)))
                ],
                key=lambda e: -e[1],
            )[: 2 * width]
            for prefix, total in candidates[:width]:
                if prefix[-1] == EOS or n == steps:
                    done.append((prefix, prefix[-1] == EOS, total / n**power))
            done = sorted(done, key=lambda d: -d[2])[:width]
            live = [c for c in candidates if c[0][-1] != EOS][:width]
            said += [prefix[-1] for prefix, _ in live]
            horizon = steps if early_stopping == "never" and power > 0 else n
            full = len(done) == width
            hopeless = full and live[0][1] / horizon**power <= done[-1][2]
            state[group] = (live, done, not hopeless and not (full and early_stopping is True))
    return sorted((d for _, done, _ in state for d in done), key=lambda d: -d[2])


CASES = [(6, 3, 0.7, False), (6, 3, 0.7, True), (4, 4, 2.0, "never"), (6, 2, 0.0, False)]


@pytest.mark.parametrize(
    ("num_beams", "groups", "penalty", "early_stopping"), sweep(CASES, [CASES[0], CASES[2]])
)
def test_the_groups_follow_the_algorithm(toy, num_beams, groups, penalty, early_stopping):
    decoder = toy(9, seed=31, boost=[(EOS, 1.0)])
    images = np.arange(24)
    result = search(
        decoder,
        images,
        num_beams=num_beams,
        num_beam_groups=groups,
        diversity_penalty=penalty,
        early_stopping=early_stopping,
        return_attention=True,
    )
    for image in images:
        expected = restated(decoder, image, num_beams, groups, penalty, 7, 1.0, early_stopping)
        lengths = result.lengths[image]
        assert len(expected) == num_beams
        np.testing.assert_allclose(result.scores[image], [e[2] for e in expected], atol=1e-5)
        found = [tuple(t[:n].tolist()) for t, n in zip(result.tokens[image], lengths, strict=True)]
        if penalty:  # else there are equal captions of different groups, in either order
            assert found == [e[0] for e in expected]
        for caption, log_probs, total in zip(
            found, result.token_log_probs[image], result.log_probs[image], strict=True
        ):
            own = [
                decoder.log_probs(image, (BOS, *caption[:t]))[token]
                for t, token in enumerate(caption)
            ]
            np.testing.assert_allclose(log_probs[: len(own)], own, atol=1e-5)
            np.testing.assert_allclose(total, sum(own), atol=1e-4)
        rows = [decoder.row(image, (BOS, *found[0][:t])) for t in range(lengths[0])]
        np.testing.assert_array_equal(result.attention[image, : lengths[0]], decoder.maps[rows])


PROCESSED = {"processors": Processors(no_repeat_ngram_size=2, min_length=4), "prompt": (5, 3)}


@pytest.mark.parametrize("options", [{}, PROCESSED])
def test_one_group_is_beam_search(toy, options):
    decoder = toy(9, seed=32, boost=[(EOS, 1.0)])
    images = np.arange(16)
    expected = search(decoder, images, method=beam_search, **options)
    whole = search(decoder, images, num_beam_groups=1, diversity_penalty=5.0, **options)
    jax.tree.map(np.testing.assert_array_equal, whole, expected)
    grouped = search(decoder, images, method=beam_search, strategy=Groups(1, 5.0), **options)
    jax.tree.map(np.testing.assert_array_equal, grouped, expected)


def test_without_a_penalty_each_group_finds_what_a_beam_search_finds(toy):
    decoder = toy(9, seed=33, boost=[(EOS, 1.0)])
    images = np.arange(16)
    options = {"processors": Processors(repetition_penalty=1.3)}
    alone = search(decoder, images, method=beam_search, num_beams=2, **options)
    groups = search(decoder, images, num_beam_groups=3, diversity_penalty=0.0, **options)
    np.testing.assert_array_equal(groups.tokens, np.repeat(alone.tokens, 3, axis=1))


def test_a_great_penalty_lets_no_two_groups_say_the_same_word_at_once(toy):
    decoder = toy(9, seed=34, banned=[PAD, BOS, EOS])
    result = search(decoder, np.arange(16), num_beam_groups=6, diversity_penalty=50.0)
    assert (np.sort(result.tokens, axis=1) == np.arange(3, 9)[:, None]).all()


def test_an_image_alone_is_an_image_in_a_batch(toy):
    decoder = toy(9, seed=35, boost=[(EOS, 1.0)])
    options = {**IDS, **PROCESSED, "max_length": 9, "num_beam_groups": 2, "diversity_penalty": 0.9}
    run = fast_jit(lambda carry: diverse_beam_search(decoder.step, carry, num_beams=4, **options))
    whole = run(decoder.carry(np.arange(6), 4))
    for image in range(6):
        alone = run(decoder.carry([image], 4))
        np.testing.assert_array_equal(alone.tokens[0], whole.tokens[image])
        np.testing.assert_allclose(alone.scores[0], whole.scores[image], rtol=1e-6)


@pytest.mark.parametrize(
    ("groups", "penalty", "message"),
    [(4, 1.0, "num_beam_groups=4"), (0, 1.0, "num_beam_groups=0"), (2, -1.0, "diversity_penalty")],
)
def test_options_without_meaning_are_refused(toy, groups, penalty, message):
    decoder = toy(9)
    options = {**IDS, "num_beams": 6, "max_length": 5}
    with pytest.raises(ValueError, match=message):
        diverse_beam_search(
            decoder.step,
            decoder.carry([0], 6),
            num_beam_groups=groups,
            diversity_penalty=penalty,
            **options,
        )
