import math

import numpy as np
import pytest

from mtret.data.tasks import Judgements
from mtret.evaluation.metrics import all_metrics, average_precision, capped_recall, hits, mrr, ndcg, recall
from mtret.index.exact import NOTHING, Run

# Query row 3 has documents 10 (grade 3), 11 (1), 12 (2), and 13 judged not relevant; query row 5 has document 20.
JUDGED = Judgements.from_pairs(
    np.array([3, 3, 3, 3, 5], np.int32),
    np.array([10, 11, 12, 13, 20], np.int32),
    np.array([3.0, 1.0, 2.0, 0.0, 1.0]),
)
ROWS = np.array([5, 3], np.int32)
FOUND = np.array([[1, 2, 20, NOTHING], [13, 11, 99, 10]], np.int32)


def run(documents: np.ndarray) -> Run:
    return Run(documents, np.zeros(documents.shape, np.float32))


SEEN = hits(run(FOUND), JUDGED, ROWS)


def test_hits_hold_the_grades_of_relevant_documents_in_the_order_of_the_run():
    assert SEEN.gains.tolist() == [[0, 0, 1, 0], [0, 1, 0, 3]]
    assert SEEN.ideal.tolist() == [[1, 0, 0], [3, 2, 1]]
    assert SEEN.n_gold.tolist() == [1, 3]


def test_recall_divides_by_all_relevant_and_capped_recall_by_what_fits():
    assert recall(SEEN, 2).tolist() == pytest.approx([0, 1 / 3])
    assert recall(SEEN, 4).tolist() == pytest.approx([1, 2 / 3])
    assert capped_recall(SEEN, 2).tolist() == pytest.approx([0, 1 / 2])
    assert capped_recall(SEEN, 10).tolist() == pytest.approx([1, 2 / 3])


def test_ndcg_has_linear_gains_and_a_logarithmic_discount():
    ideal = 3 + 2 / math.log2(3) + 1 / 2
    assert ndcg(SEEN, 4).tolist() == pytest.approx([1 / 2, (1 / math.log2(3) + 3 / math.log2(5)) / ideal])
    # The ideal is cut as the run is.
    assert ndcg(SEEN, 2)[1] == pytest.approx((1 / math.log2(3)) / (3 + 2 / math.log2(3)))


def test_mrr_counts_the_first_relevant_document_within_the_cut():
    assert mrr(SEEN, 4).tolist() == pytest.approx([1 / 3, 1 / 2])
    assert mrr(SEEN, 2).tolist() == pytest.approx([0, 1 / 2])


def test_average_precision_runs_over_the_depth_of_the_run():
    assert average_precision(SEEN).tolist() == pytest.approx([1 / 3, (1 / 2 + 2 / 4) / 3])


def test_all_metrics_names_and_a_perfect_run():
    perfect = hits(run(np.array([[20, 1, 2, 3], [10, 12, 11, 4]], np.int32)), JUDGED, ROWS)
    values = all_metrics(perfect, (1, 10))
    assert list(values) == [
        *("ndcg@1", "ndcg@10", "recall@1", "recall@10", "capped_recall@1", "capped_recall@10", "mrr@1", "mrr@10", "map")
    ]
    assert all((one == 1).all() for name, one in values.items() if name != "recall@1")
    assert values["recall@1"].tolist() == pytest.approx([1, 1 / 3])


def test_an_empty_run_scores_zero():
    values = all_metrics(hits(run(np.full((2, 3), NOTHING, np.int32)), JUDGED, ROWS), (1, 10))
    assert all((one == 0).all() for one in values.values())


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="the run has 2 queries, 1 are evaluated"):
        hits(run(FOUND), JUDGED, ROWS[:1])
    with pytest.raises(ValueError, match="a document twice"):
        hits(run(np.array([[1, 2, 1], [3, 4, 5]], np.int32)), JUDGED, ROWS)
    with pytest.raises(ValueError, match="query row 4 has no relevant document"):
        hits(run(FOUND), JUDGED, np.array([5, 4], np.int32))
