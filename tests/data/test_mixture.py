import numpy as np
import pytest

from mtret.data.mixture import MixtureConfig, schedule, shares
from mtret.errors import UserError


def test_shares_are_proportional_to_n_to_the_alpha():
    np.testing.assert_allclose(shares("ab", [100, 400], MixtureConfig(alpha=0.5)), [1 / 3, 2 / 3])
    np.testing.assert_allclose(shares("ab", [100, 400], MixtureConfig(alpha=1.0)), [0.2, 0.8])
    np.testing.assert_allclose(shares("ab", [100, 400], MixtureConfig(alpha=0.0)), [0.5, 0.5])


def test_an_explicit_weight_stands_in_place_of_n_to_the_alpha():
    np.testing.assert_allclose(
        shares("abc", [100, 400, 9], MixtureConfig(weights={"b": 7.0})), [10 / 20, 7 / 20, 3 / 20]
    )
    np.testing.assert_allclose(shares("ab", [5, 9], MixtureConfig(weights={"a": 1.0, "b": 3.0})), [0.25, 0.75])


def test_a_weight_of_an_unknown_task_is_refused_with_the_nearest_name():
    with pytest.raises(
        UserError, match=r"mixture.weights: 'baking77' is not in the mixture. Did you mean 'banking77'\?"
    ):
        shares(["banking77"], [5], MixtureConfig(weights={"baking77": 1.0}))


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_no_positive_number_is_refused(weight: float):
    with pytest.raises(UserError, match=r"mixture.weights.a: .* is not a positive number"):
        shares("ab", [5, 5], MixtureConfig(weights={"a": weight}))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "weights", [(1,), (1, 1), (5, 3, 1), (100, 1), (1, 1000, 1, 1), tuple(range(1, 21)), (1,) * 13, (0.618, 0.382)]
)
def test_no_prefix_is_a_whole_step_off_any_tasks_share(weights: tuple[float, ...], seed: int):
    share = np.array(weights, np.float64) / sum(weights)
    task, occurrence = schedule(share, 1500, seed)
    counts = np.cumsum(task[:, None] == np.arange(len(share)), axis=0)
    expected = np.arange(1, 1501)[:, None] * share
    assert np.abs(counts - expected).max() < 1.0
    np.testing.assert_array_equal(occurrence, counts[np.arange(1500), task] - 1)


def test_a_longer_run_begins_with_the_same_steps():
    share = np.array([0.5, 0.3, 0.2])
    short, long = schedule(share, 50, 3), schedule(share, 500, 3)
    for a, b in zip(short, long, strict=True):
        np.testing.assert_array_equal(a, b[:50])


def test_the_seed_decides_among_equals():
    orders = {tuple(schedule(np.full(5, 0.2), 5, seed)[0].tolist()) for seed in range(20)}
    assert len(orders) > 10 and all(sorted(order) == [0, 1, 2, 3, 4] for order in orders)


def test_by_hand():
    """Due at 2, 4, 6, ..., at 3.3, 6.7, ... and at 5, 10, ..., none earlier than its share allows."""
    task, occurrence = schedule(np.array([0.5, 0.3, 0.2]), 7, 0)
    assert task.tolist() == [0, 1, 0, 2, 0, 1, 0]
    assert occurrence.tolist() == [0, 0, 1, 0, 2, 1, 3]
    assert task.dtype == np.int32 and occurrence.dtype == np.int64


def test_a_task_alone_has_every_step():
    task, occurrence = schedule(np.ones(1), 5, 0)
    assert task.tolist() == [0] * 5 and occurrence.tolist() == [0, 1, 2, 3, 4]
