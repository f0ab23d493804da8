"""Scoring documents that stand in chunks: the pool and the dev sample against plain Python."""

import math

import numpy as np
import pytest

from mtret.data.tasks import Judgements, Task, TaskCard
from mtret.evaluation.retrieval import evaluate_task, pool
from mtret.evaluation.samples import DevConfig, dev_samples
from mtret.index.exact import Rules, search, tie_order

PARENTS, QUERIES = 40, 15


def make_task(name: str = "alpha", longest: int = 4, seed: int = 5) -> Task:
    """Chunks of one parent lie apart; graded positives, some judged not relevant; some parents are excluded."""
    random = np.random.default_rng(seed)
    parents = random.permutation(np.repeat(np.arange(PARENTS), random.integers(1, longest + 1, PARENTS))).tolist()
    card = TaskCard(name, "article", "made up", ("en",), "find it", "CC0-1.0", "made for this test")
    queries, documents, hidden = [], [], []
    for query in range(QUERIES):
        chosen = [parents.index(one) for one in random.permutation(PARENTS)[:4].tolist()]
        queries += [query] * 3
        documents += chosen[:3]
        hidden.append(chosen[3])
    judged = Judgements.from_pairs(
        np.array(queries, np.int32), np.array(documents, np.int32), np.tile([2.0, 1.0, 0.0], QUERIES)
    )
    every = np.arange(QUERIES, dtype=np.int32)
    return Task(
        card,
        tuple(f"q{i}" for i in range(QUERIES)),
        tuple(f"query {i}" for i in range(QUERIES)),
        tuple(f"{parent}#{i}" for i, parent in enumerate(parents)),
        tuple(f"{name} text {i}" for i in range(len(parents))),
        {"dev": judged, "test": judged},
        exclude=Judgements.from_pairs(every, np.array(hidden, np.int32), np.zeros(QUERIES)),
        parent_ids=tuple(map(str, parents)),
    )


def best_of_parents(task: Task, rows: list[int], scores: np.ndarray, query: int) -> list[str]:
    """Parent ids, best first, without the excluded."""
    best: dict[str, float] = {}
    for row, score in zip(rows, scores.tolist(), strict=True):
        best[task.named_ids[row]] = max(score, best.get(task.named_ids[row], -np.inf))
    assert task.exclude is not None
    best.pop(task.named_ids[task.exclude.documents[query]], None)
    return sorted(best, key=lambda one: -best[one])


def direct_ndcg(task: Task, rows: list[int], query: int, scores: np.ndarray) -> float:
    dev = task.splits["dev"]
    span = slice(dev.offsets[query], dev.offsets[query + 1])
    gains = {task.named_ids[d]: s for d, s in zip(dev.documents[span], dev.scores[span], strict=True)}
    ranked = best_of_parents(task, rows, scores, query)[:10]
    found = sum(gains.get(one, 0.0) / math.log2(rank + 2) for rank, one in enumerate(ranked))
    return found / sum(g / math.log2(rank + 2) for rank, g in enumerate(sorted(gains.values(), reverse=True)))


def unit(random: np.random.Generator, n: int) -> np.ndarray:
    made = random.normal(size=(n, 5)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


@pytest.mark.parametrize("config", [DevConfig(8, 12), DevConfig(100, 1000), DevConfig(3, 0)])
def test_a_sample_is_scored_by_parents_and_holds_all_their_chunks(config: DevConfig) -> None:
    task = make_task()
    sample = dev_samples([task], config, seed=3)["alpha"]
    assert task.parents is not None
    rows = sample.documents.tolist()
    assert rows == sorted(set(rows))
    inside = {task.named_ids[row] for row in rows}
    assert rows == [row for row, one in enumerate(task.named_ids) if one in inside]
    gold = task.splits["dev"].select(np.isin(task.splits["dev"].queries, sample.queries)).positives()
    wanted = {task.named_ids[row] for row in gold.documents}
    assert wanted <= inside
    distractors = sum(task.named_ids[row] not in wanted for row in rows)
    assert distractors <= config.distractors and (distractors > 6 or not config.distractors)
    random = np.random.default_rng(1)
    queries, documents = unit(random, len(sample.queries)), unit(random, len(rows))
    scores = queries @ documents.T
    direct = [direct_ndcg(task, rows, query, row) for query, row in zip(sample.queries.tolist(), scores, strict=True)]
    assert sample.ndcg_at_10(queries, documents) == pytest.approx(np.mean(direct), abs=1e-6)
    own = sample.as_task()
    order = tie_order(own.named_ids)
    assert own.parents is not None
    run = search(queries, documents, 100, Rules(order, parents=own.parents))
    for found, expected in zip(run.documents, scores, strict=True):
        best = {one: max(expected[i] for i, name in enumerate(own.named_ids) if name == one) for one in inside}
        assert [own.named_ids[row] for row in found[found >= 0]] == sorted(best, key=lambda one: -best[one])
    dev = own.splits["dev"]
    evaluated = {
        (own.query_ids[q], own.named_ids[d], s)
        for q, d, s in zip(dev.pair_queries(), dev.documents, dev.scores, strict=True)
    }
    theirs = task.splits["dev"]
    pairs = zip(theirs.pair_queries(), theirs.documents, theirs.scores, strict=True)
    assert evaluated == {
        (task.query_ids[q], task.named_ids[d], s)
        for q, d, s in pairs
        if q in sample.queries and task.named_ids[d] in inside
    }


def test_the_pool_holds_a_parent_once_with_all_its_chunks() -> None:
    def small(name: str, texts: list[str], parents: list[str]) -> Task:
        one = make_task(name)
        judged = Judgements.from_pairs(np.zeros(1, np.int32), np.zeros(1, np.int32), np.ones(1))
        ids = tuple(f"{name}{i}" for i in range(len(texts)))
        return Task(one.card, ("q",), ("q",), ids, tuple(texts), {"test": judged}, parent_ids=tuple(parents))

    first = small("first", ["a", "b", "c", "b"], ["p", "p", "first2", "q"])
    second = small("second", ["b", "a", "b", "d"], ["x", "y", "y", "x"])
    pooled = pool([first, second])
    # `q` (b) is not a chunk of `p` (a, b), but `y` is `p`; `x` (b, d) is new.
    assert pooled.kept.tolist() == [0, 1, 2, 3, 4, 7]
    assert pooled.document_ids == ("first/p", "first/p", "first/first2", "first/q", "second/x", "second/x")
    assert pooled.parents is not None and pooled.parents.tolist() == [0, 0, 2, 3, 4, 4]
    assert pooled.rows["first"].tolist() == [0, 0, 2, 3]
    assert pooled.rows["second"].tolist() == [4, 0, 0, 4]
    assert pooled.n_documents == 4


def test_over_the_pool_parents_are_scored_as_over_their_own_corpus() -> None:
    task, other = make_task(), make_task("beta", longest=1, seed=8)
    pooled = pool([task, other])
    random = np.random.default_rng(4)
    queries = unit(random, QUERIES)
    documents = np.concatenate(
        [unit(random, len(task.document_ids)), -np.ones((len(other.document_ids), 5), np.float32)]
    )
    queries = np.abs(queries)  # so that no document of the other task is near to any
    own = search(
        queries, documents[: len(task.document_ids)], 10, Rules(tie_order(task.named_ids), parents=task.parents)
    )
    order = tie_order(pooled.document_ids)
    run = search(queries, documents[pooled.kept], 10, Rules(order, parents=pooled.parents))
    every = np.arange(QUERIES, dtype=np.int32)
    alone = evaluate_task(task, "test", every, {"x": own}).systems["x"]
    among = evaluate_task(task, "test", every, {"x": run}, pooled.rows["alpha"]).systems["x"]
    np.testing.assert_allclose(alone["ndcg@10"], among["ndcg@10"])
    assert among["own_task@10"].tolist() == [1.0] * QUERIES
    assert pooled.n_documents == 2 * PARENTS
