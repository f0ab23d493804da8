"""The dev sample's nDCG against one computed directly, and what is sampled."""

import math
from dataclasses import replace

import numpy as np
import pytest

from mtret.data.tasks import Judgements, Task, TaskCard
from mtret.evaluation.samples import (
    POOL_DEPTH,
    DevConfig,
    TaskSample,
    dev_samples,
    drawing,
    drawn_queries,
    pooled_documents,
    pooled_sample,
)
from mtret.index.exact import NOTHING, Run

DOCUMENTS, QUERIES, FEATURES = 60, 20, 5


def rows(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def make_task(name: str = "alpha", splits: tuple[str, ...] = ("dev", "test")) -> Task:
    """Queries 0-11 are dev, the rest test; graded positives, some judged not relevant, one document left out."""
    random = np.random.default_rng(5)
    card = TaskCard(name, "article", "made up", ("en",), "find it", "CC0-1.0", "made for this test")
    places = {"dev": range(12), "test": range(12, QUERIES)}
    made = {}
    for split in splits:
        queries, documents, scores = [], [], []
        for query in places[split]:
            for rank, document in enumerate(random.permutation(DOCUMENTS)[:3]):
                queries.append(query)
                documents.append(document)
                scores.append((2.0, 1.0, 0.0)[rank])
        made[split] = Judgements.from_pairs(rows(*queries), rows(*map(int, documents)), np.array(scores))
    gold = made["dev"].documents[made["dev"].scores > 0] if "dev" in made else rows()
    other = next(row for row in range(DOCUMENTS) if row not in gold)
    exclude = Judgements.from_pairs(rows(0, 3), rows(other, other), np.zeros(2))
    return Task(
        card,
        tuple(f"q{i}" for i in range(QUERIES)),
        tuple(f"query {i}" for i in range(QUERIES)),
        tuple(f"d{i:02}" for i in range(DOCUMENTS)),
        tuple(f"document {i}" for i in range(DOCUMENTS)),
        made,
        exclude=exclude,
    )


def direct_ndcg(sample: TaskSample, queries: np.ndarray, documents: np.ndarray) -> float:
    """Järvelin & Kekäläinen with linear gain, as trec_eval has it, query by query."""
    task, judged, scores = sample.task, sample.task.splits["dev"], []
    for place, query in enumerate(sample.queries):
        own = judged.queries.tolist().index(query)
        span = slice(judged.offsets[own], judged.offsets[own + 1])
        gain = dict(zip(judged.documents[span].tolist(), judged.scores[span].tolist(), strict=True))
        hidden = set()
        assert task.exclude is not None
        for i, other in enumerate(task.exclude.queries):
            if other == query:
                hidden |= set(task.exclude.documents[task.exclude.offsets[i] : task.exclude.offsets[i + 1]].tolist())
        ranked = sorted(
            (row for row in sample.documents.tolist() if row not in hidden),
            key=lambda row: -float(queries[place] @ documents[sample.documents.tolist().index(row)]),
        )
        found = sum(gain.get(row, 0.0) / math.log2(rank + 2) for rank, row in enumerate(ranked[:10]))
        best = sum(g / math.log2(rank + 2) for rank, g in enumerate(sorted(gain.values(), reverse=True)[:10]))
        scores.append(found / best)
    return float(np.mean(scores))


def vectors(sample: TaskSample) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(2)
    made = [random.normal(size=(n, FEATURES)).astype(np.float32) for n in (len(sample.queries), len(sample.documents))]
    return tuple(x / np.linalg.norm(x, axis=1, keepdims=True) for x in made)  # type: ignore[return-value]


@pytest.mark.parametrize("config", [DevConfig(8, 12), DevConfig(100, 1000), DevConfig(1, 0)])
def test_ndcg_is_that_of_a_direct_computation(config: DevConfig) -> None:
    sample = dev_samples([make_task()], config, seed=3)["alpha"]
    queries, documents = vectors(sample)
    wanted = direct_ndcg(sample, queries, documents)
    assert 0 < wanted <= 1
    assert sample.ndcg_at_10(queries, documents) == pytest.approx(wanted, abs=1e-9)


def test_an_excluded_document_is_never_found() -> None:
    """Seen where it would otherwise win: the first query lies between it and the best gold document, nearer to it."""
    sample = dev_samples([make_task()], DevConfig(100, 1000), seed=3)["alpha"]
    queries, documents = vectors(sample)
    rows, exclude, dev = sample.documents.tolist(), sample.task.exclude, sample.task.splits["dev"]
    assert exclude is not None
    hidden, gold = (
        documents[rows.index(exclude.documents[0])],
        documents[rows.index(dev.documents[dev.scores.argmax()])],
    )
    between = hidden + 0.9 * gold
    queries[sample.queries.tolist().index(0)] = between / np.linalg.norm(between)
    wanted = direct_ndcg(sample, queries, documents)
    assert sample.ndcg_at_10(queries, documents) == pytest.approx(wanted, abs=1e-9)
    unhidden = replace(sample, task=replace(sample.task, exclude=None))
    assert unhidden.ndcg_at_10(queries, documents) < wanted - 1e-3


def test_a_sample_holds_every_gold_document_of_its_queries() -> None:
    task = make_task()
    sample = dev_samples([task], DevConfig(8, 12), seed=3)["alpha"]
    dev = task.splits["dev"]
    assert len(sample.queries) == 8
    assert set(sample.queries) <= set(dev.queries)
    gold = dev.select(np.isin(dev.queries, sample.queries)).positives()
    assert set(gold.documents) <= set(sample.documents)
    assert len(sample.documents) == len(set(sample.documents)) == len(set(gold.documents)) + 12
    assert np.all(np.diff(sample.documents) > 0)


def test_a_sample_is_a_function_of_seed_and_place() -> None:
    tasks, config = [make_task("alpha"), make_task("beta")], DevConfig(8, 12)
    once, again, other = (dev_samples(tasks, config, seed) for seed in (3, 3, 4))
    for name in ("alpha", "beta"):
        np.testing.assert_array_equal(once[name].queries, again[name].queries)
        np.testing.assert_array_equal(once[name].documents, again[name].documents)
    assert once["alpha"].documents.tolist() != other["alpha"].documents.tolist()
    assert once["alpha"].documents.tolist() != once["beta"].documents.tolist()


def test_a_task_without_a_dev_split_has_no_sample() -> None:
    tasks = [make_task("alpha", ("test",)), make_task("beta")]
    assert set(dev_samples(tasks, DevConfig(), seed=0)) == {"beta"}


def test_a_sample_is_a_task_of_its_own_with_the_same_judgements() -> None:
    task = make_task()
    sample = dev_samples([task], DevConfig(queries=5, distractors=8), 3)["alpha"]
    own = sample.as_task()
    assert list(own.splits) == ["dev"]
    assert own.query_texts == tuple(task.query_texts[row] for row in sample.queries)
    assert own.document_ids == tuple(task.document_ids[row] for row in sample.documents)

    def by_id(of: Task, pairs: Judgements) -> set[tuple[str, str, float]]:
        names = zip(pairs.pair_queries(), pairs.documents, pairs.scores, strict=True)
        return {(of.query_ids[query], of.document_ids[document], float(score)) for query, document, score in names}

    kept = {
        pair for pair in by_id(task, task.splits["dev"]) if pair[0] in own.query_ids and pair[1] in own.document_ids
    }
    assert by_id(own, own.splits["dev"]) == kept
    assert {pair for pair in kept if pair[2] > 0} == {
        pair for pair in by_id(task, task.splits["dev"]) if pair[0] in own.query_ids and pair[2] > 0
    }
    everything = dev_samples([task], DevConfig(), 3)["alpha"].as_task()
    assert everything.exclude is not None
    assert task.exclude is not None
    assert by_id(everything, everything.exclude) == by_id(task, task.exclude)


def run_of(*ranked: list[int]) -> Run:
    documents = np.array(ranked, np.int32)
    return Run(documents, np.where(documents == NOTHING, -np.inf, 1.0).astype(np.float32))


def test_the_first_of_every_search_are_pooled_before_the_second_of_any() -> None:
    by_words, dense = run_of([1, 2, 3], [4, NOTHING, NOTHING]), run_of([5, 1, 6], [7, 4, 8])
    pooled = pooled_documents([by_words, dense], np.random.default_rng(0)).tolist()
    assert set(pooled[:4]) == {1, 5, 4, 7} and pooled[4:5] == [2] and set(pooled[5:]) == {3, 6, 8}
    assert pooled_documents([], np.random.default_rng(0)).tolist() == []
    deep = run_of(list(range(50)))
    assert pooled_documents([deep], np.random.default_rng(0)).tolist() == list(range(POOL_DEPTH))


def test_a_pooled_sample_holds_gold_then_what_was_found_then_random_ones() -> None:
    task = make_task()
    queries = drawn_queries(task, "test", 4, drawing(task, 0))
    judged = task.splits["test"]
    gold = {int(d) for q, d, s in zip(judged.pair_queries(), judged.documents, judged.scores, strict=True)
            if q in queries and s > 0}  # fmt: skip
    found = [row for row in range(DOCUMENTS) if row not in gold][:12]
    runs = [run_of(*[[*found, *gold][:POOL_DEPTH]] * 4)]
    sample = pooled_sample(task, "test", queries, runs, 16, drawing(task, 1))
    rows_of = set(sample.documents.tolist())
    assert gold | set(found) <= rows_of and len(rows_of) == len(gold) + 16 and sample.split == "test"
    fewer = set(pooled_sample(task, "test", queries, runs, 8, drawing(task, 1)).documents.tolist())
    assert len(fewer) == len(gold) + 8 and len(fewer & set(found)) >= 6
    again = pooled_sample(task, "test", queries, runs, 16, drawing(task, 1))
    np.testing.assert_array_equal(again.documents, sample.documents)
    assert list(sample.as_task().splits) == ["test"]
    everything = pooled_sample(task, "test", queries, [], 10**6, drawing(task, 1))
    assert len(everything.documents) == DOCUMENTS
