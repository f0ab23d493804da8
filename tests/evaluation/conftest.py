"""A small results dictionary of two roles, one task of few queries, a pooled index and something left out."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from mtret.data.tasks import Judgements, Task, TaskCard
from mtret.evaluation.query_scores import data_sha256
from mtret.evaluation.results import build_results
from mtret.evaluation.retrieval import PooledOutcome, TaskOutcome, TaskScores

SYSTEMS = ("bm25", "base", "hybrid_ranks", "hybrid", "finetuned", "finetuned_hybrid")


def make_task(name: str, n_queries: int, n_documents: int, cutoffs: tuple[int, ...] = (1, 5, 10)) -> Task:
    """Query i is answered by document i modulo their number."""
    rows = np.arange(n_queries, dtype=np.int32)
    judged = Judgements.from_pairs(rows, rows % n_documents, np.ones(n_queries))
    card = TaskCard(name, "table", "sales", ("en",), "Find the table.", "CC0-1.0", "written here", cutoffs=cutoffs)
    return Task(
        card,
        tuple(f"q{i}" for i in range(n_queries)),
        tuple(f"query {i} of {name}" for i in range(n_queries)),
        tuple(f"d{i}" for i in range(n_documents)),
        tuple(f"document {i} of {name}" for i in range(n_documents)),
        {"test": judged},
    )


def make_scores(task: Task, means: tuple[float, ...], seed: int, systems: tuple[str, ...] = SYSTEMS) -> TaskScores:
    """Noisy scores around these means of the systems, noise shared by all of them as query difficulty is."""
    n = len(task.query_ids)
    noise = np.random.default_rng(seed).uniform(-0.3, 0.3, n)
    own = np.random.default_rng(seed + 1).uniform(-0.05, 0.05, (len(systems), n))
    cutoffs = tuple(sorted({*task.card.cutoffs, 10}))
    metrics = [f"{m}@{k}" for m in ("ndcg", "recall", "capped_recall", "mrr") for k in cutoffs] + ["map"]
    values = {
        system: {metric: np.clip(mean + noise + one, 0, 1) for metric in metrics}
        for system, mean, one in zip(systems, means, own, strict=True)
    }
    return TaskScores(np.arange(n, dtype=np.int32), cutoffs, values)


@pytest.fixture(scope="session")
def built() -> dict[str, Any]:
    return make_results()


@pytest.fixture
def results(built: dict[str, Any]) -> dict[str, Any]:
    """To be spoilt at will."""
    return deepcopy(built)


@pytest.fixture
def make() -> Callable[..., dict[str, Any]]:
    return make_results


@pytest.fixture
def outcomes() -> list[TaskOutcome]:
    return make_outcomes(SYSTEMS, True)


@pytest.fixture
def outcomes_of() -> Callable[..., list[TaskOutcome]]:
    return make_outcomes


def make_outcomes(systems: tuple[str, ...] = SYSTEMS, roles: bool = True, seed: int = 0) -> list[TaskOutcome]:
    specs = [
        ("alpha", 200, "in_domain", (0.4, 0.5, 0.52, 0.55, 0.68, 0.7)),
        ("beta", 150, "in_domain", (0.6, 0.5, 0.6, 0.62, 0.5, 0.5)),
        ("gamma", 4, "zero_shot", (0.3, 0.4, 0.43, 0.45, 0.63, 0.65)),
    ]
    outcomes = []
    for number, (name, n, role, means) in enumerate(specs):
        task = make_task(name, n, 20, (1, 5, 15) if name == "alpha" else (1, 5, 10))
        scores = make_scores(task, means[-len(systems) :], number + 10 * seed, systems)
        outcomes.append(
            TaskOutcome(
                task,
                scores,
                role if roles else None,
                ("q7", "q9") if name == "alpha" else (),
                0.25 if roles else None,
                {"kind": "brute force", "recall": 1.0},
                data_sha256(task, "test"),
            )
        )
    return outcomes


def make_results(systems: tuple[str, ...] = SYSTEMS, roles: bool = True, pooled: bool = True) -> dict[str, Any]:
    outcomes = make_outcomes(systems, roles)
    over_pool = {outcome.task.name: outcome.scores for outcome in outcomes}
    return build_results(
        outcomes,
        protocol={"split": "test", "index": "exact", "versions": {"jax": "0.10"}},
        seed=3,
        resamples=300,
        mixture={"tasks": ["alpha", "beta"]} if roles else None,
        pooled=PooledOutcome(60, over_pool, {"kind": "hashing", "recall": 0.97}) if pooled else None,
        skipped={"icons": "images need an image tower"},
    )
