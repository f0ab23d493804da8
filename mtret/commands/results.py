"""`mtret report` and `compare`."""

import json
from typing import TYPE_CHECKING, Any, get_args

from mtret.commands.common import Flags, console, next_line
from mtret.errors import UserError
from mtret.tables import Form

if TYPE_CHECKING:
    from mtret.files import AnyPath


def define_report(values: Flags) -> None:
    values.repeated(
        "results",
        "results.json files or their folders, or a sweep's, without this flag; NAME=FOLDER calls a row so; "
        "NAME=FOLDER,FOLDER are a group of that name, with a row of mean and standard deviation; seeds of one "
        "configuration are one anyway",
    )
    values.choice(
        "format",
        "of one table of all of them, on standard output (default: of one, its report; of several, terminal)",
        ["", *get_args(Form)],
        "",
    )
    values.switch("per_task", "tasks in place of roles")
    values.text("metric", "of the table: any that results.json has", "ndcg@10")
    values.switch("intervals", "95% intervals beside means; --nointervals makes a narrower table", default=True)
    values.switch("only_groups", "no row for a run that is in a group")
    values.text(
        "out",
        "a file for the table, which must not exist; of one results.json without --format, the folder of the report "
        "(default: where results.json lies)",
    )


def report(values: Flags) -> None:
    names: list[str] = list(values["results"].value or [])
    if not names:
        raise UserError(f"--results is needed: {values['results'].help}")
    form: Any = values["format"].value
    from mtret.files import CLIENTS, locate, reaching
    from mtret.runs.report import open_runs, rebuild_report, side_of, table_text

    out = locate(values["out"].value) if values["out"].value else None
    asked: dict[str, Any] = {name: values[name].value for name in ("metric", "per_task", "only_groups", "intervals")}
    plain = not form and all(asked[name] == values[name].default for name in asked)
    # Of a place that is given a name (NAME=s3://...) no scheme is known.
    if len(names) == 1 and names[0].partition("://")[0] in (*CLIENTS, names[0]):
        folder = locate(names[0])
        with reaching(folder):
            is_sweep = (folder / "sweep.json").exists()
        if is_sweep:
            given = {name: value for name, value in asked.items() if value != values[name].default}
            _report_sweep(folder, given, form, out)
            return
    label, places = side_of(names[0]) if len(names) == 1 else ("", [])
    if plain and not label and len(places) == 1:
        from mtret.evaluation.report import terminal_tables

        results, folder = rebuild_report(places[0], out)
        console().print(terminal_tables(results))
        print(f"wrote {folder}/results.json, report.md and results.png")
        return
    runs, groups = open_runs(names)
    if out is None and form in ("", "terminal"):
        from mtret.evaluation.run_tables import build
        from mtret.tables import to_terminal

        console().print(to_terminal(build(runs, groups, **asked)))
        return
    _give(table_text(runs, form or "terminal", groups, **asked), out)


def _give(text: str, out: "AnyPath | None") -> None:
    """To standard output, or to a new file."""
    from mtret.files import check_new, check_writable, replace_text

    if out is None:
        print(text, end="")
        return
    check_writable(out.parent, "--out")
    check_new(out, "--out")
    replace_text(out, text)
    print(f"wrote {out}")


def _report_sweep(folder: "AnyPath", asked: dict[str, Any], form: Any, out: "AnyPath | None") -> None:
    """All of a sweep's folder again, or its table in one format."""
    from mtret.commands.sweeps import report, report_search
    from mtret.sweeps import searching
    from mtret.sweeps.runner import noted
    from mtret.sweeps.table import table_text

    if (found := searching.noted(folder)) is not None:
        if asked or form or out is not None:
            raise UserError(f"{folder}: holds a search, of which there is table.md alone; mtret report {folder}")
        report_search(*found, folder)
        return
    if asked or form or out is not None:
        _give(table_text(noted(folder), folder, form or "terminal", **asked), out)
    else:
        report(noted(folder), folder)


def define_compare(values: Flags) -> None:
    values.repeated(
        "results",
        "two folders that `mtret evaluate` wrote, or their results.json, without this flag: what is compared with, "
        "then what is evaluated; NAME=FOLDER calls one so; NAME=FOLDER,FOLDER (or 'NAME=runs/x-*/test') are trainings "
        "that differ in their seed",
    )
    values.choice("metric", "what is compared", ["ndcg@10", "recall@10", "mrr@10"], "ndcg@10")
    values.text("system", "of both results (default: the evaluated model, `finetuned`)")
    values.names("tasks", "names; all that are in both if none is given")
    values.text("out", "a folder for compare.json and compare.md, which must not exist")
    values.switch("json", "print compare.json, in place of tables")
    values.whole("seed", "of the bootstrap", 0, least=0)


def compare(values: Flags) -> None:
    words: list[str] = list(values["results"].value or [])
    if len(words) != 2:
        raise UserError(f"compare: takes two results, got {len(words)}; mtret compare runs/first/test runs/second/test")
    from mtret.files import locate
    from mtret.runs.compare import compare_results
    from mtret.schema import to_json

    out = locate(values["out"].value) if values["out"].value else None
    metric, system, tasks, seed = (values[name].value for name in ("metric", "system", "tasks", "seed"))
    given: Any = {"metric": metric, "system": system or "", "tasks": tuple(tasks or ()), "seed": seed}
    found = compare_results(words, out, **given)
    if values["json"].value:
        print(json.dumps(to_json(found), indent=2, ensure_ascii=False))
        return
    from mtret.console import say
    from mtret.evaluation.comparison import summary, tables
    from mtret.tables import to_terminal

    page = console()
    page.print(*map(to_terminal, tables(found)))
    for line in summary(found):
        say(page, line)
    if out is not None:
        print(f"wrote {out}/compare.json and compare.md")
    of_groups = ["--only_groups"] if max(found.trainings) > 1 else []
    print(next_line("report", *words, *of_groups, "--format=latex"))
