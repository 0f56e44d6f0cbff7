"""Resampling: against exact answers, closed forms and SciPy, and calibrated under no difference."""

import itertools
import random

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from capjax.metrics import coco
from experiments import resampling
from experiments.resampling import (
    bootstrap_sums,
    interval,
    p_value,
    sample_deviation,
    swapped_sums,
)


def test_a_resample_has_as_many_images_and_each_as_often_on_average():
    counts = bootstrap_sums(np.eye(7), 4000, seed=0)
    assert counts.shape == (4000, 7)
    np.testing.assert_array_equal(counts.sum(axis=1), 7)
    np.testing.assert_array_equal(counts, counts.astype(int))
    # A count is binomial of 7 draws at 1 / 7.
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.06)
    np.testing.assert_allclose(counts.var(axis=0), 6 / 7, atol=0.1)
    assert np.corrcoef(counts[:-1, 0], counts[1:, 0])[0, 1] == pytest.approx(0, abs=0.06)


@pytest.mark.parametrize("block", [1, 30, 101])
def test_what_stands_beside_each_other_shares_the_draws_however_they_are_cut(monkeypatch, block):
    values = np.random.default_rng(0).normal(size=(10, 2, 3))
    whole, sides = bootstrap_sums(values, 9, 1), swapped_sums(values, -values, 9, 1)
    assert whole.shape == sides[0].shape == (9, 2, 3)
    monkeypatch.setattr(resampling, "_BLOCK", block)
    np.testing.assert_allclose(bootstrap_sums(values, 9, 1), whole)
    np.testing.assert_allclose(swapped_sums(values, -values, 9, 1), sides)
    np.testing.assert_allclose(bootstrap_sums(values[:, 1], 9, 1), whole[:, 1])
    np.testing.assert_allclose(swapped_sums(values[:, 1], -values[:, 1], 9, 1)[0], sides[0][:, 1])
    assert not np.allclose(bootstrap_sums(values, 9, 2), whole)
    assert bootstrap_sums(values[:, :0], 9, 1).shape == (9, 0, 3)


def test_bleu_of_a_resample_is_that_of_its_corpus():
    draw = random.Random(0)

    def sentence():
        return " ".join(draw.choices("abcd", k=draw.randint(1, 8)))

    references = [[sentence(), sentence()] for _ in range(9)]
    said = [sentence() for _ in range(9)]
    bleu = coco.per_image(dict(enumerate(references)), dict(enumerate(said))).bleu
    sums = bootstrap_sums(np.hstack([bleu, np.eye(9, dtype=int)]), 20, seed=0)
    for values, counts in zip(coco.bleu_of(sums[:, :9]), sums[:, 9:].astype(int), strict=True):
        drawn = dict(enumerate(np.repeat(np.arange(9), counts)))
        corpus = [{n: side[i] for n, i in drawn.items()} for side in (references, said)]
        expected = coco.score(*corpus, meteor=False)
        np.testing.assert_allclose(values, [expected[f"BLEU-{n}"] for n in range(1, 5)], atol=1e-9)


def test_the_interval_of_a_mean_is_the_normal_one_and_scipys():
    values = np.random.default_rng(0).gamma(2.0, size=400)
    low, high = interval(bootstrap_sums(values, 4000, seed=0) / 400)
    sides = 1.96 * values.std() / np.sqrt(400) * np.array([-1, 1])
    np.testing.assert_allclose([low, high], values.mean() + sides, atol=0.01)
    other = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    np.testing.assert_allclose([low, high], other, atol=0.01)


def test_intervals_hold_the_truth_as_often_as_they_say():
    held = 0
    for seed in range(400):
        values = np.random.default_rng(seed).normal(3.0, size=50)
        low, high = interval(bootstrap_sums(values, 300, seed) / 50)
        held += low <= 3.0 <= high
    # The percentile interval of 50 values is a little short: about 0.94.
    assert 0.90 <= held / 400 <= 0.98


def test_p_is_that_of_all_swaps():
    left, right = np.array([[5.0, 3, 8, 1, 9, 4, 7], [4.0, 3, 5, 2, 6, 1, 6]])
    change = left - right
    signs = np.array(list(itertools.product([-1, 1], repeat=7)))
    # The sums are whole numbers, so many swaps are exactly as far out.
    exact = np.mean(np.abs(signs @ change) >= abs(change.sum()))
    sides = swapped_sums(left, right, 20_000, seed=0)
    np.testing.assert_allclose(sum(sides), left.sum() + right.sum())
    assert p_value(change.sum(), sides[0] - sides[1]) == pytest.approx(exact, abs=0.01)
    # Thirds are not exact, and as far out as before.
    sides = swapped_sums(left / 3, right / 3, 20_000, seed=0)
    assert p_value(change.sum() / 3, sides[0] - sides[1]) == pytest.approx(exact, abs=0.01)


def test_p_is_uniform_where_nothing_differs():
    found = []
    for seed in range(400):
        left, right = np.random.default_rng(seed).gamma(1.0, size=(2, 25))
        sides = swapped_sums(left, right, 400, seed)
        found.append(p_value(left.sum() - right.sum(), sides[0] - sides[1]))
    assert scipy.stats.kstest(found, "uniform").pvalue > 0.01
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.05, abs=0.03)


VALUES = st.lists(st.integers(-9, 9), min_size=2, max_size=8)


@given(VALUES, st.integers(0, 5))
def test_p_does_not_care_which_is_first_nor_for_the_scale(values, seed):
    left, right = np.array(values), np.zeros(len(values))

    def p(left, right):
        sides = swapped_sums(left, right, 200, seed)
        return p_value(left.sum() - right.sum(), sides[0] - sides[1])

    assert p(left, right) == p(right, left) == p(left / 8, right / 8)
    assert 1 / 201 <= p(left, right) <= 1
    assert p(left, left) == 1
    if left.sum() == 0:
        assert p(left, right) == 1


def test_a_difference_on_every_image_is_as_sure_as_resamples_can_say():
    sides = swapped_sums(np.full(40, 2.0), np.full(40, 1.0), 999, seed=0)
    assert p_value(40.0, sides[0] - sides[1]) == 1 / 1000


def test_a_deviation_needs_two():
    assert sample_deviation([3.0]) is None
    assert sample_deviation([]) is None
    assert sample_deviation([1.0, 3.0]) == pytest.approx(np.sqrt(2))
