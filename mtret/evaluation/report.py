"""Tables for people, from the results dictionary alone: Markdown, the terminal, and the folder that holds all three."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mtret.evaluation.findings import findings, reference_system, tasks_by_role
from mtret.evaluation.results import validate, write_results
from mtret.evaluation.retrieval import KIND, PRIMARY, ROLES
from mtret.evaluation.statistics import MIN_QUERIES
from mtret.evaluation.wording import (
    ROLE_MEANINGS,
    ROLE_NAMES,
    STYLES,
    WORDS,
    difference,
    interval,
    markdown_table,
    metric_name,
)
from mtret.files import AnyPath, replace_bytes, replace_text

if TYPE_CHECKING:
    from rich.console import RenderableType

FEW_QUERIES = 100


def write_report(results: Mapping[str, Any], folder: AnyPath) -> None:
    """Writes results.json, report.md and results.png into a folder, each all or nothing.

    Raises:
      UserError: the results are not of the schema.
    """
    from mtret.evaluation.plots import results_png

    write_results(results, folder / "results.json")
    replace_text(folder / "report.md", markdown(results))
    replace_bytes(folder / "results.png", results_png(results))


def markdown(results: Mapping[str, Any]) -> str:
    """The whole report. Raises UserError where the results are not of the schema."""
    validate(results)
    sections = [
        _summary(results),
        _roles(results),
        _tasks(results),
        _details(results),
        _images(results),
        _base_forms(results),
        _dimensions(results),
        _pooled(results),
        _scann(results),
        _left_out(results),
        _protocol(results),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _summary(results: Mapping[str, Any]) -> str:
    systems, tasks = results["systems"], results["tasks"]
    lines = ["# Retrieval results", ""]
    other = reference_system(systems)
    if other is None:
        return "\n".join([*lines, f"{len(tasks)} tasks."])
    last = systems[-1]
    for role, names in tasks_by_role(tasks):
        verdicts = [tasks[name]["differences"][other]["verdict"] for name in names]
        counts = ", ".join(f"{word} on {verdicts.count(key)}" for key, word in WORDS.items() if verdicts.count(key))
        lines.append(
            f"- {ROLE_NAMES[role]} ({ROLE_MEANINGS[role]}): of {_count(len(names), 'task')}, "
            f"`{last}` against `{other}` is {counts}."
        )
    found = findings(results)[results["mixture"] is not None :]  # where there is one, the first stands above already
    lines += [
        "",
        f"All verdicts compare {metric_name(PRIMARY)} on the same queries: *better* and *WORSE* where the 95% interval "
        "of the paired difference leaves out 0, else *no difference*, which is no proof of equality: a task with few "
        f"queries has a wide interval. With fewer than {MIN_QUERIES} queries nothing is claimed. "
        "With many tasks, about one verdict in twenty would come about by chance between equal systems.",
        *(f"\n{line}" for line in found),
    ]
    return "\n".join(lines)


def _roles(results: Mapping[str, Any]) -> str:
    intro = (
        f"Mean over tasks of {metric_name(PRIMARY)}, every task counting the same, with 95% intervals over queries "
        "(the tasks are taken as given: the intervals say nothing about other tasks)."
    )
    return _with_heading("By role", intro, role_tables(results["roles"], results["systems"]))


def role_tables(roles: Mapping[str, Any], systems: Sequence[str]) -> str:
    """Markdown: every system's scores by role, and the last system's paired difference to each of the others."""
    shown = [(role, roles[role]) for role in ROLES if role in roles]
    scores = markdown_table(
        ["role", "tasks", "queries", *systems],
        [
            [ROLE_NAMES[role], len(one["tasks"]), one["n_queries"]]
            + [interval(one["systems"][system][PRIMARY]) for system in systems]
            for role, one in shown
        ],
    )
    if len(systems) < 2:
        return scores
    differences = markdown_table(
        [f"`{systems[-1]}` minus", *systems[:-1]],
        [
            [ROLE_NAMES[role], *(difference(one["differences"][system]) for system in systems[:-1])]
            for role, one in shown
        ],
    )
    return f"{scores}\n\n{differences}"


def _tasks(results: Mapping[str, Any]) -> str:
    systems, tasks = results["systems"], results["tasks"]
    other = reference_system(systems)
    intro = (
        f"{metric_name(PRIMARY)}. *Seen*: share of the gold documents that were positives in training. "
        f"°: fewer than {FEW_QUERIES} queries."
    )
    header = ["task", "family", "queries", "documents", "seen", *systems]
    header += [f"`{systems[-1]}` minus `{other}`"] if other else []
    parts = []
    for role, names in tasks_by_role(tasks):
        rows = []
        for name in names:
            task = tasks[name]
            few = "°" if task["n_queries"] < FEW_QUERIES else ""
            scores = {system: task["systems"][system][PRIMARY]["mean"] for system in systems}
            row = [name, task["family"], f"{task['n_queries']}{few}", task["n_documents"]]
            row += [_share(task["seen_document_share"]), *_means(scores)]
            rows.append(row + ([difference(task["differences"][other])] if other else []))
        parts.append(f"### {ROLE_NAMES[role]}\n\n{markdown_table(header, rows)}")
    return _with_heading("By task", intro, "\n\n".join(parts))


def _details(results: Mapping[str, Any]) -> str:
    systems, tasks = results["systems"], results["tasks"]
    if not tasks:
        return ""
    last = systems[-1]
    common = ["recall@10", "capped_recall@10", "mrr@10", "map"]
    rows = []
    for _, names in tasks_by_role(tasks):
        for name in names:
            scores = tasks[name]["systems"][last]
            cutoffs = [k for k in tasks[name]["cutoffs"] if k != 10]
            at_card = ", ".join(f"{scores[f'recall@{k}']['mean']:.3f} @{k}" for k in cutoffs if f"recall@{k}" in scores)
            rows.append([name, *(f"{scores[m]['mean']:.3f}" if m in scores else "" for m in common), at_card])
    intro = (
        f"`{last}`. Capped recall divides the hits by the most that the cut-off can hold, min(k, relevant documents). "
        "Every metric of every system, with its interval, is in results.json."
    )
    table = markdown_table(["task", *map(metric_name, common), "recall at the card's other cut-offs"], rows)
    return _with_heading("More metrics", intro, table)


def _images(results: Mapping[str, Any]) -> str:
    """Tasks whose documents are images: nothing else reads them, so chance is what they are compared with."""
    seen = {name: task for name, task in results["tasks"].items() if task.get("images")}
    if not seen:
        return ""
    judged, pooled = results["systems"][-1], (results["pooled"] or {"tasks": {}})["tasks"]
    rows = []
    for name, task in sorted(seen.items()):
        scores = task["systems"][judged]
        row = [name, ROLE_NAMES[task["role"]], task["n_queries"], task["n_documents"]]
        row += [interval(scores["recall@10"]), f"{_chance(task):.3f}", interval(scores[PRIMARY])]
        if pooled:
            among = pooled[name]["systems"][judged]
            row += [interval(among["recall@10"]), _share(among[KIND]["mean"])]
        rows.append(row)
    header = ["task", "role", "queries", "images", "recall@10", "by chance", metric_name(PRIMARY)]
    header += ["recall@10, pooled index", "own kind"] if pooled else []
    intro = (
        f"Documents that are images, which `{judged}` alone can read: these tasks count in no mean above. By chance: "
        "recall@10 of a random order."
    )
    return _with_heading("Images", intro, markdown_table(header, rows))


def _chance(task: Mapping[str, Any]) -> float:
    return min(1.0, 10 / task["n_documents"])


def _base_forms(results: Mapping[str, Any]) -> str:
    """What is put before the base's texts, where there is a choice or something is put there."""
    block = results.get("base_forms")
    if not block or (len(block["forms"]) == 1 and not any(map(_prompted, block["forms"].values()))):
        return ""
    splits = {each["split"] for each in block["forms"].values() if "tasks" in each}
    dev = any("dev" in each for each in block["forms"].values())
    rows = []
    for name, each in block["forms"].items():
        row = [f"**{name}**" if name == block["chosen"] else name]
        row += ["`" + repr(each[side]).replace("|", "\\|") + "`" for side in ("query_template", "document_template")]
        row += [f"{each['dev']['mean']:.3f}" if "dev" in each else ""] if dev else []
        row += [f"{_mean_of(each['tasks'], [*each['tasks']]):.3f}" if "tasks" in each else "" for _ in splits]
        rows.append(row)
    header = ["form", "query", "document", *(["dev samples of the mixture"] if dev else [])]
    header += [f"{split} split" for split in sorted(splits)]
    intro = (
        f"`untuned` is the base in the form **{block['chosen']}**: {block['why']}. {metric_name(PRIMARY)}, "
        "mean over tasks."
    )
    return _with_heading("The base's prompts", intro, markdown_table(header, rows))


def _prompted(form: Mapping[str, Any]) -> bool:
    return (form["query_template"], form["document_template"]) != ("{query}", "{document}")


def _dimensions(results: Mapping[str, Any]) -> str:
    """Cut vectors, where they were asked for."""
    found = results.get("dimensions")
    if not found:
        return ""
    names = dict(tasks_by_role(results["tasks"]))
    rows = [
        [ROLE_NAMES[role], *(f"{_mean_of(scores, own):.3f}" for scores in found.values())]
        for role, own in names.items()
    ]
    judged = results["systems"][-1]
    intro = f"{metric_name(PRIMARY)} of `{judged}`, mean over tasks, by the first so many features of its vectors."
    return _with_heading("Fewer features", intro, markdown_table(["role", *found], rows))


def _mean_of(scores: Mapping[str, float], names: Sequence[str]) -> float:
    return sum(scores[name] for name in names) / len(names)


def _pooled(results: Mapping[str, Any]) -> str:
    pooled = results["pooled"]
    if pooled is None:
        return ""
    systems = results["systems"]
    other = reference_system(systems)
    intro = (
        f"The same queries over one index of all {pooled['n_documents']:,} distinct documents. *Own kind*: share of "
        "the first 10 results that are documents of the query's own task."
    )
    header = ["task", *systems, *(f"own kind, {system}" for system in systems)]
    header += [f"`{systems[-1]}` minus `{other}`"] if other else []
    rows = []
    for _, names in tasks_by_role(pooled["tasks"]):
        for name in names:
            task = pooled["tasks"][name]
            row = [name, *_means({system: task["systems"][system][PRIMARY]["mean"] for system in systems})]
            row += [_share(task["systems"][system].get(KIND, {}).get("mean")) for system in systems]
            rows.append(row + ([difference(task["differences"][other])] if other else []))
    body = f"{role_tables(pooled['roles'], systems)}\n\n{markdown_table(header, rows)}"
    return _with_heading("Pooled index", intro, body)


def _scann(results: Mapping[str, Any]) -> str:
    rows = [(name, task["scann"]) for name, task in results["tasks"].items() if task["scann"]]
    if results["pooled"] and results["pooled"]["scann"]:
        rows.append(("**pooled index**", results["pooled"]["scann"]))
    if not rows:
        return ""
    keys = [key for key in dict.fromkeys(key for _, one in rows for key in one) if any(one.get(key) for _, one in rows)]
    table = markdown_table(
        ["index", *(key.replace("_", " ") for key in keys)],
        [[name, *(_cell(one.get(key)) for key in keys)] for name, one in rows],
    )
    intro = (
        "Every number above comes from exact search, BM25's from all its scores. Recall: the share of exact search's "
        "first 10 documents that ScaNN finds. Brute force approximates nothing; it is what small corpora get."
    )
    return _with_heading("ScaNN against exact search", intro, table)


def _left_out(results: Mapping[str, Any]) -> str:
    lines = []
    for name, task in results["tasks"].items():
        if task["n_dropped"]:
            named = ", ".join(f"`{query}`" for query in task["dropped_queries"])
            more = ", ..." if task["n_dropped"] > len(task["dropped_queries"]) else ""
            queries = _count(task["n_dropped"], "query", "queries")
            lines.append(f"- {name}: {queries} dropped, in training under the same text ({named}{more}).")
    lines += [f"- {name}: not evaluated: {reason}." for name, reason in results["skipped"].items()]
    nothing = "Nothing: no query was dropped, no task was skipped."
    return _with_heading("Left out", "", "\n".join(lines) or nothing)


def _protocol(results: Mapping[str, Any]) -> str:
    bootstrap = results["bootstrap"]
    lines = [
        f"- bootstrap: {bootstrap['resamples']} resamples of the queries, seed {bootstrap['seed']}, "
        f"{bootstrap['level']:.0%} percentile intervals; a role's tasks are resampled apart"
    ]
    lines += [f"- {key}: {_flat(value)}" for key, value in results["protocol"].items()]
    if results["mixture"] is not None:
        lines += [f"- mixture, {key}: {_flat(value)}" for key, value in results["mixture"].items()]
    return _with_heading("Protocol", "", "\n".join(lines))


def terminal_table(results: Mapping[str, Any]) -> "RenderableType":
    """One line per task, scores by role and what they differ by, for a rich console. Raises UserError as `markdown`."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    validate(results)
    systems, tasks, roles = results["systems"], results["tasks"], results["roles"]
    last, other = systems[-1], reference_system(systems)

    def table(title: str, *columns: str) -> Table:
        made = Table(
            title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
            min_width=len(title) + 1,
        )  # fmt: skip
        for place, name in enumerate(columns):
            made.add_column(name, justify="right" if place else "left", no_wrap=True)
        return made

    def means(entry: Mapping[str, Any]) -> list[str]:
        scores = {system: entry["systems"][system][PRIMARY] for system in systems}
        return [*(f"{one['mean']:.3f}" for one in [*scores.values()][:-1]), interval(scores[last])]

    def word(one: Mapping[str, Any], before: str = "") -> Text:
        return Text(before + one["verdict"], style=STYLES[one["verdict"]])

    shown = tasks_by_role(tasks)
    by_role = table(f"{metric_name(PRIMARY)} by role, mean over tasks", "role", "tasks", *systems)
    differences = table(f"{last} against the others, by role", "role", "against", "difference", "95% interval", "")
    by_task = table(
        f"{metric_name(PRIMARY)} by task", "task", "queries", *systems, *([f"{last} - {other}"] if other else [])
    )
    for role, names in shown:
        by_role.add_row(ROLE_NAMES[role], str(len(names)), *means(roles[role]))
        for place, (system, one) in enumerate(roles[role]["differences"].items()):
            low, high = one["ci95"]
            name = "" if place else ROLE_NAMES[role]
            differences.add_row(name, system, f"{one['mean']:+.3f}", f"[{low:+.3f}, {high:+.3f}]", word(one))
        by_task.add_row(Text(ROLE_NAMES[role], style="italic"))
        for name in names:
            against = tasks[name]["differences"].get(other)
            verdict = [word(against, f"{against['mean']:+.3f} ")] if against else []
            by_task.add_row(f"  {name}", str(tasks[name]["n_queries"]), *means(tasks[name]), *verdict)
        by_task.add_section()
    shown_tables = [by_task, by_role, *([differences] if other else [])]
    if pooled := results["pooled"]:
        title = f"{metric_name(PRIMARY)} over one index of all {pooled['n_documents']:,} documents, mean over tasks"
        of_pool = table(title, "role", *systems)
        for role, _ in shown:
            of_pool.add_row(ROLE_NAMES[role], *means(pooled["roles"][role]))
        shown_tables.append(of_pool)
    if cut := results.get("dimensions"):
        of_cut = table(f"{metric_name(PRIMARY)} of {last} by the first so many features", "role", *cut)
        for role, names in shown:
            of_cut.add_row(ROLE_NAMES[role], *(f"{_mean_of(scores, names):.3f}" for scores in cut.values()))
        shown_tables.append(of_cut)
    seen = {name: task for name, task in sorted(tasks.items()) if task.get("images")}
    if seen:
        images = table("tasks of images", "task", "queries", "recall@10", "95% interval", "by chance")
        for name, task in seen.items():
            score = task["systems"][last]["recall@10"]
            low, high = score["ci95"]
            numbers = (f"{score['mean']:.3f}", f"[{low:.3f}, {high:.3f}]", f"{_chance(task):.3f}")
            images.add_row(name, str(task["n_queries"]), *numbers)
        shown_tables.append(images)
    return Group(*shown_tables)


def _with_heading(title: str, intro: str, body: str) -> str:
    return "\n\n".join(part for part in (f"## {title}", intro, body) if part)


def _means(scores: Mapping[str, float]) -> list[str]:
    """Three digits; the largest in bold."""
    best = max(scores.values())
    return [f"**{mean:.3f}**" if mean == best else f"{mean:.3f}" for mean in scores.values()]


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}" if value in (0, 1) else f"{value:.1%}"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:,.0f}"
    return "" if value is None else str(value)


def _count(n: int, one: str, many: str | None = None) -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items())
    return ", ".join(map(_flat, value)) if isinstance(value, list | tuple) else str(value)
