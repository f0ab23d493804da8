"""Shares of queries with a negative, against values worked out by hand."""

from collections.abc import Sequence

import numpy as np
import pytest

from mtret.data import negatives
from mtret.data.negatives import enough_queries, share_in_training, share_with_negatives
from mtret.data.tokenize import Tokens
from mtret.data.training_tasks import BatchConfig, Relation, TrainingTask, relation_of


def relation(*documents: Sequence[int]) -> Relation:
    """Of each query, its documents."""
    pairs = [(query, document) for query, own in enumerate(documents) for document in own]
    return relation_of(np.array(pairs, np.int64).reshape(-1, 2).T, len(documents))


ONE_FOR_ALL = relation([0], [0], [0], [0])
TWO_HALVES = relation([0], [0], [1], [1])
OWN_EACH = relation([0], [1], [2], [3])


@pytest.mark.parametrize(
    ("positives", "masked", "hard", "batch", "share"),
    [
        (ONE_FOR_ALL, ONE_FOR_ALL, None, BatchConfig(queries=4), 0.0),
        (ONE_FOR_ALL, ONE_FOR_ALL, relation([1], [1], [], []), BatchConfig(queries=4, negatives=1), 1.0),
        (ONE_FOR_ALL, relation([0, 1], [0], [0], [0]), relation([], [1], [], []), BatchConfig(4, negatives=1), 0.75),
        (OWN_EACH, OWN_EACH, None, BatchConfig(queries=1), 0.0),
        (OWN_EACH, OWN_EACH, None, BatchConfig(queries=2), 1.0),
        (OWN_EACH, relation([0, 1, 2, 3], [1], [2], [3]), None, BatchConfig(queries=4), 0.75),
        (TWO_HALVES, TWO_HALVES, None, BatchConfig(queries=4), 1.0),
        # The other query of a batch is one of three, two of which have the other document.
        (TWO_HALVES, TWO_HALVES, None, BatchConfig(queries=2), 2 / 3),
        # Three queries are never all of one document.
        (TWO_HALVES, TWO_HALVES, None, BatchConfig(queries=3), 1.0),
        # Both documents are right answers of both queries, whichever is drawn.
        (relation([0, 1], [0, 1]), relation([0, 1], [0, 1]), None, BatchConfig(queries=2), 0.0),
    ],
)
def test_shares(
    monkeypatch: pytest.MonkeyPatch, positives: Relation, masked: Relation, hard: Relation | None, batch: BatchConfig,
    share: float,
) -> None:  # fmt: skip
    monkeypatch.setattr(negatives, "BATCHES", 2000)
    assert share_with_negatives(positives, masked, hard, batch) == pytest.approx(share, abs=0.03)


def trained(positives: Relation, queries: int) -> TrainingTask:
    count = len(positives.sizes())
    tokens = Tokens(np.arange(count, dtype=np.int32), np.arange(count + 1), 0)
    return TrainingTask("one", tokens, tokens, positives, positives, None, BatchConfig(queries=queries))


def test_a_larger_batch_is_advised_where_it_helps() -> None:
    assert share_in_training(trained(OWN_EACH, 1)) == 0 and enough_queries(trained(OWN_EACH, 1)) == 2
    assert enough_queries(trained(ONE_FOR_ALL, 2)) is None
    # One query in twelve has another document: it is in a batch of four with 1/3, in one of eight with 2/3.
    rare = relation(*([[0]] * 11), [1])
    assert enough_queries(trained(rare, 2)) == 8
