"""Whether a task's batches can teach: a query learns from the documents of its batch that are not its own."""

from dataclasses import replace

import numpy as np
from jaxtyping import Int64

from mtret.data.chunks import parent_keys
from mtret.data.tasks import Judgements, Task
from mtret.data.training_tasks import BatchConfig, Relation, TrainingTask, relation_of

BATCHES = 50  # drawn to estimate a share
FEW = 0.5  # of a task's queries; where fewer have a negative, most of its steps teach little


def share_with_negatives(
    positives: Relation, masked: Relation, negatives: Relation | None, batch: BatchConfig, seed: int = 0
) -> float:
    """The share of queries that have a negative in their batch: a document that is there for any of its queries and
    that `masked` does not name for this one. Without a negative, a query's loss and gradient are 0.

    It is counted over seeded batches, drawn as those of a training are.
    """
    count = len(positives.sizes())
    size = min(batch.queries, count)
    random = np.random.default_rng((seed, 5))
    found = []
    for _ in range(BATCHES if size < count else 1):
        queries = random.choice(count, size, replace=False)
        drawn = [positives.sample(queries, batch.positives, random)]
        if negatives is not None:
            drawn.append(negatives.sample(queries, batch.negatives, random))
        documents = np.unique(np.concatenate([rows[rows >= 0] for rows in drawn]))
        row = np.repeat(np.arange(size), masked.sizes()[queries])
        no_negatives = np.bincount(row[np.isin(masked.of(queries), documents)], minlength=size)
        found.append(float(np.mean(no_negatives < len(documents))))
    return float(np.mean(found))


def share_in_training(task: TrainingTask) -> float:
    """As `share_with_negatives`, of a task as it is trained on."""
    return share_with_negatives(task.positives, task.masked, task.negatives, task.config)


def enough_queries(task: TrainingTask) -> int | None:
    """Queries of a batch, doubled until enough of them have a negative; None where all the task's are too few."""
    size, count = task.config.queries, len(task.queries)
    while size < count:
        size = min(2 * size, count)
        larger = replace(task.config, queries=size)
        if share_with_negatives(task.positives, task.masked, task.negatives, larger) >= FEW:
            return size
    return None


def share_of_texts(task: Task, batch: BatchConfig) -> float:
    """As `share_with_negatives`, of a task's train split before it is tokenised and without its hard negatives: texts
    are the same where they are equal as a whole."""
    train = task.split("train").positives()
    _, query_of = np.unique([task.query_texts[row] for row in train.queries], return_inverse=True)
    _, document_of = np.unique(parent_keys(task), return_inverse=True)

    def over_distinct(pairs: Judgements) -> Int64[np.ndarray, "2 pairs"]:
        kept = np.isin(pairs.pair_queries(), train.queries)
        queries = query_of[np.searchsorted(train.queries, pairs.pair_queries()[kept])]
        documents = document_of[np.searchsorted(task.parent_rows, pairs.documents[kept])]
        return np.unique(np.stack([queries, documents]).astype(np.int64), axis=1)

    positives = over_distinct(train)
    masked = positives
    if task.exclude is not None:
        masked = np.unique(np.concatenate([positives, over_distinct(task.exclude)], axis=1), axis=1)
    count = int(query_of.max()) + 1
    return share_with_negatives(relation_of(positives, count), relation_of(masked, count), None, batch)
