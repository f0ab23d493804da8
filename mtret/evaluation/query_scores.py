"""Scores of every query, beside results.json: what two results are compared by."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from mtret.data.tasks import Task
from mtret.errors import UserError
from mtret.evaluation.results import Results, read_results
from mtret.evaluation.retrieval import PRIMARY, TaskOutcome
from mtret.files import AnyPath, locate, reaching, replace_text
from mtret.names import systems_now

QUERIES_FILE = "queries.jsonl"
METRICS = (PRIMARY, "recall@10", "mrr@10")  # of all that are computed, those that every task has


@dataclass(frozen=True, eq=False)
class TaskQueries:
    """One task's evaluated queries, in the order of the file."""

    ids: tuple[str, ...]
    scores: Mapping[tuple[str, str], Float64[np.ndarray, "q"]]  # by metric and system


@dataclass(frozen=True, eq=False)
class QueryScores:
    """A results file and what it was made of."""

    results: Results
    tasks: Mapping[str, TaskQueries]


def with_query_scores(results: dict[str, Any], outcomes: Sequence[TaskOutcome], folder: AnyPath) -> dict[str, Any]:
    """Writes queries.jsonl into `folder`; returns the results with its hash, to be written after it."""
    text = "".join(f"{line}\n" for outcome in outcomes for line in _lines(outcome))
    replace_text(folder / QUERIES_FILE, text)
    described = {"file": QUERIES_FILE, "sha256": hashlib.sha256(text.encode()).hexdigest(), "metrics": list(METRICS)}
    return results | {"queries": described}


def _lines(outcome: TaskOutcome) -> Iterator[str]:
    task, scores = outcome.task, outcome.scores
    for place, row in enumerate(scores.query_rows.tolist()):
        values = {
            metric: {system: round(float(each[metric][place]), 6) for system, each in scores.systems.items()}
            for metric in METRICS
        }
        yield json.dumps({"task": task.name, "query": task.query_ids[row], **values}, ensure_ascii=False)


def data_sha256(task: Task, split: str) -> str:
    """Of all that the scores of a split rest on but the model: its queries, their judgements and exclusions, and the
    documents. Neither the order of lines nor other splits change it, nor does the instruction."""
    judged = task.split(split)
    rows = set(judged.queries.tolist())
    sha = hashlib.sha256()

    def add(kind: str, lines: list[tuple[str, ...]]) -> None:
        sha.update(kind.encode() if lines else b"")
        for line in sorted(lines):
            sha.update(json.dumps(line).encode())

    add("documents", list(zip(task.document_ids, task.document_keys, strict=True)))
    if task.parent_ids:
        add("parents", list(zip(task.document_ids, task.parent_ids, strict=True)))
    add("queries", [(task.query_ids[row], task.query_texts[row]) for row in rows])
    for kind, pairs in (("judgements", judged), ("exclude", task.exclude)):
        if pairs is not None:
            each = zip(pairs.pair_queries().tolist(), pairs.documents.tolist(), pairs.scores.tolist(), strict=True)
            add(kind, [(task.query_ids[q], task.document_ids[d], repr(s)) for q, d, s in each if q in rows])
    return sha.hexdigest()


def results_file(name: str) -> AnyPath:
    """The results.json that a user means: the file itself, or the folder that holds it."""
    path = locate(name)
    with reaching(path):
        if not path.is_dir():
            return path
        found = [
            split
            for split in ("test", "dev", "sample_test", "sample_dev", "dev_sample")
            if (path / split / "results.json").exists()
        ]
        if found and not (path / "results.json").exists():
            raise UserError(f"{path}: holds no results.json; give {path / found[0]}, which does")
        return path / "results.json"


def read_query_scores(name: str) -> QueryScores:
    """A results folder or its results.json, with the scores of its queries.

    Raises UserError where either is missing or damaged, or the two do not belong together.
    """
    path = results_file(name)
    results = read_results(path)
    beside = path.parent / QUERIES_FILE
    described = results.queries
    if described is None:
        raise UserError(f"{path}: its queries' scores were not kept; run `mtret evaluate` again, which keeps them")
    try:
        content = beside.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"{beside}: no such file; it belongs beside results.json and holds the queries' scores: copy it there, or "
            "run `mtret evaluate` again"
        ) from None
    if hashlib.sha256(content).hexdigest() != described.sha256:
        raise UserError(f"{beside}: is not the file that results.json was written with; run `mtret evaluate` again")
    return QueryScores(results, _tasks(content.decode("utf-8"), results.systems))


def _tasks(text: str, known: Sequence[str]) -> dict[str, TaskQueries]:
    """`known`: the systems of the results."""
    by_task: dict[str, list[dict[str, Any]]] = {}
    for line in text.splitlines():
        entry = json.loads(line)
        by_task.setdefault(entry["task"], []).append(entry)
    found = {}
    for task, entries in by_task.items():
        scores: dict[tuple[str, str], Float64[np.ndarray, "q"]] = {}
        for metric in METRICS:
            for system in entries[0][metric]:
                values = np.array([entry[metric][system] for entry in entries], np.float64)
                scores[metric, systems_now(known).get(str(system), str(system))] = values
        found[task] = TaskQueries(tuple(entry["query"] for entry in entries), scores)
    return found
