"""Every metric equals trec_eval's, on real BM25 runs and on synthetic graded ones."""

import numpy as np
import pytest

from mtret.data.enterprise import read_tasks
from mtret.data.tasks import Judgements
from mtret.evaluation.metrics import all_metrics, hits
from mtret.index.bm25 import BM25Index
from mtret.index.exact import NOTHING, Rules, Run, tie_order

pytestmark = pytest.mark.parity

CUTOFFS = (1, 3, 5, 10, 15, 100)


def trec_eval(run: Run, judgements: Judgements, rows: np.ndarray) -> dict[str, np.ndarray]:
    import pytrec_eval

    qrels: dict[str, dict[str, int]] = {}
    for query, document, score in zip(judgements.pair_queries(), judgements.documents, judgements.scores, strict=True):
        qrels.setdefault(str(query), {})[str(document)] = int(score)

    def results(depth: int, measures: set[str]) -> list[dict[str, float]]:
        # trec_eval ranks by score and breaks ties by id: ranks as scores make it keep our order.
        listed = {
            str(row): {str(d): float(-rank) for rank, d in enumerate(found[:depth]) if d != NOTHING}
            for row, found in zip(rows, run.documents, strict=True)
        }
        scored = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(listed)
        return [scored.get(str(row), {}) for row in rows]

    cuts = ",".join(map(str, CUTOFFS))
    whole = results(run.documents.shape[1], {f"ndcg_cut.{cuts}", f"recall.{cuts}", "map", "num_rel"})
    values = {"map": np.array([one.get("map", 0.0) for one in whole])}
    gold = {str(row): sum(score > 0 for score in qrels[str(row)].values()) for row in rows}
    relevant = np.array([gold[str(row)] for row in rows])
    for k in CUTOFFS:
        values[f"ndcg@{k}"] = np.array([one.get(f"ndcg_cut_{k}", 0.0) for one in whole])
        values[f"recall@{k}"] = np.array([one.get(f"recall_{k}", 0.0) for one in whole])
        values[f"mrr@{k}"] = np.array([one.get("recip_rank", 0.0) for one in results(k, {"recip_rank"})])
        values[f"capped_recall@{k}"] = values[f"recall@{k}"] * relevant / np.minimum(k, relevant)
    return values


def same(run: Run, judgements: Judgements, rows: np.ndarray) -> None:
    ours = all_metrics(hits(run, judgements, rows), CUTOFFS)
    theirs = trec_eval(run, judgements, rows)
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_allclose(values, theirs[name], rtol=0, atol=1e-9, err_msg=name)
    assert 0 < ours["ndcg@10"].mean() < 1


@pytest.mark.parametrize("name", ["it_table", "business_step"])
def test_bm25_runs(name: str):
    task = read_tasks()[name]
    judgements = task.split("test")
    rows = judgements.queries[::-1].copy()  # in another order than the judgements
    index = BM25Index(task.document_texts)
    run = index.search([task.query_texts[row] for row in rows], 100, Rules(tie_order(task.document_ids)))
    same(run, judgements, rows)


@pytest.mark.parametrize("seed", range(5))
def test_graded_runs(seed: int):
    rng = np.random.default_rng(seed)
    queries, documents, depth = 60, 150, 40
    owner, gold, scores = [], [], []
    for query in range(queries):
        judged = rng.choice(documents, rng.integers(1, 30), replace=False)
        owner += [query] * len(judged)
        gold += judged.tolist()
        # Judged but not relevant documents, also below 0 as web tracks mark spam, and at least one that is relevant.
        scores += [int(rng.integers(1, 4)), *rng.integers(-1, 4, len(judged) - 1).tolist()]
    judgements = Judgements.from_pairs(
        np.array(owner, np.int32), np.array(gold, np.int32), np.array(scores, np.float64)
    )
    found = np.stack([rng.permutation(documents)[:depth] for _ in range(queries)]).astype(np.int32)
    for row in found:
        row[rng.integers(0, depth + 1) :] = NOTHING  # as many results as there happen to be, or none
    rows = rng.permutation(queries).astype(np.int32)
    same(Run(found, np.zeros(found.shape, np.float32)), judgements, rows)
