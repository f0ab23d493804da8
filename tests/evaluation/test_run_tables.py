"""One table of several results, in every format."""

import csv
import io
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from mtret.errors import UserError
from mtret.evaluation.results import parse_results
from mtret.evaluation.run_tables import RunResults, build, distinct_labels, long_table
from mtret.tables import Cell, Table, to_csv, to_latex, to_markdown, to_terminal

Make = Callable[..., dict[str, Any]]


def run(label: str, results: dict[str, Any], plus: float = 0.0, **protocol: Any) -> RunResults:
    results = deepcopy(results)
    results["protocol"] |= protocol
    for entry in (*results["roles"].values(), *results["tasks"].values()):
        score = entry["systems"]["finetuned"]["ndcg@10"]
        score["mean"] += plus
    return RunResults(label, parse_results(results))


def shown(score: dict[str, Any], style: str = "") -> Cell:
    low, high = score["ci95"]
    return Cell(f"{score['mean']:.3f}", f"[{low:.3f}, {high:.3f}]", style)


def labels(table: Table) -> list[list[str]]:
    """Of baselines, runs and groups."""
    return [[row[0] for row in rows] for rows in table.groups]


def test_runs_are_rows_and_what_they_share_stands_once(results: dict[str, Any]) -> None:
    table = build([run("first", results), run("second", results, 0.1)], {})
    assert table.columns == ["", "In-domain (2 tasks)", "Zero-shot (1 task)"]
    assert labels(table) == [
        ["bm25", "base", "hybrid_ranks", "hybrid"],
        ["first", "second", "first + BM25", "second + BM25"],
    ]
    score = results["roles"]["in_domain"]["systems"]["finetuned"]["ndcg@10"]
    first, second, fused, _ = table.groups[1]
    assert first[1] == shown(score)
    assert fused[1] == shown(results["roles"]["in_domain"]["systems"]["finetuned_hybrid"]["ndcg@10"])
    assert second[1] == shown(score | {"mean": score["mean"] + 0.1}, "bold")
    by_task = build([run("first", results)], {}, per_task=True)
    assert by_task.columns == ["", "alpha", "beta", "gamma"]
    assert by_task.groups[-1][0][2].text == f"{results['tasks']['beta']['systems']['finetuned']['ndcg@10']['mean']:.3f}"


def test_baselines_that_differ_are_told_apart(results: dict[str, Any]) -> None:
    other = deepcopy(results)
    other["roles"]["in_domain"]["systems"]["bm25"]["ndcg@10"]["mean"] += 0.01
    table = build([run("a", results), run("b", results), run("c", other)], {})
    assert labels(table)[0][:3] == ["bm25 (a, b)", "bm25 (c)", "base"]


def test_seeds_of_one_configuration_get_a_row(results: dict[str, Any]) -> None:
    runs = [run(f"s{seed}", results, seed / 10, training_sha256="x", training_seed=seed) for seed in range(3)]
    runs.append(run("other", results, training_sha256="y", training_seed=0))
    table = build(runs, {})
    mean = results["roles"]["in_domain"]["systems"]["finetuned"]["ndcg@10"]["mean"]
    deviation = np.std([0, 0.1, 0.2], ddof=1)
    # Of the group, though one of its seeds has + 0.2: the best of three seeds is not a result.
    of_group = Cell(f"{mean + 0.1:.3f}", f"± {deviation:.3f}", "bold")
    assert labels(table)[2] == ["s0, s1, s2 (mean of 3)", "s0, s1, s2 + BM25 (mean of 3)"]
    assert table.groups[2][0][1] == of_group
    assert [row[1].style for row in table.groups[1]] == [""] * 8
    assert f"{mean + 0.1:.3f} ± 0.100" in to_markdown(table) and "$\\pm$ 0.100" in to_latex(table)
    named = build(runs, {"ours": ["s0", "other"]})
    assert labels(named)[2] == [f"{name} (mean of 2)" for name in ("ours", "ours + BM25", "s1, s2", "s1, s2 + BM25")]
    alone = build(runs, {}, only_groups=True)
    assert labels(alone)[1:] == [["other", "other + BM25"], labels(table)[2]]
    assert to_markdown(alone).count("**") == 4 and f"**{mean + 0.1:.3f} ± 0.100**" in to_markdown(alone)


def test_what_cannot_stand_in_one_table_is_refused(results: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="a was evaluated on the test split, b on the dev split"):
        build([run("a", results), run("b", results, split="dev")], {})
    other = deepcopy(results)
    other["tasks"]["beta"]["data_sha256"] = "other"
    with pytest.raises(UserError, match="not evaluated on the same data in a and b: beta; evaluate both on one suite"):
        build([run("a", results), run("b", other)], {})


def test_roles_of_other_tasks_are_not_called_best(results: dict[str, Any]) -> None:
    other = deepcopy(results)
    other["roles"]["in_domain"]["tasks"] = ["alpha"]
    table = build([run("a", results), run("b", other)], {})
    assert table.columns[1] == "In-domain"
    assert {row[1].style for row in table.rows} == {""} and "bold" in {row[2].style for row in table.rows}
    assert table.notes[0].startswith("In-domain: the runs' tasks are not the same")
    assert table.notes[0] in to_markdown(table) and f"% {table.notes[0]}" in to_latex(table)


def test_latex_signs_are_written_so_that_they_stand_there(results: dict[str, Any]) -> None:
    text = to_latex(build([run("it_runs/50%", results), run("b", results, 0.1)], {}))
    assert r"it\_runs/50\% & " in text and text.count(r"\midrule") == 2
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.replace(r"\&", "").count("&") for line in rows} == {2}
    assert text.count(r"\textbf") == 2 and text.count("{") - text.count("}") == 0
    best = results["roles"]["in_domain"]["systems"]["finetuned"]["ndcg@10"]["mean"] + 0.1
    assert rf"\textbf{{{best:.3f}}}" in next(line for line in rows if line.startswith("b &"))


def test_csv_has_every_number_in_a_line_of_its_own(results: dict[str, Any]) -> None:
    table = long_table([run('a,"b"', results), run("c", results)])
    lines = list(csv.DictReader(io.StringIO(to_csv(table))))
    entries = [*results["roles"].values(), *results["tasks"].values()]
    assert len(lines) == 2 * sum(len(scores) for entry in entries for scores in entry["systems"].values())
    wanted = results["tasks"]["beta"]["systems"]["hybrid"]["recall@5"]
    found = next(
        line for line in lines if (line["task"], line["system"], line["metric"]) == ("beta", "hybrid", "recall@5")
    )
    assert found["run"] == 'a,"b"' and found["role"] == "in_domain" and found["n_queries"] == "150"
    assert [float(found[key]) for key in ("mean", "low", "high")] == [wanted["mean"], *wanted["ci95"]]
    assert {line["role"] for line in lines if not line["task"]} == {"in_domain", "zero_shot"}


def test_a_role_of_other_tasks_has_no_mean_over_a_group(results: dict[str, Any]) -> None:
    fewer = deepcopy(results)
    fewer["roles"]["in_domain"]["tasks"] = ["beta"]
    runs, groups = [run("a", results), run("b", fewer)], {"ours": ["a", "b"]}
    label, *cells = build(runs, groups).rows[-2]
    assert label == "ours (mean of 2)" and [not str(cell) for cell in cells] == [True, False]


def test_another_metric_can_be_shown(results: dict[str, Any]) -> None:
    table = build([run("a", results)], {}, metric="recall@5", per_task=True)
    assert table.title.startswith("recall@5, ")
    score = results["tasks"]["beta"]["systems"]["finetuned"]["recall@5"]
    assert table.groups[-1][0][2] == shown(score)
    with pytest.raises(UserError, match=r"--metric=recall@7: is in none of these results, only ndcg@1, .*\. Did you"):
        build([run("a", results)], {}, metric="recall@7")


def test_many_tasks_are_rows_and_need_no_intervals(results: dict[str, Any]) -> None:
    many = deepcopy(results)
    for number in range(6):
        many["tasks"][f"more_{number}"] = deepcopy(many["tasks"]["beta"])
    table = build([run("a", many)], {}, per_task=True, intervals=False)
    lines = to_latex(table).splitlines()
    assert r"\begin{tabular}{lrrrrrr}" in lines
    assert "& bm25 & base & hybrid\\_ranks & hybrid & a & a + BM25 \\\\" in lines
    assert len([line for line in lines if line.startswith(r"more\_")]) == 6
    assert lines.count(r"\midrule") == 1 and "[" not in to_latex(table) and "interval" not in to_latex(table)
    assert "| more_5 | " in to_markdown(table) and "[" not in to_markdown(table)


@pytest.mark.parametrize("per_task", [False, True])
def test_the_terminal_shows_all_of_it(results: dict[str, Any], per_task: bool) -> None:
    from rich.console import Console

    page = Console(width=140)
    with page.capture() as capture:
        page.print(to_terminal(build([run("[a]", results)], {}, per_task=per_task)))
    assert "[a]" in capture.get()
    entries = results["tasks" if per_task else "roles"].values()
    assert all(f"{entry['systems']['finetuned']['ndcg@10']['mean']:.3f}" in capture.get() for entry in entries)


@pytest.mark.parametrize(
    ("names", "places", "labels"),
    [
        (["a", "b"], ["x/test", "y/test"], ["a", "b"]),
        (["m", "m"], ["runs/s0/test", "runs/s1/test"], ["s0", "s1"]),
        (["m", "m", "m"], ["runs/s0/test", "runs/s1/dev", "runs/s1/test"], ["s0/test", "s1/dev", "s1/test"]),
        (["m", "m"], ["runs/s0", "runs/s0"], ["m (1)", "m (2)"]),
    ],
)
def test_labels_are_distinct_and_short(names: list[str], places: list[str], labels: list[str]) -> None:
    assert distinct_labels(names, places) == labels
