"""Two models evaluated on the same data: which is better, per task and role, query by query. Either may stand for
several trainings that differ in their seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from mtret.errors import UserError, nearest
from mtret.evaluation import statistics
from mtret.evaluation.query_scores import QueryScores
from mtret.evaluation.results import Bootstrap
from mtret.evaluation.retrieval import PRIMARY, ROLES
from mtret.evaluation.statistics import (
    MIN_QUERIES,
    Difference,
    Interval,
    bounds,
    p_value,
    paired,
    resampled_means,
    rounded,
    run_noise,
    spread_apart,
)
from mtret.evaluation.wording import ROLE_NAMES, STYLES, counts, interval, metric_name, some
from mtret.tables import Cell, Table, to_markdown

SCHEMA = "mtret.comparison/2"
OF_MODELS = (
    "The intervals are over queries, for these two models as they are. Trainings that differ in their seed alone can "
    "differ as much: give several of each (A=RUN,RUN B=RUN,RUN) before you say that one way of training is better."
)
OF_TRAININGS = (
    "The intervals are over queries and over trainings: {counts}. ±: standard deviation over trainings{spread}{few}."
)
SAME_SPREAD = ", whose spread is taken to be the same on both sides"
OWN_SPREAD = ", of each side for itself, since they have not as many; that of the smaller one is known least"
NO_SPREAD = "; `{alone}`, a single one, is taken to spread as the others do, which nothing here can show"
FEW_TRAININGS = 6
ABOUT = ("model", "step", "weights_sha256", "training_seed", "suite", "suite_sha256", "date")  # of each run's protocol


class SideScore(NamedTuple):
    """What one side scores, and each of its trainings."""

    interval: Interval
    runs: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        """As compare.json has it."""
        return {**self.interval.as_json(), "runs": [*self.runs]}


@dataclass(frozen=True, kw_only=True)
class TaskComparison:
    """Of one task."""

    roles: tuple[str, str]  # what it is to a and to b
    images: bool
    n_queries: int
    a: SideScore
    b: SideScore
    difference: Difference  # b minus a
    p: float  # of no difference; not corrected for how many are compared
    unmatched: tuple[int, int]  # queries of each side that are not in all runs


@dataclass(frozen=True, kw_only=True)
class RoleComparison:
    """Means over the tasks that have these roles."""

    roles: tuple[str, str]
    tasks: tuple[str, ...]
    n_queries: int
    a: SideScore
    b: SideScore
    difference: Difference
    p: float


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What a side is called, which system of it is compared, and what its runs are."""

    label: str
    system: str
    runs: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What compare.json holds, key by key."""

    schema: str
    metric: str
    split: str | None
    a: Compared
    b: Compared
    bootstrap: Bootstrap
    n_queries: int
    tasks: Mapping[str, TaskComparison]
    roles: tuple[RoleComparison, ...]
    only: Mapping[str, tuple[str, ...]]  # tasks of one side, left out
    not_in_all: tuple[str, ...]

    @property
    def trainings(self) -> tuple[int, int]:
        """How many each side has."""
        return len(self.a.runs), len(self.b.runs)


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two: a model, or what several trainings of one configuration have in common."""

    label: str
    runs: Sequence[QueryScores]

    def called(self, run: QueryScores) -> str:
        """Which of them, in an error."""
        model = run.results.protocol.get("model") or self.runs.index(run) + 1
        return self.label if len(self.runs) == 1 else f"{self.label} ({model})"


def compare(
    a: Side, b: Side, *, metric: str = PRIMARY, system: str = "", tasks: Sequence[str] = (), seed: int = 0
) -> Comparison:
    """Paired differences, b minus a, over the queries that were evaluated in all.

    A side's score of a query is the mean over its runs. Where there are several, the intervals are also over trainings
    (`statistics.run_noise`).

    Args:
      metric: one of `query_scores.METRICS`.
      system: of both; by default the model that each result is about.
      tasks: names; by default all that are in all results.
      seed: of the bootstrap.

    Raises UserError where splits or tasks do not agree, a model stands twice on a side, or nothing is shared.
    """
    sides = (a, b)
    systems = [_system(side, system) for side in sides]
    shared = _shared(sides, tasks)
    counts = [len(side.runs) for side in sides]
    noise, far = run_noise(counts, seed, statistics.RESAMPLES), run_noise(counts, seed, statistics.TAILS)
    tails = far[:, 1] - far[:, 0]
    found: dict[str, TaskComparison] = {}
    resampled: dict[str, Resampled] = {}
    for name in shared:
        values, left = _matched(sides, name, metric, systems)
        if not len(values):
            continue
        means = values.mean(axis=0)
        resampled[name] = _drawn(resampled_means(values, seed, name), means, noise, len(a.runs))
        found[name] = TaskComparison(
            roles=(_role(a, name), _role(b, name)),
            images=a.runs[0].results.tasks[name].images,
            unmatched=left,
            **_scored(resampled[name], len(values), len(a.runs), tails),
        )
    if not found:
        raise UserError(f"{a.label} and {b.label} share no query")
    counted = {name: one.n_queries for name, one in found.items()}
    own, other = _all_tasks(a), _all_tasks(b)
    return Comparison(
        schema=SCHEMA,
        metric=metric,
        split=a.runs[0].results.protocol.get("split"),
        a=_compared(a, systems[0]),
        b=_compared(b, systems[1]),
        bootstrap=Bootstrap(seed=seed, resamples=statistics.RESAMPLES, level=statistics.LEVEL),
        n_queries=sum(counted.values()),
        tasks=found,
        roles=tuple(
            RoleComparison(roles=roles, tasks=tuple(names), **_mean_of(names, resampled, counted, len(a.runs), tails))
            for roles, names in _groups(found).items()
        ),
        only={key: () if tasks else tuple(sorted(one)) for key, one in (("a", own - other), ("b", other - own))},
        not_in_all=tuple(sorted(n for n in own & other if n not in found and (not tasks or n in tasks))),
    )


def _compared(side: Side, system: str) -> Compared:
    about = tuple({key: run.results.protocol.get(key) for key in ABOUT} for run in side.runs)
    return Compared(label=side.label, system=system, runs=about)


def _system(side: Side, asked: str) -> str:
    chosen = [asked or run.results.encoder for run in side.runs]
    for run, system in zip(side.runs, chosen, strict=True):
        if system not in run.results.systems:
            known = ", ".join(run.results.systems)
            raise UserError(f"--system: {side.called(run)} has no system '{system}', only {known}")
    if len(set(chosen)) > 1:
        raise UserError(f"{side.label}: its runs are about different systems, {', '.join(sorted(set(chosen)))}")
    if len({run.results.protocol.get("training_sha256") for run in side.runs}) > 1:
        raise UserError(
            f"{side.label}: its runs are not seeds of one configuration: {_by_configuration(side)}; compare these with "
            "each other"
        )
    # Two seeds may both have kept the encoder as it came, step 0: the same weights alone are no mistake.
    kept = [tuple(run.results.protocol.get(key) for key in ("weights_sha256", "training_seed")) for run in side.runs]
    if len(set(kept)) < len(kept) and all(weights for weights, _ in kept):
        raise UserError(f"{side.label}: two of its runs are the same model; give trainings that differ in their seed")
    return chosen[0]


def _by_configuration(side: Side) -> str:
    """`x, y / z`: which runs of a side belong together."""
    found: dict[Any, list[str]] = {}
    for run in side.runs:
        protocol = run.results.protocol
        found.setdefault(protocol.get("training_sha256"), []).append(str(protocol.get("model") or "?"))
    return " / ".join(", ".join(models) for models in found.values())


def _role(side: Side, task: str) -> str:
    roles = sorted({run.results.tasks[task].role for run in side.runs})
    if len(roles) > 1:
        raise UserError(
            f"{task} is {' and '.join(ROLE_NAMES[role].lower() for role in roles)} to runs of {side.label}, which are "
            "therefore not trainings of one configuration; leave it out with --tasks, or train again"
        )
    return roles[0]


def _all_tasks(side: Side) -> set[str]:
    return {name for run in side.runs for name in run.tasks}


def _shared(sides: Sequence[Side], tasks: Sequence[str]) -> list[str]:
    """Tasks of all runs, in the order of the first. Raises UserError where they were not evaluated on the same data."""
    runs = [(side.called(run), run) for side in sides for run in side.runs]
    first_name, first = runs[0]
    for name in tasks:
        for label, run in runs:
            if name not in run.tasks:
                raise UserError(f"--tasks: {label} has no task '{name}'.{nearest(name, run.tasks)}")
    asked = [name for name in first.tasks if not tasks or name in tasks]
    shared = [name for name in asked if all(name in run.tasks for _, run in runs)]
    alike = [name for name in shared if all(_data(run, name) == _data(first, name) for _, run in runs)]
    for label, run in runs[1:]:
        splits = [each.results.protocol.get("split") for each in (first, run)]
        if splits[0] != splits[1]:
            raise UserError(
                f"{first_name} was evaluated on the {splits[0]} split, {label} on the {splits[1]} split; run "
                "`mtret evaluate --split=...` so that all are of one"
            )
        suites = [each.results.protocol.get("suite", "?") for each in (first, run)]
        both = f"{first_name} (suite {suites[0]}) and {label} (suite {suites[1]})"
        if not any(name in run.tasks for name in asked):
            raise UserError(f"{both} share no task; evaluate them on one suite")
        differ = [name for name in shared if _data(first, name) != _data(run, name)]
        if differ:
            remedy = f", or compare the others: --tasks={','.join(alike)}" if alike else ""
            raise UserError(
                f"not evaluated on the same data in {both}: {some(differ)}; evaluate them on one suite{remedy}"
            )
    if not shared:
        raise UserError("no task is in all of the runs; evaluate them on one suite")
    return shared


def _data(scores: QueryScores, task: str) -> Any:
    return scores.results.tasks[task].data_sha256 or scores.results.protocol.get("suite_sha256")


def _matched(
    sides: Sequence[Side], task: str, metric: str, systems: Sequence[str]
) -> tuple[Float64[np.ndarray, "q n"], tuple[int, int]]:
    """Scores of the queries that stand in all runs, a column for each, and how many others each side has."""
    by_side = [[run.tasks[task] for run in side.runs] for side in sides]
    ids = [set().union(*(each.ids for each in own)) for own in by_side]
    every = [(each, system) for own, system in zip(by_side, systems, strict=True) for each in own]
    common = set.intersection(*(set(each.ids) for each, _ in every))
    left = (len(ids[0] - common), len(ids[1] - common))
    if any((metric, system) not in each.scores for each, system in every):
        return np.zeros((0, len(every))), left  # a task of images, which this system does not read
    columns = [dict(zip(each.ids, each.scores[metric, system], strict=True)) for each, system in every]
    rows = [[column[query] for column in columns] for query in every[0][0].ids if query in common]
    return np.array(rows, np.float64).reshape(len(rows), len(every)), left


class Resampled(NamedTuple):
    """A task's scores, or a mean of several tasks'."""

    means: Float64[np.ndarray, "n"]  # of each run
    sides: Float64[np.ndarray, "r 2"]  # with queries and trainings drawn again
    queries: Float64[np.ndarray, "r"]  # the difference, with queries alone drawn again


def _drawn(
    resampled: Float64[np.ndarray, "r n"],
    means: Float64[np.ndarray, "n"],
    noise: Float64[np.ndarray, "r 2 n"],
    first: int,
) -> Resampled:
    """The first `first` runs are side a's."""
    a, b = (resampled[:, side].mean(axis=1) for side in (slice(None, first), slice(first, None)))
    return Resampled(means, np.stack([a, b], axis=1) + noise @ _deviations(means, first), b - a)


def _deviations(means: Float64[np.ndarray, "n"], first: int) -> Float64[np.ndarray, "n"]:
    """Of each run from the mean of its side."""
    return np.concatenate([own - own.mean() for own in (means[:first], means[first:])])


def _groups(tasks: Mapping[str, TaskComparison]) -> dict[tuple[str, str], list[str]]:
    """Tasks by what they are to the two models, in order. Tasks of images count in no mean, as in the report."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, task in sorted(tasks.items()):
        if not task.images:
            found.setdefault(task.roles, []).append(name)
    return dict(sorted(found.items(), key=lambda item: [ROLES.index(role) for role in item[0][::-1]]))


def _mean_of(
    names: Sequence[str],
    resampled: Mapping[str, Resampled],
    counted: Mapping[str, int],
    first: int,
    tails: Float64[np.ndarray, "t n"],
) -> dict[str, Any]:
    """Every task counts the same; the queries of each are resampled apart."""
    parts = zip(*(resampled[name] for name in names), strict=True)
    whole = Resampled(*(np.mean(part, axis=0) for part in parts))
    return _scored(whole, sum(counted[name] for name in names), first, tails)


def _scored(found: Resampled, n_queries: int, first: int, tails: Float64[np.ndarray, "t n"]) -> dict[str, Any]:
    """What comparisons of tasks and of roles have alike."""
    means, drawn = found.means, found.sides
    low, high = bounds(drawn)
    runs = (means[:first], means[first:])
    a, b = (
        SideScore(rounded(own.mean(), low[i], high[i]), tuple(round(float(mean), 6) for mean in own))
        for i, own in enumerate(runs)
    )
    low, high = bounds(drawn[:, 1] - drawn[:, 0])
    difference = paired(runs[1].mean() - runs[0].mean(), low, high, n_queries)
    p = p_value(difference.mean, float(found.queries.std()), tails @ _deviations(means, first))
    p = p if n_queries >= MIN_QUERIES else 1.0
    return {"n_queries": n_queries, "a": a, "b": b, "difference": difference, "p": round(p, 6)}


def role_words(roles: Sequence[str]) -> str:
    """`In-domain`, or `Zero-shot, then in-domain` where a task is not the same to both models. A model that was trained
    on no mixture has no say."""
    known = [ROLE_NAMES[role] for role in dict.fromkeys(roles) if role != "all"] or [ROLE_NAMES["all"]]
    return known[0] if len(known) == 1 else f"{known[0]}, then {known[1].lower()}"


def summary(found: Comparison) -> list[str]:
    """What came out, how many queries it rests on, and what was left out, in sentences."""
    a, b = found.a.label, found.b.label
    said = counts([task.difference.verdict for task in found.tasks.values()])
    lines = [f"`{b}` against `{a}`: {said} of {len(found.tasks)} tasks."]
    left = np.sum([task.unmatched for task in found.tasks.values()], axis=0).tolist()
    matched = f"{found.n_queries:,} queries were evaluated in {'both' if sum(found.trainings) == 2 else 'all'}"
    if any(left):
        matched += f"; {left[0]:,} others of `{a}` and {left[1]:,} of `{b}` are left out"
    lines.append(f"{matched}.")
    for label, only in ((a, found.only["a"]), (b, found.only["b"])):
        if only:
            lines.append(f"In `{label}` only, and left out: {', '.join(only)}.")
    if found.not_in_all:
        missing = ", ".join(found.not_in_all)
        lines.append(f"Not in every result, or without a query that is in all, and left out: {missing}.")
    lines.append(_scope(found))
    return lines


def _scope(found: Comparison) -> str:
    """What the intervals are of."""
    runs = found.trainings
    if sum(runs) == 2:
        return OF_MODELS
    both = [*zip(runs, (found.a.label, found.b.label), strict=True)]
    listed = ", ".join(f"{n} of `{label}`" for n, label in both)
    alone = next((label for n, label in both if n == 1), None)
    spread = NO_SPREAD.format(alone=alone) if alone else OWN_SPREAD if spread_apart(runs) else SAME_SPREAD
    few = "; of so few it is hardly known, and more of them narrow the intervals" if sum(runs) < FEW_TRAININGS else ""
    return OF_TRAININGS.format(counts=listed, spread=spread, few=few)


def _spread(side: SideScore) -> str:
    """Of a side's trainings; nothing where there is one."""
    return f" ± {np.std(side.runs, ddof=1):.3f}" if len(side.runs) > 1 else ""


def tables(found: Comparison) -> list[Table]:
    """By role and by task, as a terminal shows them and compare.md has them."""
    a, b = found.a.label, found.b.label
    header = ["queries", a, b, "difference", "95% interval", ""]

    def cells(one: TaskComparison | RoleComparison) -> list[Any]:
        means = [f"{side.interval.mean:.3f}{_spread(side)}" for side in (one.a, one.b)]
        shown = one.difference
        word = Cell(shown.verdict, style=STYLES[shown.verdict])
        return [f"{one.n_queries:,}", *means, f"{shown.mean:+.3f}", interval(shown, "+"), word]

    images = sorted(name for name, task in found.tasks.items() if task.images)
    shown = [*((role_words(one.roles), one.tasks) for one in found.roles), *([("Images", images)] if images else [])]
    by_task = [[[name, title, *cells(found.tasks[name])] for name in names] for title, names in shown]
    by_role = [[role_words(one.roles), len(one.tasks), *cells(one)] for one in found.roles]
    metric, sides = metric_name(found.metric), f"{b} against {a}"
    whole = Table(["task", "role", *header], by_task, f"{metric} by task, {sides}")
    return [Table(["role", "tasks", *header], [by_role], f"{metric} by role, {sides}"), whole] if by_role else [whole]


def markdown(found: Comparison) -> str:
    """The whole comparison."""
    a, b = found.a.label, found.b.label
    intro = (
        f"{metric_name(found.metric)}, {found.split} split, `{found.a.system}` of `{a}`, `{found.b.system}` of `{b}`. "
        f"Differences are paired, `{b}` minus `{a}`; a role's mean counts every task the same."
    )
    parts = [f"# `{b}` against `{a}`", intro, *summary(found)]
    for table in tables(found):
        parts += [f"## {table.title}", to_markdown(replace(table, title=""))]
    return "\n\n".join(parts) + "\n"
