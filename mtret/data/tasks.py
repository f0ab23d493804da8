"""A retrieval task is data: an instruction, a corpus, queries, judgements and a card."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from mtret.data.images import ImageFiles
from mtret.errors import UserError

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class TaskCard:
    """`task.json`: what a task is, whatever its data."""

    name: str
    family: str
    domain: str
    languages: tuple[str, ...]
    instruction: str
    license: str
    source: str
    modality: str = "text"
    material: str | None = None  # tasks of one material share their documents' origin, whatever their texts
    cutoffs: tuple[int, ...] = (1, 5, 10)
    notes: str = ""


@dataclass(frozen=True, eq=False)
class Judgements:
    """Query-document pairs of one split, by query (compressed sparse rows).

    `queries[i]` is a row of the task's queries; its documents (rows of the corpus) are
    `documents[offsets[i]:offsets[i + 1]]`, with their `scores` beside them.
    """

    queries: Int32[np.ndarray, "q"]
    offsets: Int64[np.ndarray, "q+1"]
    documents: Int32[np.ndarray, "n"]
    scores: Float64[np.ndarray, "n"]

    def __post_init__(self) -> None:
        if len(self.offsets) != len(self.queries) + 1 or len(self.documents) != len(self.scores):
            raise ValueError(
                f"got {len(self.queries)} queries, {len(self.offsets)} offsets, {len(self.documents)} documents and "
                f"{len(self.scores)} scores, need one offset more than queries and a score per document"
            )
        ends_right = self.offsets[0] == 0 and self.offsets[-1] == len(self.documents)
        if not ends_right or np.any(self.offsets[1:] <= self.offsets[:-1]):
            raise ValueError(
                f"offsets must rise strictly from 0 to {len(self.documents)}, every query owning a document"
            )

    @classmethod
    def from_pairs(
        cls, queries: Int32[np.ndarray, "n"], documents: Int32[np.ndarray, "n"], scores: Float64[np.ndarray, "n"]
    ) -> "Judgements":
        """Sorted by query row, then by document row, so that the order of a file's lines makes no difference."""
        order = np.lexsort((documents, queries))
        rows, counts = np.unique(queries, return_counts=True)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(rows.astype(np.int32), offsets, documents[order], scores[order])

    def __len__(self) -> int:
        """How many queries are judged."""
        return len(self.queries)

    def pair_queries(self) -> Int32[np.ndarray, "n"]:
        """The query row of every pair, beside `documents` and `scores`."""
        return np.repeat(self.queries, np.diff(self.offsets))

    def positives(self) -> "Judgements":
        """The pairs with a score above 0. Others are judged not relevant; a query that has only such is left out."""
        kept = self.scores > 0
        return Judgements.from_pairs(self.pair_queries()[kept], self.documents[kept], self.scores[kept])

    def select(self, keep: Bool[np.ndarray, "q"]) -> "Judgements":
        """The queries for which `keep` holds, with all their pairs."""
        kept = np.repeat(keep, np.diff(self.offsets))
        return Judgements.from_pairs(self.pair_queries()[kept], self.documents[kept], self.scores[kept])

    def without(self, rows: Int32[np.ndarray, "dropped"]) -> "Judgements":
        """Every query but those of these rows."""
        return self.select(~np.isin(self.queries, rows))


@dataclass(frozen=True, eq=False)
class Task:
    """A validated task. Rows, not ids, name queries and documents everywhere but in files."""

    card: TaskCard
    query_ids: tuple[str, ...]
    query_texts: tuple[str, ...]
    document_ids: tuple[str, ...]
    document_texts: tuple[str, ...]  # rendered: `{title} {text}`, the title left out where the text begins with it
    splits: Mapping[str, Judgements]  # a split that has no file is absent; every query has at least one score > 0
    negatives: Mapping[str, Judgements] = field(default_factory=dict)
    exclude: Judgements | None = None
    images: ImageFiles | None = None  # of the documents, where those are images; their texts may be empty then
    parent_ids: tuple[str, ...] = ()  # of every document: of what it is a chunk, or its own id; empty where none is one

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def document_keys(self) -> tuple[str, ...]:
        """What makes two documents the same: their texts, or their images' bytes."""
        return self.images.sha256 if self.images else self.document_texts

    @cached_property
    def parents(self) -> Int32[np.ndarray, "m"] | None:
        """For every document the row of its parent's first chunk; None where no document is a chunk.

        It is that row by which judgements, exclusions and runs name the parent.
        """
        if not self.parent_ids:
            return None
        first: dict[str, int] = {}
        return np.array([first.setdefault(one, row) for row, one in enumerate(self.parent_ids)], np.int32)

    @cached_property
    def parent_rows(self) -> Int32[np.ndarray, "p"]:
        """The rows by which parents are named, ascending: of their first chunks; a document in one piece is its own."""
        if self.parents is None:
            return np.arange(len(self.document_ids), dtype=np.int32)
        return np.unique(self.parents)

    @property
    def named_ids(self) -> tuple[str, ...]:
        """The id by which files name what a document is or belongs to."""
        return self.parent_ids or self.document_ids

    def split(self, name: str) -> Judgements:
        """The judgements of a split. Raises UserError where the task has no such split."""
        if name not in self.splits:
            raise UserError(
                f"task '{self.name}' has no split '{name}', only {', '.join(self.splits)}. Choose one of them."
            )
        return self.splits[name]


def query_key(text: str) -> str:
    """What makes two queries the same: Unicode form, case, runs of white space and closing marks make no difference."""
    text = text.casefold() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    text = " ".join(text.split())
    return text.rstrip(" .?!\u3002\u061f\u0964") or text  # the last three close a sentence in CJK, Arabic and Hindi
