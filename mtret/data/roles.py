"""What an evaluated task is to a model, derived from a record of what the model was trained on.

The record holds cards and 64-bit hashes, no text, so that a saved model is judged without its training data.
Two distinct texts of a million share a hash with a probability below 1e-7.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int32, UInt64

from mtret.data.chunks import parent_keys
from mtret.data.tasks import Task, query_key
from mtret.errors import UserError
from mtret.files import AnyPath, replace_bytes, replace_json
from mtret.schema import MismatchError, Reading, build

Role = Literal["in_domain", "cross_domain", "zero_shot"]

RECORD = "training_record.json"
HASHES = "training_record.safetensors"
VERSION = 1
MAX_LEAKED_SHARE = 0.01


@dataclass(frozen=True)
class TrainedTask:
    """Of a task that a model was trained on, what roles are derived from."""

    name: str
    family: str
    domain: str
    languages: tuple[str, ...]
    material: str | None
    license: str = ""  # of its data; for the model's card


@dataclass(frozen=True, eq=False)
class TrainingRecord:
    """What a model was trained on: cards, and sorted distinct hashes of texts."""

    tasks: tuple[TrainedTask, ...]
    queries: UInt64[np.ndarray, "q"]  # of the training splits, by `query_key`
    documents: UInt64[np.ndarray, "d"]  # of the whole corpora, by `parent_keys`
    positives: UInt64[np.ndarray, "p"]  # those documents that were positives in training


def training_record(tasks: Sequence[Task]) -> TrainingRecord:
    """The record of a mixture. Raises UserError for an empty one and for a task without training queries."""
    if not tasks:
        raise UserError(
            "the mixture names no task, so nothing can be trained. Add at least one task with a train split."
        )
    return joined([_record(task) for task in tasks])


def _record(task: Task) -> TrainingRecord:
    train, card = task.split("train"), task.card
    kept = TrainedTask(card.name, card.family, card.domain, card.languages, card.material, card.license)
    queries = query_hashes([task.query_texts[row] for row in train.queries])
    documents = document_hashes(parent_keys(task))
    return TrainingRecord(
        (kept,), queries, documents, documents[np.searchsorted(task.parent_rows, train.positives().documents)]
    )


def joined(records: Sequence[TrainingRecord]) -> TrainingRecord:
    """Of what was trained on all of them; of two tasks of one name the last counts."""
    tasks = {task.name: task for record in records for task in record.tasks}
    arrays = (
        np.unique(np.concatenate([getattr(record, name) for record in records]))
        for name in ("queries", "documents", "positives")
    )
    return TrainingRecord(tuple(tasks[name] for name in sorted(tasks)), *arrays)


def query_hashes(texts: Sequence[str]) -> UInt64[np.ndarray, "n"]:
    """64-bit hashes under which queries that differ only as `query_key` ignores are the same."""
    return _hashes(texts, query_key)


def document_hashes(texts: Sequence[str]) -> UInt64[np.ndarray, "n"]:
    """64-bit hashes of `parent_keys`: white space makes no difference, case does (commands, identifiers)."""
    return _hashes(texts, lambda text: " ".join(text.split()))


def _hashes(texts: Sequence[str], key: Callable[[str], str]) -> UInt64[np.ndarray, "n"]:
    digests = b"".join(hashlib.blake2b(key(text).encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def role_of(task: Task, record: TrainingRecord) -> Role:
    """What the task is to a model with this record.

    in_domain: the task itself was trained on; or one of its family was, and it shares a document (by text) or the
    card's `material` with some trained task. cross_domain: one of its family was, and it shares neither. zero_shot:
    none of its family was.
    """
    card = task.card
    if card.name in {one.name for one in record.tasks}:
        return "in_domain"
    if card.family not in {one.family for one in record.tasks}:
        return "zero_shot"
    shares_material = card.material is not None and card.material in {one.material for one in record.tasks}
    return "in_domain" if shares_material or shared_documents(task, record) else "cross_domain"


def shared_documents(task: Task, record: TrainingRecord) -> int:
    """How many distinct documents of the task stand in the corpus of a trained task."""
    return int(np.isin(np.unique(document_hashes(parent_keys(task))), record.documents).sum())


def check_leakage(
    task: Task, split: str, record: TrainingRecord, allow_leakage: bool = False
) -> Int32[np.ndarray, "dropped"]:
    """The query rows of a split to drop, which may be all: those whose text is a training query of any trained task,
    the task itself included. Raises UserError where they are above 1%, unless that is allowed: so many in a whole split
    say that the splits were made wrongly; in a small sample of one they say nothing."""
    rows = task.split(split).queries
    total = len(rows)
    rows = rows[np.isin(query_hashes([task.query_texts[row] for row in rows]), record.queries)]
    share = len(rows) / total
    if share > MAX_LEAKED_SHARE and not allow_leakage:
        outcome = "drop them and evaluate the rest" if len(rows) < total else "leave the task out"
        raise UserError(
            f"task '{task.name}': {len(rows)} of {total} {split} queries ({share:.1%}) are training queries of the "
            f"model, more than {MAX_LEAKED_SHARE:.0%}. Pass --allow_leakage to {outcome}."
        )
    return rows


def seen_document_share(task: Task, split: str, record: TrainingRecord) -> float:
    """The share of the split's distinct positive documents (by text) that were positives in training, of any task."""
    gold = np.unique(task.split(split).positives().documents)
    hashes = np.unique(document_hashes(parent_keys(task, gold)))
    return float(np.isin(hashes, record.positives).mean())


def save_record(record: TrainingRecord, folder: AnyPath) -> None:
    """Writes `training_record.json` and the hashes beside it, first, since the JSON holds their file's sha256."""
    from safetensors.numpy import save

    hashes = save({"queries": record.queries, "documents": record.documents, "positives": record.positives})
    card = {
        "version": VERSION,
        "tasks": [asdict(task) for task in record.tasks],
        "hashes": {"file": HASHES, "sha256": hashlib.sha256(hashes).hexdigest()},
    }
    replace_bytes(folder / HASHES, hashes)
    replace_json(folder / RECORD, card)


def load_record(folder: AnyPath) -> TrainingRecord:
    """Reads what `save_record` wrote. Raises UserError where a file is missing, damaged or of another version."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = folder / RECORD
    again = "Export the model again."
    try:
        card = json.loads(_read(path))
        version, listed, digest = card["version"], card["tasks"], card["hashes"]["sha256"]
        if version != VERSION:
            raise UserError(f"{path}: version {version}, this mtret reads {VERSION}. Export the model with this one.")
        tasks = tuple(build(TrainedTask, one, how=Reading(more_keys=True)) for one in listed)
    except (ValueError, KeyError, TypeError, MismatchError) as error:
        raise UserError(f"{path}: not a training record ({type(error).__name__}: {error}). {again}") from None
    raw = _read(folder / HASHES)
    if hashlib.sha256(raw).hexdigest() != digest:
        raise UserError(f"{folder / HASHES}: is not the file that {RECORD} was written with (sha256 differs). {again}")
    try:
        arrays = load(raw)
        return TrainingRecord(tasks, arrays["queries"], arrays["documents"], arrays["positives"])
    except (SafetensorError, KeyError) as error:
        raise UserError(f"{folder / HASHES}: holds no hashes ({error}). {again}") from None


def _read(path: AnyPath) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}). Give a folder that mtret exported."
        ) from None
