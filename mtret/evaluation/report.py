"""What people read of one results file: the report, tables for a terminal, and the folder that holds all."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mtret.evaluation.findings import findings, rivals, summaries, tasks_by_role
from mtret.evaluation.results import BaseForm, Results, RoleResults, Scores, TaskResults, write_results
from mtret.evaluation.retrieval import HYBRID, HYBRID_RANKS, OWN_TASK, PRIMARY, ROLES
from mtret.evaluation.statistics import MIN_QUERIES, Difference, Verdict
from mtret.evaluation.wording import (
    ROLE_MEANINGS,
    ROLE_NAMES,
    STYLES,
    count,
    counts,
    difference,
    interval,
    metric_name,
    score,
)
from mtret.files import AnyPath, replace_bytes, replace_text
from mtret.tables import Cell, Table, to_markdown, to_terminal

if TYPE_CHECKING:
    from rich.console import RenderableType

FEW_QUERIES = 100
NO_DIFFERENCE: Verdict = "no difference"


def write_report(raw: Mapping[str, Any], folder: AnyPath) -> Results:
    """Writes results.json, report.md and results.png into a folder, each all or nothing; returns the results as read.

    Raises:
      UserError: the results are not of the schema.
    """
    results = write_results(raw, folder / "results.json")
    write_views(results, folder)
    return results


def write_views(results: Results, folder: AnyPath) -> None:
    """Writes report.md and results.png."""
    from mtret.evaluation.plots import png, results_figure

    replace_text(folder / "report.md", markdown(results))
    replace_bytes(folder / "results.png", png(results_figure(results)))


def markdown(results: Results) -> str:
    """The whole report."""
    sections = [
        _summary(results),
        _roles(results),
        _tasks(results),
        _details(results),
        _fusion(results),
        _images(results),
        _base_forms(results),
        _dimensions(results),
        _pooled(results),
        _scann(results),
        _left_out(results),
        _protocol(results),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _summary(results: Results) -> str:
    pairs, tasks = rivals(results.systems), results.tasks
    lines = ["# Retrieval results", ""]
    if not pairs:
        return "\n".join([*lines, f"{len(tasks)} tasks."])
    for role, names in tasks_by_role(tasks):
        said = []
        for system, other in pairs:
            found = [tasks[name].difference(system, other) for name in names]
            verdicts = counts([one.verdict for one in found if one], markdown=True)
            said.append(f"`{system}` against `{other}` is {verdicts}")
        about = f"{ROLE_NAMES[role]} ({ROLE_MEANINGS[role]}): of {count(len(names), 'task')}"
        lines.append(f"- {about}, {'; '.join(said)}.")
    said = summaries(results)  # which stand above already
    found = [line for line in findings(results) if line not in said]
    lines += [
        "",
        f"All verdicts compare {metric_name(PRIMARY)} on the same queries: *better* and *WORSE* where the 95% interval "
        "of the paired difference leaves out 0, else *no difference*, which does not prove equality: a task with few "
        f"queries has a wide interval. With fewer than {MIN_QUERIES} queries nothing is claimed. "
        "With many tasks, about one verdict in twenty would come about by chance between equal systems.",
        *(f"\n{line}" for line in found),
    ]
    return "\n".join(lines)


def _roles(results: Results) -> str:
    intro = (
        f"Mean over tasks of {metric_name(PRIMARY)}, every task counting the same, with 95% intervals over queries "
        "(the tasks are taken as given: the intervals say nothing about other tasks)."
    )
    return _section("By role", intro, role_tables(results.roles, results.systems))


def role_tables(roles: Mapping[str, RoleResults], systems: Sequence[str]) -> str:
    """Markdown: every system's scores by role, and the paired differences of those that are compared to all before."""
    shown = [(ROLE_NAMES[role], roles[role]) for role in ROLES if role in roles]
    scores = Table(
        ["role", "tasks", "queries", *systems],
        [[[name, len(one.tasks), one.n_queries, *map(score, map(one.primary, systems))] for name, one in shown]],
    )
    tables = [scores]
    for system in sorted((system for system, _ in rivals(systems)), key=systems.index):
        before = systems[: systems.index(system)]
        rows = [
            [name, *(difference(found) if (found := one.difference(system, other)) else "" for other in before)]
            for name, one in shown
        ]
        if any(one.differences.get(system) for _, one in shown):
            tables.append(Table([f"`{system}` minus", *before], [rows]))
    return "\n\n".join(map(to_markdown, tables))


def _tasks(results: Results) -> str:
    systems = results.systems
    intro = (
        f"{metric_name(PRIMARY)}. *Seen*: share of the gold documents that were positives in training. "
        f"°: fewer than {FEW_QUERIES} queries."
    )
    header = ["task", "family", "queries", "documents", "seen", *systems, *_minus(systems)]

    def row(name: str, task: TaskResults) -> list[Any]:
        few = "°" if task.n_queries < FEW_QUERIES else ""
        about = [name, task.family, f"{task.n_queries}{few}", task.n_documents, _share(task.seen_document_share)]
        return [*about, *_means(task, systems), *_difference(task, systems)]

    parts = []
    for role, names in tasks_by_role(results.tasks):
        table = Table(header, [[row(name, results.tasks[name]) for name in names]])
        parts.append(f"### {ROLE_NAMES[role]}\n\n{to_markdown(table)}")
    return _section("By task", intro, "\n\n".join(parts))


def _details(results: Results) -> str:
    if not results.tasks:
        return ""
    common = ["recall@10", "capped_recall@10", "mrr@10", "map"]
    rows = []
    for name in (name for _, names in tasks_by_role(results.tasks) for name in names):
        scores, cutoffs = results.tasks[name].systems[results.encoder], results.tasks[name].cutoffs
        others = [(k, scores[f"recall@{k}"].mean) for k in cutoffs if k != 10 and f"recall@{k}" in scores]
        means = [f"{scores[metric].mean:.3f}" if metric in scores else "" for metric in common]
        rows.append([name, *means, ", ".join(f"{mean:.3f} @{k}" for k, mean in others)])
    intro = (
        f"`{results.encoder}`. Capped recall divides the hits by the most that the cut-off can hold, min(k, relevant "
        "documents). Every metric of every system, with its interval, is in results.json."
    )
    header = ["task", *map(metric_name, common), "recall at the card's other cut-offs"]
    return _section("More metrics", intro, to_markdown(Table(header, [rows])))


def _fusion(results: Results) -> str:
    """Tasks that do not have the common weight of fusion."""
    own = {name: task.fusion for name, task in results.tasks.items() if task.fusion}
    if not own:
        return ""
    encoders = list(dict.fromkeys(encoder for each in own.values() for encoder in each))
    rows = [
        [name, *(f"{each[encoder]:.2f}" if encoder in each else "" for encoder in encoders)]
        for name, each in own.items()
    ]
    intro = (
        "A hybrid is weight x dense + (1 - weight) x BM25. These tasks have dev queries enough for own weights; where "
        "none is better by more than a standard error, it is the common one."
    )
    return _section("Weights of fusion", intro, to_markdown(Table(["task", *encoders], [rows])))


def _images(results: Results) -> str:
    """Tasks whose documents are images, where there are any."""
    table = _of_images(results)
    if table is None:
        return ""
    intro = (
        f"Documents that are images, which `{results.encoder}` alone can read: these tasks count in no mean above. "
        "By chance: recall@10 of a random order."
    )
    return _section("Images", intro, to_markdown(table))


def _of_images(results: Results, title: str = "") -> Table | None:
    """Nothing else reads them, so chance is what they are compared with."""
    evaluated, pooled = results.encoder, results.pooled and results.pooled.tasks
    rows = []
    for name, task in sorted(results.tasks.items()):
        if task.images:
            row = [name, ROLE_NAMES[task.role], task.n_queries, task.n_documents]
            row += [score(task.systems[evaluated]["recall@10"]), f"{min(1.0, 10 / task.n_documents):.3f}"]
            row.append(score(task.primary(evaluated)))
            if pooled:
                among = pooled[name].systems[evaluated]
                row += [score(among["recall@10"]), _share(among[OWN_TASK].mean)]
            rows.append(row)
    header = ["task", "role", "queries", "images", "recall@10", "by chance", metric_name(PRIMARY)]
    header += ["recall@10, pooled index", "own kind"] if pooled else []
    return Table(header, [rows], title) if rows else None


def _base_forms(results: Results) -> str:
    """What is put before the base's texts, where there is a choice or something is put there."""
    block = results.base_forms
    if not block or (len(block.forms) == 1 and not any(map(_prompted, block.forms.values()))):
        return ""
    splits = {each.split for each in block.forms.values() if each.split and each.tasks}
    dev = any(each.dev for each in block.forms.values())
    rows = []
    for name, each in block.forms.items():
        row = [Cell(name, style="bold" if name == block.chosen else "")]
        row += [f"`{template!r}`" for template in (each.query_template, each.document_template)]
        row += [f"{each.dev.mean:.3f}" if each.dev else ""] if dev else []
        row += [f"{_mean_of(each.tasks, [*each.tasks]):.3f}" if each.tasks else "" for _ in splits]
        rows.append(row)
    header = ["form", "query", "document", *(["dev samples of the mixture"] if dev else [])]
    header += [f"{split} split" for split in sorted(splits)]
    intro = f"`base` is the base in the form **{block.chosen}**: {block.why}. {metric_name(PRIMARY)}, mean over tasks."
    return _section("The base's prompts", intro, to_markdown(Table(header, [rows])))


def _prompted(form: BaseForm) -> bool:
    return (form.query_template, form.document_template) != ("{query}", "{document}")


def _dimensions(results: Results) -> str:
    """Cut vectors, where they were asked for."""
    table = _by_dimension(results)
    if table is None:
        return ""
    scores = f"{metric_name(PRIMARY)} of `{results.encoder}`, mean over tasks"
    intro = f"{scores}, by vectors truncated to their first dimensions."
    return _section("Fewer dimensions", intro, to_markdown(table))


def _by_dimension(results: Results, title: str = "") -> Table | None:
    found = results.dimensions
    if not found:
        return None
    by_role = tasks_by_role(results.tasks)
    rows = [
        [ROLE_NAMES[role], *(f"{_mean_of(scores, names):.3f}" for scores in found.values())] for role, names in by_role
    ]
    return Table(["role", *found], [rows], title)


def _mean_of(scores: Mapping[str, float], names: Sequence[str]) -> float:
    return sum(scores[name] for name in names) / len(names)


def _pooled(results: Results) -> str:
    pooled, systems = results.pooled, results.systems
    if pooled is None:
        return ""
    intro = (
        f"The same queries over one index of all {pooled.n_documents:,} distinct documents. *Own kind*: share of "
        "the first 10 results that are documents of the query's own task."
    )
    header = ["task", *systems, *(f"own kind, {system}" for system in systems), *_minus(systems)]
    rows = []
    for name in (name for _, names in tasks_by_role(pooled.tasks) for name in names):
        task = pooled.tasks[name]
        kinds = [task.systems[system].get(OWN_TASK) for system in systems]
        own = [_share(kind and kind.mean) for kind in kinds]
        rows.append([name, *_means(task, systems), *own, *_difference(task, systems)])
    body = f"{role_tables(pooled.roles, systems)}\n\n{to_markdown(Table(header, [rows]))}"
    return _section("Pooled index", intro, body)


def _scann(results: Results) -> str:
    rows = [(name, task.scann) for name, task in results.tasks.items() if task.scann]
    if results.pooled and results.pooled.scann:
        rows.append(("**pooled index**", results.pooled.scann))
    if not rows:
        return ""
    keys = [key for key in dict.fromkeys(key for _, one in rows for key in one) if any(one.get(key) for _, one in rows)]
    table = Table(
        ["index", *(key.replace("_", " ") for key in keys)],
        [[[name, *(_figure(one.get(key)) for key in keys)] for name, one in rows]],
    )
    intro = (
        "Every number above comes from exact search, BM25's from all its scores. Recall: the share of exact search's "
        "first 10 documents that ScaNN finds. Brute force approximates nothing; it is what small corpora get."
    )
    return _section("ScaNN against exact search", intro, to_markdown(table))


def _left_out(results: Results) -> str:
    lines = []
    for name, task in results.tasks.items():
        if task.n_dropped:
            named = ", ".join(f"`{query}`" for query in task.dropped_queries)
            more = ", ..." if task.n_dropped > len(task.dropped_queries) else ""
            queries = count(task.n_dropped, "query", "queries")
            lines.append(f"- {name}: {queries} dropped, in training under the same text ({named}{more}).")
    lines += [f"- {name}: not evaluated: {reason}." for name, reason in results.skipped.items()]
    nothing = "Nothing: no query was dropped, no task was skipped."
    return _section("Left out", "", "\n".join(lines) or nothing)


def _protocol(results: Results) -> str:
    bootstrap = results.bootstrap
    lines = [
        f"- bootstrap: {bootstrap.resamples} resamples of the queries, seed {bootstrap.seed}, "
        f"{bootstrap.level:.0%} percentile intervals; a role's tasks are resampled apart"
    ]
    lines += [f"- {key}: {_flat(value)}" for key, value in results.protocol.items()]
    lines += [f"- mixture, {key}: {_flat(value)}" for key, value in (results.mixture or {}).items()]
    return _section("Protocol", "", "\n".join(lines))


def terminal_tables(results: Results) -> "RenderableType":
    """One line per task, scores by role and what they differ by, for a rich console."""
    from rich.console import Group

    metric, pooled = metric_name(PRIMARY), results.pooled
    tables: list[Table | None] = [_tasks_briefly(results)]
    tables += [_roles_briefly(results.roles, results, f"{metric} by role, mean over tasks")]
    tables += [_differences(results, system) for system, _ in rivals(results.systems)]
    if pooled:
        title = f"{metric} over one index of all {pooled.n_documents:,} documents, mean over tasks"
        tables.append(_roles_briefly(pooled.roles, results, title))
    title = f"{metric} of {results.encoder} by vectors truncated to their first dimensions"
    tables += [_by_dimension(results, title), _of_images(results, "tasks of images")]
    return Group(*(to_terminal(table) for table in tables if table))


def _tasks_briefly(results: Results) -> Table:
    systems, pairs = _brief(results.systems), rivals(results.systems)
    groups = []
    for role, names in tasks_by_role(results.tasks):
        rows: list[list[Any]] = [[Cell(ROLE_NAMES[role], style="italic")]]
        for name in names:
            task = results.tasks[name]
            means = [f"{task.primary(system).mean:.3f}" for system in systems]
            rows.append(
                [f"  {name}", task.n_queries, *means, *map(_verdict, [task.difference(*pair) for pair in pairs])]
            )
        groups.append(rows)
    header = ["task", "queries", *systems, *(f"{system}\n- {other}" for system, other in pairs)]
    return Table(header, groups, f"{metric_name(PRIMARY)} by task; a difference without a word is none that shows")


def _verdict(one: Difference | None) -> Cell:
    """A difference, with a word where it is one."""
    if one is None:
        return Cell("")
    word = "" if one.verdict == NO_DIFFERENCE else f" {one.verdict}"
    return Cell(f"{one.mean:+.3f}{word}", style=STYLES[one.verdict])


def _brief(systems: Sequence[str]) -> list[str]:
    """Those that a terminal shows: fusion by ranks stands in the report."""
    return [system for system in systems if system != HYBRID_RANKS or HYBRID not in systems]


def _roles_briefly(roles: Mapping[str, RoleResults], results: Results, title: str) -> Table:
    shown, systems = [(role, roles[role]) for role, _ in tasks_by_role(results.tasks)], _brief(results.systems)
    own = {system for system, _ in rivals(results.systems)}
    rows = []
    for role, one in shown:
        means = [score(one.primary(name)) if name in own else f"{one.primary(name).mean:.3f}" for name in systems]
        rows.append([ROLE_NAMES[role], len(one.tasks), *means])
    return Table(["role", "tasks", *systems], [rows], title)


def _differences(results: Results, system: str) -> Table | None:
    """Of one system to all that stand before it, by role."""
    rows = []
    for role, _ in tasks_by_role(results.tasks):
        for place, (other, one) in enumerate(results.roles[role].differences.get(system, {}).items()):
            word = Cell(one.verdict, style=STYLES[one.verdict])
            rows.append([ROLE_NAMES[role] * (not place), other, f"{one.mean:+.3f}", interval(one, "+"), word])
    header = ["role", "against", "difference", "95% interval", ""]
    return Table(header, [rows], f"{system} against the others, by role") if rows else None


def _section(title: str, intro: str, body: str) -> str:
    return "\n\n".join(part for part in (f"## {title}", intro, body) if part)


def _means(entry: Scores, systems: Sequence[str]) -> list[Cell]:
    """Three digits; the largest in bold."""
    means = [entry.primary(system).mean for system in systems]
    return [Cell(f"{mean:.3f}", style="bold" if mean == max(means) else "") for mean in means]


def _minus(systems: Sequence[str]) -> list[str]:
    """The header of `_difference`."""
    return [f"`{system}` minus `{other}`" for system, other in rivals(systems)]


def _difference(entry: Scores, systems: Sequence[str]) -> list[str]:
    found = [entry.difference(*pair) for pair in rivals(systems)]
    return [difference(one) if one else "" for one in found]


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}" if value in (0, 1) else f"{value:.1%}"


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:,.0f}"
    return "" if value is None else str(value)


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items())
    return ", ".join(map(_flat, value)) if isinstance(value, list | tuple) else str(value)
