"""What stands in queries.jsonl, that it belongs to its results.json, and what the evaluated data's hash depends on."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtret.data.tasks import Judgements
from mtret.errors import UserError
from mtret.evaluation.query_scores import data_sha256, read_query_scores, with_query_scores
from mtret.evaluation.results import parse_results, write_results
from mtret.evaluation.retrieval import TaskOutcome


def kept(results: dict[str, Any], outcomes: list[TaskOutcome], folder: Path) -> Path:
    write_results(with_query_scores(results, outcomes, folder), folder / "results.json")
    return folder


def test_every_query_has_a_line_with_every_system(
    results: dict[str, Any], outcomes: list[TaskOutcome], tmp_path: Path
) -> None:
    kept(results, outcomes, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == sum(len(outcome.scores.query_rows) for outcome in outcomes)
    alpha = outcomes[0].scores.systems
    wanted = {system: round(float(values["ndcg@10"][3]), 6) for system, values in alpha.items()}
    assert lines[3]["task"] == "alpha" and lines[3]["query"] == "q3" and lines[3]["ndcg@10"] == wanted
    assert set(lines[3]) == {"task", "query", "ndcg@10", "recall@10", "mrr@10"}


@pytest.mark.parametrize("name", ["", "results.json"])
def test_they_read_back_from_the_folder_or_its_file(
    results: dict[str, Any], outcomes: list[TaskOutcome], tmp_path: Path, name: str
) -> None:
    found = read_query_scores(str(kept(results, outcomes, tmp_path) / name))
    assert found.results.tasks == parse_results(results).tasks
    for outcome in outcomes:
        task = found.tasks[outcome.task.name]
        assert task.ids == outcome.task.query_ids
        np.testing.assert_allclose(
            task.scores["mrr@10", "finetuned"], outcome.scores.systems["finetuned"]["mrr@10"], atol=1e-6
        )


def test_files_that_do_not_belong_together_are_refused(
    results: dict[str, Any], outcomes: list[TaskOutcome], tmp_path: Path
) -> None:
    write_results(results, tmp_path / "older" / "results.json")
    with pytest.raises(UserError, match=r"older/results.json: its queries' scores were not kept; run `mtret evaluate`"):
        read_query_scores(str(tmp_path / "older"))
    folder = kept(results, outcomes, tmp_path / "new")
    with (folder / "queries.jsonl").open("a", encoding="utf-8") as file:
        file.write("{}\n")
    with pytest.raises(UserError, match=r"queries.jsonl: is not the file that results.json was written with"):
        read_query_scores(str(folder))
    (folder / "queries.jsonl").unlink()
    with pytest.raises(UserError, match=r"queries.jsonl: no such file"):
        read_query_scores(str(folder))


def test_the_judged_data_has_a_hash_that_only_judged_data_changes(outcomes: list[TaskOutcome]) -> None:
    task = outcomes[0].task
    same = data_sha256(task, "test")
    assert data_sha256(replace(task, card=replace(task.card, instruction="Other.")), "test") == same
    train = {"train": task.splits["test"].select(np.arange(200) < 3)}
    assert data_sha256(replace(task, splits={**task.splits, **train}), "test") == same
    order = np.arange(20)[::-1]  # the same documents in another order, judgements with them
    judged = task.splits["test"]
    moved = Judgements.from_pairs(judged.pair_queries(), (19 - judged.documents).astype(np.int32), judged.scores)
    ids, texts = (tuple(each[i] for i in order) for each in (task.document_ids, task.document_texts))
    assert data_sha256(replace(task, document_ids=ids, document_texts=texts, splits={"test": moved}), "test") == same
    half = replace(task, splits={"test": judged.select(np.arange(200) < 100)})
    for query, changes in ((150, False), (50, True)):  # of another split, of this one
        exclude = replace(half, exclude=judged.select(np.arange(200) == query))
        assert (data_sha256(exclude, "test") != data_sha256(half, "test")) == changes
    for other in (
        replace(task, document_texts=("changed", *task.document_texts[1:])),
        replace(task, query_texts=("changed", *task.query_texts[1:])),
        replace(task, splits={"test": replace(judged, scores=judged.scores * 2)}),
        replace(task, exclude=judged.select(np.arange(200) == 7)),
        replace(task, parent_ids=("other", *task.document_ids[1:])),
    ):
        assert data_sha256(other, "test") != same


@pytest.mark.parametrize("queries", [{}, {"file": "x", "sha256": 3, "metrics": []}])
def test_results_say_where_their_queries_are(make: Callable[..., dict[str, Any]], queries: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"queries\."):
        write_results(make() | {"queries": queries}, tmp_path / "results.json")
