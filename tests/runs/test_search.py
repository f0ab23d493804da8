"""`mtret search`: what is found is what exact search over the same vectors finds, in either form."""

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mtret.data.formats import read_task
from mtret.data.tokenize import Tokenizer
from mtret.index.encode import Texts
from mtret.model_folder.folder import load_model
from mtret.model_folder.towers import embedder

pytestmark = pytest.mark.slow

Mtret = Callable[..., tuple[int, str, str]]


def nearest(run: Path, suite: Path, name: str, query: str, top: int) -> list[tuple[str, float]]:
    """By the definition: cosines of the query with its instruction to all documents of a task."""
    model, task = load_model(str(run)), read_task(suite / name)
    tokenizer = Tokenizer(model.encoder.folder)
    asked = tokenizer([model.templates.query_prefix(task.card.instruction) + query])
    texts = [Texts(each, model.encoder.max_length) for each in (asked, tokenizer(task.document_texts))]
    vector, documents = embedder(model.encoder)(texts)
    scores = documents @ vector[0]
    return [(task.document_ids[row], float(scores[row])) for row in np.argsort(-scores)[:top]]


def test_the_nearest_documents_are_shown(mtret: Mtret, finished: Path, tiny_suite: Path, words: list[str]) -> None:
    query = " ".join(words[3:7])
    code, said, _ = mtret("search", finished, "alpha", *query.split(), "--json", "--top=3")
    assert code == 0
    found = json.loads(said)
    assert found["query"] == query and [hit["rank"] for hit in found["hits"]] == [1, 2, 3]
    wanted = nearest(finished, tiny_suite, "alpha", query, 3)
    assert [hit["id"] for hit in found["hits"]] == [one for one, _ in wanted]
    np.testing.assert_allclose([hit["score"] for hit in found["hits"]], [score for _, score in wanted], atol=1e-5)
    task = read_task(tiny_suite / "alpha")
    for hit in found["hits"]:
        assert hit["text"] == task.document_texts[task.document_ids.index(hit["id"])]
    code, said, _ = mtret("search", finished, "alpha", query, "--top=3")
    lines = said.splitlines()
    assert lines[0] == query and lines[1].startswith(f"   1  {wanted[0][1]:.3f}  alpha/{wanted[0][0]}  ")
    assert len(lines) == 4


def test_queries_come_from_standard_input_and_the_pool_has_every_task(
    mtret: Mtret, finished: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = [" ".join(words[i : i + 4]) for i in (0, 50, 90)]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join([queries[0], "", *queries[1:], ""])))
    code, said, _ = mtret("search", finished, "beta", "--json", "--pooled", "--top=100")
    found = [json.loads(line) for line in said.splitlines()]
    assert code == 0 and [each["query"] for each in found] == queries
    assert {hit["task"] for each in found for hit in each["hits"]} == {"alpha", "beta", "gamma", "delta"}
    assert all(len(each["hits"]) == 100 for each in found)


def test_a_suite_of_the_training_that_is_gone_is_said_to_be_that(mtret: Mtret, finished: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(finished / "model", model)
    details = json.loads((model / "mtret.json").read_text(encoding="utf-8"))
    details["config"]["suite"] = "moved/away"
    (model / "mtret.json").write_text(json.dumps(details), encoding="utf-8")
    code, _, said = mtret("search", model, "alpha", "x")
    assert code == 2
    assert said.startswith("mtret: the suite that the model was trained on: moved/away: no such folder.")
    assert said.endswith("Or name another: --suite=FOLDER\n")


def test_mistakes_are_one_line(mtret: Mtret, finished: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    for arguments, message in (
        ((), "search: no model; mtret search MODEL TASK 'the query'"),
        ((finished,), "search: no task; mtret search MODEL TASK 'the query'"),
        ((finished, "alpha"), "search: no query; give one after the task, or lines on standard input"),
        ((finished, "alpa", "x"), "no task 'alpa' in"),
        ((tiny_model, "alpha", "x"), "no suite: give --suite=FOLDER"),
    ):
        code, _, said = mtret("search", *arguments)
        assert code == 2 and message in said and said.count("\n") == 1
