"""BM25 over tasks and pools, with a cache: its results depend on data, code and libraries alone."""

import hashlib
import importlib.metadata
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from jaxtyping import Float32, Int32
from numpy import ndarray

from mtret.data.tasks import Task
from mtret.files import AnyPath, read_arrays, replace_arrays
from mtret.index import bm25, exact
from mtret.index.exact import Rules, Run, rules_of
from mtret.models.weights import file_sha256
from mtret.runs.protocol import DEPTH


class LexicalSearch:
    """BM25 over some documents for some queries: what it finds, and what it gives to what others found."""

    def __init__(
        self,
        documents: Callable[[], Sequence[str]],
        queries: Sequence[str],
        rules: Rules,
        key: Sequence[str],
        cache: AnyPath,
        like: "LexicalSearch | None" = None,
    ) -> None:
        """`key` tells the data; what was found is kept in the cache by it, and by code and libraries. `like`: a search
        of the same documents."""
        self._documents, self._queries, self._rules, self._like = documents, queries, rules, like
        self.run = cached_run(cache, key, lambda: self._index.search(queries, DEPTH, rules))

    @cached_property
    def _index(self) -> bm25.BM25Index:
        return bm25.BM25Index(self._documents()) if self._like is None else self._like._index

    def scores_at(self, documents: Int32[ndarray, "q u"]) -> Float32[ndarray, "q u"]:
        """Of these documents of each query."""
        return self._index.scores_at(self._queries, documents, self._rules.parents)


def search_task(
    task: Task,
    sha256: str,
    split: str,
    rows: Int32[ndarray, "q"],
    cache: AnyPath,
    like: LexicalSearch | None = None,
) -> LexicalSearch:
    """For these queries of a task. `sha256`: of its data. `like`: a search for others of them."""
    queries, key = [task.query_texts[row] for row in rows], [sha256, split, *map(str, rows.tolist())]
    return LexicalSearch(lambda: task.document_texts, queries, rules_of(task, rows), key, cache, like)


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
