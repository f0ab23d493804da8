"""`mtret sweep`."""

import re
import shlex
from typing import TYPE_CHECKING

from mtret.commands.common import Flags, console, define_suite, required
from mtret.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from mtret.run_config import RunConfig
    from mtret.sweeps.definition import Runs


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
    values.switch("list", "name the runs, say which are finished, and do nothing")
    values.switch("print_commands", "print a command for each run, for a queue of jobs, and do nothing")


def sweep(values: Flags, overrides: list[str]) -> int | None:
    source = str(required(values, "sweep"))
    shard = _shard(values["shard"].value or "")
    from mtret.sweeps.definition import read_sweep

    suite = values["suite"].value or ""
    each = values["hold_out"].value == "each"
    runs = read_sweep(source, overrides, suite, _families if each else None)
    chosen = runs.chosen(values["only"].value or [], shard)
    from mtret.files import locate

    if values["list"].value:
        from mtret.sweeps.runner import is_finished

        out = locate(values["out"].value) if values["out"].value else None
        for run in chosen:
            there = out is not None and is_finished(out, run, runs.split)
            print(f"{run.name}  {run.config.loop.steps:,} steps{', finished' if there else ''}")
        return None
    if values["print_commands"].value:
        given = [*(f"--config.{each}" for each in overrides), *([f"--suite={suite}"] if suite else [])]
        given += ["--hold_out=each"] if each else []
        for run in chosen:
            words = ["mtret", "sweep", source, f"--out={required(values, 'out')}", f"--only={run.name}", *given]
            print(shlex.join(words))
        return None
    place = locate(required(values, "out"))
    from mtret.console import say
    from mtret.sweeps import runner
    from mtret.train.loop import Stopped

    page = console()
    out = runner.check_folder(place, runs)
    runner.note(out, runs)
    try:
        outcome = runner.work_off(chosen, runs.split, out, runner.train_and_evaluate(runs, page), page)
    except Stopped as stopped:
        print(f"stopped at step {stopped.step} of a run, state saved; the same command goes on from there")
        return 128 + stopped.signal_number
    report(runs, out)
    for name, words in outcome.failed.items():
        say(page, f"{name} failed: {words}", style="red")
    if outcome.failed:
        raise UserError(f"{len(outcome.failed)} of {len(chosen)} runs failed; the same command tries them again")
    return None


def report(runs: "Runs", out: "Path") -> None:
    """Shows and writes the tables of what is finished."""
    from mtret.sweeps.table import write_report
    from mtret.tables import to_terminal

    page, tables = console(), write_report(runs, out)
    for table in tables:
        page.print(to_terminal(table))
        for line in table.notes:
            page.print(line)
    if tables:
        print(f"wrote {out}/table.md" + (" and sweep.png" if len(tables) > 1 else ""))


def _families(config: "RunConfig") -> list[str]:
    """Of the tasks that a configuration trains on."""
    from mtret.data.suites import load_suite
    from mtret.runs.setup import mixture_tasks

    return sorted({task.card.family for task in mixture_tasks(load_suite(config.suite), config)})


def _shard(text: str) -> tuple[int, int]:
    if not text:
        return 0, 1
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise UserError(f"--shard={text}: is not I/N with I from 0 to N-1, such as 0/4")
    return int(found[1]), int(found[2])
