"""Pairs of queries and documents from a task's .tsv files: judgements, given negatives, exclusions."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int32, Int64

from mtret.data.task_files import CORPUS, QUERIES, SCORED, TaskFiles
from mtret.data.tasks import Judgements
from mtret.errors import UserError, nearest
from mtret.files import AnyPath


@dataclass(frozen=True)
class Rows:
    """The row of every query id and of every document id that judgements may name."""

    queries: Mapping[str, int]
    documents: Mapping[str, int]
    chunks: Mapping[str, str]  # id -> parent


def rows_of(query_ids: Sequence[str], document_ids: Sequence[str], parent_ids: Sequence[str]) -> Rows:
    """Rows of all ids; of documents in chunks, of their parents."""
    documents: dict[str, int] = {}
    for row, one in enumerate(parent_ids or document_ids):
        documents.setdefault(one, row)
    chunks = {one: parent for one, parent in zip(document_ids, parent_ids, strict=False) if one != parent}
    return Rows({one: row for row, one in enumerate(query_ids)}, documents, chunks)


@dataclass(frozen=True, eq=False)
class Pairs:
    """The pairs of one .tsv file, in its order: pair i stands on line i + 2."""

    path: AnyPath
    queries: Int32[np.ndarray, "n"]
    documents: Int32[np.ndarray, "n"]
    scores: Float64[np.ndarray, "n"]

    def codes(self) -> Int64[np.ndarray, "n"]:
        """A pair as one number."""
        return self.queries.astype(np.int64) << 32 | self.documents

    def select(self, keep: np.ndarray) -> "Pairs":
        return Pairs(self.path, self.queries[keep], self.documents[keep], self.scores[keep])

    def refuse(self, wrong: np.ndarray, what: Callable[[int], str]) -> None:
        """Raises UserError for the first pair that is wrong, said by `what(pair)`."""
        if wrong.any():
            pair = int(np.argmax(wrong))
            raise UserError(f"{self.path}:{pair + 2}: {what(pair)}")


def read_pairs(files: TaskFiles, name: str, rows: Rows, header: tuple[str, ...], optional: int = 0) -> Pairs:
    """A .tsv file with this header, the last `optional` columns of which may be left out. A left-out score is 0."""
    path = files.folder / name
    lines = files.lines(name)
    need = " <tab> ".join(header)
    found = tuple(lines[0].split("\t")) if lines else ()
    if found not in {header, header[: len(header) - optional]}:
        raise UserError(f"{path}:1: the first line must be the header {need}, is {' <tab> '.join(found)!r}. Add it.")
    cells = [line.split("\t") for line in lines[1:]]
    if not cells:
        raise UserError(f"{path}:1: holds a header and nothing else. Add pairs or remove the file.")
    for number, row in enumerate(cells, start=2):
        if len(row) != len(found):
            hint = "Separate columns by one tab, not by spaces." if len(row) < len(found) else "Remove the others."
            raise UserError(f"{path}:{number}: {len(row)} columns, need {len(found)}: {' <tab> '.join(found)}. {hint}")
    columns = list(zip(*cells, strict=True))
    queries = np.array([rows.queries.get(one, -1) for one in columns[0]], dtype=np.int32)
    documents = np.array([rows.documents.get(one, -1) for one in columns[1]], dtype=np.int32)
    scored = len(columns) > 2
    scores = np.array([_number(one) for one in columns[2]] if scored else np.zeros(len(cells)), dtype=np.float64)
    pairs = Pairs(path, queries, documents, scores)
    pairs.refuse(queries < 0, lambda pair: _unknown("query", columns[0][pair], rows.queries, QUERIES))
    pairs.refuse(documents < 0, lambda pair: _unknown_document(columns[1][pair], rows))
    pairs.refuse(
        ~np.isfinite(scores), lambda pair: f"score '{columns[2][pair]}' is not a finite number. Write one such as 1."
    )
    order = np.argsort(pairs.codes(), kind="stable")
    repeated = np.zeros(len(cells), dtype=bool)
    repeated[order[1:]] = pairs.codes()[order[1:]] == pairs.codes()[order[:-1]]
    pairs.refuse(
        repeated,
        lambda pair: f"query '{columns[0][pair]}' with document '{columns[1][pair]}' stands there twice. Remove one.",
    )
    return pairs


def _unknown(kind: str, one: str, known: Mapping[str, int], name: str) -> str:
    return f"{kind} '{one}' is not in {name}.{nearest(one, known)} Correct the id or remove the line."


def _unknown_document(one: str, rows: Rows) -> str:
    if one in rows.chunks:
        return f"document '{one}' is a chunk of '{rows.chunks[one]}'. Name the parent, once; its best chunk counts."
    return _unknown("document", one, rows.documents, CORPUS)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def with_positives(pairs: Pairs) -> Judgements:
    """The judgements of the queries that have a score above 0. Raises UserError where none has."""
    positive = np.unique(pairs.queries[pairs.scores > 0])
    if not len(positive):
        raise UserError(
            f"{pairs.path}: no score is above 0, so no query has a positive. Add positives or remove the file."
        )
    kept = pairs.select(np.isin(pairs.queries, positive))
    return Judgements.from_pairs(kept.queries, kept.documents, kept.scores)


def read_negatives(
    files: TaskFiles, split: str, rows: Rows, judged: Pairs, kept: Judgements, positives: Int64[np.ndarray, "p"]
) -> Judgements:
    """The given negatives of a split, of the queries that are kept. Raises UserError for a pair that cannot be one."""
    pairs = read_pairs(files, f"negatives/{split}.tsv", rows, SCORED, optional=1)
    names = list(rows.queries)
    pairs.refuse(
        ~np.isin(pairs.queries, judged.queries),
        lambda pair: f"query '{names[pairs.queries[pair]]}' is not judged in qrels/{split}.tsv. Remove the line.",
    )
    refuse_positives(pairs, positives)
    pairs = pairs.select(np.isin(pairs.queries, kept.queries))
    return Judgements.from_pairs(pairs.queries, pairs.documents, pairs.scores)


def refuse_positives(pairs: Pairs, positives: Int64[np.ndarray, "p"]) -> None:
    """Raises UserError for a pair that is a positive."""
    pairs.refuse(
        np.isin(pairs.codes(), positives),
        lambda _: "the document is a positive of this query in qrels/. Remove the line here or the judgement there.",
    )
