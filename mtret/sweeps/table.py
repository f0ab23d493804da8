"""What a sweep found: its settings side by side, and each against the baseline."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtret.errors import UserError
from mtret.evaluation import plots
from mtret.evaluation.comparison import Comparison, RoleComparison, Side, TaskComparison, compare, role_words
from mtret.evaluation.query_scores import read_query_scores, results_file
from mtret.evaluation.results import read_results
from mtret.evaluation.retrieval import FINETUNED, FINETUNED_HYBRID
from mtret.evaluation.run_tables import PLUS, RunResults, build, long_table
from mtret.evaluation.statistics import holm
from mtret.evaluation.wording import count
from mtret.files import AnyPath, replace_bytes, replace_text
from mtret.sweeps.definition import WITHOUT, Runs, SweepRun
from mtret.sweeps.runner import is_finished
from mtret.tables import Cell, Form, Table, to_markdown, to_text

LEVEL = 0.025  # of any false star in a table; there are two tables
STARS = (
    "*: a difference that is shown, at a chance of {level:.1%} that any star of this table is false (Holm's correction "
    "over {number} differences; over queries and, where a setting has several seeds, over trainings)."
)
ONE_SEED = "Settings with one seed: what is shown is about that very model, and another seed may differ by more."


def write_report(runs: Runs, out: AnyPath) -> list[Table]:
    """Writes table.md, and sweep.png where there is something to compare; returns the tables to show, none where no run
    is finished."""
    if not finished(runs, out):
        return []
    if runs.hold_out:
        table = held_out(runs, out)
        replace_text(out / "table.md", to_markdown(table) + "\n")
        return [table]
    tables, more, found = [scores(runs, out)], [scores(runs, out, per_task=True)], comparisons(runs, out)
    if found:
        tables.append(differences(runs.baseline, by_role(found)))
        more.append(differences(runs.baseline, by_task(found)).transposed())
        figure = {name: {role: one.difference for role, one in own.items()} for name, own in by_role(found).items()}
        replace_bytes(out / "sweep.png", plots.png(plots.sweep_figure(runs.baseline, figure)))
    replace_text(out / "table.md", "\n\n".join(map(to_markdown, tables + more)) + "\n")
    return tables


def table_text(runs: Runs, out: AnyPath, form: Form, **asked: Any) -> str:
    """The settings' scores in one format; `asked` is what `run_tables.build` can be asked for. CSV has every metric of
    every run. Raises UserError where no run is finished."""
    if not finished(runs, out):
        raise UserError(f"{out}: no run is finished yet")
    if runs.hold_out and form != "csv":
        for name in asked:
            raise UserError(f"{out}: each run left a family out, of which there is one table; leave --{name} out")
        return to_text(held_out(runs, out), form)
    return to_text(long_table(_results(runs, out)) if form == "csv" else scores(runs, out, **asked), form)


def finished(runs: Runs, out: AnyPath) -> dict[str, list[SweepRun]]:
    """Runs with results, by setting; the baseline's first."""
    found = {name: [run for run in own if is_finished(out, run, runs.split)] for name, own in runs.settings.items()}
    return {name: own for name, own in found.items() if own}


def _results(runs: Runs, out: AnyPath) -> list[RunResults]:
    return [
        RunResults(name if len(own) == 1 else run.name, read_results(results_file(_folder(run, runs, out))))
        for name, own in finished(runs, out).items()
        for run in own
    ]


def scores(runs: Runs, out: AnyPath, **asked: Any) -> Table:
    """By role, or as asked, of every setting over its seeds, beside BM25 and the base."""
    named = {name: [run.name for run in own] for name, own in finished(runs, out).items() if len(own) > 1}
    usual = {"only_groups": True, "intervals": not named}
    return build(_results(runs, out), named, **{**usual, **asked})


def held_out(runs: Runs, out: AnyPath) -> Table:
    """nDCG@10 of every family by the runs that left it out, of each setting over its seeds, beside BM25, the base and
    their hybrid: what an application of a new kind may expect."""
    found: dict[str, dict[str, list[float]]] = {}  # by column, then family
    counted: dict[str, int] = {}
    for run in (run for own in finished(runs, out).values() for run in own):
        family, results = run.config.mixture.hold_out[-1], read_results(results_file(_folder(run, runs, out)))
        tasks = [one for name, one in sorted(results.tasks.items()) if family in (name, one.family) and not one.images]
        counted |= {family: len(tasks)} if tasks else {}
        for system in results.systems if tasks else ():
            setting = run.setting.rpartition(WITHOUT)[0]
            column = {FINETUNED: setting, FINETUNED_HYBRID: setting + PLUS}.get(system, system)
            mean = float(np.mean([one.primary(system).mean for one in tasks]))
            found.setdefault(column, {}).setdefault(family, []).append(mean)
    settings = {run.setting.rpartition(WITHOUT)[0] + more for run in runs.every for more in ("", PLUS)}
    columns = sorted(found, key=lambda column: column in settings)
    whole = [family for family in counted if all(family in found[column] for column in columns)]
    rows = [
        [f"{family} ({count(number, 'task')})", *(_mean(found[column].get(family, [])) for column in columns)]
        for family, number in counted.items()
    ]
    means = [_mean([float(np.mean(found[column][family])) for family in whole]) for column in columns]
    missing = sorted({run.config.mixture.hold_out[-1] for run in runs.every} - {*whole})
    notes = [f"Not in the mean, since not every setting has results: {', '.join(missing)}."] if missing else []
    title = f"nDCG@10, {runs.split} split, of each family by the runs that were trained without it"
    return Table(["", *columns], [rows, [["mean of families", *means]]], title, notes)


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f}" if values else ""


def comparisons(runs: Runs, out: AnyPath) -> dict[str, Comparison]:
    """Every setting that has results with the baseline, over the same queries, and over seeds where there are some."""
    sides = {name: _side(name, own, runs, out) for name, own in finished(runs, out).items()}
    base = sides.pop(runs.baseline, None)
    return {} if base is None else {name: compare(base, side) for name, side in sides.items()}


Compared = RoleComparison | TaskComparison


def by_role(found: Mapping[str, Comparison]) -> dict[str, dict[str, Compared]]:
    """By setting, then by role in words."""
    return {name: {role_words(each.roles): each for each in one.roles} for name, one in found.items()}


def by_task(found: Mapping[str, Comparison]) -> dict[str, dict[str, Compared]]:
    """By setting, then by task."""
    return {name: dict(sorted(one.tasks.items())) for name, one in found.items()}


def differences(baseline: str, found: Mapping[str, Mapping[str, Compared]]) -> Table:
    """Of every setting to the baseline, by role or task, with 95% intervals; stars where Holm's correction over all of
    them leaves a difference."""
    every = [(name, key) for name, own in found.items() for key in own]
    adjusted = dict(zip(every, holm([found[name][key].p for name, key in every]), strict=True))
    keys = list(dict.fromkeys(key for _, key in every))

    def shown(name: str, key: str) -> Any:
        if key not in found[name]:
            return ""
        mean, low, high, _ = found[name][key].difference
        star = "*" if adjusted[name, key] < LEVEL else ""
        return Cell(f"{mean:+.3f}{star}", f"[{low:+.3f}, {high:+.3f}]")

    alone = any(max(len(one.a.runs), len(one.b.runs)) == 1 for own in found.values() for one in own.values())
    notes = [STARS.format(level=LEVEL, number=len(every)), *([ONE_SEED] if alone else [])]
    rows = [[name, *(shown(name, key) for key in keys)] for name in found]
    return Table(["", *keys], [rows], f"nDCG@10 less that of {baseline}", notes)


def _side(name: str, own: Sequence[SweepRun], runs: Runs, out: AnyPath) -> Side:
    return Side(name, [read_query_scores(_folder(run, runs, out)) for run in own])


def _folder(run: SweepRun, runs: Runs, out: AnyPath) -> str:
    """Of a run's results."""
    return str(out / run.name / runs.split)
