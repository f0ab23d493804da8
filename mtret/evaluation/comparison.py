"""Two results of the same data: which of the two models is better, per task and role, query by query."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from jaxtyping import Float64

from mtret.errors import UserError, nearest
from mtret.evaluation import statistics
from mtret.evaluation.query_scores import QueryScores, TaskQueries
from mtret.evaluation.retrieval import PRIMARY, ROLES
from mtret.evaluation.statistics import Interval, Verdict, bounds, resampled_means, verdict
from mtret.evaluation.wording import ROLE_NAMES, STYLES, difference, interval, markdown_table, metric_name

if TYPE_CHECKING:
    from rich.console import RenderableType

SCHEMA = "mtret.comparison/1"
SCOPE = (
    "The intervals are over queries, for these two models as they are. Trainings that differ in their seed alone can "
    "differ as much: train several of each before you say that one way of training is better."
)
NAMED = 5  # tasks in an error
SIDES = ("a", "b")


def judged_system(results: Mapping[str, Any]) -> str:
    """The model that results are about: `tuned`; `untuned` where a model was judged that mtret did not train."""
    return "tuned" if "tuned" in results["systems"] else "untuned" if "untuned" in results["systems"] else ""


def compare(
    a: QueryScores,
    b: QueryScores,
    labels: Sequence[str],
    *,
    metric: str = PRIMARY,
    system: str = "",
    tasks: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """Paired differences, b minus a, over the queries that were judged in both (schema `mtret.comparison/1`).

    Args:
      labels: what the two are called.
      metric: one of `query_scores.METRICS`.
      system: of both; by default the model that each is about.
      tasks: names; by default all that are in both.
      seed: of the bootstrap.

    Raises UserError where splits or tasks do not agree, or nothing is shared.
    """
    sides = (a, b)
    systems = [system or judged_system(each.results) for each in sides]
    for label, chosen, each in zip(labels, systems, sides, strict=True):
        if chosen not in each.results["systems"]:
            known = ", ".join(each.results["systems"])
            raise UserError(f"--system: {label} has no system '{chosen}', only {known}")
    shared = _shared(a, b, labels, tasks)
    entries, resampled = {}, {}
    for name in shared:
        values, left = _paired(a.tasks[name], b.tasks[name], metric, systems)
        if not len(values):
            continue
        means = resampled_means(values, seed, name)
        resampled[name] = values.mean(axis=0), means
        roles = [each.results["tasks"][name]["role"] for each in sides]
        alone = bool(a.results["tasks"][name].get("images"))
        entries[name] = {
            "roles": roles,
            "images": alone,
            **_entry(values.mean(axis=0), means, len(values)),
            "unmatched": left,
        }
    if not entries:
        raise UserError(f"{labels[0]} and {labels[1]} share no query")
    groups = _groups(entries)
    counted = {name: entries[name]["n_queries"] for name in entries}
    return {
        "schema": SCHEMA,
        "metric": metric,
        "split": a.results["protocol"].get("split"),
        **{
            side: _about(label, chosen, each.results)
            for side, label, chosen, each in zip(SIDES, labels, systems, sides, strict=True)
        },
        "bootstrap": {"seed": seed, "resamples": statistics.RESAMPLES, "level": statistics.LEVEL},
        "n_queries": sum(counted.values()),
        "tasks": entries,
        "roles": [
            {"roles": list(roles), "tasks": names, **_mean_of(names, resampled, counted)}
            for roles, names in groups.items()
        ],
        "only": {
            side: sorted(set(own.tasks) - set(other.tasks)) if not tasks else []
            for side, own, other in zip(SIDES, sides, sides[::-1], strict=True)
        },
    }


def _shared(a: QueryScores, b: QueryScores, labels: Sequence[str], tasks: Sequence[str]) -> list[str]:
    splits = [each.results["protocol"].get("split") for each in (a, b)]
    if splits[0] != splits[1]:
        raise UserError(
            f"{labels[0]} was judged on the {splits[0]} split, {labels[1]} on the {splits[1]} split; run "
            "`mtret evaluate --split=...` so that both are of one"
        )
    for name in tasks:
        for label, each in zip(labels, (a, b), strict=True):
            if name not in each.tasks:
                raise UserError(f"--tasks: {label} has no task '{name}'.{nearest(name, each.tasks)}")
    shared = [name for name in a.tasks if name in b.tasks and (not tasks or name in tasks)]
    suites = [each.results["protocol"].get("suite", "?") for each in (a, b)]
    if not shared:
        raise UserError(
            f"{labels[0]} (suite {suites[0]}) and {labels[1]} (suite {suites[1]}) share no task; evaluate both on one "
            "suite"
        )
    differ = [name for name in shared if _data(a, name) != _data(b, name)]
    if differ:
        more = f" and {len(differ) - NAMED} more" if len(differ) > NAMED else ""
        same = [name for name in shared if name not in differ]
        among = ",".join(same[:NAMED]) + ("" if len(same) <= NAMED else ",...")
        remedy = f", or compare the others: --tasks={among}" if same else ""
        raise UserError(
            f"not judged on the same data in {labels[0]} (suite {suites[0]}) and {labels[1]} (suite {suites[1]}): "
            f"{', '.join(differ[:NAMED])}{more}; evaluate both on one suite{remedy}"
        )
    return shared


def _data(scores: QueryScores, task: str) -> Any:
    return scores.results["tasks"][task].get("judged_sha256") or scores.results["protocol"].get("suite_sha256")


def _paired(
    a: TaskQueries, b: TaskQueries, metric: str, systems: Sequence[str]
) -> tuple[Float64[np.ndarray, "q 2"], list[int]]:
    """Scores of the queries that stand in both, and how many of each side do not."""
    place = {query: row for row, query in enumerate(b.ids)}
    rows = [(row, place[query]) for row, query in enumerate(a.ids) if query in place]
    pairs = np.array(rows, np.int64).reshape(-1, 2)
    left = [len(a.ids) - len(rows), len(b.ids) - len(rows)]
    found = [each.scores.get((metric, system)) for each, system in zip((a, b), systems, strict=True)]
    if found[0] is None or found[1] is None:
        return np.zeros((0, 2)), left  # a task of images, which this system does not read
    return np.stack([found[0][pairs[:, 0]], found[1][pairs[:, 1]]], axis=1), left


def _groups(entries: Mapping[str, Any]) -> dict[tuple[str, str], list[str]]:
    """Tasks by what they are to the two models, in order. Tasks of images count in no mean, as in the report."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, entry in sorted(entries.items()):
        if not entry["images"]:
            found.setdefault((entry["roles"][0], entry["roles"][1]), []).append(name)
    return dict(sorted(found.items(), key=lambda item: [ROLES.index(role) for role in item[0][::-1]]))


def _mean_of(names: Sequence[str], resampled: Mapping[str, Any], counted: Mapping[str, int]) -> dict[str, Any]:
    """Every task counts the same; the queries of each are resampled apart."""
    means = np.mean([resampled[name][0] for name in names], axis=0)
    return _entry(means, np.mean([resampled[name][1] for name in names], axis=0), sum(counted[name] for name in names))


def _entry(means: Float64[np.ndarray, "2"], resampled: Float64[np.ndarray, "r 2"], n_queries: int) -> dict[str, Any]:
    low, high = bounds(resampled)
    scores = {side: _shown(means[i], low[i], high[i]) for i, side in enumerate(SIDES)}
    low, high = bounds(resampled[:, 1] - resampled[:, 0])
    shown = _shown(means[1] - means[0], low, high)
    word = verdict(Interval(shown["mean"], *shown["ci95"]), n_queries)
    return {"n_queries": n_queries, **scores, "difference": {**shown, "verdict": word}}


def _shown(mean: Any, low: Any, high: Any) -> dict[str, Any]:
    return {"mean": round(float(mean), 6), "ci95": [round(float(low), 6), round(float(high), 6)]}


def _about(label: str, system: str, results: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("model", "step", "weights_sha256", "suite", "suite_sha256", "date")
    return {"label": label, "system": system} | {key: results["protocol"].get(key) for key in kept}


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
    lines = [f"Against `{a}`, `{b}` is {counts} of {len(words)} tasks."]
    left = np.sum([entry["unmatched"] for entry in comparison["tasks"].values()], axis=0).tolist()
    matched = f"{comparison['n_queries']:,} queries were judged in both"
    if any(left):
        matched += f"; {left[0]:,} of `{a}` alone and {left[1]:,} of `{b}` alone are left out"
    lines.append(f"{matched}.")
    for side, label in zip(SIDES, (a, b), strict=True):
        if comparison["only"][side]:
            lines.append(f"In `{label}` only, and left out: {', '.join(comparison['only'][side])}.")
    lines.append(SCOPE)
    return lines


def names(comparison: Mapping[str, Any]) -> tuple[str, str]:
    """What the two are called."""
    return comparison["a"]["label"], comparison["b"]["label"]


def markdown(comparison: Mapping[str, Any]) -> str:
    """The whole comparison."""
    a, b = names(comparison)
    header = ["queries", a, b, f"`{b}` minus `{a}`"]

    def cells(entry: Mapping[str, Any]) -> list[Any]:
        return [entry["n_queries"], *(interval(entry[side]) for side in SIDES), difference(entry["difference"])]

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
        f"{metric_name(comparison['metric'])}, {comparison['split']} split, {systems}. 95% intervals, over the queries "
        "that were judged in both; differences are paired."
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
        means = [f"{entry[side]['mean']:.3f}" for side in SIDES]
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
