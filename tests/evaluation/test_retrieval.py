from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mtret.data.tasks import Judgements, Task, TaskCard
from mtret.errors import UserError
from mtret.evaluation.results import build_results, parse_results
from mtret.evaluation.retrieval import TaskOutcome, TaskScores, evaluate_task, pool, queries_with_copies
from mtret.evaluation.statistics import bounds, resampled_means
from mtret.index.exact import NOTHING, Run


def task(name: str, documents: list[str], gold: dict[int, list[int]], cutoffs: tuple[int, ...] = (1, 5, 10)) -> Task:
    owner = np.array([query for query, rows in gold.items() for _ in rows], np.int32)
    rows = np.array([row for one in gold.values() for row in one], np.int32)
    card = TaskCard(name, "table", "sales", ("en",), "Find it.", "CC0-1.0", "written here", cutoffs=cutoffs)
    queries = tuple(f"q{i}" for i in range(max(gold) + 1))
    judged = Judgements.from_pairs(owner, rows, np.ones(len(rows)))
    ids = tuple(f"d{i}" for i in range(len(documents)))
    return Task(card, queries, queries, ids, tuple(documents), {"test": judged})


def run(*rows: list[int]) -> Run:
    documents = np.array(rows, np.int32)
    return Run(documents, np.zeros(documents.shape, np.float32))


def rows(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def test_a_task_is_scored_at_the_cutoffs_of_its_card_and_at_10():
    tables = task("tables", ["a", "b", "c"], {0: [1], 1: [0, 2]}, cutoffs=(1, 15))
    scores = evaluate_task(tables, "test", rows(1, 0), {"x": run([2, 1, 0], [0, 1, NOTHING])})
    assert scores.cutoffs == (1, 10, 15)
    assert list(scores.systems["x"])[:3] == ["ndcg@1", "ndcg@10", "ndcg@15"]
    assert scores.systems["x"]["recall@1"].tolist() == [0.5, 0]
    assert scores.systems["x"]["mrr@10"].tolist() == [1, 0.5]


def test_a_split_that_the_task_has_not_is_refused():
    with pytest.raises(UserError, match="has no split 'dev'"):
        evaluate_task(task("tables", ["a"], {0: [0]}), "dev", rows(0), {"x": run([0])})


def test_the_pool_holds_every_text_once():
    first = task("first", ["a", "b", "c"], {0: [0]})
    second = task("second", ["d", "b", "a", "d"], {0: [0]})
    pooled = pool([first, second])
    assert pooled.kept.tolist() == [0, 1, 2, 3]
    assert pooled.document_ids == ("first/d0", "first/d1", "first/d2", "second/d0")
    assert pooled.rows["first"].tolist() == [0, 1, 2]
    assert pooled.rows["second"].tolist() == [3, 1, 0, 3]


def test_over_the_pool_a_task_is_scored_by_its_own_documents_and_by_its_share_of_the_first_ten():
    first = task("first", ["a", "b", "c"], {0: [0]})
    second = task("second", ["d", "b", "a", "d"], {0: [0, 3], 1: [2]})
    pooled = pool([first, second])
    # Pooled rows: a 0, b 1, c 2, d 3. The second task's documents are a, b and d; its two golds d are one document.
    found = {"x": run([2, 3, NOTHING], [2, 1, 0])}
    scores = evaluate_task(second, "test", rows(0, 1), found, pooled.rows["second"]).systems["x"]
    assert scores["recall@10"].tolist() == [1, 1]
    assert scores["mrr@10"].tolist() == pytest.approx([1 / 2, 1 / 3])
    assert scores["own_task@10"].tolist() == pytest.approx([1 / 2, 2 / 3])


def test_queries_whose_right_document_has_a_copy_that_nobody_judged():
    """d0, d2 and d4 read the same, and so do d1 and d3; d5 has no copy."""
    documents = ["a", "b", "a", "b", "a", "c"]

    def counted(gold: dict[int, list[int]], *asked: int, excluded: tuple[int, int] | None = None) -> int:
        judged = task("t", documents, gold)
        if excluded:
            pair = Judgements.from_pairs(rows(excluded[0]), rows(excluded[1]), np.zeros(1))
            judged = replace(judged, exclude=pair)
        return queries_with_copies(judged, "test", rows(*asked))

    assert counted({0: [5]}, 0) == 0
    assert counted({0: [0]}, 0) == 1
    assert counted({0: [0, 2, 4]}, 0) == 0  # all are judged
    assert counted({0: [0, 2]}, 0) == 1
    assert counted({0: [0, 2]}, 0, excluded=(0, 4)) == 0  # never returned
    assert counted({0: [0, 2], 1: [1]}, 0, 1, excluded=(1, 4)) == 2  # to another query
    assert counted({0: [0], 1: [3], 2: [5], 3: [1, 3]}, 0, 1, 2, 3) == 2
    assert counted({0: [0], 1: [3], 2: [5], 3: [1, 3]}, 1, 2, 3) == 1  # of those that are asked


def test_a_copy_that_is_judged_as_not_relevant_is_spoken_of():
    judged = Judgements.from_pairs(rows(0, 0, 1, 1), rows(0, 1, 0, 1), np.array([1.0, 0.0, 1.0, 0.0]))
    for documents, expected in ((("a", "a"), 0), (("a", "a", "a"), 2), (("a", "b"), 0), (("b", "a", "a"), 0)):
        own = replace(task("t", list(documents), {0: [0], 1: [0]}), splits={"test": judged})
        assert queries_with_copies(own, "test", rows(0, 1)) == expected


def test_chunks_of_equal_documents_are_copies():
    own = replace(task("t", ["a", "b", "a", "b", "a", "c"], {0: [0]}), parent_ids=("x", "x", "y", "y", "z", "z"))
    assert queries_with_copies(own, "test", rows(0)) == 1
    other = replace(own, document_texts=("a", "b", "a", "d", "a", "c"))
    assert queries_with_copies(other, "test", rows(0)) == 0


def outcome(name: str, values: np.ndarray, role: str | None, **more: Any) -> TaskOutcome:
    """Systems a and b with these scores [2, q]; alpha's own cut-off stands in no other task."""
    metrics = ["ndcg@10", "map"] + (["ndcg@15"] if name == "alpha" else [])
    n = values.shape[1]
    gold = {i: [0] for i in range(n)}
    systems = {system: {metric: values[i] for metric in metrics} for i, system in enumerate("ab")}
    return TaskOutcome(
        task(name, ["x", "y"], gold), TaskScores(np.arange(n, dtype=np.int32), (10,), systems), role, **more
    )


def noisy(n: int, gain: float, seed: int) -> np.ndarray:
    base = np.random.default_rng(seed).uniform(0.2, 0.7, n)
    return np.stack([base, base + gain + np.random.default_rng(seed + 1).uniform(-0.02, 0.02, n)])


ALPHA, BETA, GAMMA = noisy(200, 0.1, 0), noisy(40, -0.2, 2), noisy(70, 0.0, 4)


@pytest.fixture
def results() -> dict[str, Any]:
    outcomes = [
        outcome("alpha", ALPHA, "in_domain", dropped_queries=tuple(f"q{i}" for i in range(30))),
        outcome("beta", BETA, "in_domain", seen_document_share=0.4),
        outcome("gamma", GAMMA, "zero_shot"),
    ]
    return build_results(outcomes, protocol={"split": "test"}, seed=5, resamples=500, mixture={"tasks": ["alpha"]})


def test_tasks_have_means_intervals_and_differences(results: dict[str, Any]):
    alpha = results["tasks"]["alpha"]
    expected = resampled_means(ALPHA.T, 5, "alpha", 500)
    low, high = np.quantile(expected[:, 0], [0.025, 0.975])
    assert alpha["systems"]["a"]["ndcg@10"]["mean"] == pytest.approx(ALPHA[0].mean(), abs=1e-6)
    assert alpha["systems"]["a"]["ndcg@10"]["ci95"] == pytest.approx([low, high], abs=1e-6)
    low, high = np.quantile(expected[:, 1] - expected[:, 0], [0.025, 0.975])
    assert alpha["differences"]["b"]["a"]["mean"] == pytest.approx((ALPHA[1] - ALPHA[0]).mean(), abs=1e-6)
    assert alpha["differences"]["b"]["a"]["ci95"] == pytest.approx([low, high], abs=1e-6)
    # Query difficulty, which both share, is not in the interval of the difference.
    assert high - low < 0.2 * np.ptp(alpha["systems"]["a"]["ndcg@10"]["ci95"])
    words = {name: one["differences"]["b"]["a"]["verdict"] for name, one in results["tasks"].items()}
    assert words == {"alpha": "better", "beta": "WORSE", "gamma": "no difference"}


def test_what_is_known_of_a_task_is_kept(results: dict[str, Any]):
    alpha, beta = results["tasks"]["alpha"], results["tasks"]["beta"]
    assert (alpha["n_dropped"], len(alpha["dropped_queries"]), beta["n_dropped"]) == (30, 20, 0)
    assert (alpha["seen_document_share"], beta["seen_document_share"]) == (None, 0.4)
    assert (alpha["n_queries"], alpha["n_documents"], alpha["role"]) == (200, 2, "in_domain")


def test_a_role_is_the_mean_of_its_tasks_with_queries_drawn_inside_each(results: dict[str, Any]):
    role = results["roles"]["in_domain"]
    assert (role["tasks"], role["n_queries"]) == (["alpha", "beta"], 240)
    assert list(role["systems"]["a"]) == ["ndcg@10", "map"]  # not alpha's own cut-off
    one = role["systems"]["b"]["ndcg@10"]
    assert one["mean"] == pytest.approx((ALPHA[1].mean() + BETA[1].mean()) / 2, abs=1e-6)
    # The variance of the mean of two independent means.
    error = np.sqrt(ALPHA[1].var() / 200 + BETA[1].var() / 40) / 2
    assert np.ptp(one["ci95"]) == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert role["differences"]["b"]["a"]["verdict"] == "WORSE"


def test_results_do_not_depend_on_the_other_tasks(results: dict[str, Any]):
    alone = build_results([outcome("gamma", GAMMA, "zero_shot")], protocol={}, seed=5, resamples=500)
    assert alone["tasks"]["gamma"] == results["tasks"]["gamma"]


def test_without_a_mixture_all_tasks_stand_together():
    alone = build_results([outcome("gamma", GAMMA, None)], protocol={}, seed=5, resamples=100)
    parse_results(alone)
    assert alone["mixture"] is None
    assert alone["tasks"]["gamma"]["role"] == "all"
    assert list(alone["roles"]) == ["all"]


def test_few_queries_claim_nothing():
    few = build_results([outcome("gamma", noisy(5, 0.3, 0), None)], protocol={}, seed=5)
    assert few["tasks"]["gamma"]["differences"]["b"]["a"]["ci95"][0] > 0.2
    assert few["tasks"]["gamma"]["differences"]["b"]["a"]["verdict"] == "no difference"


def test_the_interval_is_that_of_the_paired_differences(results: dict[str, Any]):
    found = bounds(resampled_means((ALPHA[1] - ALPHA[0])[:, None], 0, "")[:, 0])
    assert results["tasks"]["alpha"]["differences"]["b"]["a"]["ci95"] == pytest.approx(found.tolist(), abs=3e-4)
