"""What the settings of the sweep differ by, with intervals over queries and over seeds.

    python experiments/gpu/contrasts.py sweep.jsonl sweep-batches.jsonl --out=contrasts.json    # .scores beside each
    python experiments/gpu/contrasts.py contrasts.json                                           # what it says

Every difference is b minus a in nDCG@10 on the test split, the mean over a role's tasks, over the same queries. Two
intervals of 95%: over queries, for these very models (percentile bootstrap, as in `mtret compare`), and over queries
and seeds (with Student's t of their spread), where both sides have several. Seeds are paired where both sides saw the
same batches.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sweep import HALF_WAY, PLAIN, ROLES, SOUP, markdown, model_of, read

from mtret.evaluation.statistics import RESAMPLES, bounds, resampled_means, run_noise

Model = tuple[Any, ...]  # name, rate, batch, steps, seed


@dataclass(frozen=True)
class Side:
    """Models that differ in their seed alone; their mean is compared."""

    rate: float
    batch: int = 64
    seeds: tuple[int | None, ...] = (0,)
    name: str = PLAIN
    steps: int = 150

    def models(self) -> list[Model]:
        return [(self.name, self.rate, self.batch, self.steps, seed) for seed in self.seeds]

    def __str__(self) -> str:
        known = [f"{self.rate:.0e}, {self.batch} x {self.steps}"]
        known += {PLAIN: [], HALF_WAY: ["half-way"], SOUP: ["mean of seeds"]}[self.name]
        if len(self.seeds) == 1 and self.seeds != (None,):
            known.append(f"seed {self.seeds[0]}")
        return ", ".join(known)


def questions() -> Iterator[tuple[str, Side, Side]]:
    """Of which kind, a, b."""
    three, five = (0, 1, 2), (0, 1, 2, 3, 4)
    for rate, seeds in ((5e-5, three), (3e-5, five), (2e-5, three)):
        yield "lower rate", Side(1e-4, seeds=seeds), Side(rate, seeds=seeds)
    for rate, batch in ((1e-4, 64), (5e-5, 64), (1e-4, 1024), (5e-5, 1024)):
        soup = Side(rate, batch, (None,), SOUP)
        yield "mean of seeds", Side(rate, batch, three), soup
        for seed in three if rate == 1e-4 else ():
            yield "mean of seeds", Side(rate, batch, (seed,)), soup
    halves = [(1e-4, 64, five), (1e-4, 256, three), (1e-4, 1024, three), *((2e-4, n, (0,)) for n in (64, 256, 1024))]
    for rate, batch, seeds in halves:
        yield "half-way", Side(rate, batch, seeds), Side(rate, batch, seeds, HALF_WAY)
    for rate, batch in ((1e-4, 256), (5e-5, 1024), (1e-4, 1024)):
        yield "larger batch", Side(1e-4, seeds=three), Side(rate, batch, three)
    yield "larger batch", Side(5e-5, seeds=three), Side(5e-5, 1024, three)
    for rate, batch in ((3e-5, 64), (2e-5, 64), (1e-5, 64), (3e-5, 256)):
        yield "600 steps", Side(rate, batch), Side(rate, batch, steps=600)
    yield "as many pairs", Side(3e-5, steps=600), Side(1e-4, 256)
    hot = Side(2e-4, 1024, name=HALF_WAY)
    yield "hot and half-way", Side(1e-4, seeds=(0,)), hot
    yield "hot and half-way", Side(1e-4, 1024, (0,)), hot
    yield "hot and half-way", Side(1e-4, 64, (None,), SOUP), hot


class Scores:
    """Of every model on every test query. Of a model that stands in several files, the last counts."""

    def __init__(self, paths: Sequence[Path]):
        rows: dict[Model, np.ndarray] = {}
        for path in paths:
            head, lines = read([path])
            self.roles, self.counts = head["roles"], head["queries"]["test"]
            scores = np.fromfile(path.with_suffix(".scores"), np.float32).reshape(len(lines), sum(self.counts.values()))
            for line, row in zip(lines, scores, strict=True):
                rows[model_of(line)] = row
        self.models = list(rows)
        self.values = np.stack([rows[model] for model in self.models], axis=1).astype(np.float64)

    def by_role(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Means of the models [n], and the same with queries drawn anew [r, n]; every task counts the same."""
        found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        start = 0
        for task, count in self.counts.items():
            values = self.values[start : start + count]
            found.setdefault(self.roles[task], []).append((values.mean(axis=0), resampled_means(values, 0, task)))
            start += count
        return {
            role: (np.mean([mean for mean, _ in each], axis=0), np.mean([drawn for _, drawn in each], axis=0))
            for role, each in found.items()
        }


def difference(a: Side, b: Side, models: Sequence[Model], means: np.ndarray, drawn: np.ndarray) -> dict[str, Any]:
    """In one role. `by seed`: where seeds are paired."""
    left, right = ([models.index(model) for model in side.models()] for side in (a, b))
    shift = drawn[:, right].mean(axis=1) - drawn[:, left].mean(axis=1)
    found: dict[str, Any] = {
        "a": round(float(means[left].mean()), 5),
        "b": round(float(means[right].mean()), 5),
        "difference": round(float(means[right].mean() - means[left].mean()), 5),
        "over queries": _bounds(shift),
    }
    if a.seeds == b.seeds and (a.batch, a.steps) == (b.batch, b.steps):
        pairs = means[right] - means[left]
        found["by seed"] = [round(float(each), 5) for each in pairs]
        if len(pairs) > 1:
            noise = run_noise([len(pairs)], 0, RESAMPLES) @ (pairs - pairs.mean())
            found["over queries and seeds"] = _bounds(shift + noise[:, 0])
    elif min(len(left), len(right)) > 1:
        deviations = [means[side] - means[side].mean() for side in (left, right)]
        noise = run_noise([len(left), len(right)], 0, RESAMPLES) @ np.concatenate(deviations)
        found["over queries and seeds"] = _bounds(shift + noise[:, 1] - noise[:, 0])
    return found


def _bounds(drawn: np.ndarray) -> list[float]:
    return [round(float(each), 5) for each in bounds(drawn)]


def contrasts(paths: Sequence[Path]) -> list[dict[str, Any]]:
    scores = Scores(paths)
    by_role = scores.by_role()
    return [
        {"question": question, "a": str(a), "b": str(b), "seeds": [len(a.seeds), len(b.seeds)],
         "roles": {role: difference(a, b, scores.models, *by_role[role]) for role in ROLES if role in by_role}}
        for question, a, b in questions()
    ]  # fmt: skip


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """In thousandths, with the interval over queries, then over queries and seeds."""
    rows = [["b minus a", "seeds of a and b", *(role.replace("_", "-") for role in ROLES)]]
    for one in found:
        cells = []
        for role in ROLES:
            entry = one["roles"][role]
            shown = [_thousandths(entry[key]) for key in ("over queries", "over queries and seeds") if key in entry]
            cells.append(f"{1000 * entry['difference']:+.1f} {' '.join(shown)}")
        rows.append([f"{one['b']} minus {one['a']}", " and ".join(map(str, one["seeds"])), *cells])
    return markdown(rows)


def seen_on_dev(paths: Sequence[Path], name: str) -> dict[str, float]:
    """Spearman's correlation over models of the mean on the trained tasks' dev splits with each role's on test."""
    head, lines = read(paths)
    lines = [line for line in lines if line["name"] == name]
    dev = [np.mean([line["dev"][task] for task in head["mixture"]]) for line in lines]
    test = [[line["means"]["test"][role] for role in ROLES] for line in lines]
    ranks = np.argsort(np.argsort(np.column_stack([dev, test]), axis=0), axis=0)
    return dict(zip(ROLES, np.asarray(np.corrcoef(ranks.T))[0, 1:].round(2).tolist(), strict=True))


def _thousandths(interval: Sequence[float]) -> str:
    return "[" + ", ".join(f"{1000 * each:.0f}" for each in interval) + "]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="what sweep.py wrote, or contrasts to print")
    parser.add_argument("--out", type=Path, default=Path("contrasts.json"))
    arguments = parser.parse_args()
    source = arguments.results[0]
    if source.suffix != ".json":
        for name in (PLAIN, HALF_WAY):
            print(f"dev of the trained tasks with test, {name}: {seen_on_dev(arguments.results, name)}")
        lines = [json.dumps(one) for one in contrasts(arguments.results)]
        source = arguments.out
        source.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    print(table(json.loads(source.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
