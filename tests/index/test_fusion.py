import numpy as np
import pytest

from mtret.index.bm25 import BM25Index
from mtret.index.exact import NOTHING, Rules, Run, scores_at, search
from mtret.index.fusion import Scored, convex, fuse, union

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


def scored(documents: list[list[int]], lexical: list[list[float]], dense: list[list[float]]) -> Scored:
    return Scored(np.array(documents, np.int32), np.array(lexical, np.float32), np.array(dense, np.float32))


def test_a_union_has_every_document_once_with_both_scores():
    lexical, dense = run([4, 2, 7], [NOTHING] * 3), run([2, 9], [1, 0])
    asked = []

    def at(documents: np.ndarray) -> np.ndarray:
        asked.append(documents)
        return documents.astype(np.float32)

    found = union(lexical, dense, at, at)
    assert found.documents.tolist() == [[9, 7, 4, 2], [1, 0, NOTHING, NOTHING]]
    assert all(each is found.documents for each in asked) and found.dense.tolist() == found.documents.tolist()
    deep = run(list(range(150)))
    assert union(deep, run([149]), at, at).documents[0].tolist() == [149, *range(99, -1, -1)]
    nothing = run([NOTHING])
    assert union(nothing, nothing, at, at).documents.tolist() == [[NOTHING]]
    with pytest.raises(ValueError, match="cannot fuse runs of 2 and 1 queries"):
        union(lexical, deep, at, at)


def test_a_convex_combination_by_hand():
    one = scored([[3, 2, 1]], [[4.0, 0.0, 2.0]], [[0.2, 0.8, 0.5]])
    fused = convex(one, 0.75, 3, order=ORDER, normalisation="minmax")  # dense 0, 1, .5; BM25 1, 0, .5
    assert fused.documents.tolist() == [[2, 1, 3]]
    np.testing.assert_allclose(fused.scores, [[0.75, 0.5, 0.25]], rtol=1e-6)
    fixed = convex(one, 0.5, 3, order=ORDER, normalisation="minimum")  # dense 1.2/1.8, 1, 1.5/1.8
    np.testing.assert_allclose(fixed.scores, [[0.5 + 0.6 / 1.8, 0.25 + 0.75 / 1.8, 0.5]], rtol=1e-6)
    assert fixed.documents.tolist() == [[3, 1, 2]]
    scores = np.array([[4.0, 0.0, 2.0], [0.2, 0.8, 0.5]])
    z = (scores - scores.mean(axis=1, keepdims=True)) / scores.std(axis=1, keepdims=True)
    expected = np.sort(0.7 * z[1] + 0.3 * z[0])[::-1]
    np.testing.assert_allclose(convex(one, 0.7, 3, order=ORDER, normalisation="zscore").scores[0], expected, atol=1e-6)


@pytest.mark.parametrize("normalisation", ["minmax", "minimum", "zscore"])
def test_where_bm25_says_nothing_the_dense_order_stands(normalisation):
    dense = [[0.2, 0.8, 0.5]]
    for lexical in ([[0.0, 0.0, 0.0]], [[3.0, 3.0, 3.0]], [[3.0, 0.0, 0.0]]):
        fused = convex(scored([[3, 2, 1]], lexical, dense), 0.5, 3, order=ORDER, normalisation=normalisation)
        assert fused.documents.tolist() == [[2, 1, 3]] and np.isfinite(fused.scores).all()


@pytest.mark.parametrize("normalisation", ["minmax", "minimum", "zscore"])
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_one_document_or_none_or_equal_scores(normalisation, weight):
    one = scored([[5, NOTHING], [NOTHING, NOTHING], [7, 6]], [[2.0, 0], [0, 0], [0, 0]], [[0.5, 0], [0, 0], [0.5, 0.5]])
    fused = convex(one, weight, 2, order=ORDER, normalisation=normalisation)
    assert fused.documents.tolist() == [[5, NOTHING], [NOTHING, NOTHING], [6, 7]]
    assert np.isfinite(fused.scores[fused.documents != NOTHING]).all()


@pytest.mark.parametrize("chunks", [False, True])
def test_ends_of_the_weight_are_the_searches_themselves(chunks):
    random = np.random.default_rng(0)
    words = [f"w{n}" for n in range(30)]
    texts = [" ".join(random.choice(words, 6)) for _ in range(60)]
    asked = [" ".join(random.choice(words, 3)) for _ in range(8)]
    queries, documents = (random.normal(size=(n, 4)).astype(np.float32) for n in (8, 60))
    parents = (np.arange(60) // 2 * 2).astype(np.int32) if chunks else None
    order = random.permutation(60).astype(np.int32)
    if chunks:  # those of one parent stand together, since `tie_order` is of parents' names
        order = (random.permutation(30)[:, None] * 2 + np.arange(2)).reshape(-1).astype(np.int32)
    index, rules = BM25Index(texts), Rules(order, parents=parents)
    runs = index.search(asked, 60, rules), search(queries, documents, 60, rules)
    both = union(
        *runs,
        lambda rows: index.scores_at(asked, rows, parents),
        lambda rows: scores_at(queries, documents, rows, parents),
    )
    found = convex(both, 1.0, 60, order=order)
    np.testing.assert_array_equal(found.documents, runs[1].documents)
    found = convex(both, 0.0, 60, order=order)
    hits = np.isfinite(runs[0].scores)
    np.testing.assert_array_equal(found.documents[hits], runs[0].documents[hits])
