"""Sentences on a results dictionary."""

from typing import Any

from mtret.evaluation.findings import findings, hurt_tasks, nothing_unseen
from mtret.evaluation.report import markdown
from mtret.evaluation.results import parse_results


def test_the_whole_is_counted_by_its_words(results: dict[str, Any]) -> None:
    for place, (one, other) in enumerate((("finetuned_hybrid", "hybrid"), ("finetuned", "base"))):
        words = [task["differences"][one][other]["verdict"] for task in results["tasks"].values()]
        counts = ", ".join(f"{w} on {words.count(w)}" for w in ("better", "no difference", "WORSE") if w in words)
        found = findings(parse_results(results))[place]
        assert found == f"`{one}` against `{other}` is {counts} of {len(words)} tasks."


def test_tasks_that_training_made_worse_are_named_by_what_can_be_done(results: dict[str, Any]) -> None:
    for name in ("alpha", "gamma"):
        results["tasks"][name]["differences"]["finetuned"]["base"]["verdict"] = "WORSE"
    results["mixture"]["tasks"] = ["alpha", "beta"]
    assert hurt_tasks(parse_results(results)) == ["alpha", "gamma"]
    said = findings(parse_results(results))
    assert any("alpha" in line and "`--hold_out=alpha`" in line for line in said)
    assert any("gamma" in line and "Serve those with the base" in line for line in said)
    assert all(line in markdown(parse_results(results)) for line in said[2:])
    results["mixture"]["tasks"] = ["alpha"]  # without it there would be nothing to train on
    said = findings(parse_results(results))
    assert any("alpha. These are all that was trained on" in line for line in said)
    assert not any("--hold_out=alpha" in line for line in said)


def test_queries_that_were_left_out_are_counted(results: dict[str, Any]) -> None:
    for name, task in results["tasks"].items():
        task["n_dropped"] = 2 if name == "beta" else 0
    assert "Queries that were trained on, and are therefore left out: 2 of beta." in findings(parse_results(results))
    results["tasks"]["beta"]["n_dropped"] = 0
    assert not any("left out" in line for line in findings(parse_results(results)))


def test_where_nothing_was_held_out_the_report_says_how_to(results: dict[str, Any]) -> None:
    assert not nothing_unseen(parse_results(results))
    assert not any("held out" in line for line in findings(parse_results(results)))
    for task in results["tasks"].values():
        task["role"] = "in_domain"
    assert nothing_unseen(parse_results(results))
    results["mixture"] = {"tasks": ["alpha", "beta"], "families": ["table", "article"]}
    assert "`--hold_out=table`" in findings(parse_results(results))[-1]
    results["mixture"]["families"] = ["table"]  # without the family there would be nothing left
    assert "`--hold_out=alpha`" in findings(parse_results(results))[-1]
    results["mixture"]["tasks"] = ["alpha"]
    assert findings(parse_results(results))[-1].endswith("that takes a second task, to hold out.")


def test_a_base_model_has_no_verdict(results: dict[str, Any]) -> None:
    skipped = "icons: not evaluated: images need an image tower."
    assert skipped in findings(parse_results(results))
    assert findings(parse_results(results | {"mixture": None})) == [skipped]
    assert findings(parse_results(results | {"mixture": None, "skipped": {}})) == []
