"""`mtret report` and `compare`."""

import json
from typing import Any

from absl import flags

from mtret.commands.common import Flags, console, no_overrides
from mtret.errors import UserError

FORMATS = ["terminal", "markdown", "latex", "csv"]


def define_report(values: Flags) -> None:
    flags.DEFINE_list(
        "results",
        [],
        "results.json files or their folders, also without this flag; NAME=FOLDER calls a row so",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "format",
        "",
        ["", *FORMATS],
        "of one table of all of them, on standard output (default: of one, tables and plot anew; of several, terminal)",
        flag_values=values,
    )
    flags.DEFINE_boolean("per_task", False, "a column for each task in place of each role", flag_values=values)
    flags.DEFINE_multi_string(
        "group",
        [],
        "NAME=RUN,RUN: a row of their mean and standard deviation; seeds of one configuration get one without it",
        flag_values=values,
    )
    flags.DEFINE_string(
        "out",
        "",
        "a file for the table, which must not exist; of one results.json without --format, the folder of the report "
        "(default: where results.json lies)",
        flag_values=values,
    )


def report(values: Flags, overrides: list[str]) -> None:
    no_overrides(overrides)
    names: list[str] = list(values["results"].value or [])
    if not names:
        raise UserError(f"--results is needed: {values['results'].help}")
    form: Any = values["format"].value
    from mtret.files import locate
    from mtret.runs.reporting import open_runs, rebuild_report, table_text, write_table

    out = locate(values["out"].value) if values["out"].value else None
    groups = dict(_group(text) for text in values["group"].value or ())
    if len(names) == 1 and not form and not groups and not values["per_task"].value:
        from mtret.evaluation.report import terminal_table

        results, folder = rebuild_report(names[0], out)
        console().print(terminal_table(results))
        print(f"wrote {folder}/results.json, report.md and results.png")
        return
    runs, per_task = open_runs(names), bool(values["per_task"].value)
    if out is None and form in ("", "terminal"):
        from mtret.evaluation.run_tables import build, to_terminal

        console().print(to_terminal(build(runs, groups, per_task)))
        return
    text = table_text(runs, form or "terminal", groups, per_task)
    if out is None:
        print(text, end="")
        return
    write_table(text, out)
    print(f"wrote {out}")


def _group(text: str) -> tuple[str, list[str]]:
    name, _, runs = text.partition("=")
    found = [run for run in runs.split(",") if run]
    if not name or len(found) < 2:
        raise UserError(f"--group={text}: must be NAME=RUN,RUN with two runs or more, called as the table calls them")
    return name, found


def define_compare(values: Flags) -> None:
    flags.DEFINE_list(
        "results",
        [],
        "two folders that `mtret evaluate` wrote, or their results.json, also without this flag: what is compared "
        "with, then what is judged; NAME=FOLDER calls one so",
        flag_values=values,
    )
    flags.DEFINE_enum("metric", "ndcg@10", ["ndcg@10", "recall@10", "mrr@10"], "what is compared", flag_values=values)
    flags.DEFINE_string("system", "", "of both results (default: the judged model, `tuned`)", flag_values=values)
    flags.DEFINE_list("tasks", [], "names; all that are in both if none is given", flag_values=values)
    flags.DEFINE_string("out", "", "a folder for compare.json and compare.md, which must not exist", flag_values=values)
    flags.DEFINE_boolean("json", False, "print compare.json, in place of tables", flag_values=values)
    flags.DEFINE_integer("seed", 0, "of the bootstrap", lower_bound=0, flag_values=values)


def compare(values: Flags, overrides: list[str]) -> None:
    no_overrides(overrides)
    words: list[str] = list(values["results"].value or [])
    if len(words) != 2:
        raise UserError(f"compare: takes two results, got {len(words)}; mtret compare runs/first/test runs/second/test")
    from mtret.files import locate
    from mtret.runs.reporting import compare_results

    out = locate(values["out"].value) if values["out"].value else None
    metric, system, tasks, seed = (values[name].value for name in ("metric", "system", "tasks", "seed"))
    given: Any = {"metric": metric, "system": system or "", "tasks": tuple(tasks or ()), "seed": seed}
    found = compare_results(words, out, **given)
    if values["json"].value:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    from mtret.console import say
    from mtret.evaluation.comparison import summary, terminal_tables

    page = console()
    page.print(terminal_tables(found))
    for line in summary(found):
        say(page, line)
    if out is not None:
        print(f"wrote {out}/compare.json and compare.md")
    print(f"next: mtret report {words[0]} {words[1]} --format=latex")
