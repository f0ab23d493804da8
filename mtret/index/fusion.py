"""Reciprocal rank fusion: a hybrid of rankings whose scores cannot be compared."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

from mtret.index.exact import NOTHING, Run

RANK_CONSTANT = 60
DEPTH = 100


def fuse(runs: Sequence[Run], k: int, *, order: Int32[np.ndarray, "m"]) -> Run:
    """Adds 1 / (60 + rank) over the first 100 ranks of every run (Cormack, Clarke and Büttcher 2009).

    Args:
      runs: of the same queries over the same corpus. A run returns a document at most once for a query.
      k: columns of the fused run.
      order: `tie_order` of the documents.

    Raises:
      ValueError: the runs have different numbers of queries.
    """
    if len({len(run.documents) for run in runs}) != 1:
        raise ValueError(f"cannot fuse runs of {[len(run.documents) for run in runs]} queries")
    depths = [min(run.documents.shape[1], DEPTH) for run in runs]
    documents = np.concatenate([run.documents[:, :depth] for run, depth in zip(runs, depths, strict=True)], axis=1)
    gains = np.concatenate([1 / (RANK_CONSTANT + 1 + np.arange(depth)) for depth in depths])
    row, column = np.nonzero(documents != NOTHING)
    found, which = np.unique(row * len(order) + documents[row, column], return_inverse=True)
    # float32, so that the order in which equal terms were added cannot decide a tie.
    scores = np.bincount(which, gains[column]).astype(np.float32)
    query, document = np.divmod(found, len(order))
    best = np.lexsort((np.argsort(order)[document], -scores, query))
    query, document, scores = query[best], document[best], scores[best]
    rank = np.arange(len(query)) - np.searchsorted(query, query)
    kept = rank < k
    fused = Run(np.full((len(documents), k), NOTHING, np.int32), np.full((len(documents), k), -np.inf, np.float32))
    fused.documents[query[kept], rank[kept]] = document[kept]
    fused.scores[query[kept], rank[kept]] = scores[kept]
    return fused
