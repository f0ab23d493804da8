"""A suite by its name: a folder, a TFDS data set, or the bundled enterprise."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from rich.console import Console

from mtret.console import Bar
from mtret.data.formats import Suite, read_suite
from mtret.data.images import read_pixels
from mtret.data.tasks import Task
from mtret.errors import UserError
from mtret.files import AnyPath, locate, reaching


def load_suite(name: str) -> Suite:
    """A folder of task folders, `tfds:` and a data set, or the bundled `enterprise`.

    Raises UserError for the first mistake in it.
    """
    if not name:
        raise UserError(
            "no suite: give --suite=FOLDER, --suite=tfds:NAME, --suite=enterprise, or `suite` in the configuration"
        )
    if name.startswith("tfds:"):
        from mtret.data.tfds_suites import read_dataset

        return read_dataset(name.removeprefix("tfds:"))
    if name != "enterprise":
        folder = locate(name)
        with reaching(folder):
            return read_suite(folder)
    from mtret.data.enterprise import read_tasks

    tasks = read_tasks()
    hashes = {name: content_sha256(task) for name, task in tasks.items()}
    whole = hashlib.sha256("".join(hashes.values()).encode()).hexdigest()
    return Suite(Path("enterprise"), tasks, whole, hashes)


def content_sha256(task: Task) -> str:
    """A fingerprint of everything in a task that is not read from files."""
    sha = hashlib.sha256(repr((task.card, task.query_ids, task.query_texts, task.document_ids)).encode())
    sha.update(repr(task.document_keys).encode())
    if task.parent_ids:
        sha.update(repr(task.parent_ids).encode())
    relations = {f"qrels/{name}": split for name, split in task.splits.items()}
    relations |= {f"negatives/{name}": split for name, split in task.negatives.items()}
    relations |= {"exclude": task.exclude} if task.exclude else {}
    for name, relation in sorted(relations.items()):
        sha.update(name.encode())
        for array in (relation.queries, relation.offsets, relation.documents, relation.scores):
            sha.update(array.tobytes())
    return sha.hexdigest()


def read_all_pixels(
    tasks: Sequence[Task], size: int, cache: AnyPath, console: Console
) -> dict[str, UInt8[np.ndarray, "_ H H 3"]]:
    """The images of those tasks that have some, by task."""
    seeing = [task for task in tasks if task.images]
    with Bar(console, "reading images", sum(len(task.document_ids) for task in seeing)) as bar:
        found = {task.name: read_pixels(task.images, size, cache, bar.advance) for task in seeing if task.images}
        bar.finish()
    return found
