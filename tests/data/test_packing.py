"""Packing against best-fit decreasing text by text, and filling against copying token by token."""

import numpy as np
import pytest

from mtret.data.packing import Packing, Rows, fill, pack, stack, token_weights


def best_fit_decreasing(lengths: list[int], row_length: int) -> int:
    """How many rows it takes when each text, longest first, goes to the fullest row that holds it."""
    free: list[int] = []
    for length in sorted(lengths, reverse=True):
        fits = [row for row in range(len(free)) if free[row] >= length]
        if not fits:
            free.append(row_length)
            fits = [len(free) - 1]
        free[min(fits, key=lambda row: free[row])] -= length
    return len(free)


def check(lengths: np.ndarray, row_length: int, packing: Packing) -> None:
    """Every text lies in a row, within it, and over no other."""
    taken = np.zeros((packing.rows, row_length), int)
    for length, row, start in zip(lengths.tolist(), packing.row.tolist(), packing.start.tolist(), strict=True):
        assert start >= 0 and start + length <= row_length
        taken[row, start : start + length] += 1
    assert taken.max(initial=0) <= 1
    assert taken.sum() == lengths.sum()
    assert (taken.sum(axis=1) > 0).all()


@pytest.mark.parametrize("row_length", [16, 64, 256])
@pytest.mark.parametrize("seed", range(12))
def test_rows_are_valid_and_as_few_as_best_fit_decreasing_needs(row_length: int, seed: int):
    random = np.random.default_rng(seed)
    n = int(random.integers(1, 200))
    spread = [0.05, 0.6, 1.2][seed % 3]
    lengths = np.clip(random.lognormal(np.log(row_length / random.integers(2, 12)), spread, n), 1, row_length).astype(
        int
    )
    packing = pack(lengths, row_length)
    check(lengths, row_length, packing)
    assert packing.rows == best_fit_decreasing(lengths.tolist(), row_length)


@pytest.mark.parametrize(("mean", "slack"), [(20, 0.01), (60, 0.02)])
def test_nearly_every_place_is_taken(mean: int, slack: float):
    lengths = np.clip(np.random.default_rng(0).lognormal(np.log(mean), 0.5, 2000), 3, 256).astype(int)
    assert pack(lengths, 256).rows <= np.ceil(lengths.sum() / 256) * (1 + slack)


def test_texts_that_only_fit_in_pairs():
    """The case that a balanced spread gets wrong: 3 texts of 4 into gaps of 8 leave a gap of 8 for the last."""
    lengths = np.array([12, 12, 12, 4, 4, 3])
    packing = pack(lengths, 20)
    check(lengths, 20, packing)
    assert sorted(np.bincount(packing.row, lengths, packing.rows).tolist()) == [12, 15, 20]


@pytest.mark.parametrize("lengths", [[], [5], [256], [256, 256, 1], [1] * 300, [129, 129]])
def test_edges(lengths: list[int]):
    packed = pack(np.array(lengths, int), 256)
    check(np.array(lengths, int), 256, packed)
    assert packed.rows == best_fit_decreasing(lengths, 256)


@pytest.mark.parametrize(
    ("pooling", "wanted"),
    [
        ("mean", [0.25] * 4 + [1.0] + [0.5] * 2),
        ("cls", [1, 0, 0, 0, 1, 1, 0]),
        ("last", [0, 0, 0, 1, 1, 0, 1]),
        ("max", [1] * 7),
        ("mean_sqrt_len", [0.5] * 4 + [1] + [0.5**0.5] * 2),
        ("weightedmean", [0.1, 0.2, 0.3, 0.4, 1, 1 / 3, 2 / 3]),
        ("last+cls", [[0, 1], [0, 0], [0, 0], [1, 0], [1, 1], [0, 1], [1, 0]]),
    ],
)
def test_pooling_weights_by_hand(pooling: str, wanted: list[float]):
    weights = token_weights(np.array([4, 1, 2]), pooling)
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(weights, np.array(wanted, np.float32))


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_pooling_weights_of_a_text_sum_to_one(pooling: str):
    lengths = np.random.default_rng(0).integers(1, 300, 50)
    sums = np.add.reduceat(token_weights(lengths, pooling), np.cumsum(lengths) - lengths)
    np.testing.assert_allclose(sums, 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "wanted"),
    [
        ("mean", [0, 0, 0.5, 0.5, 1, 0, 1, 1 / 3, 1 / 3, 1 / 3]),
        ("cls", [0, 0, 1, 0, 1, 0, 1, 1, 0, 0]),
        ("last", [0, 0, 0, 1, 1, 0, 1, 0, 0, 1]),
        ("max", [0, 0, 1, 1, 1, 0, 1, 1, 1, 1]),
        ("weightedmean", [0, 0, 3 / 7, 4 / 7, 1, 0, 1, 1 / 6, 2 / 6, 3 / 6]),
    ],
)
def test_what_is_skipped_counts_as_not_there_but_for_a_texts_last_token(pooling: str, wanted: list[float]):
    weights = token_weights(np.array([4, 1, 2, 3]), pooling, np.array([2, 5, 2, 0]))
    np.testing.assert_array_equal(weights, np.array(wanted, np.float32))


def test_filling_copies_each_token_to_its_place():
    random = np.random.default_rng(0)
    lengths = random.integers(1, 20, 30)
    ids = random.integers(1, 1000, lengths.sum()).astype(np.int32)
    weights = token_weights(lengths, "mean")
    segments = random.permutation(40)[:30]
    packing = pack(lengths, 32)
    rows = fill(ids, weights, lengths, segments, packing, (packing.rows + 2, 32), 40)
    wanted = Rows(*(np.full((packing.rows + 2, 32), x, t) for x, t in ((0, int), (0, int), (40, int), (0, np.float32))))
    at = 0
    for text, length in enumerate(lengths.tolist()):
        for i in range(length):
            place = packing.row[text], packing.start[text] + i
            wanted.ids[place], wanted.position[place] = ids[at], i
            wanted.segment[place], wanted.pool[place] = segments[text], weights[at]
            at += 1
    for name in ("ids", "position", "segment", "pool"):
        np.testing.assert_array_equal(getattr(rows, name), getattr(wanted, name))
        assert getattr(rows, name).dtype == (np.float32 if name == "pool" else np.int32)
    batch = stack([rows, rows])
    assert batch.ids.shape == (1, 2, packing.rows + 2, 32)
    np.testing.assert_array_equal(batch.pool[0, 1], rows.pool)
