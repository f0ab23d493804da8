"""How often `mtret compare` finds a difference between two ways of training where there is none, by simulation.

    python experiments/006_seeds/coverage.py

Two ways whose means are the same: every training's score of a task is the task's mean, plus what its seed does to all
tasks and to this one, and every query adds its own difficulty, common to all, and noise. What is counted is verdicts
other than `no difference`; five of a hundred are promised. In some settings the seeds of the first way do three
times as much as those of the second, which pooling their spreads denies. Writes coverage.json beside this file. A
quarter of an hour on one core.
"""

import json
from pathlib import Path

import numpy as np

from mtret.evaluation.comparison import Side, compare
from mtret.evaluation.query_scores import QueryScores, TaskQueries
from mtret.evaluation.results import Bootstrap, Results, TaskResults

TRIALS, TASKS, QUERIES = 300, 8, 300
OF_ALL, OF_TASK = 0.005, 0.02  # standard deviations: what a seed does to all tasks, and to one
STEADY = (0.001, 0.005)  # the same of trainings that hardly depend on their seed
DIFFICULTY, NOISE = 0.3, 0.15  # of a query, and of a training's score of it
# Trainings a side, standard deviations of the second side's seeds, and how many times as large the first side's are.
SETTINGS = (
    *((a, b, (OF_ALL, OF_TASK), 1) for a, b in ((1, 1), (2, 2), (3, 3), (5, 5), (1, 5), (2, 5))),
    (1, 1, STEADY, 1),
    (3, 3, STEADY, 1),
    *((a, b, (OF_ALL, OF_TASK), 3) for a, b in ((3, 3), (5, 5), (2, 5), (1, 5))),
)
KEY = ("ndcg@10", "finetuned")
TASK = TaskResults(
    n_queries=QUERIES, systems={}, differences={}, family="", domain="", role="in_domain", n_documents=0, n_dropped=0,
    dropped_queries=(), seen_document_share=None, cutoffs=(10,), scann=None, data_sha256="same",
)  # fmt: skip
RESULTS = Results(
    schema="", protocol={"split": "test"}, bootstrap=Bootstrap(seed=0, resamples=0, level=0.95), systems=("finetuned",),
    mixture=None, tasks={f"task{number}": TASK for number in range(TASKS)}, roles={}, pooled=None, skipped={},
)  # fmt: skip


def training(rng: np.random.Generator, difficulty: np.ndarray, spreads: tuple[float, float]) -> QueryScores:
    """One training, judged on all tasks."""
    of_all = rng.normal(0, spreads[0])
    ids = tuple(map(str, range(QUERIES)))
    tasks = {}
    for number in range(TASKS):
        mean = 0.6 + of_all + rng.normal(0, spreads[1])
        scores = mean + difficulty[number] + rng.normal(0, NOISE, QUERIES)
        tasks[f"task{number}"] = TaskQueries(ids, {KEY: scores})
    return QueryScores(RESULTS, tasks)


def main() -> None:
    """Counts, and writes them."""
    found = []
    for a, b, spreads, times in SETTINGS:
        both = {"a": (a, tuple(times * spread for spread in spreads)), "b": (b, spreads)}
        by_task, by_role, width = 0, 0, 0.0
        for trial in range(TRIALS):
            rng = np.random.default_rng((a, b, trial))
            difficulty = rng.normal(0, DIFFICULTY, (TASKS, QUERIES))
            made = {name: [training(rng, difficulty, own) for _ in range(n)] for name, (n, own) in both.items()}
            one = compare(*(Side(name, runs) for name, runs in made.items()), seed=trial)
            by_task += sum(task.difference.verdict != "no difference" for task in one.tasks.values())
            role = one.roles[0].difference
            by_role += role.verdict != "no difference"
            width += role.high - role.low
        counted = {"task": by_task / TRIALS / TASKS, "role": by_role / TRIALS, "width_of_role": width / TRIALS}
        found.append({"trainings": [a, b], "of_all": spreads[0], "of_task": spreads[1], "times": times, **counted})
        print(
            {key: round(value, 4) if isinstance(value, float) else value for key, value in found[-1].items()},
            flush=True,
        )
    (Path(__file__).parent / "coverage.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
