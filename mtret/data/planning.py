"""What each step's batch holds: a function of seed and step, from cached lengths alone."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, Int32, Int64

from mtret.data.guide import TaskGuide
from mtret.data.images import Images, fill_images
from mtret.data.mixture import MixtureConfig, schedule, shares
from mtret.data.packing import Packing, Rows, deal, fill, pack, stack, token_weights
from mtret.data.shapes import Chunks, Kind, Shape, best_row_length, declared_rows, even_chunks, kind_of, roomy, up
from mtret.data.tokenize import Tokens, ranges
from mtret.data.training_tasks import BatchConfig, TrainingTask, check_batches
from mtret.types import Guide, PairBatch


@dataclass(frozen=True)
class Layout:
    """A step's texts and where they lie, before the relation between them."""

    step: int
    task: int
    drawn: Int64[np.ndarray, "queries"]  # rows of the task's queries
    positive: Int64[np.ndarray, "queries P"]  # of the drawn; -1: fewer
    queries: Int32[np.ndarray, "S Nq"]  # the drawn, dealt to shards; -1: an empty slot
    documents: Int32[np.ndarray, "S Nd"]
    packings: tuple[Packing, ...]  # by shard, of its queries and then its documents that are there
    document_packings: tuple[Packing, ...]  # by shard, of separate documents; none where those are images
    needed: Shape  # by the fullest shard
    tokens: int  # real ones, over all shards
    generic: bool  # whether the queries carry the generic instruction


@dataclass(frozen=True)
class Plan(Layout):
    """One step's batch, before any token is copied. Arrays are padded to the declared shapes."""

    target: Int32[np.ndarray, "B P"]
    masked: Int32[np.ndarray, "B K"]
    shape: Shape  # of every shard: declared rows, or whole chunks of them
    slots: int  # places for tokens, over all shards

    @property
    def pairs(self) -> int:
        """Queries of the batch."""
        return len(self.drawn)

    @property
    def digest(self) -> str:
        """A fingerprint of everything in the plan, to compare runs."""
        sha = hashlib.sha256(np.array([self.step, self.task, *self.shape, self.generic], np.int64).tobytes())
        for array in (self.queries, self.documents, self.target, self.masked):
            sha.update(array.tobytes())
        for packing in (*self.packings, *self.document_packings):
            sha.update(packing.row.tobytes() + packing.start.tobytes())
        return sha.hexdigest()[:16]


class Planner:
    """Plans and fills batches of a mixture. Every process that is given the same arguments plans the same.

    Images are always separate from the texts of a batch; with `separate`, document texts are too, for their own tower.
    With `even_chunks` batches that are not to be chunked have chunks all the same, of a size that suits the run: then
    programs that read a chunk at a time serve all its batches.
    """

    def __init__(
        self,
        tasks: Sequence[TrainingTask],
        mixture: MixtureConfig,
        batch: BatchConfig,
        pooling: str,
        seed: int,
        steps: int,
        separate: bool = False,
        patches: int = 1,
        even_chunks: bool = False,
    ):
        check_batches(batch, tasks)
        self.tasks, self.mixture = tuple(tasks), mixture
        self.batch, self.pooling, self.seed, self.steps = batch, pooling, seed, steps
        self.separate, self.patches = separate, patches
        self.even_chunks = even_chunks
        self.guides: Sequence[TaskGuide] | None = None  # by task, where the loss asks for them
        sizes = [len(task.queries) for task in tasks]
        self.shares = shares([task.name for task in tasks], sizes, mixture)
        self.task_at, self.occurrence_at = schedule(self.shares, steps, seed)
        largest = max(min(task.config.queries, n) for task, n in zip(tasks, sizes, strict=True))
        self.shard_queries = -(-largest // batch.shards)
        self.shard_documents = max(map(self._most_documents, tasks))
        most = max(int(task.masked.sizes().max()) for task in tasks)
        self.masked_width = min(most, batch.shards * self.shard_documents)
        self._order = lru_cache(maxsize=4 * len(tasks))(self._epoch_order)
        self.row_lengths = (
            tuple(map(self._row_lengths, range(len(tasks)))) if self._like is self else self._like.row_lengths
        )

    @cached_property
    def _like(self) -> "Planner":
        """The plan by which shapes are chosen: that of seed 0, so that runs of other seeds have the same programs."""
        if self.seed == 0:
            return self
        how = self.separate, self.patches, self.even_chunks
        return Planner(self.tasks, self.mixture, self.batch, self.pooling, 0, self.steps, *how)

    def in_chunks(self, tokens: int) -> "Planner":
        """Plans the same batches, to be read in chunks of so many tokens, each twice."""
        batch = replace(self.batch, chunk_tokens=tokens)
        of_run = self.pooling, self.seed, self.steps, self.separate, self.patches
        planner = Planner(self.tasks, self.mixture, batch, *of_run)
        planner.guides = self.guides
        return planner

    @property
    def shard_texts(self) -> int:
        """N: slots for texts in a shard."""
        return self.shard_queries + self.shard_documents

    def _most_documents(self, task: TrainingTask) -> int:
        """Of one task, in a shard."""
        queries = min(task.config.queries, len(task.queries))
        return -(-queries * (self.batch.positives + task.config.negatives) // self.batch.shards)

    def _stands_apart(self, task: TrainingTask) -> bool:
        return self.separate or isinstance(task.documents, Images)

    def without_steps(self) -> list[str]:
        """Names of tasks that are never drawn: too small a share of too few steps."""
        counts = np.bincount(self.task_at, minlength=len(self.tasks))
        return [task.name for task, count in zip(self.tasks, counts, strict=True) if not count]

    def drawn(self) -> list[tuple[Int64[np.ndarray, "q"], Int64[np.ndarray, "d"]]]:
        """By task, the rows of all queries and documents that the run's batches hold, ascending."""
        found: list[tuple[list[np.ndarray], list[np.ndarray]]] = [([], []) for _ in self.tasks]
        for step in range(self.steps):
            laid = self._lay_out(step)
            found[laid.task][0].append(laid.queries.reshape(-1))
            found[laid.task][1].append(laid.documents.reshape(-1))

        def rows(each: list[np.ndarray]) -> Int64[np.ndarray, "n"]:
            every = np.unique(np.concatenate([np.zeros(0, np.int64), *each])).astype(np.int64)
            return every[every >= 0]

        return [(rows(queries), rows(documents)) for queries, documents in found]

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
            **vars(laid),
            target=target,
            masked=self._masked(task, slots, column),
            shape=shape,
            slots=(shape.rows * shape.length + shape.document_rows * shape.document_length) * self.batch.shards,
        )

    def _lay_out(self, step: int) -> Layout:
        """What decides a step's shape."""
        task_index = int(self.task_at[step])
        task = self.tasks[task_index]
        queries = self._queries(task_index, int(self.occurrence_at[step]))
        random = np.random.default_rng((self.seed, 2, step))
        positive = task.positives.sample(queries, self.batch.positives, random)
        wanted = [positive]
        if task.negatives is not None:
            wanted.append(task.negatives.sample(queries, task.config.negatives, random))
        documents = np.unique(np.concatenate([x[x >= 0] for x in wanted]))
        generic = bool(np.random.default_rng((self.seed, 3, step)).random() < self.mixture.generic_share)
        query_lengths = task.query_tokens(generic).lengths(task.config.query_length)
        document_lengths = task.document_lengths()
        query_slots = deal(queries, query_lengths, self.batch.shards, self.shard_queries)
        document_slots = deal(documents, document_lengths, self.batch.shards, self.shard_documents)
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
        return Layout(
            step=step,
            task=task_index,
            drawn=queries,
            positive=positive,
            queries=query_slots,
            documents=document_slots,
            packings=packings,
            document_packings=document_packings,
            needed=needed,
            tokens=tokens,
            generic=generic,
        )

    def _chunk_rows(self, length: int, documents: bool) -> int | None:
        """Rows of so many tokens that a chunk holds, of separate documents or all other texts; of images, where that is
        0."""
        if self.batch.chunk_tokens is not None:
            return max(self.batch.chunk_tokens // (length or self.patches), 1)
        return self._even_chunks[documents, length].rows if self.even_chunks else None

    @cached_property
    def _even_chunks(self) -> Mapping[tuple[bool, int], Chunks]:
        """By side and length of a row, as `_chunk_rows`."""
        counts: dict[tuple[bool, int], Counter[int]] = {}
        for needed, steps in self._shaping().items():
            counts.setdefault((False, needed.length), Counter())[needed.rows] += len(steps)
            counts.setdefault((True, needed.document_length), Counter())[needed.document_rows] += len(steps)
        return {
            (documents, length): even_chunks(each, (length or self.patches) * self.batch.shards)
            for (documents, length), each in counts.items()
        }

    def chunks(self, shape: Shape) -> tuple[Chunks, Chunks]:
        """How batches are cut whose activations are all kept: their texts, and their separate documents."""
        (_, rows, _), (_, document_rows, _) = self.array_shapes(shape)
        if not self.even_chunks or self.batch.chunk_tokens is not None:
            return Chunks(rows, 1), Chunks(document_rows, 1)
        return self._even_chunks[False, shape.length], self._even_chunks[True, shape.document_length]

    def _row_lengths(self, task_index: int) -> tuple[int, int]:
        """Of a task's texts, and of its documents where they are separate."""
        task = self.tasks[task_index]
        queries = self._queries(task_index, 0)
        documents = np.unique(task.positives.sample(queries, self.batch.positives, np.random.default_rng(self.seed)))
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
        """Queries of a task's n-th batch. Each epoch is shuffled; its last, incomplete batch is left out, so that no
        batch holds a query twice."""
        task = self.tasks[task_index]
        size = min(task.config.queries, len(task.queries))
        epoch, batch = divmod(occurrence, len(task.queries) // size)
        return self._order(task_index, epoch)[batch * size : (batch + 1) * size]

    def _epoch_order(self, task_index: int, epoch: int) -> Int64[np.ndarray, "queries"]:
        return np.random.default_rng((self.seed, 1, task_index, epoch)).permutation(len(self.tasks[task_index].queries))

    def _masked(
        self, task: TrainingTask, slots: Int[np.ndarray, "B"], column: Int32[np.ndarray, "documents_and_none"]
    ) -> Int32[np.ndarray, "B K"]:
        """Columns of what is in the batch and no negative: each training positive, sampled or not, and the excluded."""
        none = int(column[-1])
        masked = np.full((len(slots), self.masked_width), none, np.int32)
        there = np.flatnonzero(slots >= 0)
        row = np.repeat(there, task.masked.sizes()[slots[there]])
        columns = column[task.masked.of(slots[there])]
        in_batch = columns != none
        row, columns = row[in_batch], columns[in_batch]
        masked[row, ranges(np.bincount(row, minlength=len(slots)))] = columns
        return masked

    def fill(self, plan: Plan, shards: range | None = None) -> PairBatch:
        """Copies the tokens of a plan to their places; in chunks as many as the largest batch has, or a few more. NumPy
        arrays.

        `shards`: of these only, and `texts` and `documents` then hold no others; the relation is always whole.
        """
        task = self.tasks[plan.task]
        chosen = shards or range(self.batch.shards)
        shape, document_shape = self.array_shapes(plan.shape)
        texts = [self._fill_texts(task, plan, shard, shape) for shard in chosen]
        documents: Any = None
        if isinstance(task.documents, Images):
            documents = fill_images(task.documents, plan.documents[chosen], document_shape)
        elif plan.document_packings:
            rows = [self._fill_documents(task, plan, shard, document_shape) for shard in chosen]
            documents = stack(rows, document_shape[0])
        relation: dict[str, Any] = {
            "target": plan.target,
            "masked": plan.masked,
            "query_ok": plan.queries.reshape(-1) >= 0,
            "doc_ok": plan.documents.reshape(-1) >= 0,
            "chunks": np.array(self._filled_chunks(plan.shape), np.int32),
            "task": np.array(plan.task, np.int32),
        }
        if self.guides is not None:
            sides = zip(self.guides[plan.task], (plan.queries, plan.documents), strict=True)
            vectors: Any = [known.at(slots.reshape(-1)) for known, slots in sides]
            relation["guide"] = Guide(*vectors)
        return PairBatch(stack(texts, shape[0]), documents, **relation)

    def _fill_texts(self, task: TrainingTask, plan: Plan, shard: int, shape: tuple[int, int, int]) -> Rows:
        """A shard's queries and, unless they are separate, its documents."""
        parts = [(task.query_tokens(plan.generic), plan.queries[shard], task.config.query_length)]
        if not self._stands_apart(task):
            parts.append((task.document_tokens, plan.documents[shard], task.config.document_length))
        return self._fill(parts, plan.packings[shard], shape)

    def _fill_documents(self, task: TrainingTask, plan: Plan, shard: int, shape: tuple[int, int, int]) -> Rows:
        parts = [(task.document_tokens, plan.documents[shard], task.config.document_length)]
        return self._fill(parts, plan.document_packings[shard], shape)

    def _fill(
        self, parts: Sequence[tuple[Tokens, Int[np.ndarray, "_"], int]], packing: Packing, shape: tuple[int, int, int]
    ) -> Rows:
        """`parts`: tokens, which of their texts stands in each slot, and the limit of their length. A text's segment is
        its slot, and padding has the one behind the last."""
        chunks, rows, row_length = shape
        slots = np.concatenate([each for _, each, _ in parts])
        there = [(tokens, each[each >= 0], limit) for tokens, each, limit in parts]
        ids = np.concatenate([tokens.take(chosen, limit) for tokens, chosen, limit in there])
        lengths = np.concatenate([tokens.lengths(limit)[chosen] for tokens, chosen, limit in there])
        skip = np.concatenate([tokens.skipped(chosen) for tokens, chosen, _ in there])
        weights = token_weights(lengths, self.pooling, skip)
        segments = np.flatnonzero(slots >= 0)
        return fill(ids, weights, lengths, segments, packing, (chunks * rows, row_length), len(slots))

    @cached_property
    def shapes(self) -> Mapping[Shape, int]:
        """Every shape that the run will meet, with the number of steps that use it."""
        counts = Counter[Shape]()
        for needed, steps in self._needed.items():
            counts[self._declared[needed]] += len(steps)
        return dict(sorted(counts.items()))

    @cached_property
    def _needed(self) -> Mapping[Shape, list[int]]:
        """What batches need -> steps that need it. Lays out the whole run."""
        found: dict[Shape, list[int]] = {}
        for step in range(self.steps):
            found.setdefault(self._lay_out(step).needed, []).append(step)
        return found

    def _shaping(self) -> Mapping[Shape, list[int]]:
        """As `_needed`, of the plan that shapes are chosen by; and of kinds of batches that it does not have, our
        own."""
        if self._like is self:
            return self._needed
        found = dict(self._like._needed)
        known = {kind_of(each) for each in found}
        return {**{each: steps for each, steps in self._needed.items() if kind_of(each) not in known}, **found}

    @cached_property
    def _declared(self) -> Mapping[Shape, Shape]:
        """What a batch needs -> what it is given: whole chunks, or rows that are worth a shape of their own.

        Queries that stand alone are the small part of their batch: they are given what the longest of them need, so
        that shapes differ by documents only.
        """
        separate = [each for each in (*self._needed, *self._shaping()) if each.document_rows]
        queries = {
            each.length: max(other.rows for other in separate if other.length == each.length) for each in separate
        }
        counts = Counter[tuple[Kind, int]]()
        for each, steps in self._shaping().items():
            counts[kind_of(each), each.document_rows or each.rows] += len(steps)
        largest: dict[Kind, int] = {}
        for each in self._needed:
            largest[kind_of(each)] = max(largest.get(kind_of(each), 0), each.document_rows or each.rows)
        for kind, rows in largest.items():  # more than any batch of the plan that shapes are chosen by
            if rows > max(other for each, other in counts if each == kind):
                counts[kind, rows] = 1
        if self.batch.chunk_tokens is None and not self.even_chunks:
            declared = set(declared_rows(counts, lambda kind: kind.row_length or self.patches).items())
            choices = {kind: sorted({most for (each, _), most in declared if each == kind}) for kind in largest}
        else:
            choices = {}

        def given(needed: Shape) -> Shape:
            kind, most = kind_of(needed), needed.document_rows or needed.rows
            if choices:
                most = next(rows for rows in choices[kind] if rows >= most)
            else:
                most = up(most, self._chunk_rows(kind.row_length, kind.separate))
            if not needed.document_rows:
                return needed._replace(rows=most)
            alone = up(queries[needed.length], self._chunk_rows(needed.length, documents=False))
            return needed._replace(rows=alone, document_rows=most)

        return {needed: given(needed) for needed in self._needed}

    def array_shapes(self, shape: Shape) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """(C, R, L) of the arrays that hold a batch's texts, and its separate documents; chunked, they have room for
        the run's largest."""
        rows, length, document_rows, document_length = shape
        size, document_size = self._chunk_rows(length, False), self._chunk_rows(document_length, True)
        if size is None or document_size is None:
            return (1, rows, length), (1, document_rows, document_length)
        every = {*self.shapes, *self._like.shapes}
        alike = [each for each in every if bool(each.document_rows) == bool(document_rows)]
        most = max(each.rows for each in alike if each.length == length)
        most_documents = max(each.document_rows for each in alike if each.document_length == document_length)
        chunks, document_chunks = roomy(most // size), roomy(most_documents // document_size)
        return (chunks, size, length), (document_chunks, document_size, document_length)

    @cached_property
    def arrays(self) -> Mapping[tuple[tuple[int, int, int], tuple[int, int, int]], list[Shape]]:
        """The shapes by the arrays that hold such batches: what a run compiles for."""
        found: dict[Any, list[Shape]] = {}
        for shape in self.shapes:
            found.setdefault(self.array_shapes(shape), []).append(shape)
        return found

    def _filled_chunks(self, shape: Shape) -> tuple[int, int]:
        (_, rows, _), (_, document_rows, _) = self.array_shapes(shape)
        return shape.rows // rows, shape.document_rows // document_rows if document_rows else 0

    def abstract(self, shape: Shape) -> PairBatch:
        """Shapes and types of a batch's arrays: those that `fill` makes of the first shard of the first such batch."""
        first = next(steps[0] for needed, steps in self._needed.items() if self._declared[needed] == shape)
        filled = self.fill(self.plan(first), range(1))

        def whole(array: np.ndarray) -> Any:
            return jax.ShapeDtypeStruct((array.shape[0], self.batch.shards, *array.shape[2:]), array.dtype)

        relation: Any = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), filled[2:])
        return PairBatch(*jax.tree.map(whole, filled[:2]), *relation)
