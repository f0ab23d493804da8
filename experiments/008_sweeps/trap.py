"""A planted trap: sweeps in which no setting is better than another. How many show a star all the same?

    python experiments/008_sweeps/trap.py SWEEP [SWEEP ...] [--sweeps=200] [--settings=4] [--seeds=3] [--out=trap.json]

SWEEP: folders of finished sweeps over one suite, of settings with two seeds and more. What a seed does to every query
is taken from them: a simulated training is the mean of the real ones, and a random combination of how the real ones
differ from the mean of their setting, so that queries and tasks vary together as they really do. Tables are made by
mtret's own code; a sweep is trapped if any of its tables, by role or by task, has a star.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mtret.evaluation.comparison import Side, compare
from mtret.evaluation.query_scores import QueryScores, TaskQueries, read_query_scores
from mtret.evaluation.retrieval import PRIMARY
from mtret.sweeps.runner import noted
from mtret.sweeps.table import by_role, by_task, differences, finished


def trainings(folders: Sequence[Path]) -> list[list[QueryScores]]:
    """By setting, those of several seeds."""
    found = []
    for folder in folders:
        runs = noted(folder)
        for own in finished(runs, folder).values():
            if len(own) > 1:
                found.append([read_query_scores(str(folder / run.name / runs.split)) for run in own])
    return found


def scores(one: QueryScores) -> dict[str, np.ndarray]:
    """Of the trained model, by task."""
    system = one.results.systems[-1]
    return {name: task.scores[PRIMARY, system] for name, task in one.tasks.items()}


class Seeds:
    """What trainings of other seeds would score."""

    def __init__(self, real: Sequence[Sequence[QueryScores]]) -> None:
        self.like = real[0][0]
        self.tasks = [*self.like.tasks]
        stacked = [np.stack([np.concatenate([*scores(one).values()]) for one in own]) for own in real]
        self.mean = np.concatenate(stacked).mean(axis=0)
        self.deviations = np.concatenate([own - own.mean(axis=0) for own in stacked])
        self.freedom = sum(len(own) - 1 for own in stacked)

    def drawn(self, random: np.random.Generator, seed: int, name: str) -> QueryScores:
        weights = random.normal(0, self.freedom**-0.5, len(self.deviations))
        values = self.mean + weights @ self.deviations
        ends = np.cumsum([len(self.like.tasks[task].ids) for task in self.tasks])
        system = self.like.results.systems[-1]
        tasks = {
            task: TaskQueries(self.like.tasks[task].ids, {(PRIMARY, system): part})
            for task, part in zip(self.tasks, np.split(values, ends[:-1]), strict=True)
        }
        own = {"model": f"{name}-{seed}", "weights_sha256": f"{name}-{seed}", "fingerprint": f"{name}-{seed}"}
        protocol = {**self.like.results.protocol, **own, "training_seed": seed, "training_sha256": name}
        return QueryScores(replace(self.like.results, protocol=protocol), tasks)

    @property
    def spread(self) -> dict[str, float]:
        """Standard deviation over seeds of a task's mean."""
        ends = np.cumsum([len(self.like.tasks[task].ids) for task in self.tasks])
        parts = np.split(self.deviations, ends[:-1], axis=1)
        found = [float(np.sqrt((part.mean(axis=1) ** 2).sum() / self.freedom)) for part in parts]
        return dict(zip(self.tasks, found, strict=True))


def stars(seeds: Seeds, settings: int, trainings: int, random: np.random.Generator) -> dict[str, int]:
    """Of a simulated sweep, by table."""
    sides = [Side(f"s{n}", [seeds.drawn(random, seed, f"s{n}") for seed in range(trainings)]) for n in range(settings)]
    found = {side.label: compare(sides[0], side) for side in sides[1:]}
    tables = {"by role": differences("s0", by_role(found)), "by task": differences("s0", by_task(found))}
    return {name: sum("*" in str(cell) for row in table.rows for cell in row[1:]) for name, table in tables.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--sweeps", type=int, default=200)
    parser.add_argument("--settings", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    seeds, random = Seeds(trainings(arguments.folders)), np.random.default_rng(0)
    trapped: dict[str, int] = {"by role": 0, "by task": 0, "any": 0}
    for number in range(arguments.sweeps):
        found = stars(seeds, arguments.settings, arguments.seeds, random)
        for name, count in {**found, "any": sum(found.values())}.items():
            trapped[name] += count > 0
        if number % 20 == 19:
            print(number + 1, trapped, flush=True)
    result: dict[str, Any] = {
        "sweeps": arguments.sweeps,
        "settings": arguments.settings,
        "seeds": arguments.seeds,
        "trapped": trapped,
        "spread over seeds of a task's mean": {name: round(value, 4) for name, value in seeds.spread.items()},
        "degrees of freedom": seeds.freedom,
    }
    print(json.dumps(result, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
