import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mtret.errors import UserError
from mtret.evaluation.findings import rivals
from mtret.evaluation.report import markdown, terminal_tables, write_report, write_views
from mtret.evaluation.results import parse_results, read_results


def lines_with(text: str, *parts: str) -> list[str]:
    return [line for line in text.splitlines() if all(part in line for part in parts)]


def cell(one: dict[str, Any], sign: str = "") -> str:
    return f"{one['mean']:{sign}.3f} [{one['ci95'][0]:{sign}.3f}, {one['ci95'][1]:{sign}.3f}]"


def test_the_role_table_comes_first_with_intervals_and_words(results: dict[str, Any]):
    text = markdown(parse_results(results))
    assert re.findall(r"^## (.*)", text, re.M) == [
        *("By role", "By task", "More metrics", "Pooled index"),
        *("ScaNN against exact search", "Left out", "Protocol"),
    ]
    role = results["roles"]["in_domain"]
    scores, alone, fused, *_ = lines_with(text, "| In-domain |")
    assert scores.startswith("| In-domain | 2 | 350 | " + cell(role["systems"]["bm25"]["ndcg@10"]))
    assert cell(role["systems"]["finetuned"]["ndcg@10"]) in scores
    assert (alone.count("["), fused.count("[")) == (4, 5)
    assert f"{cell(role['differences']['finetuned']['base'], '+')} better" in alone
    assert f"{cell(role['differences']['finetuned_hybrid']['hybrid'], '+')} " in fused


def test_every_task_stands_under_its_role_with_its_verdicts_with_bm25_and_alone(results: dict[str, Any]):
    by_task = markdown(parse_results(results)).split("\n## By task")[1].split("\n## ")[0]
    alpha, beta, gamma = (lines_with(by_task, f"| {name} | table |")[0] for name in ("alpha", "beta", "gamma"))
    fused = {name: task["differences"]["finetuned_hybrid"]["hybrid"] for name, task in results["tasks"].items()}
    alone = {name: task["differences"]["finetuned"]["base"] for name, task in results["tasks"].items()}
    assert f"| {cell(fused['alpha'], '+')} better | {cell(alone['alpha'], '+')} better |" in alpha
    assert f"| {cell(fused['beta'], '+')} **WORSE** | {cell(alone['beta'], '+')} " in beta
    assert gamma.endswith("no difference |")  # 4 queries
    assert "| 4° |" in gamma
    assert "| 25.0% |" in alpha
    tuned = results["tasks"]["alpha"]["systems"]["finetuned_hybrid"]["ndcg@10"]["mean"]
    assert re.findall(r"\*\*(.*?)\*\*", alpha) == [f"{tuned:.3f}"]  # the best system
    assert by_task.index("### In-domain") < by_task.index("| alpha") < by_task.index("### Zero-shot")


def test_losses_are_counted_in_the_summary(results: dict[str, Any]):
    summary = markdown(parse_results(results)).split("\n## ")[0]
    assert "of 2 tasks, `finetuned_hybrid` against `hybrid` is better on 1, **WORSE** on 1; `finetuned` " in summary
    assert "of 1 task, `finetuned_hybrid` against `hybrid` is no difference on 1; `finetuned` against `base`" in summary


def test_what_was_left_out_and_the_protocol_are_said(results: dict[str, Any]):
    text = markdown(parse_results(results))
    assert "- alpha: 2 queries dropped, in training under the same text (`q7`, `q9`)." in text
    assert "- icons: not evaluated: images need an image tower." in text
    assert "- bootstrap: 300 resamples of the queries, seed 3, 95% percentile intervals" in text
    assert "- versions: jax 0.10" in text
    assert "- mixture, tasks: alpha, beta" in text
    assert lines_with(text, "**pooled index**", "0.970")


def test_further_cutoffs_of_a_card_are_shown(results: dict[str, Any]):
    line = lines_with(markdown(parse_results(results)).split("## More metrics")[1], "| alpha |")[0]
    scores = results["tasks"]["alpha"]["systems"]["finetuned"]
    assert ", ".join(f"{scores[f'recall@{k}']['mean']:.3f} @{k}" for k in (1, 5, 15)) in line


@pytest.mark.parametrize("options", [{"roles": False, "pooled": False}, {"systems": ("alone",)}])
def test_reports_without_roles_pool_or_a_second_system(make, options: dict[str, Any]):
    text = markdown(parse_results(make(**options)))
    assert ("Pooled index" in text) == options.get("pooled", True)
    if "systems" in options:
        assert " minus " not in text
    else:
        assert "| All tasks | 3 | 354 |" in text


def test_tables_are_rectangular(results: dict[str, Any]):
    for block in re.findall(r"(?:^\|.*\n)+", markdown(parse_results(results)), re.M):
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_rivals_are_the_base_with_bm25_and_alone_or_the_system_before_the_last():
    assert rivals(["bm25", "base", "hybrid", "finetuned", "finetuned_hybrid"]) == [
        ("finetuned_hybrid", "hybrid"),
        ("finetuned", "base"),
    ]
    assert rivals(["bm25", "base", "hybrid_ranks", "finetuned"]) == [("finetuned", "base")]
    assert rivals(["bm25", "base", "hybrid_ranks", "hybrid"]) == [("hybrid", "base")]
    assert rivals(["a", "b", "hybrid"]) == [("hybrid", "b")]
    assert rivals(["a"]) == []


def test_the_terminal_shows_roles_and_a_verdict_per_task(results: dict[str, Any]):
    console = Console(width=160, file=io.StringIO())
    with console.capture() as capture:
        console.print(terminal_tables(parse_results(results)))
    text = capture.get()
    assert re.search(r"In-domain +2( +0\.\d{3}){3}( +0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]){2} *\n", text)
    assert "hybrid_ranks" not in text.split("against the others")[0]
    one = results["roles"]["in_domain"]["differences"]["finetuned"]["base"]
    low, high = one["ci95"]
    shown = f"{one['mean']:+.3f}", f"[{low:+.3f}, {high:+.3f}]", one["verdict"]
    assert re.search(r" base +" + " +".join(map(re.escape, shown)), text)
    assert re.search(r"alpha +200 .* \+0\.\d{3} better +\+0\.\d{3} better *\n", text)
    assert re.search(r"beta +150 .* -0\.\d{3} WORSE +[+-]0\.\d{3} *\n", text)
    assert re.search(r"gamma +4 .* \+0\.\d{3} +\+0\.\d{3} *\n", text)


def test_the_terminal_shows_the_pooled_index_and_cut_vectors(results: dict[str, Any]):
    results["dimensions"] = {"8": {"alpha": 0.5, "beta": 0.3, "gamma": 0.1}}
    console = Console(width=160)
    with console.capture() as capture:
        console.print(terminal_tables(parse_results(results)))
    text = capture.get()
    pooled = results["pooled"]["roles"]["in_domain"]["systems"]
    means = [f"{scores['ndcg@10']['mean']:.3f}" for system, scores in pooled.items() if system != "hybrid_ranks"]
    after = text[text.index(f"over one index of all {results['pooled']['n_documents']:,} documents") :]
    assert re.search(r"In-domain +2 +" + r"( \[.{12}\])? +".join(map(re.escape, means)) + r" \[", after)
    assert re.search(
        r"truncated to their first dimensions\s+role +8 *\n.*\n *In-domain +0\.400 *\n *Zero-shot +0\.100", after
    )


def test_the_report_is_rebuilt_from_its_own_json(results: dict[str, Any], tmp_path: Path):
    written = write_report(results, tmp_path / "first")
    read = read_results(tmp_path / "first" / "results.json")
    assert read == written
    write_views(read, tmp_path / "second")
    for name in ("report.md", "results.png"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_results_of_another_schema_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="schema: must be"):
        write_report({"schema": "other"}, tmp_path)
    assert not list(tmp_path.iterdir())
