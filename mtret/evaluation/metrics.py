"""Retrieval metrics per query: NumPy, arrays in. Definitions of trec_eval; see `Hits` for what a query's gold is."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int32, Int64

from mtret.data.tasks import Judgements
from mtret.index.exact import NOTHING, Run


class Hits(NamedTuple):
    """A run seen through the judgements. Only scores above 0 are relevant."""

    gains: Float64[np.ndarray, "q k"]  # score of the document at every rank; 0 for one that is not relevant
    ideal: Float64[np.ndarray, "q g"]  # scores of all relevant documents, largest first, padded with 0
    n_gold: Int64[np.ndarray, "q"]  # how many are relevant


def hits(run: Run, judgements: Judgements, query_rows: Int32[np.ndarray, "q"]) -> Hits:
    """Looks up the judged scores of a run's documents.

    Args:
      run: one row per query of `query_rows`.
      judgements: the split's; every query of `query_rows` has a score above 0 in it.
      query_rows: rows of the task's queries, in the order of the run.

    Raises:
      ValueError: the run has another number of queries, returns a document twice, or a query has no relevant document.
    """
    documents = run.documents
    if len(documents) != len(query_rows):
        raise ValueError(f"the run has {len(documents)} queries, {len(query_rows)} are evaluated")
    ordered = np.sort(documents, axis=1)
    if np.any((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != NOTHING)):
        raise ValueError("the run returns a document twice for one query")

    positives = judgements.positives()
    owner, gold = positives.pair_queries().astype(np.int64), positives.documents.astype(np.int64)
    n_gold = np.bincount(owner, minlength=int(query_rows.max(initial=-1)) + 1)[query_rows].astype(np.int64)
    if np.any(n_gold == 0):
        raise ValueError(f"query row {query_rows[np.argmin(n_gold)]} has no relevant document in this split")

    # One integer names a pair, so that all lookups are a single search; pairs are sorted by query, then document.
    width = max(int(gold.max(initial=0)), int(documents.max(initial=0))) + 1
    pairs = owner * width + gold
    asked = query_rows.astype(np.int64)[:, None] * width + documents
    place = np.searchsorted(pairs, asked).clip(max=max(len(pairs) - 1, 0))
    gains = np.where((documents != NOTHING) & (pairs[place] == asked), positives.scores[place], 0.0)

    by_score = positives.scores[np.lexsort((-positives.scores, owner))]
    rank = np.arange(int(n_gold.max(initial=0)))
    place = (np.searchsorted(owner, query_rows)[:, None] + rank).clip(max=max(len(by_score) - 1, 0))
    ideal = np.where(rank < n_gold[:, None], by_score[place], 0.0)
    return Hits(gains, ideal, n_gold)


def recall(seen: Hits, k: int) -> Float64[np.ndarray, "q"]:
    """Share of the relevant documents that stand in the first k."""
    return np.count_nonzero(seen.gains[:, :k], axis=1) / seen.n_gold


def capped_recall(seen: Hits, k: int) -> Float64[np.ndarray, "q"]:
    """Hits in the first k over the most that k can hold, min(k, relevant documents): 1 is always within reach."""
    return np.count_nonzero(seen.gains[:, :k], axis=1) / np.minimum(k, seen.n_gold)


def ndcg(seen: Hits, k: int) -> Float64[np.ndarray, "q"]:
    """Discounted cumulative gain of the first k over the best possible, gains being the scores themselves.

    Järvelin and Kekäläinen (2002) with the discount log2(rank + 1), as trec_eval's ndcg_cut.
    """
    return _dcg(seen.gains[:, :k]) / _dcg(seen.ideal[:, :k])


def mrr(seen: Hits, k: int) -> Float64[np.ndarray, "q"]:
    """One over the rank of the first relevant document, 0 where none stands in the first k."""
    found = seen.gains[:, :k] > 0
    return np.where(found.any(axis=1), 1 / (found.argmax(axis=1) + 1), 0.0)


def average_precision(seen: Hits) -> Float64[np.ndarray, "q"]:
    """Mean over all relevant documents of the precision at their rank, 0 for those beyond the depth of the run."""
    found = seen.gains > 0
    precision = np.cumsum(found, axis=1) / np.arange(1, found.shape[1] + 1)
    return (precision * found).sum(axis=1) / seen.n_gold


def all_metrics(seen: Hits, cutoffs: Sequence[int]) -> dict[str, Float64[np.ndarray, "q"]]:
    """`ndcg@k`, `recall@k`, `capped_recall@k` and `mrr@k` at every cut-off, and `map`."""
    by_name = {"ndcg": ndcg, "recall": recall, "capped_recall": capped_recall, "mrr": mrr}
    values = {f"{name}@{k}": metric(seen, k) for name, metric in by_name.items() for k in cutoffs}
    return values | {"map": average_precision(seen)}


def _dcg(gains: Float64[np.ndarray, "q k"]) -> Float64[np.ndarray, "q"]:
    return gains @ (1 / np.log2(np.arange(2, gains.shape[1] + 2)))
