"""Tasks and runs -> scores per query, over a task's own documents or a pool of all; `results.py` takes them on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int32, Int64

from mtret.data.chunks import parent_chunks, parent_keys
from mtret.data.tasks import Judgements, Task
from mtret.evaluation import metrics
from mtret.index.exact import NOTHING, Run

PRIMARY = "ndcg@10"
OWN_TASK = "own_task@10"
ROLES = ("in_domain", "cross_domain", "zero_shot", "all")
# Systems: an encoder alone, and its hybrid with BM25.
BM25, BASE, HYBRID, HYBRID_RANKS = "bm25", "base", "hybrid", "hybrid_ranks"
FINETUNED, FINETUNED_HYBRID = "finetuned", "finetuned_hybrid"
HYBRID_OF = {BASE: HYBRID, FINETUNED: FINETUNED_HYBRID}


@dataclass(frozen=True, eq=False)
class TaskScores:
    """Every system's metrics for every evaluated query of a task."""

    query_rows: Int32[np.ndarray, "q"]
    cutoffs: tuple[int, ...]
    systems: Mapping[str, Mapping[str, Float64[np.ndarray, "q"]]]  # by system, then metric


@dataclass(frozen=True, eq=False)
class TaskOutcome:
    """A task's scores over its own corpus, with what the reader must know about the task."""

    task: Task
    scores: TaskScores
    role: str | None = None  # None where the model was trained on no mixture
    dropped_queries: tuple[str, ...] = ()  # ids of test queries that occur in training
    seen_document_share: float | None = None  # share of the gold documents that were positives in training
    scann: Mapping[str, Any] | None = None
    data_sha256: str | None = None  # of the data that the scores rest on
    n_with_copies: int = 0  # see `queries_with_copies`
    fusion: Mapping[str, float] | None = None  # the task's own weights of hybrids, by encoder


@dataclass(frozen=True, eq=False)
class PooledOutcome:
    """Scores of the same queries over the documents of all tasks."""

    n_documents: int
    scores: Mapping[str, TaskScores]  # by task
    scann: Mapping[str, Any] | None = None


class Pool(NamedTuple):
    """The documents of several tasks as one corpus in which every text stands once; in chunks, all of them once."""

    kept: Int64[np.ndarray, "p"]  # rows of the concatenated documents of all tasks
    document_ids: tuple[str, ...]  # `task/id`, of the first task that has the text; of a chunk, its parent's
    rows: Mapping[str, Int32[np.ndarray, "m"]]  # by task: where its documents, or their parents, stand in the pool
    parents: Int32[np.ndarray, "p"] | None = None  # as `Task.parents`

    @property
    def n_documents(self) -> int:
        """How many there are, chunks of one counted once."""
        return len(self.kept) if self.parents is None else len(np.unique(self.parents))


def pool(tasks: Sequence[Task]) -> Pool:
    """One corpus of all tasks' documents, in order. What several tasks share stands once, or twins would compete."""
    place: dict[str, int] = {}
    kept: list[int] = []
    ids: list[str] = []
    parents: list[int] = []
    rows: dict[str, Int32[np.ndarray, "m"]] = {}
    start = 0
    for task in tasks:
        mine = np.empty(len(task.document_ids), np.int32)
        for chunks, key in zip(parent_chunks(task), parent_keys(task), strict=True):
            there = place.setdefault(key, len(kept))
            if there == len(kept):
                kept += [start + row for row in chunks]
                ids += [f"{task.name}/{task.named_ids[chunks[0]]}"] * len(chunks)
                parents += [there] * len(chunks)
            mine[chunks] = there
        rows[task.name] = mine
        start += len(mine)
    whole = all(task.parents is None for task in tasks)
    return Pool(np.array(kept, np.int64), tuple(ids), rows, None if whole else np.array(parents, np.int32))


def evaluate_task(
    task: Task,
    split: str,
    query_rows: Int32[np.ndarray, "q"],
    runs: Mapping[str, Run],
    pooled_rows: Int32[np.ndarray, "m"] | None = None,
) -> TaskScores:
    """Scores every system's run of a task, at the cut-offs of its card and at 10.

    Args:
      query_rows: rows of the task's queries that are evaluated, in the order of the runs.
      runs: by system; each is later compared with those before it.
      pooled_rows: `Pool.rows` of the task where the runs are over the pool; then `own_task@10` is scored too:
        the share of the first 10 results that are documents of the task.

    Raises:
      UserError: the task has no such split.
      ValueError: a run does not fit the queries, or a query has no relevant document.
    """
    judgements = task.split(split)
    if pooled_rows is not None:
        judgements = _over_pool(judgements, pooled_rows)
    cutoffs = tuple(sorted({*task.card.cutoffs, 10}))
    systems: dict[str, dict[str, Float64[np.ndarray, "q"]]] = {}
    for system, run in runs.items():
        values = metrics.all_metrics(metrics.hits(run, judgements, query_rows), cutoffs)
        if pooled_rows is not None:
            first = run.documents[:, :10]
            found = np.maximum((first != NOTHING).sum(axis=1), 1)
            values[OWN_TASK] = np.isin(first, pooled_rows).sum(axis=1) / found
        systems[system] = values
    return TaskScores(query_rows, cutoffs, systems)


def _over_pool(judgements: Judgements, pooled_rows: Int32[np.ndarray, "m"]) -> Judgements:
    queries, documents = judgements.pair_queries(), pooled_rows[judgements.documents]
    # Documents of one text are one document of the pool: the best of their scores counts, once.
    by_score = np.lexsort((-judgements.scores, documents, queries))
    _, first = np.unique(np.stack([queries, documents])[:, by_score], axis=1, return_index=True)
    kept = by_score[first]
    return Judgements.from_pairs(queries[kept], documents[kept], judgements.scores[kept])


def queries_with_copies(task: Task, split: str, query_rows: Int32[np.ndarray, "q"]) -> int:
    """How many of the queries have a relevant document of which another document of the task, neither judged for the
    query nor excluded, has the same text. Who finds that one has found the right text, and is told that it is wrong:
    judgements are taken as they are. (In a pool both are one document.)"""
    _, text_of = np.unique(parent_keys(task), return_inverse=True)
    if len(text_of) == text_of.max(initial=-1) + 1:
        return 0
    copies = np.bincount(text_of)  # documents of each text
    judged = task.split(split)
    said = [np.stack([judged.pair_queries(), judged.documents])]
    if task.exclude is not None:
        said.append(np.stack([task.exclude.pair_queries(), task.exclude.documents]))
    queries, documents = np.unique(np.concatenate(said, axis=1), axis=1)
    texts = text_of[np.searchsorted(task.parent_rows, documents)]
    pairs, counts = np.unique(np.stack([queries, texts]), axis=1, return_counts=True)
    unsaid = pairs[:, counts < copies[pairs[1]]]  # (query, text) of which a copy is not spoken of
    right = judged.scores > 0
    relevant = text_of[np.searchsorted(task.parent_rows, judged.documents[right])]
    width = len(copies)
    found = np.isin(unsaid[0] * width + unsaid[1], judged.pair_queries()[right].astype(np.int64) * width + relevant)
    return int(np.isin(np.unique(unsaid[0][found]), query_rows).sum())
