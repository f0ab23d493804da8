"""Two models judged on the same data: which is better, per task and role, query by query. Either may stand for several
trainings that differ in their seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from jaxtyping import Float64

from mtret.errors import UserError, nearest
from mtret.evaluation import statistics
from mtret.evaluation.query_scores import QueryScores, TaskQueries
from mtret.evaluation.retrieval import PRIMARY, ROLES
from mtret.evaluation.statistics import Interval, Verdict, bounds, resampled_means, run_noise, spread_apart, verdict
from mtret.evaluation.wording import ROLE_NAMES, STYLES, difference, interval, markdown_table, metric_name

if TYPE_CHECKING:
    from rich.console import RenderableType

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
NAMED = 5  # tasks in an error
SIDES = ("a", "b")


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two: a model, or what several trainings of one configuration have in common."""

    label: str
    runs: Sequence[QueryScores]

    def called(self, run: QueryScores) -> str:
        """Which of them, in an error."""
        model = run.results["protocol"].get("model") or self.runs.index(run) + 1
        return self.label if len(self.runs) == 1 else f"{self.label} ({model})"


def judged_system(results: Mapping[str, Any]) -> str:
    """The model that results are about: `tuned`; `untuned` where a model was judged that mtret did not train."""
    return "tuned" if "tuned" in results["systems"] else "untuned" if "untuned" in results["systems"] else ""


def compare(
    a: Side, b: Side, *, metric: str = PRIMARY, system: str = "", tasks: Sequence[str] = (), seed: int = 0
) -> dict[str, Any]:
    """Paired differences, b minus a, over the queries that were judged in all (schema `mtret.comparison/2`).

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
    noise = run_noise([len(side.runs) for side in sides], seed, statistics.RESAMPLES)
    entries: dict[str, Any] = {}
    resampled: dict[str, tuple[Float64[np.ndarray, "n"], Float64[np.ndarray, "r 2"]]] = {}
    for name in shared:
        values, left = _matched(sides, name, metric, systems)
        if not len(values):
            continue
        means = values.mean(axis=0)
        drawn = _drawn(resampled_means(values, seed, name), means, noise, len(a.runs))
        resampled[name] = means, drawn
        entries[name] = {
            "roles": [_role(side, name) for side in sides],
            "images": bool(a.runs[0].results["tasks"][name].get("images")),
            **_entry(means, drawn, len(values), len(a.runs)),
            "unmatched": left,
        }
    if not entries:
        raise UserError(f"{a.label} and {b.label} share no query")
    counted = {name: entries[name]["n_queries"] for name in entries}
    return {
        "schema": SCHEMA,
        "metric": metric,
        "split": a.runs[0].results["protocol"].get("split"),
        **{
            key: {"label": side.label, "system": chosen, "runs": [_about(run.results) for run in side.runs]}
            for key, side, chosen in zip(SIDES, sides, systems, strict=True)
        },
        "bootstrap": {"seed": seed, "resamples": statistics.RESAMPLES, "level": statistics.LEVEL},
        "n_queries": sum(counted.values()),
        "tasks": entries,
        "roles": [
            {"roles": list(roles), "tasks": names, **_mean_of(names, resampled, counted, len(a.runs))}
            for roles, names in _groups(entries).items()
        ],
        "only": {
            key: sorted(_all_tasks(own) - _all_tasks(other)) if not tasks else []
            for key, own, other in zip(SIDES, sides, sides[::-1], strict=True)
        },
        "not_in_all": sorted(
            name for name in _all_tasks(a) & _all_tasks(b) if name not in entries and (not tasks or name in tasks)
        ),
    }


def _system(side: Side, asked: str) -> str:
    chosen = [asked or judged_system(run.results) for run in side.runs]
    for run, system in zip(side.runs, chosen, strict=True):
        if system not in run.results["systems"]:
            known = ", ".join(run.results["systems"])
            raise UserError(f"--system: {side.called(run)} has no system '{system}', only {known}")
    if len(set(chosen)) > 1:
        raise UserError(f"{side.label}: its runs are about different systems, {', '.join(sorted(set(chosen)))}")
    if len({run.results["protocol"].get("training_sha256") for run in side.runs}) > 1:
        raise UserError(
            f"{side.label}: its runs are not seeds of one configuration: {_by_configuration(side)}; compare these with "
            "each other"
        )
    # Two seeds may both have kept the encoder as it came, step 0: the same weights alone are no mistake.
    kept = [tuple(run.results["protocol"].get(key) for key in ("weights_sha256", "training_seed")) for run in side.runs]
    if len(set(kept)) < len(kept) and all(weights for weights, _ in kept):
        raise UserError(f"{side.label}: two of its runs are the same model; give trainings that differ in their seed")
    return chosen[0]


def _by_configuration(side: Side) -> str:
    """`x, y / z`: which runs of a side belong together."""
    found: dict[Any, list[str]] = {}
    for run in side.runs:
        protocol = run.results["protocol"]
        found.setdefault(protocol.get("training_sha256"), []).append(str(protocol.get("model") or "?"))
    return " / ".join(", ".join(models) for models in found.values())


def _role(side: Side, task: str) -> str:
    roles = sorted({run.results["tasks"][task]["role"] for run in side.runs})
    if len(roles) > 1:
        raise UserError(
            f"{task} is {' and '.join(ROLE_NAMES[role].lower() for role in roles)} to runs of {side.label}, which are "
            "therefore not trainings of one configuration; leave it out with --tasks, or train anew"
        )
    return roles[0]


def _all_tasks(side: Side) -> set[str]:
    return {name for run in side.runs for name in run.tasks}


def _shared(sides: Sequence[Side], tasks: Sequence[str]) -> list[str]:
    """Tasks of all runs, in the order of the first. Raises UserError where they were not judged on the same data."""
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
        splits = [each.results["protocol"].get("split") for each in (first, run)]
        if splits[0] != splits[1]:
            raise UserError(
                f"{first_name} was judged on the {splits[0]} split, {label} on the {splits[1]} split; run "
                "`mtret evaluate --split=...` so that all are of one"
            )
        suites = [each.results["protocol"].get("suite", "?") for each in (first, run)]
        both = f"{first_name} (suite {suites[0]}) and {label} (suite {suites[1]})"
        if not any(name in run.tasks for name in asked):
            raise UserError(f"{both} share no task; evaluate them on one suite")
        differ = [name for name in shared if _data(first, name) != _data(run, name)]
        if differ:
            more = f" and {len(differ) - NAMED} more" if len(differ) > NAMED else ""
            remedy = f", or compare the others: --tasks={','.join(alike)}" if alike else ""
            raise UserError(
                f"not judged on the same data in {both}: {', '.join(differ[:NAMED])}{more}; evaluate them on one "
                f"suite{remedy}"
            )
    if not shared:
        raise UserError("no task is in all of the runs; evaluate them on one suite")
    return shared


def _data(scores: QueryScores, task: str) -> Any:
    return scores.results["tasks"][task].get("judged_sha256") or scores.results["protocol"].get("suite_sha256")


def _matched(
    sides: Sequence[Side], task: str, metric: str, systems: Sequence[str]
) -> tuple[Float64[np.ndarray, "q n"], list[int]]:
    """Scores of the queries that stand in all runs, a column for each, and how many others each side has."""
    by_side = [[run.tasks[task] for run in side.runs] for side in sides]
    ids = [set().union(*(each.ids for each in own)) for own in by_side]
    every = [(each, system) for own, system in zip(by_side, systems, strict=True) for each in own]
    common = set.intersection(*(set(each.ids) for each, _ in every))
    left = [len(own - common) for own in ids]
    if any((metric, system) not in each.scores for each, system in every):
        return np.zeros((0, len(every))), left  # a task of images, which this system does not read
    order = [query for query in every[0][0].ids if query in common]
    return np.stack([_in_order(each, order, (metric, system)) for each, system in every], axis=1), left


def _in_order(scores: TaskQueries, order: Sequence[str], key: tuple[str, str]) -> Float64[np.ndarray, "q"]:
    place = {query: row for row, query in enumerate(scores.ids)}
    return scores.scores[key][np.array([place[query] for query in order], np.int64)]


def _drawn(
    resampled: Float64[np.ndarray, "r n"],
    means: Float64[np.ndarray, "n"],
    noise: Float64[np.ndarray, "r 2 n"],
    first: int,
) -> Float64[np.ndarray, "r 2"]:
    """Means of both sides with the queries drawn anew, and the trainings too. The first `first` runs are side a's."""
    sides = (slice(None, first), slice(first, None))
    deviations = np.concatenate([means[side] - means[side].mean() for side in sides])
    return np.stack([resampled[:, side].mean(axis=1) for side in sides], axis=1) + noise @ deviations


def _groups(entries: Mapping[str, Any]) -> dict[tuple[str, str], list[str]]:
    """Tasks by what they are to the two models, in order. Tasks of images count in no mean, as in the report."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, entry in sorted(entries.items()):
        if not entry["images"]:
            found.setdefault((entry["roles"][0], entry["roles"][1]), []).append(name)
    return dict(sorted(found.items(), key=lambda item: [ROLES.index(role) for role in item[0][::-1]]))


def _mean_of(
    names: Sequence[str], resampled: Mapping[str, Any], counted: Mapping[str, int], first: int
) -> dict[str, Any]:
    """Every task counts the same; the queries of each are resampled apart."""
    means = np.mean([resampled[name][0] for name in names], axis=0)
    drawn = np.mean([resampled[name][1] for name in names], axis=0)
    return _entry(means, drawn, sum(counted[name] for name in names), first)


def _entry(
    means: Float64[np.ndarray, "n"], drawn: Float64[np.ndarray, "r 2"], n_queries: int, first: int
) -> dict[str, Any]:
    low, high = bounds(drawn)
    runs = (means[:first], means[first:])
    scores = {
        side: {**_shown(own.mean(), low[i], high[i]), "runs": [round(float(mean), 6) for mean in own]}
        for i, (side, own) in enumerate(zip(SIDES, runs, strict=True))
    }
    low, high = bounds(drawn[:, 1] - drawn[:, 0])
    shown = _shown(runs[1].mean() - runs[0].mean(), low, high)
    word = verdict(Interval(shown["mean"], *shown["ci95"]), n_queries)
    return {"n_queries": n_queries, **scores, "difference": {**shown, "verdict": word}}


def _shown(mean: Any, low: Any, high: Any) -> dict[str, Any]:
    return {"mean": round(float(mean), 6), "ci95": [round(float(low), 6), round(float(high), 6)]}


def _about(results: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("model", "step", "weights_sha256", "training_seed", "suite", "suite_sha256", "date")
    return {key: results["protocol"].get(key) for key in kept}


def role_words(roles: Sequence[str]) -> str:
    """`In-domain`, or `Zero-shot, then in-domain` where a task is not the same to both models. A model that was trained
    on no mixture has no say."""
    known = [ROLE_NAMES[role] for role in dict.fromkeys(roles) if role != "all"] or [ROLE_NAMES["all"]]
    return known[0] if len(known) == 1 else f"{known[0]}, then {known[1].lower()}"


def summary(comparison: Mapping[str, Any]) -> list[str]:
    """What came out, how many queries it rests on, and what was left out, in sentences."""
    a, b = names(comparison)
    words = [entry["difference"]["verdict"] for entry in comparison["tasks"].values()]
    counts = ", ".join(f"{word} on {words.count(word)}" for word in get_args(Verdict) if word in words)
    lines = [f"`{b}` against `{a}`: {counts} of {len(words)} tasks."]
    left = np.sum([entry["unmatched"] for entry in comparison["tasks"].values()], axis=0).tolist()
    every = "both" if sum(len(comparison[side]["runs"]) for side in SIDES) == 2 else "all"
    matched = f"{comparison['n_queries']:,} queries were judged in {every}"
    if any(left):
        matched += f"; {left[0]:,} others of `{a}` and {left[1]:,} of `{b}` are left out"
    lines.append(f"{matched}.")
    for side, label in zip(SIDES, (a, b), strict=True):
        if comparison["only"][side]:
            lines.append(f"In `{label}` only, and left out: {', '.join(comparison['only'][side])}.")
    if comparison["not_in_all"]:
        missing = ", ".join(comparison["not_in_all"])
        lines.append(f"Not in every result, or without a query that is in all, and left out: {missing}.")
    lines.append(_scope(comparison))
    return lines


def _scope(comparison: Mapping[str, Any]) -> str:
    """What the intervals are of."""
    runs = [len(comparison[side]["runs"]) for side in SIDES]
    if sum(runs) == 2:
        return OF_MODELS
    counts = ", ".join(f"{n} of `{label}`" for n, label in zip(runs, names(comparison), strict=True))
    alone = next((label for n, label in zip(runs, names(comparison), strict=True) if n == 1), None)
    spread = NO_SPREAD.format(alone=alone) if alone else OWN_SPREAD if spread_apart(runs) else SAME_SPREAD
    few = "; of so few it is hardly known, and more of them narrow the intervals" if sum(runs) < FEW_TRAININGS else ""
    return OF_TRAININGS.format(counts=counts, spread=spread, few=few)


def _spread(entry: Mapping[str, Any]) -> str:
    """Of a side's trainings; nothing where there is one."""
    return f" ± {np.std(entry['runs'], ddof=1):.3f}" if len(entry["runs"]) > 1 else ""


def names(comparison: Mapping[str, Any]) -> tuple[str, str]:
    """What the two are called."""
    return comparison["a"]["label"], comparison["b"]["label"]


def markdown(comparison: Mapping[str, Any]) -> str:
    """The whole comparison."""
    a, b = names(comparison)
    header = ["queries", a, b, f"`{b}` minus `{a}`"]

    def cells(entry: Mapping[str, Any]) -> list[Any]:
        means = [interval(entry[side]) + _spread(entry[side]) for side in SIDES]
        return [entry["n_queries"], *means, difference(entry["difference"])]

    by_role = markdown_table(
        ["role", "tasks", *header],
        [[role_words(one["roles"]), len(one["tasks"]), *cells(one)] for one in comparison["roles"]],
    )
    by_task = markdown_table(
        ["task", "role", *header],
        [[name, role_words(entry["roles"]), *cells(entry)] for name, entry in sorted(comparison["tasks"].items())],
    )
    systems = f"`{comparison['a']['system']}` of `{a}`, `{comparison['b']['system']}` of `{b}`"
    intro = (
        f"{metric_name(comparison['metric'])}, {comparison['split']} split, {systems}. 95% intervals; "
        "differences are paired."
    )
    parts = [f"# `{b}` against `{a}`", intro, *summary(comparison)]
    parts += ["## By role", "Mean over tasks, every task counting the same.", by_role] if comparison["roles"] else []
    return "\n\n".join([*parts, "## By task", by_task]) + "\n"


def terminal_tables(comparison: Mapping[str, Any]) -> "RenderableType":
    """By task and by role, for a rich console."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    a, b = names(comparison)
    metric = metric_name(comparison["metric"])

    def table(title: str, *first: str) -> Table:
        made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for place, name in enumerate([*first, "queries", a, b, "difference", "95% interval", ""]):
            made.add_column(Text(name), justify="right" if place else "left", no_wrap=place > 0)
        return made

    def cells(entry: Mapping[str, Any]) -> list[str | Text]:
        one = entry["difference"]
        low, high = one["ci95"]
        means = [f"{entry[side]['mean']:.3f}{_spread(entry[side])}" for side in SIDES]
        word = Text(one["verdict"], style=STYLES[one["verdict"]])
        return [f"{entry['n_queries']:,}", *means, f"{one['mean']:+.3f}", f"[{low:+.3f}, {high:+.3f}]", word]

    by_task = table(f"{metric} by task, {b} against {a}", "task")
    shown = [(one["roles"], one["tasks"]) for one in comparison["roles"]]
    images = sorted(name for name, entry in comparison["tasks"].items() if entry["images"])
    for title, own in [(role_words(roles), tasks) for roles, tasks in shown] + [("Images", images)]:
        if own:
            by_task.add_row(Text(title, style="italic"))
        for name in own:
            by_task.add_row(Text(f"  {name}"), *cells(comparison["tasks"][name]))
    by_role = table(f"{metric} by role, mean over tasks", "role", "tasks")
    for one in comparison["roles"]:
        by_role.add_row(role_words(one["roles"]), str(len(one["tasks"])), *cells(one))
    return Group(by_task, by_role) if comparison["roles"] else by_task
