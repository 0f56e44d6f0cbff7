"""The consensus of candidates, against loops over pairs of them."""

import jax
import numpy as np
import pytest

from capjax.decode.consensus import choose
from capjax.metrics.rewards.bleu4 import Bleu4
from capjax.metrics.rewards.cider_d import CiderD
from tests.helpers.cider import EOS, pad

K = 5


def draw(seed, images=4):
    rng = np.random.default_rng(seed)
    return [
        [np.array([*rng.integers(3, 6, rng.integers(1, 6)), EOS]) for _ in range(K)]
        for _ in range(images)
    ]


@pytest.mark.parametrize("reward", [CiderD(), Bleu4()], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_choice_has_the_highest_mean_reward_against_the_others(reward, weighted):
    candidates = draw(0)
    candidates[1][4] = candidates[2][0] = candidates[2][3] = []  # Fewer candidates.
    tokens, lengths = pad(candidates, 7)
    log_probs = np.random.default_rng(1).normal(size=lengths.shape).astype(np.float32) * 3
    table = reward.prepare(draw(2, 20), eos_id=EOS, vocab_size=6)
    given = log_probs if weighted else None
    index, expected = jax.jit(lambda *x: choose(reward, table, *x))(tokens, lengths, given)
    each = [[ids] for own in candidates for ids in own for _ in own]
    other = [[ids] for own in candidates for _ in own for ids in own]
    pairs = jax.jit(reward.__call__)(table, *pad(each, 7), *pad(other, 7)).reshape(-1, K, K)
    for image, own in enumerate(candidates):
        means = []
        for k, ids in enumerate(own):
            others = [j for j in range(K) if j != k and len(own[j])]
            rewards = pairs[image, k, others]
            weights = np.exp(log_probs[image, others]) if weighted else None
            means.append(np.average(rewards, weights=weights) if len(ids) else -np.inf)
        np.testing.assert_allclose(expected[image], means, rtol=1e-4, atol=1e-5)
        assert index[image] == np.argmax(means)


def test_a_caption_said_twice_wins_and_the_only_one_is_chosen():
    said = [[[3, EOS], [4, 5, EOS], [4, 5, EOS]], [[], [3, EOS], []]]
    run = jax.jit(lambda *x: choose(Bleu4(), np.int32(EOS), *x))
    index, expected = run(*pad(said, 3))
    assert index.tolist() == [1, 1]
    assert expected[1].tolist() == [-np.inf, 0.0, -np.inf]


def test_a_probability_near_one_leaves_the_others_their_shares():
    said = [[[3, EOS], [4, 5, EOS], [4, 5, EOS]]]
    reward = Bleu4()
    log_probs = np.array([[0.0, -200.0, -201.0]], np.float32)
    run = jax.jit(lambda *x: choose(reward, np.int32(EOS), *x))
    _, expected = run(*pad(said, 3), log_probs)
    _, alike = run(*pad(said, 3), np.zeros((1, 3), np.float32))
    # Both others are one caption.
    np.testing.assert_allclose(expected[0, 0], alike[0, 0], rtol=1e-5)
    assert expected[0, 0] > 0
