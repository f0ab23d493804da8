"""Several results side by side, as a paper's table: runs are rows, roles or tasks are columns."""

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from mtret.errors import UserError, nearest
from mtret.evaluation.comparison import judged_system
from mtret.evaluation.retrieval import PRIMARY, ROLES
from mtret.evaluation.wording import ROLE_NAMES, markdown_table, metric_name

if TYPE_CHECKING:
    from rich.console import RenderableType

CSV_COLUMNS = ("run", "role", "task", "system", "metric", "mean", "low", "high", "n_queries", "std", "n_runs")
NAMED = 5  # tasks in an error
LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "]": "{]}", '"': r"\textquotedbl{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}  # fmt: skip


@dataclass(frozen=True)
class RunResults:
    """Results and what their row is called."""

    label: str
    results: Mapping[str, Any]


class Cell(NamedTuple):
    """A mean with its 95% interval, or with the standard deviation over a group's runs."""

    mean: float
    ci95: tuple[float, float] | None = None
    deviation: float | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table; None where a run has no such column."""

    label: str
    kind: Literal["baseline", "run", "group"]
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class RunTable:
    """What every format shows."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    best: tuple[float | None, ...]  # of each column; None where they cannot be compared. No run of a group is best
    title: str
    notes: tuple[str, ...] = ()
    intervals: bool = True  # shown beside means


def build(
    runs: Sequence[RunResults],
    groups: Mapping[str, Sequence[str]],
    *,
    metric: str = PRIMARY,
    per_task: bool = False,
    only_groups: bool = False,
    intervals: bool = True,
) -> RunTable:
    """The table of some runs.

    Args:
      groups: by name, labels of runs that become a row of mean and standard deviation. Runs that are seeds of one
        configuration and in none of these make such rows by themselves.
      per_task: a column for each task in place of each role.
      only_groups: runs that are in a group get no row of their own.
      intervals: show them; without, a table of many columns fits a page.

    Raises UserError where runs were judged on different splits or data, none has the metric, or a group names a run
    that is not there.
    """
    _check_same_data(runs)
    _check_metric(runs, metric)
    keys = _columns(runs, per_task)
    groups = all_groups(runs, groups)
    members = {label for labels in groups.values() for label in labels}
    single = [_row(run.label, "run", run.results, judged_of(run), keys, metric) for run in runs]
    rows = [
        *_baselines(runs, keys, metric),
        *(row for row in single if not only_groups or row.label not in members),
        *_grouped(groups, single, {run.label: run for run in runs}, keys),
    ]
    comparable = [per_task or _same_tasks(runs, role) for role in keys]
    # The luckiest of several seeds is no result, so none of them is called best.
    rivals = [row for row in rows if row.label not in members or row.kind != "run"]
    best = [
        max((row.cells[i].mean for row in rivals if row.cells[i]), default=None) if comparable[i] else None  # type: ignore[union-attr]
        for i in range(len(keys))
    ]
    counted = {role: len(run.results["roles"][role]["tasks"]) for run in runs for role in run.results["roles"]}
    titles = [key if per_task else ROLE_NAMES[key] for key in keys]
    if not per_task:
        titles = [
            f"{title} ({_tasks(counted[key])})" if same else title
            for title, key, same in zip(titles, keys, comparable, strict=True)
        ]
    notes = [
        f"{ROLE_NAMES[key]}: the runs' tasks are not the same, so these means do not compare; --per_task does."
        for key, same in zip(keys, comparable, strict=True)
        if not same
    ]
    suites = sorted({str(run.results["protocol"].get("suite", "?")) for run in runs})
    split = runs[0].results["protocol"].get("split", "?")
    title = f"{metric_name(metric)}, {split} split of {', '.join(suites)}"
    title += ", with 95% intervals over queries" if intervals else ""
    if groups:
        title += "; ±: standard deviation over runs"
    return RunTable(tuple(titles), tuple(rows), tuple(best), title, tuple(notes), intervals)


def judged_of(run: RunResults) -> str:
    """The system that a run's row shows."""
    return judged_system(run.results) or run.results["systems"][-1]


def _tasks(count: int) -> str:
    return f"{count} task" if count == 1 else f"{count} tasks"


def _check_same_data(runs: Sequence[RunResults]) -> None:
    first = runs[0]
    for run in runs[1:]:
        one, other = (each.results["protocol"].get("split") for each in (first, run))
        if one != other:
            raise UserError(
                f"{first.label} was judged on the {one} split, {run.label} on the {other} split; a table is of one"
            )
        tasks = [each.results["tasks"] for each in (first, run)]
        hashes = {name: [task[name].get("judged_sha256") for task in tasks] for name in tasks[0] if name in tasks[1]}
        differ = [name for name, (a, b) in hashes.items() if a and b and a != b]
        if differ:
            more = f" and {len(differ) - NAMED} more" if len(differ) > NAMED else ""
            raise UserError(
                f"not judged on the same data in {first.label} and {run.label}: {', '.join(differ[:NAMED])}{more}; "
                "evaluate both on one suite"
            )


def _check_metric(runs: Sequence[RunResults], metric: str) -> None:
    known = {
        name: None
        for run in runs
        for entry in (*run.results["roles"].values(), *run.results["tasks"].values())
        for name in entry["systems"].get(judged_of(run), {})
    }
    if metric not in known:
        close = nearest(metric, known)
        raise UserError(f"--metric={metric}: is in none of these results, only {', '.join(known)}.{close}")


def _columns(runs: Sequence[RunResults], per_task: bool) -> list[str]:
    if per_task:
        return sorted({name for run in runs for name in run.results["tasks"]})
    return [role for role in ROLES if any(role in run.results["roles"] for run in runs)]


def _entries(results: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    """Of a role or a task; no task is called as a role is, since names of roles are looked up first."""
    return results["roles"].get(key) if key in ROLES else results["tasks"].get(key)


def _row(label: str, kind: Any, results: Mapping[str, Any], system: str, keys: Sequence[str], metric: str) -> Row:
    cells = []
    for key in keys:
        entry = _entries(results, key)
        score = entry["systems"].get(system, {}).get(metric) if entry else None
        cells.append(Cell(score["mean"], tuple(score["ci95"])) if score else None)
    return Row(label, kind, tuple(cells))


def _baselines(runs: Sequence[RunResults], keys: Sequence[str], metric: str) -> Iterator[Row]:
    """Every other system: once where all runs that have it agree on it, else once for those that do."""
    systems = dict.fromkeys(system for run in runs for system in run.results["systems"] if system != judged_of(run))
    for system in systems:
        merged: list[tuple[list[str], tuple[Cell | None, ...]]] = []
        for run in runs:
            if system not in run.results["systems"] or system == judged_of(run):
                continue
            cells = _row("", "baseline", run.results, system, keys, metric).cells
            for place, (labels, own) in enumerate(merged):
                pairs = list(zip(own, cells, strict=True))
                if all(a is None or b is None or a == b for a, b in pairs):
                    merged[place] = [*labels, run.label], tuple(a or b for a, b in pairs)
                    break
            else:
                merged.append(([run.label], cells))
        for labels, cells in merged:
            name = system if len(merged) == 1 else f"{system} ({', '.join(labels)})"
            yield Row(name, "baseline", cells)


def _same_tasks(runs: Sequence[RunResults], role: str) -> bool:
    found = [run.results["roles"][role]["tasks"] for run in runs if role in run.results["roles"]]
    return all(sorted(tasks) == sorted(found[0]) for tasks in found)


def all_groups(runs: Sequence[RunResults], named: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The groups that were asked for, and of the runs left those that are seeds of one configuration."""
    known = [run.label for run in runs]
    for name, labels in named.items():
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise UserError(f"--group={name}: '{twice}' stands in it twice")
        for label in labels:
            if label not in known:
                raise UserError(f"--group={name}: no run '{label}', only {', '.join(known)}.{nearest(label, known)}")
    taken = {label for labels in named.values() for label in labels}
    own = {name: list(labels) for name, labels in named.items()}
    return own | _seeds([run for run in runs if run.label not in taken])


def _grouped(
    groups: Mapping[str, Sequence[str]], single: Sequence[Row], runs: Mapping[str, RunResults], keys: Sequence[str]
) -> Iterator[Row]:
    """No mean of a role that is not of the same tasks in all runs of the group."""
    by_label = {row.label: row for row in single}
    for name, labels in groups.items():
        own = [runs[label] for label in labels]
        cells = []
        for key, *column in zip(keys, *(by_label[label].cells for label in labels), strict=True):
            means = [cell.mean for cell in column if cell is not None]
            whole = len(means) == len(labels) and (key not in ROLES or _same_tasks(own, key))
            cells.append(Cell(float(np.mean(means)), deviation=_deviation(means)) if whole else None)
        yield Row(_of_group(name, labels), "group", tuple(cells))


def _of_group(name: str, labels: Sequence[str]) -> str:
    return f"{name} (mean of {len(labels)})"


def _deviation(means: Sequence[float]) -> float:
    return float(np.std(means, ddof=1)) if len(means) > 1 else 0.0


def _seeds(runs: Sequence[RunResults]) -> dict[str, list[str]]:
    """Runs of one configuration that differ by their seed, by a name made of theirs."""
    by_config: dict[str, dict[int, str]] = {}
    for run in runs:
        protocol = run.results["protocol"]
        if protocol.get("training_sha256") is not None:
            by_config.setdefault(protocol["training_sha256"], {}).setdefault(protocol["training_seed"], run.label)
    return {", ".join(each.values()): list(each.values()) for each in by_config.values() if len(each) > 1}


def to_markdown(table: RunTable) -> str:
    """The best of each column in bold."""

    def show(row: Row, place: int) -> str:
        text = _text(table, row.cells[place])
        return f"**{text}**" if _is_best(table, row, place) else text

    body = markdown_table(*_laid_out(table, [row.label for row in table.rows], table.columns, show))
    return "\n\n".join([body, f"{table.title}.", *table.notes]) + "\n"


def is_across(table: RunTable) -> bool:
    """Whether tasks or roles are rows: where there are more of them than of runs."""
    return len(table.columns) > len(table.rows)


def _laid_out(
    table: RunTable, labels: Sequence[str], columns: Sequence[str], show: Callable[[Row, int], Any]
) -> tuple[list[str], list[list[Any]]]:
    """Header and rows, each cell by `show(row, place)`."""
    cells = [[show(row, place) for place in range(len(columns))] for row in table.rows]
    if is_across(table):
        across = zip(columns, zip(*cells, strict=True), strict=True)
        return ["", *labels], [[name, *column] for name, column in across]
    return ["", *columns], [[label, *own] for label, own in zip(labels, cells, strict=True)]


def _is_best(table: RunTable, row: Row, place: int) -> bool:
    cell = row.cells[place]
    return cell is not None and cell.mean == table.best[place]


def _text(table: RunTable, cell: Cell | None) -> str:
    if cell is None:
        return ""
    if cell.ci95 is not None:
        if not table.intervals:
            return f"{cell.mean:.3f}"
        return f"{cell.mean:.3f} [{cell.ci95[0]:.3f}, {cell.ci95[1]:.3f}]"
    return f"{cell.mean:.3f} ± {cell.deviation:.3f}"


def latex_text(text: str) -> str:
    """With every sign that LaTeX takes for its own written so that it stands there."""
    return "".join(LATEX.get(sign, sign) for sign in " ".join(text.split()))


def to_latex(table: RunTable) -> str:
    """A `tabular` with rules of the package booktabs; the best of each column in bold."""

    def show(row: Row, place: int) -> str:
        cell = row.cells[place]
        if cell is None:
            return "--"
        mean = rf"\textbf{{{cell.mean:.3f}}}" if _is_best(table, row, place) else f"{cell.mean:.3f}"
        if cell.ci95 is None:
            return rf"{mean} $\pm$ {cell.deviation:.3f}"
        return rf"{mean} {{\scriptsize [{cell.ci95[0]:.3f}, {cell.ci95[1]:.3f}]}}" if table.intervals else mean

    labels, columns = ([*map(latex_text, names)] for names in ([row.label for row in table.rows], table.columns))
    header, body = _laid_out(table, labels, columns, show)
    about = [f"% {' '.join(line.split())}" for line in (f"{table.title}.", *table.notes)]
    lines = [r"% \usepackage{booktabs}", *about, rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\toprule"]
    lines.append(" & ".join(header).strip() + r" \\")
    kinds = [""] * len(body) if is_across(table) else [row.kind for row in table.rows]
    for before, kind, cells in zip([None, *kinds], kinds, body, strict=False):
        lines += [r"\midrule"] if kind != before else []
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def to_csv(runs: Sequence[RunResults], groups: Mapping[str, Sequence[str]], only_groups: bool = False) -> str:
    """Long format: a line for every run, role or task, system and metric; the task is empty in a role's lines. Groups
    follow, with a standard deviation over their runs in place of an interval."""
    groups = all_groups(runs, groups)
    members = {label for labels in groups.values() for label in labels}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for run in runs:
        if only_groups and run.label in members:
            continue
        for (role, task), entry in _every_entry(run).items():
            for system, scores in entry["systems"].items():
                for metric, one in scores.items():
                    numbers = (one["mean"], *one["ci95"], entry["n_queries"], "", 1)
                    writer.writerow([run.label, role, task, system, metric, *numbers])
    by_label = {run.label: run for run in runs}
    for name, labels in groups.items():
        own = [by_label[label] for label in labels]
        for line in _group_lines(own):
            writer.writerow([_of_group(name, labels), *line])
    return out.getvalue()


def _every_entry(run: RunResults) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Of roles and tasks, by role and task."""
    roles = {(role, ""): entry for role, entry in run.results["roles"].items()}
    return roles | {(entry["role"], name): entry for name, entry in run.results["tasks"].items()}


def _group_lines(runs: Sequence[RunResults]) -> Iterator[list[Any]]:
    """What all runs of a group have, as lines of the CSV less their first column."""
    entries = [_every_entry(run) for run in runs]
    for role, task in entries[0]:
        if not all((role, task) in own for own in entries) or not (task or _same_tasks(runs, role)):
            continue
        each = [own[role, task] for own in entries]
        n_queries = each[0]["n_queries"] if len({entry["n_queries"] for entry in each}) == 1 else ""
        for system, metrics in each[0]["systems"].items():
            for metric in metrics:
                scores = [entry["systems"].get(system, {}).get(metric) for entry in each]
                if all(scores):
                    means = [score["mean"] for score in scores]
                    numbers = (float(np.mean(means)), "", "", n_queries, _deviation(means), len(runs))
                    yield [role, task, system, metric, *numbers]


def to_terminal(table: RunTable) -> "RenderableType":
    """For a rich console; tasks or roles are rows where there are more of them than of runs."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    across = is_across(table)
    made = Table(title=f"{table.title}", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))

    def show(row: Row, place: int) -> Text:
        return Text(_text(table, row.cells[place]), style="bold" if _is_best(table, row, place) else "")

    header, body = _laid_out(table, [row.label for row in table.rows], table.columns, show)
    for place, name in enumerate(header):
        made.add_column(Text(name), justify="right" if place else "left")
    kinds = [""] * len(body) if across else [row.kind for row in table.rows]
    for before, kind, (name, *cells) in zip([kinds[0], *kinds], kinds, body, strict=False):
        if kind != before:
            made.add_section()
        made.add_row(Text(name), *cells)
    return Group(made, *(Text(note) for note in table.notes))


def distinct_labels(names: Sequence[str], places: Sequence[str]) -> list[str]:
    """What runs are called: their own names, or where two have one name, as much of the end of their places as tells
    them apart, less what all of these end in."""
    if len(set(names)) == len(names):
        return list(names)
    parts = [[part for part in re.split(r"[/\\]", place) if part not in ("", ".")] for place in places]
    while all(len(each) > 1 for each in parts) and len({each[-1] for each in parts}) == 1:
        parts = [each[:-1] for each in parts]
    for count in range(1, max(map(len, parts)) + 1):
        found = ["/".join(each[-count:]) for each in parts]
        if len(set(found)) == len(found):
            return found
    return [f"{name} ({number})" for number, name in enumerate(names, start=1)]
