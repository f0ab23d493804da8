"""`mtret sweep`."""

import re
import shlex
from typing import TYPE_CHECKING

from mtret.commands.common import Flags, console, define_suite, required
from mtret.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mtret.files import AnyPath
    from mtret.run_config import RunConfig
    from mtret.sweeps.definition import Runs, SearchPlan, SweepRun
    from mtret.tables import Table
    from mtret.train.loop import Stopped


def define_sweep(values: Flags) -> None:
    values.text("sweep", "a file path.py or path.py:argument, whose get_sweep() returns a mtret.sweeps.Sweep")
    values.text("out", "the sweep's folder; the same command again goes on, and several may work in one folder")
    define_suite(values)
    values.names("only", "runs or settings by name, of those that --list shows")
    values.text("shard", "I/N: of the runs every Nth, from number I, counted from 0")
    values.choice(
        "hold_out",
        "each: every setting once for each family of what it trains on, which is left out and evaluated",
        ["", "each"],
        "",
    )
    values.switch("dry_run", "say what every run would take of steps, tokens, memory and time, and write nothing")
    values.text(
        "storage",
        "of a search: the address of the study that its workers share, as Optuna takes it, such as sqlite:///study.db "
        "or postgresql://... (default: a journal in the sweep's folder)",
    )
    values.switch("list", "name the runs, say which are finished, and do nothing")
    values.switch("print_commands", "print a command for each run, for a queue of jobs, and do nothing")


def sweep(values: Flags, overrides: list[str]) -> int | None:
    source = str(required(values, "sweep"))
    shard = _shard(values["shard"].value or "")
    from mtret.sweeps.definition import SearchPlan, read_sweep

    suite = values["suite"].value or ""
    each = values["hold_out"].value == "each"
    runs = read_sweep(source, overrides, suite, _families if each else None)
    if isinstance(runs, SearchPlan):
        return _search(values, runs)
    if values["storage"].value:
        raise UserError("--storage: is of a search; this sweep says itself what its runs are")
    chosen = runs.chosen(values["only"].value or [], shard)
    from mtret.files import locate

    if values["list"].value:
        from mtret.sweeps.runner import is_finished

        out = locate(values["out"].value) if values["out"].value else None
        for run in chosen:
            there = out is not None and is_finished(out, run, runs.split)
            print(f"{run.name}  {run.config.loop.steps:,} steps{', finished' if there else ''}")
        return None
    if values["dry_run"].value:
        _dry_run(runs, chosen, locate(values["out"].value) if values["out"].value else None)
        return None
    if values["print_commands"].value:
        given = [*(f"--config.{each}" for each in overrides), *([f"--suite={suite}"] if suite else [])]
        given += ["--hold_out=each"] if each else []
        for run in chosen:
            words = ["mtret", "sweep", source, f"--out={required(values, 'out')}", f"--only={run.name}", *given]
            print(shlex.join(words))
        return None
    out = locate(required(values, "out"))
    from mtret.console import say
    from mtret.sweeps import runner
    from mtret.train.loop import Stopped

    page = console()
    runner.check_folder(out, runs)
    runner.note(out, runs)
    try:
        work = runner.Worker(runs.evaluation, runs.sources, page).train_and_evaluate
        outcome = runner.work_off(chosen, runs.split, out, work, page)
    except Stopped as stopped:
        return _stopped(stopped)
    report(runs, out)
    for name, words in outcome.failed.items():
        say(page, f"{name} failed: {words}", style="red")
    if outcome.failed:
        raise UserError(f"{len(outcome.failed)} of {len(chosen)} runs failed; the same command tries them again")
    return None


def _stopped(stopped: "Stopped") -> int:
    print(f"stopped at step {stopped.step} of a run, state saved; the same command goes on from there")
    return 128 + stopped.signal_number


def _search(values: Flags, plan: "SearchPlan") -> int | None:
    """As `sweep`, where Optuna says what the runs are."""
    for name in ("only", "shard", "list", "print_commands"):
        if values[name].value:
            raise UserError(f"--{name}: a search has no runs beforehand; start the same command once for every worker")
    from mtret.files import locate

    if values["dry_run"].value:
        from dataclasses import replace

        first = plan.run(0, {})
        trials = tuple(replace(first, setting=f"trial{number}") for number in range(plan.search.trials))
        _dry_run(replace(plan.about, every=trials), trials, None)
        return None
    out = locate(required(values, "out"))
    from mtret.sweeps import runner, searching
    from mtret.train.loop import Stopped

    page = console()
    runner.check_place(out)
    storage = values["storage"].value or ""
    worker = runner.Worker(plan.about.evaluation, plan.sources, page)
    try:
        searching.run_search(plan, out, storage, worker.train_for_score, worker.train_and_evaluate, page)
    except Stopped as stopped:
        return _stopped(stopped)
    report_search(plan, storage, out)
    return None


def report_search(plan: "SearchPlan", storage: str, out: "AnyPath") -> None:
    """Shows and writes what was found."""
    from mtret.sweeps import searching

    tables = searching.report_search(plan, storage, out)
    _show(tables)
    print(f"wrote {out}/table.md and search.png" if tables else f"{out}: no trial is finished yet")


def _dry_run(runs: "Runs", chosen: "Sequence[SweepRun]", out: "AnyPath | None") -> None:
    from mtret.runs import session
    from mtret.sweeps.estimate import estimate

    _show([estimate(runs, chosen, out, session.begin(console()).cache)])


def report(runs: "Runs", out: "AnyPath") -> None:
    """Shows and writes the tables of what is finished."""
    from mtret.sweeps.table import write_report

    tables = write_report(runs, out)
    _show(tables)
    if not tables:
        print(f"{out}: no run is finished yet")
        return
    print(f"wrote {out}/table.md" + (" and sweep.png" if len(tables) > 1 else ""))


def _show(tables: "Sequence[Table]") -> None:
    from mtret.tables import to_terminal

    page = console()
    for table in tables:
        page.print(to_terminal(table))


def _families(config: "RunConfig") -> list[str]:
    """Of the tasks that a configuration trains on."""
    from mtret.data.suites import load_suite
    from mtret.runs.tasks import mixture_tasks

    return sorted({task.card.family for task in mixture_tasks(load_suite(config.suite), config)})


def _shard(text: str) -> tuple[int, int]:
    if not text:
        return 0, 1
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise UserError(f"--shard={text}: is not I/N with I from 0 to N-1, such as 0/4")
    return int(found[1]), int(found[2])
