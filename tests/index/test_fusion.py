import numpy as np
import pytest

from mtret.index.exact import NOTHING, Run
from mtret.index.fusion import fuse

ORDER = np.arange(300, dtype=np.int32)


def run(*rows: list[int]) -> Run:
    width = max(map(len, rows))
    documents = np.array([row + [NOTHING] * (width - len(row)) for row in rows], np.int32)
    return Run(documents, np.zeros(documents.shape, np.float32))


def test_scores_are_sums_of_reciprocal_ranks():
    fused = fuse([run([4, 2, 7]), run([2, 9])], 5, order=ORDER)
    assert fused.documents.tolist() == [[2, 4, 9, 7, NOTHING]]
    np.testing.assert_allclose(fused.scores[0, :4], [1 / 62 + 1 / 61, 1 / 61, 1 / 62, 1 / 63], rtol=1e-7)
    assert np.isneginf(fused.scores[0, 4])


def test_ties_follow_the_tie_order():
    order = ORDER[::-1].copy()
    assert fuse([run([4, 2]), run([2, 4])], 2, order=ORDER).documents.tolist() == [[2, 4]]
    assert fuse([run([4, 2]), run([2, 4])], 2, order=order).documents.tolist() == [[4, 2]]


def test_equal_ranks_tie_in_whatever_run_they_are():
    # In float64 1/61 + 1/62 + 1/67 is not 1/61 + 1/67 + 1/62.
    runs = [run([1, 2, 3, 4, 5, 6, 7]), run([10, 1, 11, 12, 13, 14, 2]), run([2, 20, 21, 22, 23, 24, 1])]
    ranks = {1: (1, 2, 7), 2: (2, 7, 1)}
    for order in (ORDER, ORDER[::-1].copy()):
        expected = [one for one in order.tolist() if one in ranks]
        for arranged in (runs, [runs[0], runs[2], runs[1]], runs[::-1]):
            assert fuse(arranged, 2, order=order).documents.tolist() == [expected]


def test_the_order_of_the_runs_makes_no_difference():
    rng = np.random.default_rng(0)
    runs = [run(*(rng.permutation(300)[:100].tolist() for _ in range(20))) for _ in range(4)]
    first = fuse(runs, 100, order=ORDER)
    for swapped in (runs[::-1], [runs[2], runs[0], runs[3], runs[1]]):
        again = fuse(swapped, 100, order=ORDER)
        np.testing.assert_array_equal(again.documents, first.documents)
        np.testing.assert_array_equal(again.scores, first.scores)


def test_ranks_beyond_100_do_not_count():
    deep = run(list(range(150)))
    fused = fuse([deep, run([149])], 150, order=ORDER)
    assert fused.documents[0, :101].tolist() == [0, 149, *range(1, 100)]
    assert (fused.documents[0, 101:] == NOTHING).all()


def test_a_run_without_results_leaves_the_other_as_it_is():
    fused = fuse([run([5, 3], [1]), run([], [NOTHING, 1])], 2, order=ORDER)
    assert fused.documents.tolist() == [[5, 3], [1, NOTHING]]


def test_runs_of_different_queries_are_refused():
    with pytest.raises(ValueError, match=r"runs of \[1, 2\] queries"):
        fuse([run([1]), run([1], [2])], 2, order=ORDER)
