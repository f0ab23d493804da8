"""Search over chunks against the definition: every parent once, by its best chunk, excluded whole."""

from collections.abc import Callable

import numpy as np
import pytest

from mtret.index import scann
from mtret.index.bm25 import BM25Index
from mtret.index.exact import NOTHING, Rules, Run, search, tie_order
from mtret.index.scann import ScannIndex, import_scann

CHUNKS, PARENTS, QUERIES, FEATURES = 90, 24, 11, 6


def make_parents(seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Ids of the parents of chunks that lie apart in the file, many of one, and the rows that name them."""
    random = np.random.default_rng(seed)
    of = np.where(random.random(CHUNKS) < 0.4, 3, random.integers(0, PARENTS, CHUNKS))
    names = [f"p{one}" for one in of]
    return names, np.array([names.index(name) for name in names], np.int32)


def by_definition(
    scores: np.ndarray, names: list[str], parents: np.ndarray, k: int, exclude: np.ndarray
) -> tuple[list[list[int]], list[list[float]]]:
    """A dictionary of the best score of each parent, sorted by score, then by the order of ties."""
    place = {int(parents[row]): rank for rank, row in reversed(list(enumerate(tie_order(names))))}
    found, best_scores = [], []
    for query, row in enumerate(scores):
        best: dict[int, float] = {}
        for chunk, score in enumerate(row.tolist()):
            parent = int(parents[chunk])
            if score > max(best.get(parent, -np.inf), -np.inf):
                best[parent] = score
        hidden = set(parents[exclude[exclude[:, 0] == query, 1]].tolist())
        ranked = sorted((parent for parent in best if parent not in hidden), key=lambda p: (-best[p], place[p]))[:k]
        found.append(ranked)
        best_scores.append([best[parent] for parent in ranked])
    return found, best_scores


def assert_is(run: Run, wanted: tuple[list[list[int]], list[list[float]]]) -> None:
    for documents, scores, rows, values in zip(run.documents, run.scores, *wanted, strict=True):
        kept = documents != NOTHING
        assert documents[kept].tolist() == rows
        np.testing.assert_allclose(scores[kept], values, atol=1e-5)
        assert np.isneginf(scores[~kept]).all() and not kept[len(rows) :].any()


def vectors(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Of few values, so that scores tie."""
    random = np.random.default_rng((seed, 1))
    return tuple(random.integers(0, 3, (n, FEATURES)).astype(np.float32) for n in (QUERIES, CHUNKS))  # type: ignore


EXCLUDED = np.array([(query, (query * 7 + i) % CHUNKS) for query in range(0, QUERIES, 2) for i in range(3)], np.int32)
"""Any chunk stands for its parent, not only the one by whose row the parent is named."""


@pytest.mark.parametrize("k", [5, 100])
@pytest.mark.parametrize("block", [None, 4])
def test_exact_search_ranks_parents_by_their_best_chunk(k: int, block: int | None) -> None:
    names, parents = make_parents()
    queries, documents = vectors()
    run = search(queries, documents, k, Rules(tie_order(names), EXCLUDED, parents), block)
    assert_is(run, by_definition(queries @ documents.T, names, parents, k, EXCLUDED))


def test_chunks_that_are_all_their_own_parents_are_plain_documents() -> None:
    names = [f"d{i}" for i in range(CHUNKS)]
    queries, documents = vectors()
    plain = search(queries, documents, 20, Rules(tie_order(names)))
    own = search(queries, documents, 20, Rules(tie_order(names), parents=np.arange(CHUNKS, dtype=np.int32)))
    np.testing.assert_array_equal(plain.documents, own.documents)
    np.testing.assert_array_equal(plain.scores, own.scores)


def test_bm25_ranks_parents_by_their_best_chunk() -> None:
    names, parents = make_parents()
    random = np.random.default_rng(4)
    words = ["lamp", "router", "invoice", "badge", "vacation", "printer", "token"]
    texts = [" ".join(random.choice(words, 6)) for _ in range(CHUNKS)]
    queries = [" ".join(random.choice(words, 2)) for _ in range(QUERIES)]
    index, rows = BM25Index(texts), np.arange(CHUNKS, dtype=np.int32)
    every = index.search(queries, CHUNKS, Rules(rows))
    scores = np.full((QUERIES, CHUNKS), -np.inf)
    for query, (documents, values) in enumerate(zip(*every, strict=True)):
        scores[query, documents[documents != NOTHING]] = values[documents != NOTHING]
    run = index.search(queries, 9, Rules(tie_order(names), EXCLUDED, parents))
    assert_is(run, by_definition(scores, names, parents, 9, EXCLUDED))


@pytest.fixture
def scann_is_there() -> None:
    try:
        import_scann()
    except Exception as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("scann_is_there")
@pytest.mark.parametrize("scores_at_once", [scann.BLOCK_SCORES, 30])
def test_scann_asks_for_more_until_there_are_enough_parents(
    monkeypatch: pytest.MonkeyPatch, scores_at_once: int
) -> None:
    monkeypatch.setattr(scann, "BLOCK_SCORES", scores_at_once)
    names, parents = make_parents()
    random = np.random.default_rng(6)
    queries, documents = (random.normal(size=(n, FEATURES)).astype(np.float32) for n in (QUERIES, CHUNKS))
    index = ScannIndex(documents, depth=8)
    asked: list[int] = []
    neighbours: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]] = index._neighbours

    def counted(some: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        asked.append(k)
        return neighbours(some, k)

    monkeypatch.setattr(index, "_neighbours", counted)
    for k in (8, 100):
        run = index.search(queries, k, Rules(tie_order(names), EXCLUDED, parents))
        assert_is(run, by_definition(queries @ documents.T, names, parents, k, EXCLUDED))
    assert {11, 22, CHUNKS} <= set(asked)
