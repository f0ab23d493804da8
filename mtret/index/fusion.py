"""Two searches of the same queries as one: by their ranks, or by a convex combination of their scores."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32

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
    return _ranked(query, document, scores, len(documents), k, order)


def _ranked(
    query: Int32[np.ndarray, "n"] | np.ndarray,
    document: Int32[np.ndarray, "n"] | np.ndarray,
    scores: Float32[np.ndarray, "n"],
    queries: int,
    k: int,
    order: Int32[np.ndarray, "m"],
) -> Run:
    """The k best of each query, of scores that stand in any order; ties by `order`."""
    best = np.lexsort((np.argsort(order)[document], -scores, query))
    query, document, scores = query[best], document[best], scores[best]
    rank = np.arange(len(query)) - np.searchsorted(query, query)
    kept = rank < k
    run = Run(np.full((queries, k), NOTHING, np.int32), np.full((queries, k), -np.inf, np.float32))
    run.documents[query[kept], rank[kept]] = document[kept]
    run.scores[query[kept], rank[kept]] = scores[kept]
    return run


class Scored(NamedTuple):
    """What two searches of the same queries found between them, with both scores of each."""

    documents: Int32[np.ndarray, "q u"]  # NOTHING behind the last
    lexical: Float32[np.ndarray, "q u"]  # BM25's; 0 for a document that shares no term with the query
    dense: Float32[np.ndarray, "q u"]


ScoresAt = Callable[[Int32[np.ndarray, "q u"]], Float32[np.ndarray, "q u"]]  # of these documents of each query


def union(lexical: Run, dense: Run, lexical_at: ScoresAt, dense_at: ScoresAt) -> Scored:
    """The first 100 of both, each document once. What only one of the searches returned is scored by the other too, so
    that a document just behind the other's hundredth is not taken for one that has nothing of it.

    Raises ValueError where the runs have different numbers of queries.
    """
    if len(lexical.documents) != len(dense.documents):
        raise ValueError(f"cannot fuse runs of {len(lexical.documents)} and {len(dense.documents)} queries")
    both = np.concatenate([run.documents[:, :DEPTH] for run in (lexical, dense)], axis=1)
    both = np.sort(both, axis=1)
    both[:, 1:][both[:, 1:] == both[:, :-1]] = NOTHING
    # NOTHING is the smallest of all: behind the others.
    documents = -np.sort(-both, axis=1)
    documents = documents[:, : max(int((documents != NOTHING).sum(axis=1).max(initial=0)), 1)]
    return Scored(documents, lexical_at(documents), dense_at(documents))


WEIGHT = 0.6  # of the dense side, where nothing else is known (experiments/009_what_wins)
Normalisation = Literal["minmax", "minimum", "zscore"]


def convex(
    scored: Scored,
    weight: float,
    k: int,
    *,
    order: Int32[np.ndarray, "m"],
    normalisation: Normalisation = "zscore",
    minimum: float = -1.0,
) -> Run:
    """Weight x dense + (1 - weight) x BM25, of scores made comparable query by query (Bruch, Gai and Ingber 2023).

    Where fewer than two documents share a term with the query, or all have one score, BM25 is 0 for all.

    Args:
      weight: of the dense side, 0 to 1.
      k: columns of the fused run.
      order: `tie_order` of the documents.
      normalisation: "zscore", standard deviations from the mean of what was found, on both sides; or BM25 divided by
        its largest, and the dense side from 0 to 1, for its least found ("minmax") or a fixed one ("minimum").
      minimum: that one; -1 of cosines.
    """
    there = scored.documents != NOTHING
    if normalisation == "zscore":
        lexical, dense = (_zscore(side, there) for side in (scored.lexical, scored.dense))
    else:
        lexical = _between(scored.lexical, there, np.zeros((len(there), 1), np.float32))
        lowest = np.where(there, scored.dense, np.inf).min(axis=1, keepdims=True, initial=np.inf)
        fixed = np.full_like(lowest, minimum)
        dense = _between(scored.dense, there, lowest if normalisation == "minmax" else fixed)
    lexical = np.where(_says_nothing(scored.lexical, there), 0.0, lexical)
    scores = (weight * dense + (1 - weight) * lexical).astype(np.float32)
    query, place = np.nonzero(there)
    return _ranked(query, scored.documents[query, place], scores[query, place], len(there), k, order)


def _between(
    scores: Float32[np.ndarray, "q u"], there: Bool[np.ndarray, "q u"], lowest: Float32[np.ndarray, "q 1"]
) -> Float32[np.ndarray, "q u"]:
    """Of each query, from 0 for the lowest to 1 for its largest; 0 where these are one."""
    largest = np.where(there, scores, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    with np.errstate(invalid="ignore"):
        span = largest - lowest
        return np.where(there & (span > 0), (scores - lowest) / np.where(span > 0, span, 1), 0).astype(np.float32)


def _zscore(scores: Float32[np.ndarray, "q u"], there: Bool[np.ndarray, "q u"]) -> Float32[np.ndarray, "q u"]:
    """Of each query, in standard deviations from the mean; 0 where there is no deviation."""
    count = np.maximum(there.sum(axis=1, keepdims=True), 1)
    kept = np.where(there, scores, 0).astype(np.float64)
    mean = kept.sum(axis=1, keepdims=True) / count
    deviation = np.sqrt((np.where(there, kept - mean, 0) ** 2).sum(axis=1, keepdims=True) / count)
    return np.where(there & (deviation > 0), (kept - mean) / np.where(deviation > 0, deviation, 1), 0).astype(
        np.float32
    )


def _says_nothing(scores: Float32[np.ndarray, "q u"], there: Bool[np.ndarray, "q u"]) -> Bool[np.ndarray, "q 1"]:
    """Whether no document of a query has a score, or one alone, or all the same: there is nothing to rank by."""
    hits = ((scores > 0) & there).sum(axis=1, keepdims=True)
    largest = np.where(there, scores, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    smallest = np.where(there, scores, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    return (hits < 2) | (largest == smallest)
