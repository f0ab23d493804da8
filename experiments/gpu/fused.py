"""A model's scores and BM25's in one: a convex combination of both, as stores compute it.

The documents are those of either's first hundred. A model's scores are min-max normalised over them; BM25's are divided
by the highest, and a document beyond its first hundred has none. Missing in what BM25 says there is at most its
hundredth score, and a document that has one of those hardly comes to the first ten by it.
"""

from typing import Any

import numpy as np

WEIGHTS = (0.5, 0.6, 0.7, 0.8, 0.9)  # of the model
BLOCK = 64  # queries at a time
NOTHING = -1


def fused(run: Any, lexical: Any, queries: np.ndarray, documents: np.ndarray, k: int = 10) -> list[Any]:
    """The first k by each of WEIGHTS.

    Args:
      run, lexical: what both found, of the same queries; a document at most once.
      queries, documents: the model's vectors.
    """
    found = [type(run)(np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.float32)) for _ in WEIGHTS]
    for start in range(0, len(queries), BLOCK):
        part = slice(start, start + BLOCK)
        first, second = (type(run)(each.documents[part], each.scores[part]) for each in (run, lexical))
        union, of_model, of_bm25 = _union(first, second, queries[part], documents)
        for weight, each in zip(WEIGHTS, found, strict=True):
            scores = np.where(union == NOTHING, -np.inf, weight * of_model + (1 - weight) * of_bm25)
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            for whole, values in zip(each, (union, scores), strict=True):
                taken = np.take_along_axis(values, best, axis=1)
                whole[part] = NOTHING if whole.dtype == np.int32 else -np.inf
                whole[part, : taken.shape[1]] = taken
    return found


def _union(run: Any, lexical: Any, queries: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, ...]:
    """Documents of both, NOTHING in place of what stands there already, and both scores, from 0 to 1."""
    second = lexical.documents.astype(np.int32)
    same = second[:, :, None] == run.documents[:, None, :]
    there = second != NOTHING
    bm25 = np.where(there, lexical.scores.astype(np.float32), 0)
    of_first = np.where(same, bm25[:, :, None], 0).max(axis=1, initial=0)
    union = np.concatenate([run.documents, np.where(there & ~same.any(axis=2), second, NOTHING)], axis=1)
    products = np.einsum("qd,qkd->qk", queries, documents[second.clip(0)])
    of_model = np.concatenate([run.scores, products], axis=1)
    valid = union != NOTHING
    low = np.where(valid, of_model, np.inf).min(axis=1, keepdims=True)
    high = np.where(valid, of_model, -np.inf).max(axis=1, keepdims=True)
    of_model = np.where(valid, of_model - low, 0) / np.maximum(high - low, 1e-9)
    of_bm25 = np.concatenate([of_first, bm25], axis=1)
    return union, of_model, of_bm25 / np.maximum(of_bm25.max(axis=1, keepdims=True, initial=0), 1e-9)
