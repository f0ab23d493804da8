"""From a model and a suite to results: roles, systems, caches, leakage; whole, on the tiny suite."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from mtret.errors import UserError
from mtret.evaluation.query_scores import read_query_scores
from mtret.index.encode import Embedder
from mtret.index.exact import Rules, Run, search
from mtret.models.dual_encoder import ModelConfig
from mtret.runs import embedding, lexical
from mtret.runs import evaluate as module
from mtret.runs.evaluate import EvaluationConfig, evaluate

pytestmark = pytest.mark.slow  # a whole run is compiled first

ROLES = {"alpha": "in_domain", "beta": "in_domain", "delta": "zero_shot", "gamma": "cross_domain"}
TEST = EvaluationConfig(split="test")
Tree = Callable[[Path], dict[str, bytes]]
Mtret = Callable[..., tuple[int, str, str]]


def timeless(results: dict[str, Any]) -> dict[str, Any]:
    """Results without what the clock says."""
    results = json.loads(json.dumps(results))
    for key in ("date", "seconds"):
        del results["protocol"][key]
    entries = [results["pooled"], *results["tasks"].values()] if results["pooled"] else list(results["tasks"].values())
    for entry in entries:
        for key in ("build_seconds", "queries_per_second"):
            (entry["scann"] or {}).pop(key, None)
    return results


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many distinct texts each call has embedded."""
    counted: list[int] = []
    distinct = Embedder._distinct

    def count(self: Embedder, texts: Any, on_progress: Any) -> Any:
        counted.append(len(texts))
        return distinct(self, texts, on_progress)

    monkeypatch.setattr(Embedder, "_distinct", count)
    return counted


@pytest.mark.parametrize("chunks", [False, True])
def test_what_a_system_cannot_read_is_not_there_for_it(chunks: bool) -> None:
    """As if every query excluded it; with ties, exclusions, and parents of several chunks."""
    random = np.random.default_rng(0)
    queries, corpus = (random.integers(-1, 2, (n, 3)).astype(np.float32) for n in (6, 40))
    read = np.repeat(random.random(20) < 0.6, 2)  # a parent as a whole
    order = random.permutation(40).astype(np.int32)
    pairs = np.stack([np.repeat(np.arange(6), 5), random.integers(0, 40, 30)], axis=1).astype(np.int32)
    parents = (np.arange(40) // 2 * 2).astype(np.int32) if chunks else None
    found = module._search_some(queries, corpus, read, Rules(order, pairs, parents))
    unread = np.stack(np.meshgrid(np.arange(6), np.flatnonzero(~read)), axis=-1).reshape(-1, 2).astype(np.int32)
    excluded = np.unique(np.concatenate([pairs, unread]), axis=0)  # `search` wants them by query
    expected = search(queries, corpus, module.DEPTH, Rules(order, excluded, parents))
    np.testing.assert_array_equal(found.documents, expected.documents)
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert 5 <= (found.documents >= 0).sum(axis=1).min() < 40


def test_a_finished_run_is_judged_whole_and_reproducibly(
    tmp_path: Path,
    finished: Path,
    tiny_suite: Path,
    console: Console,
    monkeypatch: pytest.MonkeyPatch,
    embedded: list[int],
) -> None:
    monkeypatch.setenv("MTRET_CACHE", str(tmp_path / "cache"))
    evaluate(str(finished), str(tiny_suite), TEST, tmp_path / "out", console)
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "queries.jsonl", "report.md", "results.json", "results.png",
    }  # fmt: skip
    kept = read_query_scores(str(tmp_path / "out"))
    for name, task in results["tasks"].items():
        assert len(kept.tasks[name].ids) == 10
        for system, scores in task["systems"].items():
            mean = kept.tasks[name].scores["ndcg@10", system].mean()
            assert mean == pytest.approx(scores["ndcg@10"]["mean"], abs=2e-6)
    assert results["protocol"]["training_seed"] == 0 and len(results["protocol"]["training_sha256"]) == 64
    assert results["systems"] == ["bm25", "base", "hybrid_ranks", "hybrid", "finetuned", "finetuned_hybrid"]
    assert {name: task["role"] for name, task in results["tasks"].items()} == ROLES
    assert results["mixture"] == {"tasks": ["alpha", "beta"], "families": ["article", "table"]}
    assert {role: entry["tasks"] for role, entry in results["roles"].items()} == {
        "in_domain": ["alpha", "beta"], "cross_domain": ["gamma"], "zero_shot": ["delta"],
    }  # fmt: skip
    assert {name: task["n_queries"] for name, task in results["tasks"].items()} == dict.fromkeys(ROLES, 10)
    assert results["pooled"]["n_documents"] == 240
    for task in results["tasks"].values():
        assert task["n_dropped"] == 0
        assert task["scann"]["recall"] == 1.0  # brute force at this size
        assert task["scann"]["ndcg@10"] == pytest.approx(task["systems"]["finetuned"]["ndcg@10"]["mean"], abs=1e-6)
        assert task["systems"]["bm25"]["ndcg@10"]["mean"] > 0.9  # queries are words of their document
    assert results["tasks"]["delta"]["seen_document_share"] == 0
    assert results["tasks"]["alpha"]["seen_document_share"] == 0.6
    protocol = results["protocol"]
    assert (protocol["split"], protocol["depth"], protocol["suite"]) == ("test", 100, "tiny")
    assert protocol["step"] == json.loads((finished / "model" / "mtret.json").read_text(encoding="utf-8"))["step"]

    assert sum(embedded) > 0
    embedded.clear()
    again = evaluate(str(finished), str(tiny_suite), TEST, tmp_path / "again", console)
    assert embedded == []
    assert timeless(again) == timeless(results)
    monkeypatch.setenv("MTRET_CACHE", str(tmp_path / "fresh"))
    again = evaluate(str(finished), str(tiny_suite), TEST, tmp_path / "again", console)
    assert sum(embedded) > 0
    assert timeless(again) == timeless(results)


def test_a_plain_model_is_judged_without_roles(
    tmp_path: Path, tiny_model: Path, tiny_suite: Path, console: Console
) -> None:
    results = evaluate(str(tiny_model), str(tiny_suite), replace(TEST, scann=False, pooled=False), tmp_path, console)
    assert results["systems"] == ["bm25", "base", "hybrid_ranks", "hybrid"]
    assert set(results["roles"]) == {"all"}
    assert results["mixture"] is None
    assert results["pooled"] is None
    assert all(task["scann"] is None and task["seen_document_share"] is None for task in results["tasks"].values())
    assert results["protocol"]["query_template"] == "{query}"


def test_cut_vectors_are_judged_where_they_are_asked_for(
    tmp_path: Path, finished: Path, tiny_suite: Path, console: Console, mtret: Mtret
) -> None:
    config = replace(TEST, scann=False, pooled=False, tasks=("alpha", "gamma"), dimensions=(8, 2))
    results = evaluate(str(finished), str(tiny_suite), config, tmp_path / "out", console)
    written = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert written["dimensions"] == results["dimensions"]
    assert list(results["dimensions"]) == ["32", "8", "2"]
    assert all(set(scores) == {"alpha", "gamma"} for scores in results["dimensions"].values())
    for name, score in results["dimensions"]["32"].items():
        assert score == pytest.approx(results["tasks"][name]["systems"]["finetuned"]["ndcg@10"]["mean"], abs=1e-6)
        assert results["dimensions"]["2"][name] != score
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "## Fewer dimensions" in report and "| role | 32 | 8 | 2 |" in report
    for given, message in (
        ("32", "32 is not between 0 and the 32 dimensions of this model"),
        ("8,x", "'8,x' is not a list"),
    ):
        code, _, err = mtret("evaluate", f"--model={finished}", f"--suite={tiny_suite}", f"--dimensions={given}")
        assert code == 2 and message in err


def test_only_tasks_that_are_asked_for_are_judged(
    tmp_path: Path, finished: Path, tiny_suite: Path, console: Console
) -> None:
    config = EvaluationConfig(split="dev", tasks=("gamma", "alpha"), scann=False, pooled=False)
    results = evaluate(str(finished), str(tiny_suite), config, tmp_path, console)
    assert set(results["tasks"]) == {"alpha", "gamma"}
    assert results["protocol"]["split"] == "dev"


def test_the_finetuned_encoder_is_given_its_instruction_and_a_base_without_prompts_none(
    tmp_path: Path, finished: Path, tiny_suite: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenised: list[str] = []

    class Watching(embedding.Tokenizer):
        def __call__(self, texts: Any, on_progress: Any = None) -> Any:
            tokenised.extend(texts)
            return super().__call__(texts, on_progress)

    monkeypatch.setattr(embedding, "Tokenizer", Watching)
    config = EvaluationConfig(split="test", tasks=("delta",), scann=False, pooled=False)
    evaluate(str(finished), str(tiny_suite), config, tmp_path, console)
    instruction = json.loads((tiny_suite / "delta" / "task.json").read_text(encoding="utf-8"))["instruction"]
    queries = [json.loads(line)["text"] for line in (tiny_suite / "delta/queries.jsonl").open(encoding="utf-8")][6:]
    bare = [query for query in queries if query in tokenised]
    prefixed = [query for query in queries if f"Instruct: {instruction}\nQuery: {query}" in tokenised]
    assert bare == prefixed == queries
    assert tokenised.index(queries[0]) < tokenised.index(f"Instruct: {instruction}\nQuery: {queries[0]}")


def leak(suite: Path, count: int) -> None:
    """Gives the first `count` test queries of gamma the texts of training queries of alpha."""
    trained = [json.loads(line)["text"] for line in (suite / "alpha/queries.jsonl").open(encoding="utf-8")]
    path = suite / "gamma" / "queries.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    for i in range(count):
        lines[6 + i] = json.dumps({"_id": f"q{6 + i}", "text": trained[i].title() + "  ?"})
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_leaked_queries_are_refused_or_dropped_and_named(
    tmp_path: Path, finished: Path, own_suite: Path, console: Console, mtret: Mtret, tree: Tree
) -> None:
    leak(own_suite, 2)
    before = tree(tmp_path)
    arguments = ("evaluate", f"--model={finished}", f"--suite={own_suite}", f"--out={tmp_path / 'out'}", "--split=test")
    code, _, error = mtret(*arguments)
    assert code == 2
    assert error == (
        "mtret: task 'gamma': 2 of 10 test queries (20.0%) are training queries of the model, more than 1%. "
        "Pass --allow_leakage to drop them and evaluate the rest.\n"
    )
    assert tree(tmp_path) == before
    config = replace(TEST, allow_leakage=True, scann=False, pooled=False)
    results = evaluate(str(finished), str(own_suite), config, tmp_path / "out", console)
    gamma = results["tasks"]["gamma"]
    assert (gamma["n_dropped"], gamma["dropped_queries"], gamma["n_queries"]) == (2, ["q6", "q7"], 8)


def test_a_base_that_changed_is_no_base(
    tmp_path: Path, finished: Path, tiny_suite: Path, console: Console, own_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison with the base encoder would be with something else."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(own_model / "model.safetensors")
    save_file({name: value + np.float32(1) for name, value in tensors.items()}, own_model / "model.safetensors")
    real = module.open_model

    def moved(source: str, config: ModelConfig | None = None) -> Any:
        model = real(source, config)
        return replace(model, details={**model.details, "source": str(own_model)}) if model.details else model

    monkeypatch.setattr(module, "open_model", moved)
    with pytest.raises(
        UserError, match=rf"model '{own_model}': is not what this model was finetuned from: weights_sha256: "
    ):
        evaluate(str(finished), str(tiny_suite), TEST, tmp_path / "out", console)


def test_a_cached_run_is_only_used_for_the_same_question(tmp_path: Path) -> None:
    asked: list[str] = []

    def run(name: str) -> Callable[[], Run]:
        def search() -> Run:
            asked.append(name)
            return Run(np.full((1, 1), len(asked), np.int32), np.ones((1, 1), np.float32))

        return search

    first = lexical.cached_run(tmp_path, ["data", "test", "1"], run("first"))
    same = lexical.cached_run(tmp_path, ["data", "test", "1"], run("same"))
    other = lexical.cached_run(tmp_path, ["data", "test", "2"], run("other"))
    assert asked == ["first", "other"]
    assert (int(first.documents[0, 0]), int(same.documents[0, 0]), int(other.documents[0, 0])) == (1, 1, 2)


def test_a_cached_run_is_of_the_libraries_that_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another stemmer makes other terms of the same texts."""
    import importlib.metadata

    asked: list[str] = []

    def run() -> Run:
        asked.append("")
        return Run(np.zeros((1, 1), np.int32), np.ones((1, 1), np.float32))

    real = importlib.metadata.version
    for library in ("", "PyStemmer", "bm25s", ""):
        monkeypatch.setattr(importlib.metadata, "version", lambda name: real(name) + "x" * (name == library))  # noqa: B023
        lexical.cached_run(tmp_path, ["data"], run)
    assert len(asked) == 3
