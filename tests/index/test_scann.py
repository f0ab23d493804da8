import sys
from pathlib import Path

import numpy as np
import pytest

from mtret.errors import UserError
from mtret.index import scann
from mtret.index.exact import NOTHING, Rules, Run, search, tie_order
from mtret.index.scann import ScannIndex, agreement


def clustered(n: int, seed: int, d: int = 32) -> np.ndarray:
    rng = np.random.default_rng((seed, n))
    centres = np.random.default_rng(0).standard_normal((20, d))
    rows = centres[rng.integers(20, size=n)] + 0.5 * rng.standard_normal((n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


DOCUMENTS = clustered(3000, 1)
QUERIES = clustered(80, 2)
ORDER = tie_order([f"d{i}" for i in range(3000)])


@pytest.fixture(scope="module")
def exact() -> Run:
    return search(QUERIES, DOCUMENTS, 100, Rules(ORDER))


def make_all(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every index of this kind, "hashing" or "tree", however few its documents."""
    monkeypatch.setattr(scann, "BRUTE_FORCE_BELOW", 0)
    monkeypatch.setattr(scann, "TREE_FROM", 0 if kind == "tree" else 10**9)


def test_agreement_counts_shared_documents_whatever_their_order():
    truth = np.array([[1, 2, 3, 4], [5, 6, NOTHING, NOTHING]], np.int32)
    found = np.array([[4, 3, 9, NOTHING], [6, NOTHING, NOTHING, NOTHING]], np.int32)
    blank = np.zeros((2, 4), np.float32)
    assert agreement(Run(found, blank), Run(truth, blank), k=4) == pytest.approx((2 / 4 + 1 / 2) / 2)
    assert agreement(Run(found, blank), Run(truth, blank), k=2) == pytest.approx((0 / 2 + 1 / 2) / 2)


def test_small_corpora_are_searched_by_brute_force_and_equal_exact_search(exact: Run):
    index = ScannIndex(DOCUMENTS)
    measured = index.tune(QUERIES, exact)
    assert (measured.kind, measured.sample_recall, measured.reorder) == ("brute force", 1.0, 0)
    run = index.search(QUERIES, 100, Rules(ORDER))
    np.testing.assert_array_equal(run.documents, exact.documents)
    np.testing.assert_allclose(run.scores, exact.scores, atol=1e-6)


@pytest.mark.parametrize("kind", ["hashing", "tree"])
def test_an_approximate_index_is_tuned_until_it_reaches_the_target(kind, exact: Run, monkeypatch: pytest.MonkeyPatch):
    make_all(kind, monkeypatch)
    monkeypatch.setattr(scann, "TUNED_ON", 50)
    index = ScannIndex(DOCUMENTS, depth=20)
    monkeypatch.setattr(scann, "TARGET_RECALL", 0.1)
    low = index.tune(QUERIES, exact)
    monkeypatch.setattr(scann, "TARGET_RECALL", 0.99)
    high = index.tune(QUERIES, exact)
    assert high.sample_recall >= 0.99 > low.sample_recall or low.sample_recall >= 0.99
    assert high.reorder >= low.reorder
    assert high.leaves_searched >= low.leaves_searched
    assert high.sample_queries == 50
    assert high.build_seconds > 0
    assert high.queries_per_second > 0
    run = index.search(QUERIES, 20, Rules(ORDER))
    assert agreement(run, exact) > 0.95
    assert (np.diff(run.scores, axis=1) <= 0).all()
    products = np.einsum("qd,qkd->qk", QUERIES, DOCUMENTS[run.documents])
    np.testing.assert_allclose(run.scores, products, atol=1e-5)


def test_an_unreachable_target_is_reported_as_what_was_reached(exact: Run, monkeypatch: pytest.MonkeyPatch):
    make_all("tree", monkeypatch)
    index = ScannIndex(DOCUMENTS, depth=20)
    wrong = Run((exact.documents + 1) % 3000, exact.scores)
    measured = index.tune(QUERIES, wrong)
    assert measured.sample_recall < 0.9
    assert measured.reorder == 20 << 7


@pytest.mark.parametrize("kind", ["hashing", "tree"])
def test_the_same_documents_build_the_same_index(kind, monkeypatch: pytest.MonkeyPatch):
    make_all(kind, monkeypatch)
    # Many and without clusters, so that leaves depend on where k-means starts.
    queries, documents = np.split(np.random.default_rng(0).standard_normal((5080, 64)).astype(np.float32), [80])
    order = tie_order([f"d{i}" for i in range(5000)])
    first, second = (ScannIndex(documents, depth=20).search(queries, 20, Rules(order)) for _ in range(2))
    np.testing.assert_array_equal(first.documents, second.documents)


def test_leaves_that_hold_fewer_than_k_documents_fill_up_with_nothing(monkeypatch: pytest.MonkeyPatch):
    make_all("tree", monkeypatch)
    index = ScannIndex(DOCUMENTS, depth=20)
    run = index.search(QUERIES, 2000, Rules(ORDER))  # the first rung searches 2 of 110 leaves
    assert (run.documents[:, -1] == NOTHING).all()
    for row in run.documents:
        found = row[row != NOTHING]
        assert len(set(found.tolist())) == len(found)


def test_a_corpus_smaller_than_k_fills_up_with_nothing():
    run = ScannIndex(DOCUMENTS[:5]).search(QUERIES[:3], 9, Rules(tie_order(list("abcde"))))
    assert np.sort(run.documents[:, :5], axis=1).tolist() == [[0, 1, 2, 3, 4]] * 3
    assert (run.documents[:, 5:] == NOTHING).all()


def test_excluded_pairs_are_never_returned_and_leave_no_gap(exact: Run):
    pairs = np.array([(0, exact.documents[0, 0]), (0, exact.documents[0, 2]), (3, exact.documents[3, 1])], np.int32)
    run = ScannIndex(DOCUMENTS, depth=10).search(QUERIES, 10, Rules(ORDER, pairs))
    expected = search(QUERIES, DOCUMENTS, 10, Rules(ORDER, pairs))
    np.testing.assert_array_equal(run.documents, expected.documents)


def test_ties_follow_the_tie_order():
    run = ScannIndex(np.repeat(DOCUMENTS[:1], 40, axis=0)).search(QUERIES[:1], 40, Rules(ORDER[ORDER < 40]))
    np.testing.assert_array_equal(run.documents[0], ORDER[ORDER < 40])


@pytest.mark.parametrize("failure", ["ImportError('no wheel')", "RuntimeError('undefined symbol: _ZN10tensorflow')"])
def test_a_scann_that_cannot_be_imported_is_explained(failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "scann").mkdir()
    (tmp_path / "scann" / "__init__.py").write_text(f"raise {failure}")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "scann"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match=r"scann cannot be imported \((no wheel|undefined symbol.*)\).*--noscann"):
        ScannIndex(DOCUMENTS)
