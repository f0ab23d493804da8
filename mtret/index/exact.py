"""Exact search, the reference of every other index, and what all indexes share: runs, ties and exclusions."""

from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Int32

from mtret.data.tasks import Judgements, Task
from mtret.errors import UserError
from mtret.models.pooling import unit

NOTHING = -1
BLOCK_SCORES = 50_000_000  # scores held at once: 200 MB, and as much again while the best are found


class Run(NamedTuple):
    """What a search returned. Always k columns; where fewer documents qualify, NOTHING with score -inf."""

    documents: Int32[np.ndarray, "q k"]  # rows of the corpus, best first; of chunks, the row that names their parent
    scores: Float32[np.ndarray, "q k"]


def tie_order(document_ids: Sequence[str]) -> Int32[np.ndarray, "m"]:
    """Document rows in the order in which equal scores are returned: by a hash of the document id.

    Neither the order of the file nor the alphabet may decide: real files often list the relevant documents first.
    """
    digests = b"".join(blake2b(name.encode(), digest_size=8).digest() for name in document_ids)
    return np.argsort(np.frombuffer(digests, ">u8"), kind="stable").astype(np.int32)


def excluded_pairs(exclude: Judgements | None, query_rows: Int32[np.ndarray, "q"]) -> Int32[np.ndarray, "n 2"]:
    """A task's exclusions as pairs (index into `query_rows`, document row), sorted by the former.

    Args:
      exclude: pairs over all queries of a task; None for a task that has none.
      query_rows: the task's queries that are searched for, in the order of the search.
    """
    if exclude is None or not len(exclude) or not len(query_rows):
        return np.zeros((0, 2), np.int32)
    query = exclude.pair_queries()
    by_row = np.argsort(query_rows, kind="stable")
    searched = by_row[np.searchsorted(query_rows[by_row], query).clip(max=len(query_rows) - 1)]
    kept = query_rows[searched] == query
    pairs = np.stack([searched[kept], exclude.documents[kept]], axis=1).astype(np.int32)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


class Rules(NamedTuple):
    """What every search of a corpus keeps to."""

    order: Int32[np.ndarray, "m"]  # `tie_order` of the documents
    # Pairs (row of the queries, row of the documents) that are never returned; a chunk stands for its parent.
    exclude: Int32[np.ndarray, "n 2"] = np.zeros((0, 2), np.int32)
    # `Task.parents` where documents are chunks: a parent is found once, by the score of its best chunk.
    parents: Int32[np.ndarray, "m"] | None = None


def rules_of(task: Task, query_rows: Int32[np.ndarray, "q"]) -> Rules:
    """Of a task's own documents, for these of its queries."""
    return Rules(tie_order(task.named_ids), excluded_pairs(task.exclude, query_rows), task.parents)


def truncate(
    vectors: Float32[np.ndarray, "n D"], dimension: int, similarity: str = "cosine"
) -> Float32[np.ndarray, "n dimension"]:
    """Truncated to their first dimensions (Matryoshka); of length 1 again where they are compared by cosine."""
    first = vectors[:, :dimension]
    return first if similarity == "dot" else unit(first)


def search(
    queries: Float32[np.ndarray, "q d"],
    documents: Float32[np.ndarray, "m d"],
    k: int,
    rules: Rules,
    block: int | None = None,
) -> Run:
    """The k documents of largest dot product, in float32, over all documents.

    Args:
      queries, documents: embeddings, normalised where the score is to be the cosine.
      k: columns of the run, whatever the size of the corpus.
      block: queries scored at once, by default as many as bounded memory allows.

    Raises:
      UserError: an embedding is not finite.
    """
    check_finite(queries, "query")
    check_finite(documents, "document")
    block = block or queries_per_block(len(queries), len(documents))
    columns = jnp.asarray(documents[rules.order])

    def scores(start: int, stop: int) -> Float[Array, "b m"]:
        # The last block is filled up, so that one shape is compiled for all.
        rows = np.zeros((block, queries.shape[1]), np.float32)
        rows[: stop - start] = queries[start:stop]
        return _products(jnp.asarray(rows), columns)

    return search_blocks(scores, len(queries), k, rules, block)


def scores_at(
    queries: Float32[np.ndarray, "q d"],
    documents: Float32[np.ndarray, "m d"],
    wanted: Int32[np.ndarray, "q u"],
    parents: Int32[np.ndarray, "m"] | None = None,
) -> Float32[np.ndarray, "q u"]:
    """Dot products of each query with these documents, or with their best chunks where `parents` tells those; 0 for
    NOTHING."""
    found = np.zeros(wanted.shape, np.float32)
    width = len(documents) if parents is not None else wanted.shape[1] * queries.shape[1]
    block = queries_per_block(len(queries), width)
    for start in range(0, len(queries), block):
        part = slice(start, start + block)
        if parents is None:
            own = np.einsum("qd,qud->qu", queries[part], documents[np.maximum(wanted[part], 0)])
            found[part] = np.where(wanted[part] == NOTHING, 0, own)
        else:
            found[part] = at_best_chunks(queries[part] @ documents.T, wanted[part], parents)
    return found


def at_best_chunks(
    scores: Float32[np.ndarray, "q m"], wanted: Int32[np.ndarray, "q u"], parents: Int32[np.ndarray, "m"] | None
) -> Float32[np.ndarray, "q u"]:
    """Of all documents' scores those that are wanted, a parent's being that of its best chunk; 0 for NOTHING."""
    if parents is not None:
        best = np.full(scores.shape, -np.inf, np.float32)
        for row, own in zip(best, scores, strict=True):
            np.maximum.at(row, parents, own)
        scores = best
    found = np.take_along_axis(scores, np.maximum(wanted, 0), axis=1)
    return np.where(wanted == NOTHING, 0, found).astype(np.float32)


def check_finite(
    embeddings: Float32[np.ndarray, "n D"],
    name: str,
    reason: str = "the encoder's weights are too large for float32; take another encoder or an earlier checkpoint",
    ids: Sequence[str] | None = None,
) -> None:
    """Raises UserError for the first embedding with NaN or infinity: of what (`name`), which, and the `reason`."""
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise UserError(f"the embedding of {name} {ids[row] if ids else row} is not finite: {reason}")


def queries_per_block(n_queries: int, n_documents: int) -> int:
    """How many queries to score at once."""
    return min(max(BLOCK_SCORES // max(n_documents, 1), 1), 1024, max(n_queries, 1))


def search_blocks(
    scores: Callable[[int, int], Float[Array, "b m"] | Float32[np.ndarray, "b m"]],
    n_queries: int,
    k: int,
    rules: Rules,
    block: int,
) -> Run:
    """The k best documents by any scores, block after block of queries.

    Args:
      scores: maps the range of a block's queries to their scores, whose columns stand in tie order and whose rows may
        be more than the block has queries; -inf marks a document that is not a result.
      n_queries: how many there are.
      k, rules, block: as in `search`.
    """
    order, exclude, parents = rules
    segment = None
    if parents is not None:
        order, segment = _segments(order, parents)
        exclude = np.stack([exclude[:, 0], parents[exclude[:, 1]]], axis=1)
    run = Run(np.full((n_queries, k), NOTHING, np.int32), np.full((n_queries, k), -np.inf, np.float32))
    kept = min(k, len(order))
    starts = np.arange(0, n_queries, block)
    if not kept or not n_queries:
        return run
    excluded = _excluded_by_block(exclude, order, starts, block)
    for number, start in enumerate(starts):
        stop = min(start + block, n_queries)
        found = jnp.asarray(scores(int(start), int(stop)))
        if segment is not None:
            found = _best_chunks(found, jnp.asarray(segment), len(order))
        best, columns = _best(found, jnp.asarray(excluded[number]), kept)
        best, columns = np.asarray(best)[: stop - start], np.asarray(columns)[: stop - start]
        run.scores[start:stop, :kept] = best
        run.documents[start:stop, :kept] = np.where(np.isneginf(best), NOTHING, order[columns])
    return run


def _segments(
    order: Int32[np.ndarray, "m"], parents: Int32[np.ndarray, "m"]
) -> tuple[Int32[np.ndarray, "p"], Int32[np.ndarray, "m"]]:
    """The rows of parents in tie order, and for every column in the documents' tie order which of those it is of."""
    rows, first, which = np.unique(parents[order], return_index=True, return_inverse=True)
    by_place = np.argsort(first)
    rank = np.empty(len(rows), np.int32)
    rank[by_place] = np.arange(len(rows), dtype=np.int32)
    return rows[by_place], rank[which]


def _excluded_by_block(
    exclude: Int32[np.ndarray, "n 2"], order: Int32[np.ndarray, "m"], starts: np.ndarray, block: int
) -> Int32[np.ndarray, "blocks e 2"]:
    """Pairs (row of the block, column in tie order), padded with a row past every block."""
    column = np.empty(int(order.max()) + 1, np.int32)
    column[order] = np.arange(len(order), dtype=np.int32)
    number = exclude[:, 0] // block
    counts = np.bincount(number, minlength=len(starts))
    padded = np.full((len(starts), counts.max(initial=0), 2), np.iinfo(np.int32).max, np.int32)
    by_block = np.argsort(number, kind="stable")
    place = np.arange(len(exclude)) - np.repeat(np.cumsum(counts) - counts, counts)
    padded[number[by_block], place, 0] = exclude[by_block, 0] % block
    padded[number[by_block], place, 1] = column[exclude[by_block, 1]]
    return padded


@jax.jit
def _products(queries: Float[Array, "b d"], documents: Float[Array, "m d"]) -> Float[Array, "b m"]:
    # Accelerators would otherwise multiply with fewer bits, and near neighbours would tie.
    return jnp.einsum("bd,md->bm", queries, documents, precision=lax.Precision.HIGHEST)


@partial(jax.jit, static_argnums=2)
def _best_chunks(
    scores: Float[Array, "b m"], segment: Int32[Array, "m"], n_parents: int
) -> Float[Array, "b n_parents"]:
    return jnp.full((len(scores), n_parents), -jnp.inf, scores.dtype).at[:, segment].max(scores)


@partial(jax.jit, static_argnums=2)
def _best(
    scores: Float[Array, "b m"], excluded: Int32[Array, "e 2"], k: int
) -> tuple[Float[Array, "b k"], Int32[Array, "b k"]]:
    # top_k returns the lower column first where scores are equal, and columns stand in tie order.
    best, columns = lax.top_k(scores.at[excluded[:, 0], excluded[:, 1]].set(-jnp.inf, mode="drop"), k)
    return best, columns
