"""Small, declared parts of a task's split: to watch a training by, or to compare many models in minutes."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32, Int64

from mtret.data.chunks import chunk_rows
from mtret.data.images import ImageFiles
from mtret.data.tasks import Judgements, Task
from mtret.evaluation.metrics import hits, ndcg
from mtret.index.exact import NOTHING, Run, rules_of, search
from mtret.schema import AT_LEAST_0, AT_LEAST_1, setting

POOL_DEPTH = 20  # results of a query that are pooled
POOLED_SHARE = 0.75  # of the distractors, at most; the others are random


@dataclass(frozen=True)
class DevConfig:
    """Gold documents and seeded distractors, for a few seeded queries of each mixture task that has a dev split."""

    queries: int = setting(100, "of each mixture task, at most", AT_LEAST_1)
    distractors: int = setting(
        1000, "documents of each task beside the gold ones, at most; of documents in chunks, so many chunks", AT_LEAST_0
    )
    dimensions: tuple[int, ...] = setting(
        (), "also evaluated by vectors truncated to their first dimensions, e.g. (256, 128, 64)"
    )


@dataclass(frozen=True)
class TaskSample:
    """Rows of one task's queries and documents, ascending; of a document in chunks, all of them."""

    task: Task
    queries: Int32[np.ndarray, "q"]
    documents: Int32[np.ndarray, "d"]
    split: str = "dev"

    def as_task(self) -> Task:
        """The sample as a task of its own, with its split and nothing else, to be evaluated by every system."""
        task = self.task
        texts = tuple(task.document_texts[row] for row in self.documents)
        images = task.images and ImageFiles(
            tuple(task.images.paths[row] for row in self.documents),
            tuple(task.images.sha256[row] for row in self.documents),
        )
        judged = self._within(task.splits[self.split])
        assert judged is not None  # every chosen query has a gold document, which is in the sample
        return Task(
            card=task.card,
            query_ids=tuple(task.query_ids[row] for row in self.queries),
            query_texts=tuple(task.query_texts[row] for row in self.queries),
            document_ids=tuple(task.document_ids[row] for row in self.documents),
            document_texts=texts,
            splits={self.split: judged},
            exclude=self._within(task.exclude) if task.exclude else None,
            images=images,
            parent_ids=tuple(task.parent_ids[row] for row in self.documents) if task.parent_ids else (),
        )

    def _within(self, pairs: Judgements) -> Judgements | None:
        """Those of the sample's queries and documents, by its own rows; None: none."""
        queries = pairs.pair_queries()
        kept = np.isin(queries, self.queries) & np.isin(pairs.documents, self.documents)
        if not kept.any():
            return None
        rows = np.searchsorted(self.queries, queries[kept]).astype(np.int32)
        documents = np.searchsorted(self.documents, pairs.documents[kept]).astype(np.int32)
        return Judgements.from_pairs(rows, documents, pairs.scores[kept])

    def ndcg_at_10(self, queries: Float32[np.ndarray, "q D"], documents: Float32[np.ndarray, "d D"]) -> float:
        """Mean nDCG@10 of exact search within the sample, given the embeddings of its texts."""
        task, rows = self.as_task(), np.arange(len(self.queries), dtype=np.int32)
        run = search(queries, documents, 10, rules_of(task, rows))
        return float(ndcg(hits(run, task.splits[self.split], rows), 10).mean())


def dev_samples(tasks: Sequence[Task], config: DevConfig, seed: int) -> Mapping[str, TaskSample]:
    """A sample of every task that has a dev split, with random distractors."""
    found = {}
    for index, task in enumerate(tasks):
        if "dev" in task.splits:
            random = np.random.default_rng((seed, 3, index))
            queries = drawn_queries(task, "dev", config.queries, random)
            found[task.name] = _with_documents(task, "dev", queries, [], config.distractors, random)
    return found


def drawing(task: Task, seed: int) -> np.random.Generator:
    """Of a task's sample, whichever other tasks are sampled beside it."""
    return np.random.default_rng((seed, 5, zlib.crc32(task.name.encode())))


def drawn_queries(task: Task, split: str, count: int, random: np.random.Generator) -> Int32[np.ndarray, "q"]:
    """Rows of at most so many queries of a split, ascending."""
    judged = task.splits[split]
    return judged.queries[np.sort(random.permutation(len(judged.queries))[:count])]


def pooled_sample(
    task: Task,
    split: str,
    queries: Int32[np.ndarray, "q"],
    runs: Sequence[Run],
    distractors: int,
    random: np.random.Generator,
) -> TaskSample:
    """These queries over their gold documents and so many others: the first results of `runs` for these queries, by
    rank, as far as they make up `POOLED_SHARE`, and random ones."""
    pooled = pooled_documents(runs, random)
    return _with_documents(task, split, queries, pooled, distractors, random)


def pooled_documents(runs: Sequence[Run], random: np.random.Generator) -> Int64[np.ndarray, "d"]:
    """What searches of the same queries returned, each document once: the first results of every query and search come
    before the second of any, in random order of the queries."""
    if not runs:
        return np.zeros(0, np.int64)
    order = random.permutation(len(runs[0].documents))
    ranked = np.stack([run.documents[order, :POOL_DEPTH] for run in runs], axis=-1).transpose(1, 0, 2).reshape(-1)
    ranked = ranked[ranked != NOTHING]
    _, first = np.unique(ranked, return_index=True)
    return ranked[np.sort(first)].astype(np.int64)


def _with_documents(
    task: Task,
    split: str,
    queries: Int32[np.ndarray, "q"],
    pooled: Int64[np.ndarray, "d"] | Sequence[int],
    distractors: int,
    random: np.random.Generator,
) -> TaskSample:
    """Gold documents and at most so many others; of documents in chunks, so many chunks. `pooled` ones come first."""
    judged = task.splits[split]
    gold = np.unique(judged.documents[(judged.scores > 0) & np.isin(judged.pair_queries(), queries)])
    others = np.setdiff1d(task.parent_rows.astype(np.int64), gold)
    drawn = random.permutation(others)
    if len(pooled):
        known = np.asarray(pooled)[~np.isin(pooled, gold)][: int(POOLED_SHARE * distractors)]
        drawn = np.concatenate([known, drawn[~np.isin(drawn, known)]])
    if task.parents is None:
        drawn = drawn[:distractors]
    else:
        gold = chunk_rows(task.parents, gold)[1]
        which, chunks = chunk_rows(task.parents, drawn)
        fitting = np.cumsum(np.bincount(which, minlength=len(drawn))) <= distractors
        drawn = chunks[fitting[which]]
    return TaskSample(task, queries, np.sort(np.concatenate([gold, drawn])).astype(np.int32), split)
