"""A task's train split, as batches are made of it: distinct queries and documents, and the relation between them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int, Int32, Int64, UInt8

from mtret.data.chunks import answering_chunks, every_chunk
from mtret.data.images import Images
from mtret.data.tasks import Judgements, Task
from mtret.data.templates import Templates
from mtret.data.tokenize import Tokenizer, Tokens, offsets_of, ranges
from mtret.errors import UserError, nearest
from mtret.schema import AT_LEAST_0, AT_LEAST_1, AT_LEAST_1_OR_NONE, check_limits, setting


@dataclass(frozen=True)
class TaskBatch:
    """What a single task may have of its own; None: as the batch has it."""

    queries: int | None = None
    negatives: int | None = None
    query_length: int | None = None
    document_length: int | None = None
    row_length: int | None = None


@dataclass(frozen=True)
class BatchConfig:
    """One task per global batch; texts packed into rows."""

    queries: int = setting(
        64, "distinct queries of one task per step; a task with fewer gets smaller batches", AT_LEAST_1
    )
    positives: int = setting(1, "documents sampled per query", AT_LEAST_1)
    negatives: int = setting(0, "hard negatives sampled per query, from negatives/train.tsv", AT_LEAST_0)
    query_length: int = setting(128, "tokens, special ones included; longer texts are truncated", AT_LEAST_1)
    document_length: int = setting(256, "likewise", AT_LEAST_1)
    row_length: int | None = setting(
        None, "tokens of a packed row, at least the two above; None: by task, what costs least", AT_LEAST_1_OR_NONE
    )
    shards: int = setting(1, "independent parts of a batch; the number of devices divides it", AT_LEAST_1)
    chunk_tokens: int | None = setting(
        None,
        "of a shard, encoded at a time and each twice (GradCache), for batches that do not fit; None: if need be",
        AT_LEAST_1_OR_NONE,
    )
    tasks: Mapping[str, TaskBatch] = setting(
        dict, "by task name: queries, negatives and the three lengths, where they differ"
    )

    def of(self, task: str) -> "BatchConfig":
        """The settings that hold for one task."""
        own = self.tasks.get(task, TaskBatch())
        given = {name: value for name, value in vars(own).items() if value is not None}
        return replace(self, tasks={}, **given)


@dataclass(frozen=True)
class Relation:
    """Documents by query, `documents[offsets[q]:offsets[q + 1]]`; unlike judgements', they may be none."""

    offsets: Int64[np.ndarray, "bounds"]  # one more than there are queries
    documents: Int32[np.ndarray, "pairs"]

    def sizes(self) -> Int64[np.ndarray, "queries"]:
        """How many documents each query has."""
        return np.diff(self.offsets)

    def of(self, queries: Int[np.ndarray, "n"]) -> Int32[np.ndarray, "pairs"]:
        """The documents of the chosen queries, end to end."""
        sizes = self.sizes()[queries]
        return self.documents[np.repeat(self.offsets[queries], sizes) + ranges(sizes)]

    def sample(
        self, queries: Int[np.ndarray, "q"], count: int, random: np.random.Generator
    ) -> Int64[np.ndarray, "q count"]:
        """`count` documents of each chosen query, without repetition; -1 where it has fewer."""
        sizes = self.sizes()[queries]
        row, rank = np.repeat(np.arange(len(queries)), sizes), ranges(sizes)
        shuffled = self.of(queries)[np.lexsort((random.random(len(row)), row))]
        chosen = rank < count
        sampled = np.full((len(queries), count), -1, np.int64)
        sampled[row[chosen], rank[chosen]] = shuffled[chosen]
        return sampled


@dataclass(frozen=True)
class TrainingTask:
    """A task's train split over distinct texts: equal (truncated) texts are one query or one document."""

    name: str
    queries: Tokens
    documents: Tokens | Images
    positives: Relation  # of every query at least one
    masked: Relation  # what is not a negative of a query: its positives, all their chunks, and what exclude.tsv names
    negatives: Relation | None
    config: BatchConfig
    query_rows: Int64[np.ndarray, "q"] | None = None  # in the task, of the first of the equal ones; None: as they are
    document_rows: Int64[np.ndarray, "d"] | None = None
    generic: Tokens | None = None  # the queries, with the generic instruction
    queries_cut_alike: int = 0  # distinct ones that became another's by truncation
    documents_cut_alike: int = 0

    def query_tokens(self, generic: bool) -> Tokens:
        """The queries, with their task's instruction or with the generic one."""
        return self.generic if generic and self.generic is not None else self.queries

    @property
    def document_tokens(self) -> Tokens:
        """The documents, of a task of texts."""
        assert isinstance(self.documents, Tokens)
        return self.documents

    def with_texts(self, change: Callable[[Tokens], Tokens]) -> "TrainingTask":
        """With all token arrays changed."""
        texts = {"queries": self.queries, "generic": self.generic, "documents": self.documents}
        return replace(self, **{name: change(each) for name, each in texts.items() if isinstance(each, Tokens)})

    def texts(self) -> list[Tokens]:
        """All token arrays."""
        return [each for each in (self.queries, self.generic, self.documents) if isinstance(each, Tokens)]

    def document_lengths(self) -> Int64[np.ndarray, "d"]:
        """Tokens of each document; every image counts the same."""
        if isinstance(self.documents, Images):
            return np.ones(len(self.documents), np.int64)
        return self.document_tokens.lengths(self.config.document_length)


def training_task(
    task: Task,
    tokenizer: Tokenizer,
    templates: Templates,
    batch: BatchConfig,
    pixels: UInt8[np.ndarray, "m H H 3"] | None = None,
) -> TrainingTask:
    """Tokenises and deduplicates the train split of `task`. `pixels`: of all documents of a task of images.

    Of documents in chunks, the one that answers a query stands for its parent. Raises UserError where there is no train
    split, or no negatives although the batch asks for some.
    """
    config = batch.of(task.name)
    relations = answering_chunks(task, _given(task, config.negatives), tokenizer)
    train = task.splits["train"]
    texts = [task.query_texts[i] for i in train.queries]
    whole_queries = tokenizer.after(templates.query_prefix(task.card.instruction), texts)
    generic = tokenizer.after(templates.query_prefix(templates.generic), texts)
    query_rows, query_identity = whole_queries.distinct(config.query_length)
    corpus_rows = np.unique(np.concatenate([relation.documents for relation in relations]))
    documents: Tokens | Images
    documents_cut_alike = 0
    if pixels is None:
        whole = tokenizer.after(templates.document_prefix, [task.document_texts[i] for i in corpus_rows])
        document_rows, document_identity = whole.distinct(config.document_length)
        documents, documents_cut_alike = whole.subset(document_rows), whole.cut_alike(config.document_length)
    else:
        document_rows, document_identity = _distinct_images(task, corpus_rows)
        documents = Images(pixels, corpus_rows[document_rows].astype(np.int64))

    def over_distinct(relation: Judgements) -> Int64[np.ndarray, "2 pairs"]:
        queries = query_identity[np.searchsorted(train.queries, relation.pair_queries())]
        documents = document_identity[np.searchsorted(corpus_rows, relation.documents)]
        return np.unique(np.stack([queries, documents]).astype(np.int64), axis=1)

    def trained(relation: Judgements) -> Judgements:
        return _within(relation, train.queries, corpus_rows)

    positives = over_distinct(relations[0].positives())
    said = [each for each in (train.positives(), task.exclude) if each is not None]
    parts = [over_distinct(trained(every_chunk(each, task.parents))) for each in said]
    masked = np.unique(np.concatenate(parts, axis=1), axis=1)
    negatives = None
    if config.negatives:
        negatives = relation_of(_without(over_distinct(trained(relations[1])), masked), len(query_rows))
    return TrainingTask(
        task.name,
        whole_queries.subset(query_rows),
        documents,
        relation_of(positives, len(query_rows)),
        relation_of(masked, len(query_rows)),
        negatives,
        config,
        train.queries[query_rows].astype(np.int64),
        corpus_rows[document_rows].astype(np.int64),
        generic.subset(query_rows),
        whole_queries.cut_alike(config.query_length),
        documents_cut_alike,
    )


def _given(task: Task, negatives: int) -> list[Judgements]:
    """The train split, and its given negatives where so many of a query are asked for."""
    if "train" not in task.splits:
        raise UserError(f"task '{task.name}' is in the mixture but has no train split (qrels/train.tsv)")
    if negatives and "train" not in task.negatives:
        raise UserError(
            f"task '{task.name}': {negatives} hard negatives per query are asked for, but it has no "
            f"negatives/train.tsv; batch.tasks.{task.name}.negatives=0 trains it without"
        )
    return [task.splits["train"], *([task.negatives["train"]] if negatives else [])]


def _distinct_images(
    task: Task, rows: Int[np.ndarray, "n"]
) -> tuple[Int64[np.ndarray, "distinct"], Int64[np.ndarray, "n"]]:
    """As `Tokens.distinct`, by the images' files."""
    keys = np.array([task.document_keys[row] for row in rows])
    _, first, identity = np.unique(keys, return_index=True, return_inverse=True)
    return first, identity


def _within(relation: Judgements, queries: Int[np.ndarray, "q"], documents: Int[np.ndarray, "d"]) -> Judgements:
    """What is said of these queries and documents."""
    own = relation.pair_queries()
    kept = np.isin(own, queries) & np.isin(relation.documents, documents)
    return Judgements.from_pairs(own[kept], relation.documents[kept], relation.scores[kept])


def relation_of(pairs: Int64[np.ndarray, "2 pairs"], n_queries: int) -> Relation:
    """Distinct (query, document) pairs, sorted, as a relation of `n_queries` queries."""
    return Relation(offsets_of(np.bincount(pairs[0], minlength=n_queries)), pairs[1].astype(np.int32))


def _without(pairs: Int64[np.ndarray, "2 pairs"], other: Int64[np.ndarray, "2 others"]) -> Int64[np.ndarray, "2 left"]:
    """Those of `pairs` that are not in `other`: merging equal texts can make a negative a positive."""
    width = max(pairs[1].max(initial=0), other[1].max(initial=0)) + 1
    return pairs[:, ~np.isin(pairs[0] * width + pairs[1], other[0] * width + other[1])]


def check_batches(batch: BatchConfig, tasks: Sequence[TrainingTask]) -> None:
    """Raises UserError for settings of batches that these tasks cannot have, naming the key."""
    names = [task.name for task in tasks]
    blind = {f"batch.tasks.{task.name}" for task in tasks if isinstance(task.documents, Images)}
    for name in batch.tasks:
        if name not in names:
            raise UserError(f"batch.tasks: '{name}' is not in the mixture.{nearest(name, names)}")
    places = {"batch": batch, **{f"batch.tasks.{name}": batch.of(name) for name in batch.tasks}}
    for place, own in places.items():
        check_limits(own, f"{place}.")
        for name in ("query_length",) if place in blind else ("query_length", "document_length"):
            if own.row_length is not None and getattr(own, name) > own.row_length:
                raise UserError(
                    f"{place}.{name}: a row of {own.row_length} tokens cannot hold a text of {getattr(own, name)}; "
                    f"raise {place}.row_length or cut the texts"
                )
