import json
from pathlib import Path
from typing import Any

import pytest

from mtret.errors import UserError
from mtret.evaluation.results import parse_results, read_results, write_results
from mtret.evaluation.statistics import Interval


def test_written_results_read_back_equal(results: dict[str, Any], tmp_path: Path):
    path = tmp_path / "new" / "results.json"
    written = write_results(results, path)
    assert json.loads(path.read_text(encoding="utf-8")) == results and read_results(path) == written
    score = results["roles"]["in_domain"]["systems"]["finetuned"]["ndcg@10"]
    assert written.roles["in_domain"].primary("finetuned") == Interval(score["mean"], *score["ci95"])
    assert [one.name for one in (tmp_path / "new").iterdir()] == ["results.json"]


@pytest.mark.parametrize("options", [{}, {"roles": False}, {"pooled": False}, {"systems": ("alone",)}])
def test_whatever_is_built_is_of_the_schema(make, options: dict[str, Any]):
    parse_results(json.loads(json.dumps(make(**options))))


SPOILT = [
    (("schema",), "mtret.results/4", "schema: must be 'mtret.results/3'"),
    (("tasks", "alpha", "n_queries"), "many", "tasks.alpha.n_queries: needs an integer, got 'many'"),
    (("tasks", "alpha", "n_queries"), True, "tasks.alpha.n_queries: needs an integer, got True"),
    (("tasks", "alpha", "role"), "trained", "tasks.alpha.role: must be one of in_domain, cross_domain"),
    (("tasks", "alpha", "dropped_queries", 1), 7, r"tasks.alpha.dropped_queries\[1\]: needs a string, got 7"),
    (
        ("tasks", "beta", "systems", "bm25", "map", "ci95"),
        [0.1],
        "tasks.beta.systems.bm25.map: must be a mean and two bounds ci95, got ",
    ),
    (("tasks", "beta", "systems", "bm25", "map", "mean"), None, "tasks.beta.systems.bm25.map: must be a mean and two"),
    (("tasks", "beta", "systems", "bm25", "map"), 0.5, "tasks.beta.systems.bm25.map: must be a mean and two"),
    (
        ("tasks", "beta", "differences", "base", "bm25", "ci95"),
        [0, 1, 2],
        "tasks.beta.differences.base.bm25: must be a mean and two bounds ci95, got ",
    ),
    (
        ("roles", "in_domain", "differences", "hybrid", "bm25", "verdict"),
        "worse",
        "roles.in_domain.differences.hybrid.bm25.verdict: must be one of better, no difference, WORSE, got 'worse'",
    ),
    (("roles", "in_domain", "tasks", 0), "delta", "roles.in_domain.tasks: 'delta' is not a task"),
    (
        ("pooled", "tasks", "beta", "systems"),
        {},
        "pooled.tasks.beta.systems: must be bm25, base, hybrid_ranks, ",
    ),
    (("tasks", "beta", "differences", "base"), {}, "tasks.beta.differences.base: must be bm25"),
    (
        ("tasks", "beta", "differences", "bm25"),
        {"base": {}},
        "tasks.beta.differences.bm25.base: must be a mean",
    ),
    (("roles", "in_domain", "differences"), {}, "roles.in_domain.differences.finetuned_hybrid: must be bm25, base, "),
    (("skipped",), None, "skipped: needs names and values, got None"),
    (("bootstrap", "seed"), None, "bootstrap.seed: needs an integer, got None"),
]


@pytest.mark.parametrize(("path", "value", "message"), SPOILT)
def test_a_spoilt_value_is_named_by_its_path(results: dict[str, Any], path: tuple, value: Any, message: str):
    place: Any = results
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(UserError, match=f"^somewhere.json: {message}"):
        parse_results(results, "somewhere.json")


@pytest.mark.parametrize("path", [("protocol",), ("tasks", "beta", "family"), ("roles", "zero_shot", "n_queries")])
def test_a_missing_key_is_named_by_its_path(results: dict[str, Any], path: tuple[str, ...]):
    place: Any = results
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    with pytest.raises(UserError, match=f"{'.'.join(path)}: is missing"):
        parse_results(results)


def test_the_primary_metric_must_be_there(results: dict[str, Any]):
    del results["tasks"]["beta"]["systems"]["hybrid"]["ndcg@10"]
    with pytest.raises(UserError, match=r"tasks.beta.systems.hybrid.ndcg@10: is missing"):
        parse_results(results)


@pytest.mark.parametrize("content", [None, "{", "[1]", '"text"', "{}"])
def test_files_that_are_no_results_are_refused_in_one_line(content: str | None, tmp_path: Path):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"results\.json: .*write it with `mtret evaluate`$") as error:
        read_results(path)
    assert "\n" not in str(error.value)


def test_results_that_are_not_of_the_schema_leave_the_old_file(results: dict[str, Any], tmp_path: Path):
    path = tmp_path / "results.json"
    write_results(results, path)
    before = path.read_bytes()
    results["roles"]["in_domain"]["n_queries"] = None
    with pytest.raises(UserError):
        write_results(results, path)
    assert path.read_bytes() == before
