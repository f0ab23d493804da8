"""A model answers: the documents of a task, or of all tasks, that are nearest to a query."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32
from rich.console import Console

from mtret.data.chunks import chunk_rows
from mtret.data.tasks import Task
from mtret.data.tokenize import Tokenizer
from mtret.errors import UserError, nearest
from mtret.evaluation.retrieval import pool
from mtret.index.encode import Texts
from mtret.index.exact import NOTHING, Rules, search, tie_order
from mtret.model_folder.towers import embedder
from mtret.models.dual_encoder import ModelConfig
from mtret.runs import session
from mtret.runs.embedding import embed_tasks, reads, unreadable
from mtret.runs.export import load_suite_of, open_model


@dataclass(frozen=True)
class Hit:
    """One document that was found."""

    rank: int  # from 1
    score: float  # cosine, or dot product for an encoder that is made for it
    task: str
    id: str
    text: str  # or the path of its image
    parent: str | None = None  # of what document this is the best chunk


def answer(
    model: str,
    suite_name: str,
    task_name: str,
    queries: Sequence[str],
    top: int,
    pooled: bool,
    console: Console,
    how: ModelConfig | None = None,
) -> list[list[Hit]]:
    """The first `top` documents for each query, asked as a query of `task_name`; over all tasks' documents if `pooled`.

    `suite_name` may be empty for a model that mtret trained: then it is the suite of its training. Raises UserError
    where there is no such model, suite or task, or the model cannot read the task.
    """
    cache = session.begin().cache
    loaded = open_model(model, how)
    for line in loaded.remarks:  # standard output is for hits
        print(line, file=sys.stderr)
    suite = load_suite_of(loaded, suite_name)
    if task_name not in suite.tasks:
        raise UserError(f"no task '{task_name}' in {suite.folder}.{nearest(task_name, suite.tasks)}")
    asked = suite.tasks[task_name]
    if reasons := unreadable(loaded, [asked]):
        raise UserError(f"'{task_name}' cannot be searched: {reasons[task_name]}")
    others = [task for task in suite.tasks.values() if task is not asked and pooled and reads(loaded, task)]
    tasks = [asked, *others]
    sides = embed_tasks("index", loaded, [(task, ()) for task in tasks], cache, console)
    encoder = loaded.encoder
    tokens = Tokenizer(encoder.folder, None, encoder.pools_prompt).after(
        loaded.templates.query_prefix(asked.card.instruction), queries
    )
    vectors = encoder.comparable(embedder(encoder)([Texts(tokens, encoder.max_length)])[0])
    together = pool(tasks)
    documents = encoder.comparable(np.concatenate([each for _, each in sides])[together.kept])
    parents = together.parents
    rules = Rules(tie_order(together.document_ids), parents=parents)
    run = search(vectors, documents, min(top, together.n_documents), rules)
    shown = [(task, row) for task in tasks for row in range(len(task.document_ids))]
    found = []
    for vector, rows, scores in zip(vectors, run.documents, run.scores, strict=True):
        hits = []
        if parents is not None:
            rows = _best_chunks(vector, documents, rows[rows != NOTHING], parents)
            scores = scores[: len(rows)]
        for place, (row, score) in enumerate(zip(rows, scores, strict=True), start=1):
            if row != NOTHING:
                task, own = shown[together.kept[row]]
                own_id = task.document_ids[own]
                parent = task.named_ids[own] if task.named_ids[own] != own_id else None
                hits.append(Hit(place, float(score), task.name, own_id, _shown(task, own), parent))
        found.append(hits)
    return found


def _best_chunks(
    query: Float32[np.ndarray, "D"],
    documents: Float32[np.ndarray, "m D"],
    found: Int32[np.ndarray, "k"],
    parents: Int32[np.ndarray, "m"],
) -> Int32[np.ndarray, "k"]:
    """Of every parent that was found, the chunk that is nearest to the query; of equal ones the first."""
    which, rows = chunk_rows(parents, found)
    best_first = np.lexsort((rows, -(documents[rows] @ query), which))
    _, first = np.unique(which[best_first], return_index=True)
    return rows[best_first[first]]


def _shown(task: Task, row: int) -> str:
    return str(task.images.paths[row]) if task.images else task.document_texts[row]
