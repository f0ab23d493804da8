"""BM25 over tasks and pools, with a cache: its results depend on data, code and libraries alone."""

import hashlib
import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from mtret.data.tasks import Task
from mtret.files import AnyPath, read_arrays, replace_arrays
from mtret.index import bm25, exact
from mtret.index.exact import Run, rules_of
from mtret.models.weights import file_sha256
from mtret.runs.protocol import DEPTH


def search_task(task: Task, sha256: str, split: str, rows: Int32[np.ndarray, "q"], cache: AnyPath) -> Run:
    """BM25's run of these queries of a task. `sha256`: of its data."""

    def run() -> Run:
        index = bm25.BM25Index(task.document_texts)
        return index.search([task.query_texts[row] for row in rows], DEPTH, rules_of(task, rows))

    return cached_run(cache, [sha256, split, *map(str, rows.tolist())], run)


def cached_run(cache: AnyPath, key: Sequence[str], run: Callable[[], Run]) -> Run:
    """What `run` returns; `key` tells its data. Code and libraries are part of what it is kept by."""
    code = [file_sha256(Path(str(module.__file__))) for module in (bm25, exact)]
    libraries = [importlib.metadata.version(name) for name in ("bm25s", "PyStemmer")]
    whole = "\n".join([*code, *libraries, str(DEPTH), *key])
    path = cache / f"bm25-{hashlib.sha256(whole.encode()).hexdigest()[:32]}.safetensors"
    arrays = read_arrays(path)
    if arrays is None:
        found = run()
        arrays = {"documents": found.documents, "scores": found.scores}
        replace_arrays(path, arrays)
    return Run(arrays["documents"], arrays["scores"])
