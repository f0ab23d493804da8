"""`mtret compare` and `report` of several, over results that were written by hand."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mtret.data.tasks import Judgements, Task, TaskCard
from mtret.evaluation.query_scores import data_sha256, with_query_scores
from mtret.evaluation.results import build_results, write_results
from mtret.evaluation.retrieval import TaskOutcome, TaskScores

Mtret = Callable[..., tuple[int, str, str]]
METRICS = ("ndcg@10", "recall@10", "capped_recall@10", "mrr@10", "map")


def evaluated(folder: Path, tuned: float, seed: int = 0) -> Path:
    """Results of forty queries, on which this system has this mean."""
    rows = np.arange(40, dtype=np.int32)
    card = TaskCard("faq", "article", "here", ("en",), "Find it.", "CC0-1.0", "written here", cutoffs=(10,))
    texts = tuple(f"text {i}" for i in rows)
    task = Task(card, texts, texts, texts, texts, {"test": Judgements.from_pairs(rows, rows, np.ones(40))})
    noise = np.linspace(-0.1, 0.1, 40)
    means = {"bm25": 0.3, "base": 0.4, "hybrid": 0.45, "finetuned": tuned, "finetuned_hybrid": tuned - 0.02}
    scores = {system: {metric: mean + noise for metric in METRICS} for system, mean in means.items()}
    outcome = TaskOutcome(task, TaskScores(rows, (10,), scores), "in_domain", data_sha256=data_sha256(task, "test"))
    protocol = {"split": "test", "suite": "s", "model": "m", "training_sha256": "c", "training_seed": seed}
    mixture = {"tasks": ["faq"], "families": ["article"]}
    results = build_results([outcome], protocol=protocol, seed=0, resamples=100, mixture=mixture)
    write_results(with_query_scores(results, [outcome], folder), folder / "results.json")
    return folder


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    return evaluated(tmp_path / "a" / "test", 0.5), evaluated(tmp_path / "b" / "test", 0.6, seed=1)


def test_two_are_compared_and_the_comparison_is_written(mtret: Mtret, two: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "comparison"
    code, said, _ = mtret("compare", *two, f"--out={out}")
    assert code == 0 and "`b` against `a`: better on 1 of 1 tasks." in said
    assert said.splitlines()[-2:] == [
        f"wrote {out}/compare.json and compare.md",
        f"next: mtret report {two[0]} {two[1]} --format=latex",
    ]
    found = json.loads((out / "compare.json").read_text(encoding="utf-8"))
    assert found["tasks"]["faq"]["difference"] == {"mean": 0.1, "ci95": [0.1, 0.1], "verdict": "better"}
    assert (out / "compare.md").read_text(encoding="utf-8").startswith("# `b` against `a`\n")
    code, said, _ = mtret("compare", f"old={two[1]}", f"new={two[0]}/results.json", "--json")
    assert code == 0 and json.loads(said)["roles"][0]["difference"]["verdict"] == "WORSE"
    code, _, err = mtret("compare", *two, f"--out={out}")
    assert code == 2 and "compare.json: exists already and is never overwritten" in err


def test_trainings_that_differ_in_their_seed_are_compared_together(mtret: Mtret, tmp_path: Path) -> None:
    for name, tuned in {"old-0": 0.50, "old-1": 0.51, "new-0": 0.60, "new-1": 0.61}.items():
        evaluated(tmp_path / name / "test", tuned, seed=int(name[-1]))
    old, new = f"old={tmp_path}/old-0/test,{tmp_path}/old-1/test", f"new={tmp_path}/new-*/test"
    code, said, _ = mtret("compare", old, new, "--json")
    assert code == 0
    found = json.loads(said)
    assert found["tasks"]["faq"]["b"]["runs"] == [0.6, 0.61]
    assert [run["training_seed"] for run in found["a"]["runs"]] == [0, 1]
    assert found["tasks"]["faq"]["difference"]["verdict"] == "better"
    code, said, _ = mtret("compare", old, new)
    assert said.splitlines()[-1] == f"next: mtret report {old} '{new}' --only_groups --format=latex"
    assert code == 0 and "0.605 ± 0.007" in said and "2 of `old`, 2 of `new`" in " ".join(said.split())
    code, said, _ = mtret("report", old, new, "--only_groups", "--format=markdown")
    assert code == 0 and "| old (mean of 2) | 0.505 ± 0.007 |" in said and "| new (mean of 2) | **0.605 ± " in said
    assert "| old-0 |" not in said
    code, _, err = mtret("compare", old.removeprefix("old="), new)
    assert code == 2 and "several runs need a name; write NAME=" in err
    code, _, err = mtret("compare", old, f"new={tmp_path}/none-*/test")
    assert code == 2 and "none-*/test: matches nothing" in err


def test_several_become_one_table_in_every_format(mtret: Mtret, two: tuple[Path, Path], tmp_path: Path) -> None:
    code, said, _ = mtret("report", *two)
    assert code == 0 and "a, b (mean of 2)  " in said and "0.550 ± 0.071" in said
    code, said, _ = mtret("report", f"--results={two[0]}", f"--results={two[1]}", "--format=markdown")
    assert code == 0 and "\n| b | 0.600 [0.5" in said and "| **0.550 ± 0.071** |" in said
    code, said, _ = mtret("report", *two, "--format=csv")
    assert code == 0
    assert {line["run"] for line in csv.DictReader(io.StringIO(said))} == {"a", "b"}
    out = tmp_path / "table.tex"
    code, said, _ = mtret(
        "report", f"base={two[0]}", f"our_own={two[1]}", "--format=latex", "--per_task", f"--out={out}"
    )
    assert (code, said) == (0, f"wrote {out}\n")
    assert "our\\_own & 0.600 " in out.read_text(encoding="utf-8")
    code, said, _ = mtret(
        "report", f"ours={two[0]},{two[1]}", "--only_groups", "--nointervals", "--metric=mrr@10", "--format=latex"
    )
    assert code == 0 and "ours (mean of 2) & \\textbf{0.550} $\\pm$ 0.071" in said and "\na &" not in said
    assert "% MRR@10, test split of s; ±" in said
    code, _, err = mtret("report", *two, "--format=latex", f"--out={out}")
    assert code == 2 and "table.tex: exists already and is never overwritten" in err


def test_one_alone_gets_its_report_anew_and_takes_its_queries_along(
    mtret: Mtret, two: tuple[Path, Path], tmp_path: Path
) -> None:
    code, said, _ = mtret("report", two[0], f"--out={tmp_path}/new")
    assert code == 0 and said.splitlines()[-1] == f"wrote {tmp_path}/new/results.json, report.md and results.png"
    assert mtret("compare", f"{tmp_path}/new", two[1])[0] == 0
    code, said, _ = mtret("report", f"{two[0].parent}*/test", f"--out={tmp_path}/again")
    assert code == 0 and said.splitlines()[-1].startswith(f"wrote {tmp_path}/again/results.json")
    code, said, _ = mtret("report", f"mine={two[0]}")
    assert code == 0 and "mine" in said and "wrote" not in said
    code, said, _ = mtret("report", two[0], "--format=latex")
    assert code == 0 and [line.split(" & ")[0] for line in said.splitlines() if "[" in line] == [
        "bm25", "base", "hybrid", "m", "m + BM25",
    ]  # fmt: skip


def test_mistakes_are_one_line(mtret: Mtret, two: tuple[Path, Path], tmp_path: Path) -> None:
    third, fourth = (evaluated(tmp_path / name / "test", 0.5, seed=2) for name in ("third", "fourth"))
    for arguments, message in (
        (("compare", two[0]), "compare: takes two results, got 1"),
        (("compare", two[0], two[1].parent), f"holds no results.json; give {two[1]}, which does"),
        (("compare", two[0], tmp_path / "none"), "none: no such file; write it with `mtret evaluate`"),
        (("compare", f"x={two[0]}", f"x={two[1]}"), "two of these are called 'x'"),
        (("report",), "--results is needed"),
        (("report", "", two[0]), "'': names no results"),
        (("compare", "x=,", two[0]), "'x=,': names no results"),
        (("report", *two, "--only_groups", "--format=csv"), "--only_groups: CSV has lines of runs"),
        (("report", f"x={two[0]},{two[0]}", two[1]), "a/test/results.json: is given twice"),
        (("report", f"x={two[0]},{two[1]}", f"x={third},{fourth}"), "two groups are called 'x'"),
        (("compare", two[0], two[0]), "a/test/results.json: is given twice"),
        (("compare", f"x={tmp_path}/a/*", f"y={tmp_path}/*/test"), "a/test/results.json: is given twice"),
        (("compare", "x=s3://bucket/a-*/test", two[1]), "s3://bucket/a-*/test: * stands for local folders only"),
    ):
        code, _, said = mtret(*arguments)
        assert code == 2 and message in said and said.count("\n") == 1


def test_commas_in_the_names_of_results(mtret: Mtret, tmp_path: Path) -> None:
    """In a list too, and in the names that a table gives them."""
    first = evaluated(tmp_path / "FAQ, final.csv", 0.5)
    second = evaluated(tmp_path / "FAQ, second.csv", 0.6, seed=1)
    code, said, error = mtret("compare", first, second)
    assert (code, error) == (0, "") and "`FAQ, second.csv` against `FAQ, final.csv`" in said
    for both in (f"both={first},{second}", f"both={tmp_path}/FAQ, *.csv"):
        code, said, error = mtret("report", both, "--format=csv")
        assert (code, error) == (0, "") and '"FAQ, final.csv"' in said
        code, said, error = mtret("report", both, "--format=markdown")
        assert (code, error) == (0, "") and "| both (mean of 2) |" in said
