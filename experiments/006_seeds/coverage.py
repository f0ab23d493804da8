"""How often `mtret compare` finds a difference between two ways of training where there is none, by simulation.

    python experiments/006_seeds/coverage.py

Two ways that are the same: every training's score of a task is the task's mean, plus what its seed does to all tasks
and to this one, and every query adds its own difficulty, common to all, and noise. What is counted is verdicts other
than `no difference`; five of a hundred are promised. Writes coverage.json beside this file. Five minutes on one core.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from mtret.evaluation.comparison import Side, compare
from mtret.evaluation.query_scores import QueryScores, TaskQueries

TRIALS, TASKS, QUERIES = 300, 8, 300
OF_ALL, OF_TASK = 0.005, 0.02  # standard deviations: what a seed does to all tasks, and to one
DIFFICULTY, NOISE = 0.3, 0.15  # of a query, and of a training's score of it
SIDES = ((1, 1), (2, 2), (3, 3), (5, 5), (1, 5))
KEY = ("ndcg@10", "tuned")


def training(rng: np.random.Generator, difficulty: np.ndarray) -> QueryScores:
    """One training, judged on all tasks."""
    of_all = rng.normal(0, OF_ALL)
    entry = {"role": "in_domain", "images": False, "judged_sha256": "same"}
    results: dict[str, Any] = {
        "protocol": {"split": "test"},
        "systems": ["tuned"],
        "tasks": {f"task{number}": entry for number in range(TASKS)},
    }
    ids = tuple(map(str, range(QUERIES)))
    tasks = {}
    for number in range(TASKS):
        mean = 0.6 + of_all + rng.normal(0, OF_TASK)
        scores = mean + difficulty[number] + rng.normal(0, NOISE, QUERIES)
        tasks[f"task{number}"] = TaskQueries(ids, {KEY: scores})
    return QueryScores(results, tasks)


def main() -> None:
    """Counts, and writes them."""
    found = {}
    for a, b in SIDES:
        by_task, by_role, width = 0, 0, 0.0
        for trial in range(TRIALS):
            rng = np.random.default_rng((a, b, trial))
            difficulty = rng.normal(0, DIFFICULTY, (TASKS, QUERIES))
            sides = (Side(name, [training(rng, difficulty) for _ in range(n)]) for name, n in (("a", a), ("b", b)))
            one = compare(*sides, seed=trial)
            by_task += sum(entry["difference"]["verdict"] != "no difference" for entry in one["tasks"].values())
            role = one["roles"][0]["difference"]
            by_role += role["verdict"] != "no difference"
            width += role["ci95"][1] - role["ci95"][0]
        found[f"{a} against {b}"] = {
            "task": by_task / TRIALS / TASKS,
            "role": by_role / TRIALS,
            "width_of_role": width / TRIALS,
        }
        print(
            f"{a} against {b}:", {key: round(value, 4) for key, value in found[f"{a} against {b}"].items()}, flush=True
        )
    (Path(__file__).parent / "coverage.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
