import numpy as np
import pytest

from mtret.data.tasks import Judgements
from mtret.errors import UserError
from mtret.index.exact import NOTHING, Rules, check_finite, excluded_pairs, queries_per_block, search, tie_order


def vectors(n: int, seed: int, d: int = 16) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def names(n: int) -> list[str]:
    return [f"doc{i}" for i in range(n)]


def test_tie_order_sorts_by_blake2_of_the_id():
    # `printf a | b2sum -l 64` begins with 40, that of b with 84, that of c with 37.
    assert tie_order(["a", "b", "c"]).tolist() == [2, 0, 1]


def test_tie_order_depends_on_the_ids_alone():
    ids = names(500)
    shuffled = [ids[i] for i in np.random.default_rng(0).permutation(500)]
    ranked = [ids[row] for row in tie_order(ids)]
    assert ranked == [shuffled[row] for row in tie_order(shuffled)]
    assert ranked != ids
    assert ranked != sorted(ids)


@pytest.mark.parametrize("block", [None, 1, 7, 64])
def test_search_finds_what_sorting_all_products_finds(block: int | None):
    queries, documents = vectors(20, 0), vectors(300, 1)
    run = search(queries, documents, 10, Rules(tie_order(names(300))), block=block)
    products = queries.astype(np.float64) @ documents.T.astype(np.float64)
    expected = np.argsort(-products, axis=1)[:, :10]
    np.testing.assert_array_equal(run.documents, expected)
    np.testing.assert_allclose(run.scores, np.take_along_axis(products, expected, axis=1), atol=1e-6)


@pytest.mark.parametrize("n", [40, 5000])
def test_equal_documents_come_in_tie_order_wherever_they_stand_in_the_file(n: int):
    ids = names(n)
    documents = np.repeat(vectors(n // 5, 2, d=100), 5, axis=0)  # every vector five times
    queries = vectors(9, 3, d=100)
    run = search(queries, documents, 20, Rules(tie_order(ids)))
    place = np.argsort(tie_order(ids))
    for row in run.documents:
        twins = row.reshape(4, 5)
        assert (np.diff(twins // 5, axis=1) == 0).all()
        assert (np.diff(place[twins], axis=1) > 0).all()

    shuffle = np.random.default_rng(4).permutation(n)
    moved = search(queries, documents[shuffle], 20, Rules(tie_order([ids[i] for i in shuffle])))
    np.testing.assert_array_equal(shuffle[moved.documents], run.documents)


def test_the_first_k_of_many_ties_are_the_first_in_tie_order():
    order = tie_order(names(200))
    run = search(np.ones((1, 4), np.float32), np.ones((200, 4), np.float32), 50, Rules(order))
    np.testing.assert_array_equal(run.documents[0], order[:50])


@pytest.mark.parametrize("block", [None, 2])
def test_excluded_pairs_are_never_returned(block: int | None):
    queries, documents = vectors(5, 5), vectors(30, 6)
    order = tie_order(names(30))
    free = search(queries, documents, 30, Rules(order))
    pairs = np.array([(0, free.documents[0, 0]), (0, free.documents[0, 3]), (4, free.documents[4, 29])], np.int32)
    run = search(queries, documents, 30, Rules(order, pairs), block)
    assert run.documents[0].tolist() == [*np.delete(free.documents[0], [0, 3]), NOTHING, NOTHING]
    assert run.documents[4].tolist() == [*free.documents[4, :29], NOTHING]
    np.testing.assert_array_equal(run.documents[1:4], free.documents[1:4])
    assert np.isneginf(run.scores[0, 28:]).all()


def test_a_corpus_smaller_than_k_fills_up_with_nothing():
    run = search(vectors(3, 7), vectors(4, 8), 6, Rules(tie_order(names(4))))
    assert run.documents.shape == (3, 6)
    assert np.sort(run.documents[:, :4], axis=1).tolist() == [[0, 1, 2, 3]] * 3
    assert (run.documents[:, 4:] == NOTHING).all()
    assert np.isneginf(run.scores[:, 4:]).all()


def test_no_queries_and_no_documents_give_empty_runs():
    assert search(vectors(0, 0), vectors(4, 8), 6, Rules(tie_order(names(4)))).documents.shape == (0, 6)
    assert (search(vectors(2, 0), vectors(0, 8), 6, Rules(tie_order([]))).documents == NOTHING).all()


@pytest.mark.parametrize("spoilt", ["query", "document"])
def test_embeddings_that_are_not_finite_are_refused(spoilt: str):
    queries, documents = vectors(3, 0), vectors(4, 1)
    (queries if spoilt == "query" else documents)[2, 5] = np.nan
    with pytest.raises(UserError, match=f"embedding of {spoilt} 2 is not finite"):
        search(queries, documents, 2, Rules(tie_order(names(4))))


def test_an_embedding_that_is_not_finite_is_named_by_its_id():
    spoilt = vectors(3, 0)
    spoilt[1, 0] = np.inf
    with pytest.raises(UserError, match=r"^the embedding of text b is not finite: it diverged$"):
        check_finite(spoilt, "text", "it diverged", ids=["a", "b", "c"])
    check_finite(spoilt[[0, 2]], "text")


def test_memory_bounds_the_block():
    assert queries_per_block(20_000, 84_000) == 595
    assert queries_per_block(20_000, 77) == 1024
    assert queries_per_block(3, 77) == 3
    assert queries_per_block(20_000, 10**9) == 1


def test_exclusions_are_renumbered_to_the_searched_queries():
    exclude = Judgements.from_pairs(
        np.array([7, 2, 7, 9], np.int32), np.array([5, 3, 1, 4], np.int32), np.zeros(4, np.float64)
    )
    pairs = excluded_pairs(exclude, np.array([9, 7, 4], np.int32))
    assert pairs.tolist() == [[0, 4], [1, 1], [1, 5]]
    assert excluded_pairs(exclude, np.array([4], np.int32)).shape == (0, 2)
    assert excluded_pairs(exclude, np.zeros(0, np.int32)).shape == (0, 2)
    assert excluded_pairs(None, np.array([4], np.int32)).shape == (0, 2)
