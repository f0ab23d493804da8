"""Documents that stand in a corpus as chunks: which belong together, and which of them answers a query."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int, Int32, Int64

from mtret.data.tasks import Judgements, Task
from mtret.data.tokenize import Tokenizer, Tokens, ranges
from mtret.errors import UserError

PAIRS_AT_ONCE = 65_536  # of a query and a chunk, compared


def checked_parents(ids: Sequence[str], given: Sequence[str], path: str) -> tuple[str, ...]:
    """`Task.parent_ids` of a corpus. Raises UserError where a parent is another record too, or cannot be named.

    Args:
      ids: of the records, each once.
      given: what each says is its parent, empty where it says nothing; empty where no record says anything.
      path: of the file, for messages.
    """
    parents = tuple(parent or own for own, parent in zip(ids, given, strict=bool(given)))
    line = {one: number for number, one in enumerate(ids, start=1)}
    for number, (own, parent) in enumerate(zip(ids, parents, strict=False), start=1):
        if parent != own and parent in line:
            raise UserError(
                f"{path}:{number}: parent '{parent}' is the _id of line {line[parent]} too, so that it would name two "
                "things. Give one of them another id."
            )
        if set(parent) & set("\t\r\n"):
            raise UserError(f"{path}:{number}: the parent holds a tab or a line break, which no .tsv can name.")
    return parents if parents != tuple(ids) else ()


def chunk_rows(
    parents: Int32[np.ndarray, "m"], chosen: Int[np.ndarray, "n"]
) -> tuple[Int64[np.ndarray, "chunks"], Int32[np.ndarray, "chunks"]]:
    """All chunks of chosen parents (rows of `parents`, in any order and number), end to end.

    Returns for each chunk which of the chosen it belongs to, and its row; those of one parent ascend.
    """
    by_parent = np.argsort(parents, kind="stable").astype(np.int32)
    sorted_parents = parents[by_parent]
    low = np.searchsorted(sorted_parents, chosen)
    sizes = np.searchsorted(sorted_parents, chosen, side="right") - low
    return np.repeat(np.arange(len(chosen)), sizes), by_parent[np.repeat(low, sizes) + ranges(sizes)]


def every_chunk(pairs: Judgements, parents: Int32[np.ndarray, "m"] | None) -> Judgements:
    """The same pairs with all chunks of a parent in its place."""
    if parents is None:
        return pairs
    which, rows = chunk_rows(parents, pairs.documents)
    return Judgements.from_pairs(pairs.pair_queries()[which], rows, pairs.scores[which])


def parent_chunks(task: Task) -> list[list[int]]:
    """Rows of the chunks of every parent, in the order of `Task.parent_rows`."""
    if task.parents is None:
        return [[row] for row in range(len(task.document_ids))]
    which, rows = chunk_rows(task.parents, task.parent_rows)
    ends = np.cumsum(np.bincount(which, minlength=len(task.parent_rows)))
    whole = rows.tolist()
    return [whole[start:end] for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)]


def parent_keys(task: Task, chosen: Int[np.ndarray, "n"] | None = None) -> Sequence[str]:
    """What makes two documents the same, of those that rows name or of all: of one in chunks, all of them in order."""
    keys = task.document_keys
    if task.parents is None:
        return keys if chosen is None else [keys[row] for row in chosen]
    joined = ["\n".join([keys[row] for row in rows]) for rows in parent_chunks(task)]
    return joined if chosen is None else [joined[place] for place in np.searchsorted(task.parent_rows, chosen)]


def answering_chunks(task: Task, relations: Sequence[Judgements], tokenizer: Tokenizer) -> list[Judgements]:
    """The same pairs with one chunk in its parent's place: that which shares most with the query.

    What is shared is the sum of the rarities (BM25's idf, over the chunks at hand) of the tokens that stand in both;
    of equal chunks the first is taken.
    """
    parents = task.parents
    if parents is None:
        return list(relations)
    pairs = [(pair.pair_queries(), *chunk_rows(parents, pair.documents)) for pair in relations]
    queries = np.unique(np.concatenate([asked for asked, _, _ in pairs]))
    chunks = np.unique(np.concatenate([rows for _, _, rows in pairs]))
    asked_tokens = tokenizer([task.query_texts[row] for row in queries])
    chunk_tokens = tokenizer([task.document_texts[row] for row in chunks])
    found = []
    for pair, (asked, which, rows) in zip(relations, pairs, strict=True):
        places = np.searchsorted(queries, asked[which]), np.searchsorted(chunks, rows)
        shared = shared_rarity(asked_tokens, chunk_tokens, *places)
        best_first = np.lexsort((rows, -shared, which))
        _, first = np.unique(which[best_first], return_index=True)
        found.append(Judgements.from_pairs(asked, rows[best_first[first]], pair.scores))
    return found


def shared_rarity(
    queries: Tokens, documents: Tokens, query_rows: Int[np.ndarray, "n"], document_rows: Int[np.ndarray, "n"]
) -> Float64[np.ndarray, "n"]:
    """For pairs of a query and a document, the sum of log(1 + (N - df + 0.5) / (df + 0.5)) over tokens in both.

    Each token counts once; N and df count `documents` and those of them that hold it.
    """
    from scipy.sparse import csr_array

    width = int(max(queries.ids.max(initial=0), documents.ids.max(initial=0))) + 1

    def incidence(tokens: Tokens) -> Any:  # its types know no rows of a sparse array
        shape = (len(tokens), width)
        held = csr_array((np.ones(len(tokens.ids), np.float32), tokens.ids.copy(), tokens.offsets), shape=shape)
        held.sum_duplicates()
        held.data[:] = 1
        return held

    asked, held = incidence(queries), incidence(documents)
    having = np.bincount(held.indices, minlength=width)
    asked = asked.astype(np.float64)
    asked.data = np.log1p((len(documents) - having + 0.5) / (having + 0.5))[asked.indices]
    shared = np.zeros(len(query_rows))
    for start in range(0, len(shared), PAIRS_AT_ONCE):
        some = slice(start, start + PAIRS_AT_ONCE)
        shared[some] = asked[query_rows[some]].multiply(held[document_rows[some]]).sum(axis=1)
    return shared
