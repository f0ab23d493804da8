"""The embedded suite: a generated enterprise with eight families of retrieval tasks, in IT and in other departments.

How it is made, its conventions and its limits: docs/enterprise.md.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtret.data.enterprise.collection import Collection
from mtret.data.enterprise.customer import CUSTOMER
from mtret.data.enterprise.data_model import build_fields, build_tables
from mtret.data.enterprise.facilities import FACILITIES
from mtret.data.enterprise.finance import FINANCE
from mtret.data.enterprise.hr import HR
from mtret.data.enterprise.it import IT
from mtret.data.enterprise.legal import LEGAL
from mtret.data.enterprise.lexicon import Department
from mtret.data.enterprise.operations import build_endpoints, build_steps
from mtret.data.enterprise.processes import build_reports, build_workflows
from mtret.data.enterprise.service_desk import build_articles, build_catalogue
from mtret.data.enterprise.voice import Speaker, generator
from mtret.data.task_files import TaskParts, write_task
from mtret.data.tasks import Judgements, Task, TaskCard, query_key
from mtret.data.templates import render_document
from mtret.files import AnyPath

BUSINESS = (HR, FINANCE, FACILITIES, CUSTOMER, LEGAL)
DIVISIONS: Mapping[str, tuple[Department, ...]] = {"it": (IT,), "business": BUSINESS}

_HELD_OUT_SHARE = 0.3  # of the documents: positives in dev and test, never in train
_MOST_TRIES = 100  # per request


@dataclass(frozen=True)
class _Family:
    """What a family's tasks share. `build` takes departments, a seed and, by division, how much each thing offers."""

    instruction: str
    cutoffs: tuple[int, ...]
    build: Callable[..., Collection]
    offered: Mapping[str, tuple[int, ...]]
    train: int  # queries of the IT task; 0 for a family that is only ever evaluated


FAMILIES: Mapping[str, _Family] = {
    "step": _Family(
        "Given what an automation should do, retrieve the flow steps that it is built from.",
        (1, 5, 10, 15), build_steps, {"it": (13,), "business": (9,)}, 380,
    ),
    "table": _Family(
        "Given a question about company data, retrieve the database tables that hold the answer.",
        (1, 5, 10), build_tables, {"it": (9, 8), "business": (8, 6)}, 440,
    ),
    "field": _Family(
        "Given a piece of information somebody needs, retrieve the table columns that store it.",
        (1, 5, 10), build_fields, {"it": (9, 8), "business": (8, 6)}, 420,
    ),
    "catalog": _Family(
        "Given a wish or complaint of an employee, retrieve the catalogue item to order.",
        (1, 5, 10), build_catalogue, {"it": (7,), "business": (5,)}, 480,
    ),
    "article": _Family(
        "Given a question or trouble of an employee, retrieve the knowledge article that resolves it.",
        (1, 5, 10), build_articles, {"it": (7,), "business": (5,)}, 480,
    ),
    "api": _Family(
        "Given what a developer wants to do, retrieve the REST operation that does it.",
        (1, 5, 10), build_endpoints, {"it": (13,), "business": (8,)}, 460,
    ),
    "workflow": _Family(
        "Given what a team wants to happen by itself, retrieve the ready-made workflow.",
        (1, 5, 10), build_workflows, {"it": (9,), "business": (6,)}, 0,
    ),
    "report": _Family(
        "Given a question about how work is going, retrieve the reports that answer it.",
        (1, 5, 10), build_reports, {"it": (8,), "business": (6,)}, 0,
    ),
}  # fmt: skip

_EVALUATED = {"dev": 70, "test": 140}


def build_suite(seed: int = 0) -> dict[str, Task]:
    """The sixteen tasks by name, ready to use, a pure function of the seed."""
    return {name: _task(parts) for name, parts in build_parts(seed).items()}


def write_suite(folder: AnyPath, seed: int = 0) -> None:
    """Writes every task in the native layout. Raises UserError where one of the task folders exists already."""
    for name, parts in build_parts(seed).items():
        write_task(parts, folder / name)


def build_parts(seed: int = 0) -> dict[str, TaskParts]:
    """The sixteen tasks by name, as files hold them. No query occurs twice in the whole suite."""
    asked: set[str] = set()
    return {f"{division}_{name}": _parts(name, division, seed, asked) for name in FAMILIES for division in DIVISIONS}


def _parts(name: str, division: str, seed: int, asked: set[str]) -> TaskParts:
    family = FAMILIES[name]
    collection = family.build(DIVISIONS[division], seed, *family.offered[division])
    trained = division == "it" and family.train > 0
    ids = {document.about: document.id for document in collection.documents if document.about is not None}
    held_out = _held_out(sorted(ids), generator(seed, division, name, "held out"))
    queries: dict[str, str] = {}
    qrels: dict[str, list[tuple[str, str, float]]] = {}
    sizes = ({"train": family.train} if trained else {}) | _EVALUATED
    for split, size in sizes.items():
        allowed = frozenset(ids) - held_out if split == "train" else frozenset(ids)
        speaker = Speaker(generator(seed, division, name, split), training=split == "train")
        qrels[split] = []
        for text, wants in _requests(collection, speaker, allowed, size, asked):
            query = f"{split}-{len(queries):04d}"
            queries[query] = text
            qrels[split] += [(query, ids[about], 1.0) for about in sorted(wants)]
    documents = [{"_id": one.id, "title": one.title, "text": one.text} for one in collection.documents]
    return TaskParts(_card(name, division), documents, queries, qrels)


def _held_out(meanings: Sequence[str], rng: np.random.Generator) -> frozenset[str]:
    return frozenset(
        one for one, share in zip(meanings, rng.random(len(meanings)), strict=True) if share < _HELD_OUT_SHARE
    )


def _requests(
    collection: Collection, speaker: Speaker, allowed: frozenset[str], size: int, asked: set[str]
) -> list[tuple[str, frozenset[str]]]:
    """So many requests for allowed meanings only, none of which was asked before."""
    found = []
    for _ in range(size * _MOST_TRIES):
        request = collection.ask(speaker, allowed)
        if request is None or not request.wants <= allowed or query_key(request.text) in asked:
            continue
        asked.add(query_key(request.text))
        found.append((request.text, request.wants))
        if len(found) == size:
            return found
    raise AssertionError(f"found {len(found)} of {size} different requests: the word lists are too small")


def _card(name: str, division: str) -> TaskCard:
    family = FAMILIES[name]
    return TaskCard(
        name=f"{division}_{name}",
        family=name,
        domain=", ".join(department.name for department in DIVISIONS[division]),
        languages=("en",),
        instruction=family.instruction,
        license="Apache-2.0",
        source="generated",
        cutoffs=family.cutoffs,
        notes="Synthetic, for quickstarts and tests; says nothing about real data.",
    )


def _task(parts: TaskParts) -> Task:
    query_rows = {one: row for row, one in enumerate(parts.queries)}
    document_ids = tuple(document["_id"] for document in parts.documents)
    document_rows = {one: row for row, one in enumerate(document_ids)}
    splits = {}
    for split, pairs in parts.qrels.items():
        queries = np.array([query_rows[query] for query, _, _ in pairs], np.int32)
        documents = np.array([document_rows[document] for _, document, _ in pairs], np.int32)
        splits[split] = Judgements.from_pairs(queries, documents, np.array([score for _, _, score in pairs]))
    texts = tuple(render_document(document["title"], document["text"]) for document in parts.documents)
    return Task(parts.card, tuple(parts.queries), tuple(parts.queries.values()), document_ids, texts, splits)
