"""What a batch must be, checked slot by slot in plain Python over many seeds, tasks and shapes."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, processors

from mtret.data.images import ImageFiles, Images
from mtret.data.mixture import MixtureConfig
from mtret.data.planning import Plan, Planner
from mtret.data.shapes import (
    CHUNK_COST,
    CHUNK_TOKENS,
    MOST_SHAPES,
    SIZE_COST,
    Chunks,
    best_row_length,
    declared_rows,
    even_chunks,
)
from mtret.data.tasks import Judgements, Task, TaskCard
from mtret.data.templates import Templates
from mtret.data.tokenize import Tokenizer, Tokens, offsets_of
from mtret.data.training_tasks import BatchConfig, Relation, TaskBatch, TrainingTask, training_task
from mtret.errors import UserError
from mtret.types import PairBatch, TokenBatch

BATCH = BatchConfig(queries=16, query_length=12, document_length=24, row_length=32, shards=4)


def make_tokens(random: np.random.Generator, texts: int) -> Tokens:
    lengths = np.clip(random.lognormal(2, 0.8, texts), 2, 60).astype(np.int64)
    return Tokens(random.integers(5, 99, lengths.sum()).astype(np.int32), offsets_of(lengths), suffix=1)


def make_relation(sets: list[list[int]]) -> Relation:
    documents = [document for each in sets for document in sorted(each)]
    return Relation(offsets_of(np.array([len(each) for each in sets])), np.array(documents, np.int32))


def make_task(
    name: str, n_queries: int, n_documents: int, batch: BatchConfig, most: int = 5, seed: int = 0
) -> TrainingTask:
    """Every query has 1 to `most` positives, if asked for, 0 to 3 hard negatives, and up to 2 excluded documents, in
    this order of a permutation: so none is another."""
    config = batch.of(name)
    random = np.random.default_rng((seed, n_queries, n_documents))
    shuffled = [random.permutation(n_documents).tolist() for _ in range(n_queries)]
    positives = [order[: random.integers(1, most + 1)] for order in shuffled]
    negatives = [o[len(p) : len(p) + random.integers(0, 4)] for o, p in zip(shuffled, positives, strict=True)]
    excluded = np.random.default_rng(seed).integers(0, 3, n_queries)
    masked = [
        o[: len(p)] + o[len(p) + len(n) :][:e]
        for o, p, n, e in zip(shuffled, positives, negatives, excluded, strict=True)
    ]
    return TrainingTask(
        name,
        make_tokens(random, n_queries),
        make_tokens(random, n_documents),
        make_relation(positives),
        make_relation(masked),
        make_relation(negatives) if config.negatives else None,
        config,
    )


def make_planner(batch: BatchConfig, sizes: dict[str, tuple[int, int]], seed: int = 0, steps: int = 40) -> Planner:
    tasks = [make_task(name, *size, batch) for name, size in sizes.items()]
    return Planner(tasks, MixtureConfig(), batch, "mean", seed, steps)


def of(relation: Relation | None, query: int) -> set[int]:
    assert relation is not None
    return set(relation.documents[relation.offsets[query] : relation.offsets[query + 1]].tolist())


def check_plan(planner: Planner, plan: Plan) -> list[int]:
    """Raises where anything is not as a batch must be; returns the queries."""
    task, batch = planner.tasks[plan.task], planner.batch
    queries, documents = plan.queries.reshape(-1).tolist(), plan.documents.reshape(-1).tolist()
    none = len(documents)
    there = [q for q in queries if q >= 0]
    size = min(task.config.queries, len(task.queries))
    assert len(there) == len(set(there)) == size == plan.pairs
    kept = [d for d in documents if d >= 0]
    assert len(kept) == len(set(kept))  # each distinct text once
    wanted: set[int] = set()
    for row, query in enumerate(queries):
        targets = [c for c in plan.target[row].tolist() if c != none]
        masked = [c for c in plan.masked[row].tolist() if c != none]
        if query < 0:
            assert targets == masked == []
            continue
        positives = of(task.positives, query)
        chosen = [documents[c] for c in targets]
        assert len(set(chosen)) == len(chosen) == min(batch.positives, len(positives))
        assert set(chosen) <= positives
        assert sorted(documents[c] for c in masked) == sorted(of(task.masked, query) & set(kept))
        wanted |= set(chosen)
    if not task.config.negatives:
        assert wanted == set(kept)
    else:
        hard = set(kept) - wanted
        assert hard <= set().union(*(of(task.negatives, q) for q in there))
        # Every query finds as many of its own negatives in the batch as were asked for, where it has them.
        for query in there:
            own = of(task.negatives, query)
            assert len(own & set(kept)) >= min(task.config.negatives, len(own))
            assert not own & of(task.masked, query)
    return there


def check_rows(planner: Planner, plan: Plan) -> None:
    """The filled arrays hold every text of the batch once, whole, in its shard and segment, and nothing else."""
    task, batch = planner.tasks[plan.task], planner.batch
    filled = planner.fill(plan)
    texts = filled.texts
    shards = batch.shards
    assert texts.ids.shape[1] == shards
    rows, row_length, *_ = plan.shape
    chunks, _, size, length = texts.ids.shape
    assert length == row_length == (batch.row_length or row_length)
    if batch.chunk_tokens is None:
        assert (chunks, size) == (1, rows) and plan.shape in planner.shapes
    else:
        assert size == max(batch.chunk_tokens // length, 1) and rows == filled.chunks[0] * size <= chunks * size
    assert rows >= max(p.rows for p in plan.packings)
    assert plan.slots == rows * row_length * shards
    real = 0
    for shard in range(shards):
        segment = np.asarray(texts.segment)[:, shard].reshape(-1, length)
        for slot in range(planner.shard_texts):
            is_query = slot < planner.shard_queries
            text = plan.queries[shard, slot] if is_query else plan.documents[shard, slot - planner.shard_queries]
            at, columns = np.nonzero(segment == slot)
            if text < 0:
                assert len(at) == 0
                continue
            source = task.queries if is_query else task.document_tokens
            limit = task.config.query_length if is_query else task.config.document_length
            ids = source.take(np.array([text]), limit)
            real += len(ids)
            assert len(set(at.tolist())) == 1
            place = (at // size, shard, at % size, columns)
            np.testing.assert_array_equal(np.asarray(texts.ids)[place], ids)
            np.testing.assert_array_equal(np.asarray(texts.position)[place], np.arange(len(ids)))
            np.testing.assert_allclose(np.asarray(texts.pool)[place], 1 / len(ids))
    padding = np.asarray(texts.segment) == planner.shard_texts
    assert real == plan.tokens == (~padding).sum()
    assert not np.asarray(texts.pool)[padding].any() and not np.asarray(texts.ids)[padding].any()
    np.testing.assert_array_equal(filled.query_ok, plan.queries.reshape(-1) >= 0)
    np.testing.assert_array_equal(filled.doc_ok, plan.documents.reshape(-1) >= 0)
    np.testing.assert_array_equal(filled.target, plan.target)
    np.testing.assert_array_equal(filled.masked, plan.masked)
    assert filled.task == plan.task


SIZES = {"large": (70, 200), "shared": (40, 6), "small": (9, 30), "one document": (12, 1), "one query": (1, 4)}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "batch",
    [
        BATCH,
        replace(BATCH, shards=1, queries=64),
        replace(BATCH, shards=3, positives=3),
        replace(BATCH, shards=32, queries=8, positives=2),  # more shards than queries
        replace(BATCH, queries=1000),  # more than any task has
        replace(BATCH, negatives=2, positives=2),
        replace(BATCH, row_length=None, tasks={"small": TaskBatch(row_length=64)}),
        replace(BATCH, chunk_tokens=70),
        replace(BATCH, chunk_tokens=8, row_length=None, shards=2),  # less than a row
        replace(BATCH, negatives=2, tasks={"small": TaskBatch(negatives=0), "shared": TaskBatch(negatives=3)}),
        replace(BATCH, tasks={"small": TaskBatch(queries=4, query_length=3), "large": TaskBatch(document_length=5)}),
    ],
    ids=[
        "plain",
        "one shard",
        "three shards",
        "many shards",
        "whole task",
        "negatives",
        "row lengths",
        "chunks",
        "chunks of a row",
        "own negatives",
        "overrides",
    ],
)
def test_a_batch_is_what_it_must_be(batch: BatchConfig, seed: int):
    sizes = {n: s for n, s in SIZES.items() if not (batch.negatives and n == "one document")}
    planner = make_planner(
        batch, {n: (q, max(d, 4) if n != "one document" else d) for n, (q, d) in sizes.items()}, seed
    )
    for step in range(planner.steps):
        check_plan(planner, planner.plan(step))
        if step % 6 == 0:
            check_rows(planner, planner.plan(step))
    assert set(planner.task_at.tolist()) == set(range(len(sizes)))


@pytest.mark.parametrize("n_queries", [5, 16, 17, 40, 48])
def test_an_epoch_holds_every_query_once_but_for_its_last_incomplete_batch(n_queries: int):
    planner = make_planner(BATCH, {"a": (n_queries, 50)}, steps=12)
    size = min(16, n_queries)
    batches = n_queries // size
    asked = [planner._queries(0, step).tolist() for step in range(12)]
    for epoch in range(12 // batches):
        inside = np.concatenate(asked[epoch * batches : (epoch + 1) * batches]).tolist()
        assert len(inside) == len(set(inside)) == n_queries // size * size
    plans = [sorted(check_plan(planner, planner.plan(step))) for step in range(12)]
    assert plans == [sorted(each) for each in asked]
    # Which queries an epoch leaves out is drawn again, so none is left out of all epochs.
    assert {query for each in asked for query in each} == set(range(n_queries))


def test_every_positive_of_a_query_is_sampled_in_time():
    planner = make_planner(replace(BATCH, queries=4), {"a": (4, 9)}, steps=80)
    found = {(q, planner.plan(s).documents.reshape(-1)[c]) for s in range(80) for q, c in pairs(planner, s)}
    assert found == {(q, d) for q in range(4) for d in of(planner.tasks[0].positives, q)}


def pairs(planner: Planner, step: int) -> list[tuple[int, int]]:
    plan = planner.plan(step)
    return [
        (query, column)
        for query, row in zip(plan.queries.reshape(-1).tolist(), plan.target.tolist(), strict=True)
        for column in row
        if query >= 0 and column != plan.documents.size
    ]


def test_groups_hold_about_the_same_number_of_tokens():
    planner = make_planner(replace(BATCH, queries=64, shards=4), {"a": (100, 300)}, steps=5)
    task = planner.tasks[0]
    for step in range(5):
        plan = planner.plan(step)
        tokens = [
            int(task.queries.lengths(12)[q[q >= 0]].sum() + task.document_tokens.lengths(24)[d[d >= 0]].sum())
            for q, d in zip(plan.queries, plan.documents, strict=True)
        ]
        assert max(tokens) - min(tokens) <= 6  # of 250; dealt always forth, never back, 25


def digests(planner: Planner) -> list[str]:
    return [planner.plan(step).digest for step in range(planner.steps)]


def test_plans_are_equal_in_other_processes_instances_and_orders_of_asking():
    planner = make_planner(BATCH, SIZES)
    here = digests(planner)
    assert [planner.plan(step).digest for step in reversed(range(40))] == here[::-1]
    assert digests(make_planner(BATCH, SIZES)) == here
    code = f"""import runpy
this = runpy.run_path({__file__!r})
print(*this["digests"](this["make_planner"](this["BATCH"], this["SIZES"])))"""
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    there = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert there.stdout.split() == here


def test_a_longer_run_begins_with_the_same_plans():
    assert digests(make_planner(BATCH, SIZES, steps=60))[:40] == digests(make_planner(BATCH, SIZES))


def test_another_seed_and_another_step_are_other_plans():
    here = digests(make_planner(BATCH, SIZES))
    assert len(set(here)) == 40
    assert not set(here) & set(digests(make_planner(BATCH, SIZES, seed=1)))


def test_the_digest_sees_every_part_of_a_plan():
    plan = make_planner(BATCH, SIZES).plan(0)
    moved = replace(plan.packings[0], start=plan.packings[0].start[::-1].copy())
    others = [
        replace(plan, step=1),
        replace(plan, task=plan.task + 1),
        replace(plan, shape=plan.shape._replace(rows=plan.shape.rows + 1)),
        replace(plan, shape=plan.shape._replace(length=2 * plan.shape.length)),
        replace(plan, shape=plan.shape._replace(document_rows=1)),
        replace(plan, target=plan.target + 1),
        replace(plan, masked=plan.masked + 1),
        replace(plan, queries=plan.queries[::-1]),
        replace(plan, documents=plan.documents[::-1]),
        replace(plan, packings=(moved, *plan.packings[1:])),
    ]
    assert len({plan.digest, *(other.digest for other in others)}) == len(others) + 1


@pytest.mark.parametrize(
    ("length", "longest", "best"),
    [
        (64, 64, 64),  # fills the shortest that can hold it
        (40, 40, 128),  # 3 in 128, only 1 in 64; 6 in 256, each of which attends over more
        (18, 18, 128),  # 7 in 128, 3 in 64, 1 in 32
        (40, 65, 128),  # one that is not among them needs it
    ],
)
def test_rows_are_as_long_as_it_costs_least(length: int, longest: int, best: int):
    assert best_row_length(np.full(42, length), longest) == best


def test_shapes_names_every_row_count_with_its_steps():
    planner = make_planner(BATCH, SIZES)
    shapes = [planner.plan(step).shape for step in range(40)]
    assert planner.shapes == {shape: shapes.count(shape) for shape in sorted(set(shapes))}


def test_rows_are_rounded_up_where_it_wastes_next_to_nothing():
    # 0.2% of the run's places are 144,283 tokens.
    needed = {(64, 40): 2, (64, 43): 3, (64, 90): 500, (64, 100): 10_000, (128, 41): 1000}
    # Two steps are raised by 3 rows, then five by 47; 505 by ten would waste 323,200; no other length takes 128's.
    assert declared_rows(needed) == {(64, 40): 90, (64, 43): 90, (64, 90): 90, (64, 100): 100, (128, 41): 41}
    assert declared_rows({(64, 7): 3}) == {(64, 7): 7}
    # A short run: what wastes less than half a step of 1,152 places on average is not worth compiling.
    assert declared_rows({(64, 16): 4, (64, 18): 4, (64, 20): 4}) == {(64, 16): 18, (64, 18): 18, (64, 20): 20}


def test_there_are_no_more_shapes_than_a_run_compiles():
    needed = {(64, rows): 1 for rows in range(1, 100)} | {(128, rows): 1 for rows in range(1, 100)}
    declared = declared_rows(needed)
    assert set(declared) == set(needed) and all(rows >= key[1] for key, rows in declared.items())
    shapes = {(length, rows) for (length, _), rows in declared.items()}
    assert len(shapes) == MOST_SHAPES
    # Rows that many need are not wasted on: a hundred times as many steps of every tenth count.
    popular = declared_rows({key: 100 if key[1] % 10 == 9 else 1 for key in needed})
    assert all(popular[key] == key[1] for key in needed if key[1] % 10 == 9)


@pytest.mark.parametrize(("together", "chunks"), [(1, 3), (4, 3), (4, 8), (4, 11)])
def test_every_chunk_is_read_once_as_many_at_once_as_can_be(together: int, chunks: int):
    reads = Chunks(2, together).reads(chunks)
    assert [number for first, count in reads for number in range(first, first + count)] == list(range(chunks))
    assert [count for _, count in reads] == [together] * (chunks // together) + [1] * (chunks % together)


def test_chunks_have_the_size_that_costs_the_run_least():
    # Batches of one size are read whole, as long as a chunk may be so large.
    assert even_chunks({9: 40}, 64) == Chunks(9, 1)
    assert even_chunks({CHUNK_TOKENS // 64: 40}, 64) == Chunks(CHUNK_TOKENS // 64, 1)
    needed = {rows: 6 for rows in range(17, 64)}

    def cost(size: int, together: int) -> int:
        total = SIZE_COST * (together > 1)
        for rows, batches in needed.items():
            chunks = -(-rows // size)
            reads = chunks // together + chunks % together
            total += batches * (chunks * size * 256 + reads * CHUNK_COST)
        return total

    every = {(size, together): cost(size, together) for size in range(1, 17) for together in (1, 16 // size)}
    assert every[even_chunks(needed, 256)] == min(every.values())
    assert even_chunks(needed, 256).together > 1
    assert even_chunks({rows: 1 for rows in range(17, 20)}, 256).together == 1  # too few steps for a second size
    assert even_chunks({3: 2}, 2 * CHUNK_TOKENS) == Chunks(1, 1) == even_chunks({0: 5}, 30)


def test_batches_whose_chunks_are_all_kept_are_those_of_one_chunk_in_fewer_arrays():
    plain = make_planner(BATCH, SIZES)
    cut = Planner(plain.tasks, MixtureConfig(), BATCH, "mean", 0, 40, even_chunks=True)
    assert len(cut.arrays) < len(plain.arrays) == len(plain.shapes)
    assert sorted(shape for alike in cut.arrays.values() for shape in alike) == [*cut.shapes]
    several = 0
    for step in range(40):
        plan, one = cut.plan(step), plain.plan(step)
        assert [each.tolist() for each in (plan.queries, plan.documents, plan.target, plan.masked)] == [
            each.tolist() for each in (one.queries, one.documents, one.target, one.masked)
        ]
        filled, whole = cut.fill(plan), plain.fill(one)
        chunks, shards, rows, length = filled.texts.ids.shape
        assert cut.chunks(plan.shape)[0].rows == rows and filled.chunks[0] * rows == plan.shape.rows <= chunks * rows
        needed, padding = plan.needed.rows, cut.shard_texts
        for ours, theirs in zip(filled.texts, whole.texts, strict=True):
            flat = ours.swapaxes(0, 1).reshape(shards, chunks * rows, length)
            assert (flat[:, :needed] == theirs[0][:, :needed]).all()
        empty = filled.texts.segment.swapaxes(0, 1).reshape(shards, chunks * rows, length)[:, needed:]
        assert (empty == padding).all()
        several += filled.chunks[0] > 1
    assert several


# From texts to a training task.

WORDS = ["[UNK]", "[CLS]", "[SEP]", *"abcdefgh"]
CARD = TaskCard("t", "article", "it", ("en",), "find", "CC0-1.0", "here")
PLAIN = Templates(query="{query}")


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    backend = Backend(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    backend.save(str(tmp_path / "tokenizer.json"))
    return Tokenizer(tmp_path)


def judged(*pairs: tuple[int, int, float]) -> Judgements:
    queries, documents, scores = zip(*pairs, strict=True)
    return Judgements.from_pairs(np.array(queries, np.int32), np.array(documents, np.int32), np.array(scores, float))


def make_text_task(train: Judgements, negatives: Judgements | None = None, exclude: Judgements | None = None) -> Task:
    return Task(
        card=CARD,
        query_ids=tuple("0123"),
        query_texts=("a b", "a b c d e", "a b c d f", "not trained on"),
        document_ids=tuple("01234"),
        document_texts=("g a", "g b c d e", "g b c d f", "h", "a b"),
        splits={"train": train},
        negatives={"train": negatives} if negatives else {},
        exclude=exclude,
    )


def spelled(tokens: Tokens, limit: int = 99) -> list[str]:
    return [" ".join(WORDS[i] for i in tokens.take(np.array([t]), limit)[1:-1]) for t in range(len(tokens))]


def test_distinct_texts_and_their_positives(tokenizer: Tokenizer):
    train = judged((0, 0, 1), (0, 3, 2), (1, 1, 1), (2, 2, 0.5), (2, 0, 0))
    found = training_task(make_text_task(train), tokenizer, PLAIN, BatchConfig())
    assert spelled(found.queries) == ["a b", "a b c d e", "a b c d f"]
    assert spelled(found.document_tokens) == [
        "g a",
        "g b c d e",
        "g b c d f",
        "h",
    ]  # what nobody judged is not there
    assert [of(found.positives, q) for q in range(3)] == [{0, 3}, {1}, {2}]  # a score of 0 is not a positive
    assert found.negatives is None and found.name == "t"


def test_texts_that_are_equal_when_cut_become_one_with_the_union_of_their_positives(tokenizer: Tokenizer):
    train = judged((0, 0, 1), (1, 1, 1), (2, 2, 1), (2, 3, 1))
    cut = BatchConfig(query_length=5, document_length=5)  # both of each pair begin with three equal words
    found = training_task(make_text_task(train), tokenizer, PLAIN, cut)
    assert spelled(found.queries, 5) == ["a b", "a b c"]
    assert spelled(found.document_tokens, 5) == ["g a", "g b c", "h"]
    assert [of(found.positives, q) for q in range(2)] == [{0}, {1, 2}]
    own = BatchConfig(tasks={"t": TaskBatch(query_length=5)})
    assert [len(x) for x in (training_task(make_text_task(train), tokenizer, PLAIN, own).queries, found.queries)] == [
        2,
        2,
    ]


def test_hard_negatives_are_never_positives_and_some_queries_have_none(tokenizer: Tokenizer):
    train = judged((0, 0, 1), (1, 1, 1), (2, 3, 1))
    negatives = judged(
        (1, 2, 0), (1, 3, 1), (1, 4, 1), (3, 0, 1)
    )  # their scores do not matter; query 3 is not trained on
    batch = BatchConfig(negatives=1)
    found = training_task(make_text_task(train, negatives), tokenizer, PLAIN, batch)
    assert spelled(found.document_tokens) == ["g a", "g b c d e", "g b c d f", "h", "a b"]
    assert [of(found.negatives, q) for q in range(3)] == [set(), {2, 3, 4}, set()]
    # Cut, queries 1 and 2 are one, and so are documents 1 and 2: both former negatives are positives now.
    cut = replace(batch, query_length=5, document_length=5)
    found = training_task(make_text_task(train, negatives), tokenizer, PLAIN, cut)
    assert [of(found.positives, q) for q in range(2)] == [{0}, {1, 2}]
    assert [of(found.negatives, q) for q in range(2)] == [set(), {3}]
    planner = Planner([found], MixtureConfig(), cut, "mean", 0, 5)
    for step in range(5):
        check_plan(planner, planner.plan(step))


def test_excluded_documents_are_no_negatives(tokenizer: Tokenizer):
    train = judged((0, 0, 1), (1, 1, 1), (2, 2, 1))
    # Document 3 is in no training pair, and query 3 is not trained on: what is said of them does not matter.
    exclude = judged((0, 1, 0), (1, 3, 0), (2, 0, 0), (3, 0, 0))
    found = training_task(make_text_task(train, exclude=exclude), tokenizer, PLAIN, BatchConfig())
    assert spelled(found.document_tokens) == ["g a", "g b c d e", "g b c d f"]
    assert [of(found.positives, q) for q in range(3)] == [{0}, {1}, {2}]
    assert [of(found.masked, q) for q in range(3)] == [{0, 1}, {1}, {0, 2}]
    negatives = judged((0, 1, 0), (0, 3, 0), (1, 3, 0))
    batch = BatchConfig(negatives=1)
    found = training_task(make_text_task(train, negatives, exclude), tokenizer, PLAIN, batch)
    assert [of(found.negatives, q) for q in range(3)] == [{3}, set(), set()]
    planner = Planner([found], MixtureConfig(), batch, "mean", 0, 3)
    for step in range(3):
        check_plan(planner, planner.plan(step))


def test_no_negative_left_at_all(tokenizer: Tokenizer):
    train, batch = judged((0, 0, 1), (1, 1, 1)), BatchConfig(negatives=2)
    found = training_task(make_text_task(train, judged((0, 0, 1), (3, 1, 1))), tokenizer, PLAIN, batch)
    assert [of(found.negatives, q) for q in range(2)] == [set(), set()]
    planner = Planner([found], MixtureConfig(), batch, "cls", 0, 2)
    assert sorted(planner.plan(0).documents[planner.plan(0).documents >= 0].tolist()) == [0, 1]


def test_templates_are_put_in_before_tokenising(tokenizer: Tokenizer):
    train = judged((0, 0, 1), (1, 1, 1))
    templates = Templates(query="h {query}", document="c {document}")
    found = training_task(make_text_task(train), tokenizer, templates, BatchConfig())
    assert spelled(found.queries) == ["h a b", "h a b c d e"]
    assert spelled(found.document_tokens) == ["c g a", "c g b c d e"]


def test_a_task_without_what_the_batch_needs_is_refused(tokenizer: Tokenizer):
    task = make_text_task(judged((0, 0, 1)))
    with pytest.raises(
        UserError, match=r"task 't': 2 hard negatives .* no negatives/train.tsv; batch.tasks.t.negatives=0"
    ):
        training_task(task, tokenizer, PLAIN, BatchConfig(negatives=2))
    without = BatchConfig(negatives=2, tasks={"t": TaskBatch(negatives=0)})
    assert training_task(task, tokenizer, PLAIN, without).negatives is None
    with pytest.raises(UserError, match="task 't' is in the mixture but has no train split"):
        training_task(replace(task, splits={"dev": task.splits["train"]}), tokenizer, PLAIN, BatchConfig())


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (replace(BATCH, queries=0), "batch.queries: must be at least 1, is 0"),
        (replace(BATCH, negatives=-1), "batch.negatives: must be at least 0, is -1"),
        (replace(BATCH, tasks={"a": TaskBatch(negatives=-1)}), "batch.tasks.a.negatives: must be at least 0, is -1"),
        (replace(BATCH, row_length=0), "batch.row_length: must be None, or at least 1, is 0"),
        (replace(BATCH, chunk_tokens=-1), "batch.chunk_tokens: must be None, or at least 1, is -1"),
        (replace(BATCH, row_length=20), "batch.document_length: a row of 20 tokens cannot hold a text of 24"),
        (replace(BATCH, tasks={"b": TaskBatch()}), "batch.tasks: 'b' is not in the mixture"),
        (replace(BATCH, tasks={"a": TaskBatch(queries=0)}), "batch.tasks.a.queries: must be at least 1, is 0"),
        (replace(BATCH, tasks={"a": TaskBatch(query_length=40)}), "batch.tasks.a.query_length: a row of 32 tokens"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(batch: BatchConfig, said: str):
    with pytest.raises(UserError) as caught:
        Planner([make_task("a", 5, 9, BATCH)], MixtureConfig(), batch, "mean", 0, 1)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def make_images(task: TrainingTask, size: int = 2) -> TrainingTask:
    """The same task, each of its documents an image that shows its number."""
    count = len(task.documents)
    pixels = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, size, size, 3), np.uint8)
    order = np.random.default_rng(5).permutation(count)
    return replace(task, documents=Images(pixels[np.argsort(order)], order))


@pytest.mark.parametrize("chunk_tokens", [None, 96])
def test_documents_that_stand_apart_are_the_same_batch_in_two_parts(chunk_tokens: int | None):
    batch = replace(BATCH, chunk_tokens=chunk_tokens, negatives=2)
    tasks = [make_task(name, *size, batch) for name, size in SIZES.items()]
    together, separate = (
        Planner(tasks, MixtureConfig(), batch, "mean", 0, 40, separate=each) for each in (False, True)
    )
    for step in range(40):
        ours, theirs = separate.plan(step), together.plan(step)
        for name in ("task", "generic", "pairs", "tokens"):
            assert getattr(ours, name) == getattr(theirs, name)
        for name in ("queries", "documents", "target", "masked"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        assert ours.digest != theirs.digest
        filled, whole = separate.fill(ours), together.fill(theirs)
        assert isinstance(filled.documents, TokenBatch) and whole.documents is None
        check_abstract(separate, ours, filled)
        check_abstract(together, theirs, whole)
        found = [texts_of(filled.texts, shard) for shard in range(batch.shards)]
        others = [texts_of(filled.documents, shard) for shard in range(batch.shards)]
        wanted = [texts_of(whole.texts, shard) for shard in range(batch.shards)]
        for queries, documents, both in zip(found, others, wanted, strict=True):
            moved = {separate.shard_queries + slot: text for slot, text in documents.items()}
            assert queries | moved == both
        assert any(others)
        parts = zip((filled.texts, filled.documents), np.asarray(filled.chunks).tolist(), strict=True)
        slots = sum(np.prod(part.ids.shape[2:]) * filled_chunks for part, filled_chunks in parts)
        assert slots * batch.shards == ours.slots


def texts_of(tokens: TokenBatch, shard: int) -> dict[int, tuple[list[int], list[float]]]:
    """Ids and weights of each text of a shard, by segment."""
    ids, segment, pool = (np.asarray(x)[:, shard].reshape(-1) for x in (tokens.ids, tokens.segment, tokens.pool))
    there = {int(one): segment == one for one in np.unique(segment[pool > 0])}
    return {one: (ids[places].tolist(), pool[places].tolist()) for one, places in there.items()}


def check_abstract(planner: Planner, plan: Plan, filled: PairBatch) -> None:
    """What was declared is what is filled."""
    declared, there = jax.tree.leaves(planner.abstract(plan.shape)), jax.tree.leaves(filled)
    assert [(x.shape, x.dtype) for x in declared] == [(np.shape(x), x.dtype) for x in there]
    assert plan.shape in planner.shapes


@pytest.mark.parametrize("chunk_tokens", [None, 96])
def test_images_stand_in_the_places_of_their_slots(chunk_tokens: int | None):
    batch = replace(BATCH, chunk_tokens=chunk_tokens, positives=2)
    texts = [make_task(name, *size, batch) for name, size in SIZES.items()]
    tasks = [make_images(texts[0]), *texts[1:]]
    planner = Planner(tasks, MixtureConfig(), batch, "mean", 0, 40, patches=30)
    plain = Planner(texts, MixtureConfig(), batch, "mean", 0, 40)
    seen = 0
    for step in range(40):
        plan = planner.plan(step)
        filled = planner.fill(plan)
        check_abstract(planner, plan, filled)
        if plan.task:
            assert filled.documents is None and plan.digest == plain.plan(step).digest
            continue
        seen += 1
        images = np.asarray(filled.documents)
        chunks, shards, rows = images.shape[:3]
        assert shards == batch.shards and (rows == 3 if chunk_tokens else chunks == 1)
        assert filled.chunks[1] * rows >= (plan.documents >= 0).sum(axis=1).max()
        shown = images.swapaxes(0, 1).reshape(shards, chunks * rows, -1)
        for shard, documents in enumerate(plan.documents):
            there = np.flatnonzero(documents >= 0)
            assert len(there) and (shown[shard, there] == documents[there, None]).all()
            assert not shown[shard, len(there) :].any()
        own = planner.fill(plan, range(1, 3))
        np.testing.assert_array_equal(own.documents, images[:, 1:3])
    assert seen > 5
    assert len({(shape.rows, shape.document_rows) for shape in planner.shapes if shape.document_rows}) == 1


def test_equal_images_are_one_document(tokenizer: Tokenizer):
    train = judged((0, 0, 1), (1, 1, 1), (2, 2, 1), (2, 3, 1))
    keys = ("x", "y", "x", "z", "w")
    text = make_text_task(train)
    found = replace(text, images=ImageFiles(tuple(Path(key) for key in text.document_ids), keys))
    pixels = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    task = training_task(found, tokenizer, PLAIN, BatchConfig(), pixels)
    assert isinstance(task.documents, Images) and len(task.documents) == 3  # the last is not a positive
    shown = [sorted(task.documents.take(task.positives.of(np.array([q])))[:, 0, 0, 0].tolist()) for q in range(3)]
    assert shown == [[0], [1], [0, 3]]
    assert task.document_rows is not None and sorted(task.document_rows.tolist()) == [0, 1, 3]


def test_tasks_of_images_are_not_all_padded_to_the_largest():
    batch = replace(BATCH, queries=4, tasks={"large": TaskBatch(queries=32)})
    tasks = [make_images(make_task(name, 70, 200, batch)) for name in ("large", "small")]
    planner = Planner(tasks, MixtureConfig(), batch, "mean", 0, 40, patches=64)
    assert {shape.document_rows for shape in planner.shapes} == {1, 8}
    few = Planner(tasks, MixtureConfig(), batch, "mean", 0, 1, patches=64)  # a second shape would not be worth it
    assert len(few.shapes) == 1


def test_a_row_need_not_hold_documents_that_are_images():
    batch = replace(BATCH, row_length=None, tasks={"seen": TaskBatch(row_length=16)})
    planner = Planner([make_images(make_task("seen", 20, 30, batch))], MixtureConfig(), batch, "mean", 0, 3)
    assert {shape.length for shape in planner.shapes} == {16}
    with pytest.raises(UserError, match=r"tasks.seen.document_length: a row of 16 tokens cannot hold"):
        Planner([make_task("seen", 20, 30, batch)], MixtureConfig(), batch, "mean", 0, 3)
