"""The bundled suite: sixteen retrieval tasks of a made-up enterprise, which the package carries as compressed data.

What is in them: docs/enterprise.md. The program that made them, and makes others: experiments/enterprise.
"""

import gzip
import hashlib
import json
import zlib
from importlib import resources
from typing import Any

import numpy as np

from mtret.data.task_files import TaskParts, write_task
from mtret.data.tasks import Judgements, Task, TaskCard
from mtret.data.templates import render_document
from mtret.errors import UserError
from mtret.files import AnyPath
from mtret.schema import build

DATA = resources.files("mtret.data") / "enterprise.json.gz"
# Of the JSON: what gzip makes of it depends on the versions of Python and zlib.
SHA256 = "29a9af1f0d66212c8fb1db763ef14cb4d640ade68de67eb6493529eb4afcb32b"


def read_parts() -> dict[str, TaskParts]:
    """The tasks by name, as files hold them. Raises UserError where the data are not those of this version."""
    try:
        content = gzip.decompress(DATA.read_bytes())
    except (OSError, EOFError, zlib.error):
        content = b""
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise UserError(f"{DATA}: is not the suite of this version of mtret. Install mtret again")
    return {name: _parts(**task) for name, task in json.loads(content).items()}


def read_tasks() -> dict[str, Task]:
    """The tasks by name, ready to use: the same as `write_suite` writes them and `read_suite` reads them."""
    return {name: _task(parts) for name, parts in read_parts().items()}


def write_suite(folder: AnyPath) -> None:
    """Writes every task in the native layout. Raises UserError where one of the task folders exists already."""
    for name, parts in read_parts().items():
        write_task(parts, folder / name)


def _parts(card: dict[str, Any], qrels: dict[str, list[Any]], **texts: Any) -> TaskParts:
    """A task of the JSON, which has lists where Python has tuples."""
    pairs = {split: [(query, document, score) for query, document, score in rows] for split, rows in qrels.items()}
    return TaskParts(build(TaskCard, card), qrels=pairs, **texts)


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
