"""A sample of a suite on which many models are compared in minutes: few queries of every task, their gold documents and
fixed distractors, most of them what BM25 and untuned encoders find."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32
from rich.console import Console

from mtret.console import timed
from mtret.data.formats import Suite
from mtret.data.suites import content_sha256
from mtret.data.tasks import Task
from mtret.errors import UserError, nearest
from mtret.evaluation import samples
from mtret.evaluation.samples import TaskSample, drawing, drawn_queries, pooled_sample
from mtret.files import AnyPath, read_arrays, replace_arrays
from mtret.index.exact import Run, rules_of, search
from mtret.model_folder.folder import RetrievalModel
from mtret.models.weights import file_sha256
from mtret.runs.embedding import embed_tasks, unreadable
from mtret.runs.lexical import search_task
from mtret.runs.protocol import DEPTH

SAMPLE_FILE = "sample.json"
SCHEMA = "mtret.sample/1"
DISTRACTORS = 400  # of a task, of which at most three in four are pooled
SEED = 0  # of what is drawn; not that of the bootstrap, or another would be another sample


@dataclass(frozen=True)
class Sampled:
    """A suite of samples."""

    suite: Suite
    words: str  # how it was made
    record: Mapping[str, Any]  # as SAMPLE_FILE has it: who reads it evaluates on the same sample

    @property
    def sha256(self) -> str:
        """Of the record."""
        return hashlib.sha256(json.dumps(self.record, sort_keys=True).encode()).hexdigest()

    def only(self, names: Sequence[str]) -> "Sampled":
        """Of those tasks that can be evaluated."""
        kept = {name: task for name, task in self.suite.tasks.items() if name in names}
        if not kept:
            raise UserError("--sample: none of its tasks can be evaluated")
        hashes = {name: self.suite.task_sha256[name] for name in kept}
        return replace(self, suite=replace(self.suite, tasks=kept, task_sha256=hashes))


class Part(NamedTuple):
    """A task that is sampled."""

    task: Task
    sha256: str  # of its data
    queries: Int32[np.ndarray, "q"]


def draw_sample(
    suite: Suite,
    tasks: Sequence[str],
    split: str,
    count: int,
    pool: Sequence[RetrievalModel],
    cache: AnyPath,
    console: Console,
) -> Sampled:
    """At most `count` queries of each of these tasks, over their gold documents and `DISTRACTORS` others: three in four
    are first results of BM25 and of the encoders of `pool`, as far as there are so many, the others random.

    What is drawn of a task does not depend on the others. The first time every encoder of the pool has to read all
    documents; which ones are drawn is kept in `cache`.
    """
    parts = []
    for name in tasks:
        task = suite.tasks[name]
        parts.append(Part(task, suite.task_sha256[name], drawn_queries(task, split, count, drawing(task, SEED))))
    found: dict[str, TaskSample] = {}
    missing = []
    for part in parts:
        arrays = read_arrays(_path(part, split, count, pool, cache))
        if arrays is None:
            missing.append(part)
        else:
            found[part.task.name] = TaskSample(part.task, part.queries, arrays["documents"], split)
    for part, runs in zip(missing, _pooled_runs(missing, split, pool, cache, console), strict=True):
        random = drawing(part.task, SEED + 1)
        sample = pooled_sample(part.task, split, part.queries, runs, DISTRACTORS, random)
        replace_arrays(_path(part, split, count, pool, cache), {"documents": sample.documents})
        found[part.task.name] = sample
    record = {
        "schema": SCHEMA,
        "split": split,
        "queries": count,
        "distractors": DISTRACTORS,
        "pooled": ["bm25", *(named(model) for model in pool)],
        "tasks": {part.task.name: _as_json(found[part.task.name], part.sha256) for part in parts},
    }
    return _sampled(suite, found, record)


def read_sample(path: AnyPath, suite: Suite, split: str) -> Sampled:
    """The sample of a file that an evaluation wrote. Raises UserError where it is none, or was drawn of other data."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["schema"] != SCHEMA:
            raise KeyError("schema")
        about = str(record["split"]), int(record["queries"]), int(record["distractors"]), list(record["pooled"])
        tasks = {str(name): {key: each[key] for key in SAMPLED} for name, each in record["tasks"].items()}
    except FileNotFoundError:
        raise UserError(f"--sample: no file '{path}'; give a number of queries, or a {SAMPLE_FILE}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: is not a {SAMPLE_FILE} that mtret evaluate --sample wrote") from None
    if about[0] != split:
        raise UserError(f"{path}: is a sample of the {about[0]} split; give --split={about[0]}")
    found = {}
    for name, each in tasks.items():
        if name not in suite.tasks:
            raise UserError(f"{path}: no task '{name}' in {suite.folder}.{nearest(name, suite.tasks)}")
        if suite.task_sha256[name] != each["sha256"]:
            raise UserError(f"{path}: task '{name}' was drawn of other data than {suite.folder} holds; draw another")
        task = suite.tasks[name]
        queries = _rows(task.query_ids, each["queries"], path, name)
        found[name] = TaskSample(task, queries, _rows(task.document_ids, each["documents"], path, name), split)
    return _sampled(suite, found, record)


SAMPLED = ("sha256", "queries", "documents")  # what a record holds of a task


def named(model: RetrievalModel) -> str:
    """An encoder in a record: its folder's name, and what tells it from all others."""
    return f"{Path(model.encoder.folder).name} {model.towers.fingerprint[:12]}"


def _as_json(sample: TaskSample, sha256: str) -> dict[str, Any]:
    task = sample.task
    ids = [task.query_ids[row] for row in sample.queries], [task.document_ids[row] for row in sample.documents]
    return dict(zip(SAMPLED, (sha256, *ids), strict=True))


def _rows(known: Sequence[str], ids: Sequence[str], path: AnyPath, task: str) -> Int32[np.ndarray, "n"]:
    row_of = {name: row for row, name in enumerate(known)}
    try:
        return np.array(sorted(row_of[each] for each in ids), np.int32)
    except (KeyError, TypeError):
        raise UserError(f"{path}: task '{task}' names what its data does not hold; draw another sample") from None


def _sampled(suite: Suite, found: Mapping[str, TaskSample], record: Mapping[str, Any]) -> Sampled:
    tasks = {name: sample.as_task() for name, sample in found.items()}
    hashes = {name: content_sha256(task) for name, task in tasks.items()}
    words = (
        f"at most {record['queries']} queries a task, their gold documents and at most {record['distractors']} others: "
        f"three in four from the first {samples.POOL_DEPTH} results of {' and '.join(record['pooled'])}, as far as "
        "there are so many, the rest random"
    )
    return Sampled(Suite(suite.folder, tasks, suite.sha256, hashes), words, record)


def _pooled_runs(
    parts: Sequence[Part], split: str, pool: Sequence[RetrievalModel], cache: AnyPath, console: Console
) -> list[list[Run]]:
    """By task, the searches of BM25 and of every encoder that can read its documents."""
    if not parts:
        return []
    found: list[list[Run]] = []
    with timed(console, "searching for distractors"):
        for part in parts:
            text = part.task.images is None
            found.append([search_task(part.task, part.sha256, split, part.queries, cache).run] if text else [])
    for model in pool:
        cannot = unreadable(model, [part.task for part in parts])
        read = [index for index, part in enumerate(parts) if part.task.name not in cannot]
        asked = [(parts[i].task, [parts[i].task.query_texts[row] for row in parts[i].queries]) for i in read]
        vectors = embed_tasks(f"distractors, {Path(model.encoder.folder).name}", model, asked, cache, console)
        comparable = model.encoder.comparable
        for index, (queries, documents) in zip(read, vectors, strict=True):
            rules = rules_of(parts[index].task, parts[index].queries)
            found[index].append(search(comparable(queries), comparable(documents), DEPTH, rules))
    return found


def _path(part: Part, split: str, count: int, pool: Sequence[RetrievalModel], cache: AnyPath) -> AnyPath:
    """Of the rows that were drawn, by all that they depend on."""
    code = [file_sha256(Path(str(module.__file__))) for module in (samples,)]
    prompts = [(named(model), model.towers.fingerprint, str(model.templates)) for model in pool]
    how = count, DISTRACTORS, samples.POOL_DEPTH, samples.POOLED_SHARE, SEED
    whole = json.dumps([part.sha256, part.task.name, split, how, prompts, *code])
    return cache / f"sample-{hashlib.sha256(whole.encode()).hexdigest()[:32]}.safetensors"
