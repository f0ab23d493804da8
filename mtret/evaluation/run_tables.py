"""Several results side by side, as a paper's table: runs are rows, roles or tasks are columns."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mtret.errors import UserError, nearest
from mtret.evaluation.results import Results, Scores
from mtret.evaluation.retrieval import HYBRID_OF, PRIMARY, ROLES
from mtret.evaluation.statistics import Interval
from mtret.evaluation.wording import ROLE_NAMES, count, interval, metric_name, some
from mtret.tables import Cell, Table

PLUS = " + BM25"
CSV_COLUMNS = ("run", "role", "task", "system", "metric", "mean", "low", "high", "n_queries")


@dataclass(frozen=True)
class RunResults:
    """Results and what their row is called."""

    label: str
    results: Results
    system: str = ""  # that its row shows; empty: the encoder that the results are about

    @property
    def evaluated(self) -> str:
        """The system that its row shows."""
        return self.system or self.results.encoder

    @property
    def own(self) -> tuple[str, ...]:
        """The systems that the results are about: an encoder, and its hybrid."""
        encoder = self.results.encoder
        return tuple(each for each in (encoder, HYBRID_OF.get(encoder, "")) if each in self.results.systems)


class Spread(NamedTuple):
    """Of a group's runs: the mean and the standard deviation of the sample."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class _Row:
    """What a line of the table shows; None where a run has no such column."""

    label: str
    scores: tuple[Interval | Spread | None, ...]
    rival: bool = True  # for the best; no run of a group is one, since the luckiest of several seeds is not a result


def build(
    runs: Sequence[RunResults],
    groups: Mapping[str, Sequence[str]],
    *,
    metric: str = PRIMARY,
    per_task: bool = False,
    only_groups: bool = False,
    intervals: bool = True,
) -> Table:
    """The table of some runs, the best of each column in bold; tasks or roles are rows where there are more of them
    than of runs.

    Args:
      groups: by name, labels of runs that become a row of mean and standard deviation. Runs that are seeds of one
        configuration and in none of these make such rows by themselves.
      per_task: a column for each task in place of each role.
      only_groups: runs that are in a group get no row of their own.
      intervals: show them; without, a table of many columns fits a page.

    Raises UserError where runs were evaluated on different splits or data, or none has the metric.
    """
    _check_same_data(runs)
    _check_metric(runs, metric)
    runs, groups = _with_hybrids(runs, groups)
    keys = _columns(runs, per_task)
    groups = _all_groups(runs, groups)
    members = {label for labels in groups.values() for label in labels}
    every = [
        _Row(run.label, _scores(run.results, run.evaluated, keys, metric), run.label not in members) for run in runs
    ]
    parts = [
        [*_baselines(runs, keys, metric)],
        [row for row in every if row.rival or not only_groups],
        [*_grouped(groups, every, {run.label: run for run in runs}, keys)],
    ]
    comparable = [per_task or _same_tasks(runs, key) for key in keys]
    best = _best([row for part in parts for row in part if row.rival], comparable)
    table = Table(
        ["", *_titles(runs, keys, comparable)],
        [[_shown(row, best, intervals) for row in part] for part in parts if part],
        _title(runs, metric, intervals, bool(groups)),
        [
            f"{ROLE_NAMES[key]}: the runs' tasks are not the same, so these means do not compare; --per_task does."
            for key, same in zip(keys, comparable, strict=True)
            if not same
        ],
    )
    return table.transposed() if len(keys) > len(table.rows) else table


def _with_hybrids(
    runs: Sequence[RunResults], groups: Mapping[str, Sequence[str]]
) -> tuple[list[RunResults], dict[str, Sequence[str]]]:
    """Every run twice where its results have its hybrid with BM25: alone, then fused; and groups so."""
    fused = {run.label: RunResults(run.label + PLUS, run.results, run.own[1]) for run in runs if len(run.own) > 1}
    whole = {name: labels for name, labels in groups.items() if all(label in fused for label in labels)}
    more = {name + PLUS: [label + PLUS for label in labels] for name, labels in whole.items()}
    return [*runs, *fused.values()], {**groups, **more}


def _titles(runs: Sequence[RunResults], keys: Sequence[str], comparable: Sequence[bool]) -> list[str]:
    """What columns are called: roles with the number of their tasks where it is one number."""
    counted = {role: len(one.tasks) for run in runs for role, one in run.results.roles.items()}
    names = [ROLE_NAMES[key] if key in ROLES else key for key in keys]
    return [
        f"{name} ({count(counted[key], 'task')})" if same and key in ROLES else name
        for name, key, same in zip(names, keys, comparable, strict=True)
    ]


def _title(runs: Sequence[RunResults], metric: str, intervals: bool, grouped: bool) -> str:
    suites = sorted({str(run.results.protocol.get("suite", "?")) for run in runs})
    title = f"{metric_name(metric)}, {runs[0].results.protocol.get('split', '?')} split of {', '.join(suites)}"
    title += ", with 95% intervals over queries" if intervals else ""
    return title + ("; ±: standard deviation over runs" if grouped else "")


def _best(rivals: Sequence[_Row], comparable: Sequence[bool]) -> list[float | None]:
    """Of each column that can be compared."""
    columns = zip(*(row.scores for row in rivals), strict=True)
    best = [max((score.mean for score in column if score), default=None) for column in columns]
    return [one if same else None for one, same in zip(best, comparable, strict=True)]


def _shown(row: _Row, best: Sequence[float | None], intervals: bool) -> list[Any]:
    cells = [Cell("")] * len(best)
    for place, score in enumerate(row.scores):
        if score is not None:
            spread = isinstance(score, Spread)
            detail = f"± {score.deviation:.3f}" if spread else interval(score) if intervals else ""
            is_best = row.rival and score.mean == best[place]
            cells[place] = Cell(f"{score.mean:.3f}", detail, "bold" if is_best else "")
    return [row.label, *cells]


def _check_same_data(runs: Sequence[RunResults]) -> None:
    first = runs[0]
    for run in runs[1:]:
        one, other = (each.results.protocol.get("split") for each in (first, run))
        if one != other:
            raise UserError(
                f"{first.label} was evaluated on the {one} split, {run.label} on the {other} split; a table is of one"
            )
        a, b = first.results.tasks, run.results.tasks
        hashes = {name: (a[name].data_sha256, b[name].data_sha256) for name in a if name in b}
        if differ := [name for name, pair in hashes.items() if all(pair) and len(set(pair)) > 1]:
            raise UserError(
                f"not evaluated on the same data in {first.label} and {run.label}: {some(differ)}; "
                "evaluate both on one suite"
            )


def _check_metric(runs: Sequence[RunResults], metric: str) -> None:
    known = dict.fromkeys(
        name for run in runs for entry in _every_entry(run).values() for name in entry.systems.get(run.evaluated, {})
    )
    if metric not in known:
        close = nearest(metric, known)
        raise UserError(f"--metric={metric}: is in none of these results, only {', '.join(known)}.{close}")


def _columns(runs: Sequence[RunResults], per_task: bool) -> list[str]:
    if per_task:
        return sorted({name for run in runs for name in run.results.tasks})
    return [role for role in ROLES if any(role in run.results.roles for run in runs)]


def _scores(results: Results, system: str, keys: Sequence[str], metric: str) -> tuple[Interval | None, ...]:
    """By role or task; no task is called as a role is, since names of roles are looked up first."""
    entries = [results.roles.get(key) if key in ROLES else results.tasks.get(key) for key in keys]
    return tuple(entry.systems.get(system, {}).get(metric) if entry else None for entry in entries)


def _baselines(runs: Sequence[RunResults], keys: Sequence[str], metric: str) -> Iterator[_Row]:
    """Every other system: once where all runs that have it agree on it, else once for those that do."""
    for system in dict.fromkeys(system for run in runs for system in run.results.systems if system not in run.own):
        merged: list[tuple[list[str], tuple[Interval | None, ...]]] = []
        for run in runs:
            if system not in run.results.systems or system in run.own or run.system:
                continue
            scores = _scores(run.results, system, keys, metric)
            for place, (labels, own) in enumerate(merged):
                pairs = list(zip(own, scores, strict=True))
                if all(a is None or b is None or a == b for a, b in pairs):
                    merged[place] = [*labels, run.label], tuple(a or b for a, b in pairs)
                    break
            else:
                merged.append(([run.label], scores))
        for labels, scores in merged:
            yield _Row(system if len(merged) == 1 else f"{system} ({', '.join(labels)})", scores)


def _same_tasks(runs: Sequence[RunResults], role: str) -> bool:
    found = [run.results.roles[role].tasks for run in runs if role in run.results.roles]
    return all(sorted(tasks) == sorted(found[0]) for tasks in found)


def _all_groups(runs: Sequence[RunResults], named: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Those that were named, and of the runs left those that are seeds of one configuration, by a name made of
    theirs."""
    taken = {label for labels in named.values() for label in labels}
    by_config: dict[tuple[str, str], dict[int, str]] = {}
    for run in runs:
        protocol = run.results.protocol
        if protocol.get("training_sha256") is not None and run.label not in taken:
            key = protocol["training_sha256"], run.system
            by_config.setdefault(key, {}).setdefault(protocol["training_seed"], run.label)
    found = {}
    for (_, system), each in by_config.items():
        if len(each) > 1:
            name = ", ".join(label.removesuffix(PLUS) if system else label for label in each.values())
            found[name + PLUS * bool(system)] = [*each.values()]
    return {**named, **found}


def _grouped(
    groups: Mapping[str, Sequence[str]], rows: Sequence[_Row], runs: Mapping[str, RunResults], keys: Sequence[str]
) -> Iterator[_Row]:
    """No mean of a role that is not of the same tasks in all runs of the group."""
    by_label = {row.label: row.scores for row in rows}
    for name, labels in groups.items():
        own = [runs[label] for label in labels]
        spreads = []
        for key, *column in zip(keys, *(by_label[label] for label in labels), strict=True):
            means = [score.mean for score in column if score is not None]
            whole = len(means) == len(labels) and (key not in ROLES or _same_tasks(own, key))
            spreads.append(Spread(float(np.mean(means)), float(np.std(means, ddof=1))) if whole else None)
        yield _Row(f"{name} (mean of {len(labels)})", tuple(spreads))


def long_table(runs: Sequence[RunResults]) -> Table:
    """For CSV: a line for every run, role or task, system and metric; the task is empty in a role's lines."""
    lines = [
        [run.label, role, task, system, metric, *score, entry.n_queries]
        for run in runs
        for (role, task), entry in _every_entry(run).items()
        for system, scores in entry.systems.items()
        for metric, score in scores.items()
    ]
    return Table(CSV_COLUMNS, [lines])


def _every_entry(run: RunResults) -> dict[tuple[str, str], Scores]:
    """Of roles and tasks, by role and task."""
    roles: dict[tuple[str, str], Scores] = {(role, ""): entry for role, entry in run.results.roles.items()}
    return roles | {(entry.role, name): entry for name, entry in run.results.tasks.items()}


def distinct_labels(names: Sequence[str], places: Sequence[str]) -> list[str]:
    """What runs are called: their own names, or where two have one name, as much of the end of their places as tells
    them apart, less what all of these end in."""
    if len(set(names)) == len(names):
        return list(names)
    parts = [[part for part in re.split(r"[/\\]", place) if part not in ("", ".")] for place in places]
    while all(len(each) > 1 for each in parts) and len({each[-1] for each in parts}) == 1:
        parts = [each[:-1] for each in parts]
    for length in range(1, max(map(len, parts)) + 1):
        found = ["/".join(each[-length:]) for each in parts]
        if len(set(found)) == len(found):
            return found
    return [f"{name} ({number})" for number, name in enumerate(names, start=1)]
