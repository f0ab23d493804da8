import numpy as np
import pytest

from mtret.data.tasks import Judgements, query_key


def judgements(*pairs: tuple[int, int, float]) -> Judgements:
    queries, documents, scores = zip(*pairs, strict=True)
    return Judgements.from_pairs(
        np.array(queries, np.int32), np.array(documents, np.int32), np.array(scores, np.float64)
    )


def as_pairs(one: Judgements) -> list[tuple[int, int, float]]:
    return list(zip(one.pair_queries().tolist(), one.documents.tolist(), one.scores.tolist(), strict=True))


def test_pairs_are_grouped_by_query_and_sorted_whatever_their_order():
    one = judgements((7, 4, 1.0), (2, 9, 0.5), (7, 1, 2.0))
    assert one.queries.tolist() == [2, 7]
    assert one.offsets.tolist() == [0, 1, 3]
    assert as_pairs(one) == [(2, 9, 0.5), (7, 1, 2.0), (7, 4, 1.0)]
    assert len(one) == 2


def test_positives_leave_out_scores_of_zero_and_below_and_queries_without_any():
    one = judgements((0, 1, 1.0), (0, 2, 0.0), (1, 3, -1.0), (2, 4, 0.5))
    assert as_pairs(one.positives()) == [(0, 1, 1.0), (2, 4, 0.5)]
    assert one.positives().queries.tolist() == [0, 2]


def test_without_drops_these_queries_and_keeps_all_pairs_of_the_others():
    one = judgements((0, 1, 1.0), (3, 2, 1.0), (3, 5, 0.0), (4, 4, 1.0))
    assert as_pairs(one.without(np.array([0, 4, 9], np.int32))) == [(3, 2, 1.0), (3, 5, 0.0)]
    assert as_pairs(one.select(np.array([True, False, True]))) == [(0, 1, 1.0), (4, 4, 1.0)]


@pytest.mark.parametrize("offsets", [[0, 1, 1], [1, 2, 3], [0, 2, 4], [0, 0, 3], [0, 3, 3]])
def test_offsets_that_do_not_fit_are_refused(offsets: list[int]):
    with pytest.raises(ValueError, match="offset"):
        Judgements(
            np.array([0, 1], np.int32),
            np.array(offsets, np.int64),
            np.array([5, 6, 7], np.int32),
            np.ones(3, np.float64),
        )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Where is  my CARD?", "where is my card"),
        ("stra\u00dfe", "STRASSE"),
        ("\uff21\uff22\uff23", "abc"),  # full-width letters
        ("\u5bc6\u7801\u5728\u54ea\u91cc\uff1f", "\u5bc6\u7801\u5728\u54ea\u91cc"),
        ("caf\u00e9", "cafe\u0301"),
    ],
)
def test_queries_that_are_the_same(one: str, other: str):
    assert query_key(one) == query_key(other)


@pytest.mark.parametrize(
    ("one", "other"), [("what is C#", "what is C"), ("a b", "ab"), ("?", "!"), ("cafe", "caf\u00e9")]
)
def test_queries_that_differ(one: str, other: str):
    assert query_key(one) != query_key(other)
