"""A small, declared part of a task's dev split, to watch a training by: the whole would take longer than that."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32

from mtret.data.chunks import chunk_rows
from mtret.data.images import ImageFiles
from mtret.data.tasks import Judgements, Task
from mtret.evaluation.metrics import hits, ndcg
from mtret.index.exact import rules_of, search
from mtret.schema import AT_LEAST_0, AT_LEAST_1, setting


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
class DevSample:
    """Rows of one task's queries and documents, ascending; of a document in chunks, all of them."""

    task: Task
    queries: Int32[np.ndarray, "q"]
    documents: Int32[np.ndarray, "d"]

    def as_task(self) -> Task:
        """The sample as a task of its own, with a dev split and nothing else, to be evaluated by every system."""
        task = self.task
        texts = tuple(task.document_texts[row] for row in self.documents)
        images = task.images and ImageFiles(
            tuple(task.images.paths[row] for row in self.documents),
            tuple(task.images.sha256[row] for row in self.documents),
        )
        dev = self._within(task.splits["dev"])
        assert dev is not None  # every chosen query has a gold document, which is in the sample
        return Task(
            card=task.card,
            query_ids=tuple(task.query_ids[row] for row in self.queries),
            query_texts=tuple(task.query_texts[row] for row in self.queries),
            document_ids=tuple(task.document_ids[row] for row in self.documents),
            document_texts=texts,
            splits={"dev": dev},
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
        return float(ndcg(hits(run, task.splits["dev"], rows), 10).mean())


def dev_samples(tasks: Sequence[Task], config: DevConfig, seed: int) -> Mapping[str, DevSample]:
    """A sample of every task that has a dev split."""
    return {
        task.name: _sample(task, config, np.random.default_rng((seed, 3, index)))
        for index, task in enumerate(tasks)
        if "dev" in task.splits
    }


def _sample(task: Task, config: DevConfig, random: np.random.Generator) -> DevSample:
    dev = task.splits["dev"]
    queries = dev.queries[np.sort(random.permutation(len(dev.queries))[: config.queries])]
    gold = np.unique(dev.documents[(dev.scores > 0) & np.isin(dev.pair_queries(), queries)])
    others = np.setdiff1d(task.parent_rows.astype(np.int64), gold)
    drawn = random.permutation(others)
    if task.parents is None:
        drawn = drawn[: config.distractors]
    else:
        gold = chunk_rows(task.parents, gold)[1]
        which, chunks = chunk_rows(task.parents, drawn)
        fitting = np.cumsum(np.bincount(which, minlength=len(drawn))) <= config.distractors
        drawn = chunks[fitting[which]]
    return DevSample(task, queries, np.sort(np.concatenate([gold, drawn])).astype(np.int32))
