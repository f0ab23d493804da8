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
    position = np.empty(len(order), np.int32)
    position[order] = np.arange(len(order), dtype=np.int32)

    depths = [min(run.documents.shape[1], DEPTH) for run in runs]
    documents = np.concatenate([run.documents[:, :depth] for run, depth in zip(runs, depths, strict=True)], axis=1)
    gains = np.concatenate([1 / (RANK_CONSTANT + 1 + np.arange(depth)) for depth in depths])
    gains = np.where(documents == NOTHING, 0.0, gains)

    # Equal documents stand side by side; the first of them takes the sum and the others nothing.
    by_document = np.argsort(documents, axis=1, kind="stable")
    documents = np.take_along_axis(documents, by_document, axis=1)
    gains = np.take_along_axis(gains, by_document, axis=1)
    first = np.ones(documents.shape, bool)
    first[:, 1:] = documents[:, 1:] != documents[:, :-1]
    total = np.zeros(documents.shape)
    np.add.at(total, (np.arange(len(documents))[:, None], _start_of_group(first)), gains)
    # float32, so that the order in which equal terms were added cannot decide a tie.
    scores = np.where(first & (documents != NOTHING), total.astype(np.float32), np.float32(-np.inf))

    best = np.lexsort((position[documents], -scores), axis=1)[:, :k]
    fused = Run(np.full((len(documents), k), NOTHING, np.int32), np.full((len(documents), k), -np.inf, np.float32))
    fused.scores[:, : best.shape[1]] = np.take_along_axis(scores, best, axis=1)
    fused.documents[:, : best.shape[1]] = np.take_along_axis(documents, best, axis=1)
    fused.documents[np.isneginf(fused.scores)] = NOTHING
    return fused


def _start_of_group(first: np.ndarray) -> np.ndarray:
    return np.maximum.accumulate(np.where(first, np.arange(first.shape[1]), 0), axis=1)
