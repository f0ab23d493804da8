from typing import Any

import numpy as np
import pytest
from scipy import stats

from mtret.evaluation.statistics import (
    MIN_QUERIES,
    Difference,
    Interval,
    bounds,
    holm,
    p_value,
    paired,
    resampled_means,
    run_noise,
    verdict,
)


def bootstrapped(values: np.ndarray, seed: int, resamples: int) -> tuple[float, float]:
    low, high = bounds(resampled_means(values[:, None], seed, "", resamples)[:, 0])
    return float(low), float(high)


def test_the_interval_of_a_mean_is_that_of_the_normal_approximation():
    values = np.random.default_rng(0).uniform(size=2000)
    low, high = bootstrapped(values, seed=1, resamples=4000)
    error = values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_the_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(2)
    covered = []
    for seed in range(400):
        low, high = bootstrapped(rng.beta(0.6, 0.4, size=80), seed, resamples=400)
        covered.append(low <= 0.6 <= high)
    assert 0.91 < np.mean(covered) < 0.98


def test_draws_depend_on_seed_and_name_alone():
    values = np.random.default_rng(3).uniform(size=(50, 2))
    first = resampled_means(values, 1, "table", 100)
    np.testing.assert_array_equal(resampled_means(values, 1, "table", 100), first)
    assert not np.array_equal(resampled_means(values, 2, "table", 100), first)
    assert not np.array_equal(resampled_means(values, 1, "field", 100), first)
    assert first[0, 0] == pytest.approx(0.6428455286617857, abs=1e-12)  # the same in every process and version


def test_columns_share_their_draws_so_that_differences_are_paired():
    values = np.random.default_rng(4).uniform(size=(60, 1))
    means = resampled_means(np.concatenate([values, values + 0.25], axis=1), 0, "", 500)
    np.testing.assert_allclose(means[:, 1] - means[:, 0], 0.25, atol=1e-12)


def test_resampling_by_blocks_is_a_plain_bootstrap():
    # 600,000 queries make blocks of a single resample.
    values = np.random.default_rng(5).uniform(size=(600_000, 1))
    means = resampled_means(values, 0, "", 3)
    assert len(np.unique(means)) == 3
    assert abs(means - values.mean()).max() < 5 * values.std() / np.sqrt(600_000)


def test_bounds_leave_a_fortieth_out_at_either_end():
    one = np.linspace(0, 1, 1001)
    np.testing.assert_allclose(bounds(np.stack([one, 2 * one], axis=1)), [[0.025, 0.05], [0.975, 1.95]])


@pytest.mark.parametrize(
    ("low", "high", "n", "word"),
    [
        (0.01, 0.2, 100, "better"),
        (-0.2, -0.01, 100, "WORSE"),
        (-0.01, 0.2, 100, "no difference"),
        (0.0, 0.2, 100, "no difference"),
        (0.1, 0.2, MIN_QUERIES, "better"),
        (0.1, 0.2, MIN_QUERIES - 1, "no difference"),
    ],
)
def test_verdicts(low: float, high: float, n: int, word: str):
    assert verdict(Interval((low + high) / 2, low, high), n) == word


@pytest.mark.parametrize("runs", [(2, 2), (1, 3), (5, 5)])
def test_noise_of_trainings_is_students(runs: tuple[int, int]):
    from scipy.stats import t

    first, n = runs[0], sum(runs)
    scores = np.random.default_rng(1).normal(0.5, 0.02, size=n)
    sides = (scores[:first], scores[first:])
    deviations = np.concatenate([side - side.mean() for side in sides])
    noise = run_noise(runs, seed=0, resamples=40_000) @ deviations
    freedom = n - 2
    pooled = np.sqrt(np.sum(deviations**2) / freedom)
    for level in (0.6, 0.9, 0.975):
        for place, k in enumerate(runs):
            expected = t.ppf(level, freedom) * pooled / np.sqrt(k)
            assert np.quantile(noise[:, place], level) == pytest.approx(expected, rel=0.1)
        between = t.ppf(level, freedom) * pooled * np.sqrt(1 / runs[0] + 1 / runs[1])
        assert np.quantile(noise[:, 1] - noise[:, 0], level) == pytest.approx(between, rel=0.1)


def test_sides_of_different_size_have_their_own_spread():
    from scipy.stats import t

    spread = np.array([-0.1, 0.1, -0.02, -0.01, 0.0, 0.01, 0.02])
    noise = run_noise((2, 5), seed=0, resamples=40_000)
    assert not noise[:, 0, 2:].any() and not noise[:, 1, :2].any()
    for place, own in enumerate((spread[:2], spread[2:])):
        expected = t.ppf(0.9, len(own) - 1) * np.std(own, ddof=1) / np.sqrt(len(own))
        assert np.quantile((noise @ spread)[:, place], 0.9) == pytest.approx(expected, rel=0.05)


def test_one_training_a_side_adds_nothing():
    assert not run_noise((1, 1), seed=0).any()


def test_a_difference_is_rounded_and_its_word_follows_what_is_shown():
    assert paired(0.12345649, 0.0000004, 0.2, 10) == Difference(0.123456, 0.0, 0.2, "no difference")
    assert paired(0.12345649, 0.0000006, 0.2, 10) == Difference(0.123456, 0.000001, 0.2, "better")
    assert paired(-0.1, -0.2, -0.05, 10).as_json() == {"mean": -0.1, "ci95": [-0.2, -0.05], "verdict": "WORSE"}


def test_without_noise_of_queries_the_p_value_is_that_of_a_t_test() -> None:
    a, b = np.array([0.50, 0.53, 0.49]), np.array([0.55, 0.56, 0.53])
    deviations = np.concatenate([a - a.mean(), b - b.mean()])
    far = run_noise((3, 3), seed=0, resamples=400_000)
    found = p_value(b.mean() - a.mean(), 0.0, (far[:, 1] - far[:, 0]) @ deviations)
    expected: Any = stats.ttest_ind(a, b)
    assert found == pytest.approx(expected.pvalue, rel=0.03)


@pytest.mark.parametrize("difference", [-0.02, 0.0, 0.031])
def test_of_single_models_the_p_value_is_that_of_normal_noise(difference: float) -> None:
    found = p_value(difference, 0.01, np.zeros(400_000))
    assert found == pytest.approx(2 * stats.norm.sf(abs(difference) / 0.01), rel=0.05)
    assert p_value(1.0, 0.01, np.zeros(999)) == 1 / 1000


def test_holms_correction_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == []
