"""What each step's batch holds: a function of seed and step, from cached lengths alone."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int, Int32, Int64, UInt8

from mtret.data.images import Images
from mtret.data.mixture import MixtureConfig, schedule, shares
from mtret.data.packing import Packing, Rows, fill, pack, stack, token_weights
from mtret.data.tasks import Judgements, Task
from mtret.data.templates import Templates
from mtret.data.tokenize import Tokenizer, Tokens, offsets_of, ranges
from mtret.errors import UserError, nearest
from mtret.types import PairBatch, TokenBatch

MOST_SHAPES = 24  # that a run compiles; each takes seconds
SMALL_WASTE = 0.002  # of a run's places: what a shape must save to be worth having
COMPILE_STEPS = 0.5  # average steps: what it must save to be worth compiling, which counts in a short run
SHORTEST_ROW = 32
# Attention over a row costs as much as everything else does at this many tokens (MiniLM on a CPU: experiments/LOG.md).
EVEN_LENGTH = 490


class Shape(NamedTuple):
    """What a group of a batch holds."""

    rows: int  # of texts
    length: int  # tokens of such a row
    document_rows: int = 0  # of documents that stand apart; where they are images, how many
    document_length: int = 0  # 0: images, or no documents apart


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

    queries: int = 64  # distinct queries per batch; a task with fewer gets smaller batches
    positives: int = 1  # documents sampled per query
    negatives: int = 0  # given hard negatives sampled per query, from negatives/train.tsv
    query_length: int = 128  # tokens, special ones included; longer texts are truncated
    document_length: int = 256
    row_length: int | None = None  # tokens of a row, at least the two above; None: by task, what costs least
    groups: int = 1  # the batch is made of so many independent parts; the number of devices divides it
    chunk_tokens: int | None = None  # of a group, encoded at a time and each twice (GradCache); None: all, once
    tasks: Mapping[str, TaskBatch] = field(default_factory=dict)  # by task name, what differs there

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


@dataclass(frozen=True)
class TrainingTask:
    """A task's train split over distinct texts: equal (truncated) texts are one query or one document."""

    name: str
    queries: Tokens
    documents: Tokens | Images
    positives: Relation  # of every query at least one
    known: Relation  # what is no negative of a query: its positives, and the documents that exclude.tsv names
    negatives: Relation | None
    config: BatchConfig
    query_rows: Int64[np.ndarray, "q"] | None = None  # in the task, of the first of the equal ones; None: as they are
    document_rows: Int64[np.ndarray, "d"] | None = None
    generic: Tokens | None = None  # the queries, with the generic instruction

    def query_tokens(self, generic: bool) -> Tokens:
        """The queries, with their task's instruction or with the generic one."""
        return self.generic if generic and self.generic is not None else self.queries

    def document_lengths(self) -> Int64[np.ndarray, "d"]:
        """Tokens of each document; every image counts the same."""
        if isinstance(self.documents, Images):
            return np.ones(len(self.documents), np.int64)
        return self.documents.lengths(self.config.document_length)


def training_task(
    task: Task,
    tokenizer: Tokenizer,
    templates: Templates,
    batch: BatchConfig,
    pixels: UInt8[np.ndarray, "m S S 3"] | None = None,
) -> TrainingTask:
    """Tokenises and deduplicates the train split of `task`. `pixels`: of all documents of a task of images.

    Raises UserError where there is no train split, or no negatives although the batch asks for some.
    """
    if "train" not in task.splits:
        raise UserError(f"task '{task.name}' is in the mixture but has no train split (qrels/train.tsv)")
    config = batch.of(task.name)
    train = task.splits["train"]
    relations = [train]
    if config.negatives:
        if "train" not in task.negatives:
            raise UserError(
                f"task '{task.name}': {config.negatives} hard negatives per query are asked for, but it has no "
                f"negatives/train.tsv; batch.tasks.{task.name}.negatives=0 trains it without"
            )
        relations.append(task.negatives["train"])
    whole_queries = tokenizer(
        templates.render_queries([task.query_texts[i] for i in train.queries], task.card.instruction)
    )
    generic = tokenizer(templates.render_queries([task.query_texts[i] for i in train.queries], templates.generic))
    query_rows, query_identity = whole_queries.distinct(config.query_length)
    corpus_rows = np.unique(np.concatenate([relation.documents for relation in relations]))
    documents: Tokens | Images
    if pixels is None:
        whole_documents = tokenizer(templates.render_documents([task.document_texts[i] for i in corpus_rows]))
        document_rows, document_identity = whole_documents.distinct(config.document_length)
        documents = whole_documents.subset(document_rows)
    else:
        keys = np.array([task.document_keys[i] for i in corpus_rows])
        _, document_rows, document_identity = np.unique(keys, return_index=True, return_inverse=True)
        documents = Images(pixels, corpus_rows[document_rows].astype(np.int64))

    def over_distinct(relation: Judgements) -> Int64[np.ndarray, "2 pairs"]:
        queries = query_identity[np.searchsorted(train.queries, relation.pair_queries())]
        documents = document_identity[np.searchsorted(corpus_rows, relation.documents)]
        return np.unique(np.stack([queries, documents]).astype(np.int64), axis=1)

    def trained(relation: Judgements) -> Judgements:
        # What is said of other queries and other documents does not matter.
        matters = np.isin(relation.pair_queries(), train.queries) & np.isin(relation.documents, corpus_rows)
        return Judgements.from_pairs(
            relation.pair_queries()[matters], relation.documents[matters], relation.scores[matters]
        )

    positives = known = over_distinct(train.positives())
    if task.exclude is not None:
        known = np.unique(np.concatenate([known, over_distinct(trained(task.exclude))], axis=1), axis=1)
    negatives = None
    if config.negatives:
        negatives = _by_query(_without(over_distinct(trained(relations[1])), known), len(query_rows))
    return TrainingTask(
        task.name,
        whole_queries.subset(query_rows),
        documents,
        _by_query(positives, len(query_rows)),
        _by_query(known, len(query_rows)),
        negatives,
        config,
        train.queries[query_rows].astype(np.int64),
        corpus_rows[document_rows].astype(np.int64),
        generic.subset(query_rows),
    )


def _by_query(pairs: Int64[np.ndarray, "2 pairs"], n_queries: int) -> Relation:
    """Distinct (query, document) pairs, sorted, as a relation of `n_queries` queries."""
    return Relation(offsets_of(np.bincount(pairs[0], minlength=n_queries)), pairs[1].astype(np.int32))


def _without(pairs: Int64[np.ndarray, "2 pairs"], other: Int64[np.ndarray, "2 others"]) -> Int64[np.ndarray, "2 left"]:
    """Those of `pairs` that are not in `other`: merging equal texts can make a negative a positive."""
    width = max(pairs[1].max(initial=0), other[1].max(initial=0)) + 1
    return pairs[:, ~np.isin(pairs[0] * width + pairs[1], other[0] * width + other[1])]


@dataclass(frozen=True)
class Plan:
    """One step's batch, before any token is copied. Arrays are padded to the declared shapes."""

    step: int
    task: int
    queries: Int32[np.ndarray, "G Nq"]  # rows of the task's queries; -1: an empty slot
    documents: Int32[np.ndarray, "G Nd"]
    target: Int32[np.ndarray, "B P"]
    known: Int32[np.ndarray, "B K"]
    packings: tuple[Packing, ...]  # by group, of its queries and then its documents that are there
    document_packings: tuple[Packing, ...]  # by group, of documents that stand apart; none where those are images
    shape: Shape  # of every group: declared rows, or whole chunks of them
    tokens: int  # real ones, over all groups
    slots: int  # places for tokens, over all groups
    pairs: int
    generic: bool  # whether the queries carry the generic instruction

    @property
    def digest(self) -> str:
        """A fingerprint of everything in the plan, to compare runs."""
        sha = hashlib.sha256(np.array([self.step, self.task, *self.shape, self.generic], np.int64).tobytes())
        for array in (self.queries, self.documents, self.target, self.known):
            sha.update(array.tobytes())
        for packing in (*self.packings, *self.document_packings):
            sha.update(packing.row.tobytes() + packing.start.tobytes())
        return sha.hexdigest()[:16]


@dataclass(frozen=True)
class _Layout:
    """A step's texts and where they lie, before the relation between them."""

    task: int
    drawn: Int64[np.ndarray, "queries"]
    positive: Int64[np.ndarray, "queries P"]  # of the drawn; -1: fewer
    queries: Int32[np.ndarray, "G Nq"]
    documents: Int32[np.ndarray, "G Nd"]
    packings: tuple[Packing, ...]
    document_packings: tuple[Packing, ...]
    needed: Shape  # by the fullest group
    tokens: int
    generic: bool


class Planner:
    """Plans and fills batches of a mixture. Every process that is given the same arguments plans the same.

    Images always stand apart from the texts of a batch; with `apart`, document texts do so too, for a tower of theirs.
    """

    def __init__(
        self,
        tasks: Sequence[TrainingTask],
        mixture: MixtureConfig,
        batch: BatchConfig,
        pooling: str,
        seed: int,
        steps: int,
        apart: bool = False,
        patches: int = 1,
    ):
        _check(batch, [task.name for task in tasks])
        self.tasks = tuple(tasks)
        self.batch, self.pooling, self.seed, self.steps = batch, pooling, seed, steps
        self.generic, self.apart, self.patches = mixture.generic, apart, patches
        sizes = [len(task.queries) for task in tasks]
        self.shares = shares([task.name for task in tasks], sizes, mixture)
        self.task_at, self.occurrence_at = schedule(self.shares, steps, seed)
        largest = max(min(task.config.queries, n) for task, n in zip(tasks, sizes, strict=True))
        self.group_queries = -(-largest // batch.groups)
        self.group_documents = max(map(self._most_documents, tasks))
        most = max(int(task.known.sizes().max()) for task in tasks)
        self.known_width = min(most, batch.groups * self.group_documents)
        self._order = lru_cache(maxsize=4 * len(tasks))(self._epoch_order)
        self.row_lengths = tuple(map(self._row_lengths, range(len(tasks))))

    @property
    def group_texts(self) -> int:
        """N: slots for texts in a group."""
        return self.group_queries + self.group_documents

    def _most_documents(self, task: TrainingTask) -> int:
        """Of one task, in a group."""
        queries = min(task.config.queries, len(task.queries))
        return -(-queries * (self.batch.positives + task.config.negatives) // self.batch.groups)

    def _stands_apart(self, task: TrainingTask) -> bool:
        return self.apart or isinstance(task.documents, Images)

    def plan(self, step: int) -> Plan:
        """The batch of a step, from the first, 0."""
        laid = self._lay_out(step)
        task = self.tasks[laid.task]
        none = laid.documents.size
        column = np.full(len(task.documents) + 1, none, np.int32)  # the last entry serves "none", -1
        flat = laid.documents.reshape(-1)
        column[flat[flat >= 0]] = np.flatnonzero(flat >= 0)
        slots = laid.queries.reshape(-1)
        row_of_query = np.full(len(task.queries), -1, np.int64)
        row_of_query[slots[slots >= 0]] = np.flatnonzero(slots >= 0)
        target = np.full((slots.size, self.batch.positives), none, np.int32)
        target[row_of_query[laid.drawn]] = column[laid.positive]
        shape = self._declared[laid.needed]
        return Plan(
            step=step,
            task=laid.task,
            queries=laid.queries,
            documents=laid.documents,
            target=target,
            known=self._known(task, slots, column),
            packings=laid.packings,
            document_packings=laid.document_packings,
            shape=shape,
            tokens=laid.tokens,
            slots=(shape.rows * shape.length + shape.document_rows * shape.document_length) * self.batch.groups,
            pairs=len(laid.drawn),
            generic=laid.generic,
        )

    def _lay_out(self, step: int) -> "_Layout":
        """What decides a step's shape."""
        task_index = int(self.task_at[step])
        task = self.tasks[task_index]
        queries = self._queries(task_index, int(self.occurrence_at[step]))
        random = np.random.default_rng((self.seed, 2, step))
        positive = _sample(task.positives, queries, self.batch.positives, random)
        wanted = [positive]
        if task.negatives is not None:
            wanted.append(_sample(task.negatives, queries, task.config.negatives, random))
        documents = np.unique(np.concatenate([x[x >= 0] for x in wanted]))
        generic = bool(np.random.default_rng((self.seed, 3, step)).random() < self.generic)
        query_lengths = task.query_tokens(generic).lengths(task.config.query_length)
        document_lengths = task.document_lengths()
        query_slots = _deal(queries, query_lengths, self.batch.groups, self.group_queries)
        document_slots = _deal(documents, document_lengths, self.batch.groups, self.group_documents)
        texts = [query_lengths[each[each >= 0]] for each in query_slots]
        others = [document_lengths[each[each >= 0]] for each in document_slots]
        length, document_length = self.row_lengths[task_index]
        document_packings: tuple[Packing, ...] = ()
        document_rows = 0
        if not self._stands_apart(task):
            texts = [np.concatenate(both) for both in zip(texts, others, strict=True)]
        elif isinstance(task.documents, Images):
            document_rows = self._most_documents(task)
        else:
            document_packings = tuple(pack(each, document_length) for each in others)
            document_rows = max(packing.rows for packing in document_packings)
        packings = tuple(pack(each, length) for each in texts)
        tokens = int(sum(each.sum() for each in (texts + others if document_packings else texts)))
        needed = Shape(max(packing.rows for packing in packings), length, document_rows, document_length)
        return _Layout(
            task_index,
            queries,
            positive,
            query_slots,
            document_slots,
            packings,
            document_packings,
            needed,
            tokens,
            generic,
        )

    def _chunk_rows(self, length: int) -> int | None:
        """Rows of so many tokens that a chunk holds; of images, where that is 0."""
        tokens = self.batch.chunk_tokens
        return max(tokens // (length or self.patches), 1) if tokens else None

    def _row_lengths(self, task_index: int) -> tuple[int, int]:
        """Of a task's texts, and of its documents where they stand apart."""
        task = self.tasks[task_index]
        queries = self._queries(task_index, 0)
        documents = np.unique(_sample(task.positives, queries, self.batch.positives, np.random.default_rng(self.seed)))
        query_lengths, document_lengths = task.queries.lengths(task.config.query_length), task.document_lengths()
        first, first_documents = query_lengths[queries], document_lengths[documents[documents >= 0]]
        longest = int(max(query_lengths.max(), task.query_tokens(True).lengths(task.config.query_length).max()))
        longest_document = int(document_lengths.max(initial=1))
        given = task.config.row_length
        if not self._stands_apart(task):
            both = np.concatenate([first, first_documents])
            return given or best_row_length(both, max(longest, longest_document)), 0
        length = given or best_row_length(first, longest)
        if isinstance(task.documents, Images):
            return length, 0
        return length, given or best_row_length(first_documents, longest_document)

    def _queries(self, task_index: int, occurrence: int) -> Int64[np.ndarray, "queries"]:
        """Queries of a task's n-th batch. An epoch is shuffled anew; its last, incomplete batch is left out, so that no
        batch holds a query twice."""
        task = self.tasks[task_index]
        size = min(task.config.queries, len(task.queries))
        epoch, batch = divmod(occurrence, len(task.queries) // size)
        return self._order(task_index, epoch)[batch * size : (batch + 1) * size]

    def _epoch_order(self, task_index: int, epoch: int) -> Int64[np.ndarray, "queries"]:
        return np.random.default_rng((self.seed, 1, task_index, epoch)).permutation(len(self.tasks[task_index].queries))

    def _known(
        self, task: TrainingTask, slots: Int[np.ndarray, "B"], column: Int32[np.ndarray, "documents_and_none"]
    ) -> Int32[np.ndarray, "B K"]:
        """Columns of what is in the batch and no negative: each training positive, sampled or not, and the excluded."""
        none = int(column[-1])
        known = np.full((len(slots), self.known_width), none, np.int32)
        there = np.flatnonzero(slots >= 0)
        row = np.repeat(there, task.known.sizes()[slots[there]])
        columns = column[task.known.of(slots[there])]
        in_batch = columns != none
        row, columns = row[in_batch], columns[in_batch]
        known[row, ranges(np.bincount(row, minlength=len(slots)))] = columns
        return known

    def fill(self, plan: Plan, groups: range | None = None) -> PairBatch:
        """Copies the tokens of a plan to their places; in chunks as many as the largest batch has. NumPy arrays.

        `groups`: of these only, and `texts` and `documents` then hold no others; the relation is always whole.
        """
        task = self.tasks[plan.task]
        chosen = groups or range(self.batch.groups)
        shape, document_shape = self.array_shapes(plan.shape)
        texts = [self._fill_texts(task, plan, group, shape) for group in chosen]
        documents: Any = None
        if isinstance(task.documents, Images):
            documents = _fill_images(task.documents, plan.documents[chosen], document_shape)
        elif plan.document_packings:
            rows = [self._fill_documents(task, plan, group, document_shape) for group in chosen]
            documents = stack(rows, document_shape[0])
        relation: dict[str, Any] = {
            "target": plan.target,
            "known": plan.known,
            "query_ok": plan.queries.reshape(-1) >= 0,
            "doc_ok": plan.documents.reshape(-1) >= 0,
            "chunks": np.array(self._filled_chunks(plan.shape), np.int32),
            "task": np.array(plan.task, np.int32),
        }
        return PairBatch(stack(texts, shape[0]), documents, **relation)

    def _fill_texts(self, task: TrainingTask, plan: Plan, group: int, shape: tuple[int, int, int]) -> Rows:
        """A group's queries and, unless they stand apart, its documents."""
        queries = plan.queries[group]
        there = np.flatnonzero(queries >= 0)
        parts = [(task.query_tokens(plan.generic), queries[there], task.config.query_length)]
        segments, padding = there, self.group_queries
        if not self._stands_apart(task):
            assert isinstance(task.documents, Tokens)
            documents = plan.documents[group]
            there = np.flatnonzero(documents >= 0)
            parts.append((task.documents, documents[there], task.config.document_length))
            segments, padding = np.concatenate([segments, self.group_queries + there]), self.group_texts
        return self._fill(parts, segments, plan.packings[group], shape, padding)

    def _fill_documents(self, task: TrainingTask, plan: Plan, group: int, shape: tuple[int, int, int]) -> Rows:
        assert isinstance(task.documents, Tokens)
        documents = plan.documents[group]
        there = np.flatnonzero(documents >= 0)
        parts = [(task.documents, documents[there], task.config.document_length)]
        return self._fill(parts, there, plan.document_packings[group], shape, self.group_documents)

    def _fill(
        self,
        parts: Sequence[tuple[Tokens, Int[np.ndarray, "_"], int]],
        segments: Int[np.ndarray, "texts"],
        packing: Packing,
        shape: tuple[int, int, int],
        padding: int,
    ) -> Rows:
        """`parts`: tokens, which of their texts, and the limit of their length."""
        chunks, rows, row_length = shape
        ids = np.concatenate([tokens.take(chosen, limit) for tokens, chosen, limit in parts])
        lengths = np.concatenate([tokens.lengths(limit)[chosen] for tokens, chosen, limit in parts])
        weights = token_weights(lengths, self.pooling)
        return fill(ids, weights, lengths, segments, packing, (chunks * rows, row_length), padding)

    @cached_property
    def shapes(self) -> Mapping[Shape, int]:
        """Every shape that the run will meet, with the number of steps that use it."""
        counts: dict[Shape, int] = {}
        for needed, steps in self._needed.items():
            shape = self._declared[needed]
            counts[shape] = counts.get(shape, 0) + steps
        return dict(sorted(counts.items()))

    @cached_property
    def _needed(self) -> Mapping[Shape, int]:
        """What batches need -> steps that need it. Lays out the whole run."""
        counts: dict[Shape, int] = {}
        for step in range(self.steps):
            needed = self._lay_out(step).needed
            counts[needed] = counts.get(needed, 0) + 1
        return counts

    @cached_property
    def _declared(self) -> Mapping[Shape, Shape]:
        """What a batch needs -> what it is given: whole chunks, or rows that are worth a shape of their own.

        Queries that stand alone are the small part of their batch: they are given what the longest of them need, so
        that shapes differ by documents only.
        """
        needed = self._needed
        together = {each: steps for each, steps in needed.items() if not each.document_rows}
        apart = {each: steps for each, steps in needed.items() if each.document_rows}
        texts = self._rounded({(each.length, each.rows): steps for each, steps in together.items()})
        documents: dict[tuple[int, int], int] = {}
        for each, steps in apart.items():
            key = each.document_length, each.document_rows
            documents[key] = documents.get(key, 0) + steps
        documents = self._rounded(documents)
        most = {each.length: max(other.rows for other in apart if other.length == each.length) for each in apart}
        queries = self._rounded(dict.fromkeys(most.items(), 1))
        return {each: each._replace(rows=texts[each.length, each.rows]) for each in together} | {
            each: each._replace(
                rows=queries[each.length, most[each.length]],
                document_rows=documents[each.document_length, each.document_rows],
            )
            for each in apart
        }

    def _rounded(self, needed: Mapping[tuple[int, int], int]) -> dict[tuple[int, int], int]:
        """(row length, rows) -> rows to round up to; `needed`: steps by them."""
        if not needed or self.batch.chunk_tokens is None:
            return declared_rows(needed)
        sizes = {length: self._chunk_rows(length) or 1 for length, _ in needed}
        return {(length, rows): -(-rows // sizes[length]) * sizes[length] for length, rows in needed}

    def array_shapes(self, shape: Shape) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """(C, R, L) of the arrays that hold a batch's texts, and its documents apart; chunked, they have room for the
        run's largest."""
        rows, length, document_rows, document_length = shape
        size, document_size = self._chunk_rows(length), self._chunk_rows(document_length)
        if size is None or document_size is None:
            return (1, rows, length), (1, document_rows, document_length)
        alike = [each for each in self.shapes if bool(each.document_rows) == bool(document_rows)]
        most = max(each.rows for each in alike if each.length == length)
        most_documents = max(each.document_rows for each in alike if each.document_length == document_length)
        return (most // size, size, length), (most_documents // document_size, document_size, document_length)

    def _filled_chunks(self, shape: Shape) -> tuple[int, int]:
        (_, rows, _), (_, document_rows, _) = self.array_shapes(shape)
        return shape.rows // rows, shape.document_rows // document_rows if document_rows else 0

    def abstract(self, shape: Shape) -> PairBatch:
        """Shapes and types of a batch's arrays, as `fill` makes them."""

        def tokens(chunks: int, rows: int, length: int) -> TokenBatch:
            of = chunks, self.batch.groups, rows, length
            ids, pool = jax.ShapeDtypeStruct(of, np.int32), jax.ShapeDtypeStruct(of, np.float32)
            return TokenBatch(ids, ids, ids, pool)  # type: ignore[arg-type]

        texts, documents = self.array_shapes(shape)
        queries, columns = self.batch.groups * self.group_queries, self.batch.groups * self.group_documents
        apart: Any = None
        if shape.document_length:
            apart = tokens(*documents)
        elif shape.document_rows:
            size = next(task.documents.size for task in self.tasks if isinstance(task.documents, Images))
            apart = jax.ShapeDtypeStruct((documents[0], self.batch.groups, documents[1], size, size, 3), np.uint8)
        relation: dict[str, Any] = {
            "target": jax.ShapeDtypeStruct((queries, self.batch.positives), np.int32),
            "known": jax.ShapeDtypeStruct((queries, self.known_width), np.int32),
            "query_ok": jax.ShapeDtypeStruct((queries,), np.bool_),
            "doc_ok": jax.ShapeDtypeStruct((columns,), np.bool_),
            "chunks": jax.ShapeDtypeStruct((2,), np.int32),
            "task": jax.ShapeDtypeStruct((), np.int32),
        }
        return PairBatch(tokens(*texts), apart, **relation)


def best_row_length(lengths: Int[np.ndarray, "texts"], longest: int) -> int:
    """A power of two for texts like these: short rows are cheap to attend over, long ones pack better."""
    shortest = max(SHORTEST_ROW, 1 << (longest - 1).bit_length())
    costs = {
        length: pack(lengths, length).rows * length * (length + EVEN_LENGTH)
        for length in (shortest, 2 * shortest, 4 * shortest)
    }
    return min(costs, key=lambda length: costs[length])


def _fill_images(
    images: Images, chosen: Int32[np.ndarray, "own Nd"], shape: tuple[int, int, int]
) -> UInt8[np.ndarray, "C own R S S 3"]:
    """Each in the place of its slot; places of empty slots stay black."""
    chunks, rows, _ = shape
    filled = np.zeros((len(chosen), chunks * rows, images.size, images.size, 3), np.uint8)
    for group, slots in enumerate(chosen):
        there = np.flatnonzero(slots >= 0)
        filled[group, there] = images.take(slots[there])
    return filled.reshape(len(chosen), chunks, rows, *filled.shape[2:]).swapaxes(0, 1)


def declared_rows(needed: Mapping[tuple[int, int], int]) -> dict[tuple[int, int], int]:
    """(row length, rows) -> rows to round up to, chosen for one run.

    Each count of rows that occurs begins as a shape of its own. Then the one that wastes least is rounded up to the
    next of the same length, again and again, while that wastes next to nothing or there are more than MOST_SHAPES.

    Args:
      needed: (row length, rows) -> steps.
    """
    places = sum(length * rows * steps for (length, rows), steps in needed.items())
    small = max(SMALL_WASTE, COMPILE_STEPS / max(sum(needed.values()), 1)) * places
    steps = dict(needed)
    declared = {key: key[1] for key in needed}
    while True:
        kept = sorted(steps)
        waste = {
            (here, after): steps[here] * here[0] * (after[1] - here[1])
            for here, after in pairwise(kept)
            if here[0] == after[0]
        }
        if not waste:
            return declared
        here, after = min(waste, key=lambda pair: waste[pair])
        if waste[here, after] > small and len(kept) <= MOST_SHAPES:
            return declared
        steps[after] += steps.pop(here)
        declared = {key: after[1] if (key[0], rows) == here else rows for key, rows in declared.items()}


def _sample(
    relation: Relation, queries: Int[np.ndarray, "q"], count: int, random: np.random.Generator
) -> Int64[np.ndarray, "q count"]:
    """`count` documents of each query, without repetition; -1 where it has fewer."""
    sizes = relation.sizes()[queries]
    row, rank = np.repeat(np.arange(len(queries)), sizes), ranges(sizes)
    shuffled = relation.of(queries)[np.lexsort((random.random(len(row)), row))]
    chosen = rank < count
    sampled = np.full((len(queries), count), -1, np.int64)
    sampled[row[chosen], rank[chosen]] = shuffled[chosen]
    return sampled


def _deal(
    texts: Int[np.ndarray, "n"], lengths: Int[np.ndarray, "all"], groups: int, slots: int
) -> Int32[np.ndarray, "groups slots"]:
    """Deals texts to groups, longest first and back and forth, so that the groups hold about the same tokens."""
    dealt = np.full((groups, slots), -1, np.int32)
    order = texts[np.argsort(-lengths[texts], kind="stable")]
    turn, place = np.divmod(np.arange(len(order)), groups)
    dealt[np.where(turn % 2, groups - 1 - place, place), turn] = order
    return dealt


def _check(batch: BatchConfig, names: Sequence[str]) -> None:
    for name in batch.tasks:
        if name not in names:
            raise UserError(f"batch.tasks: '{name}' is not in the mixture.{nearest(name, names)}")
    places = {"batch": batch, **{f"batch.tasks.{name}": batch.of(name) for name in batch.tasks}}
    for place, own in places.items():
        for name in ("row_length", "chunk_tokens"):
            if getattr(own, name) is not None and getattr(own, name) < 1:
                raise UserError(f"{place}.{name}: {getattr(own, name)} is not a positive number")
        if own.negatives < 0:
            raise UserError(f"{place}.negatives: {own.negatives} is a negative number")
        for name in ("queries", "positives", "query_length", "document_length", "groups"):
            if getattr(own, name) < 1:
                raise UserError(f"{place}.{name}: {getattr(own, name)} is not a positive number")
        for name in ("query_length", "document_length"):
            if own.row_length is not None and getattr(own, name) > own.row_length:
                raise UserError(
                    f"{place}.{name}: a row of {own.row_length} tokens cannot hold a text of {getattr(own, name)}; "
                    f"raise {place}.row_length or cut the texts"
                )
