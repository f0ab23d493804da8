"""The weight of a hybrid: a task's own where its dev queries show one, else the common one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from mtret.data.tasks import Judgements
from mtret.evaluation.metrics import hits, ndcg
from mtret.index.exact import Rules, Run, search
from mtret.index.fusion import WEIGHT, Scored, convex
from mtret.runs import evaluate as module
from mtret.runs.evaluate import EvaluationConfig, evaluate
from mtret.runs.fusing import WEIGHTS, Dense, own_weight
from mtret.runs.lexical import LexicalSearch

QUERIES, DOCUMENTS = 120, 40
ORDER = np.arange(DOCUMENTS, dtype=np.int32)


def scored(lexical: float, dense: float) -> tuple[Scored, Judgements]:
    """Both sides know the right document of each query with so much certainty."""
    random = np.random.default_rng(0)
    right = random.integers(0, DOCUMENTS, QUERIES)
    documents = np.tile(ORDER, (QUERIES, 1))
    is_right = documents == right[:, None]
    sides = [(sure * is_right + random.normal(size=documents.shape)).astype(np.float32) for sure in (lexical, dense)]
    rows = np.arange(QUERIES, dtype=np.int32)
    return Scored(documents, np.exp(sides[0]), sides[1]), Judgements.from_pairs(
        rows, right.astype(np.int32), np.ones(QUERIES)
    )


@pytest.mark.parametrize(("lexical", "dense", "low", "high"), [(0, 3, 0.8, 1), (3, 0, 0, 0.4)])
def test_it_is_where_the_dev_queries_are_answered_best(lexical: float, dense: float, low: float, high: float) -> None:
    found, judged = scored(lexical, dense)
    weight = own_weight(found, judged, judged.queries, ORDER)
    means = [ndcg(hits(convex(found, one, 10, order=ORDER), judged, judged.queries), 10).mean() for one in WEIGHTS]
    assert low <= weight <= high and means[WEIGHTS.index(weight)] == max(means)


def test_it_is_the_common_one_where_no_other_is_better_by_more_than_a_standard_error() -> None:
    found, judged = scored(3, 3)
    alike = found._replace(lexical=found.dense - found.dense.min() + 1)
    assert own_weight(alike, judged, judged.queries, ORDER) == WEIGHT
    chosen = []
    for first in range(0, QUERIES, 6):  # of few queries
        rows = np.arange(first, first + 6, dtype=np.int32)
        few = judged.select(np.isin(judged.queries, rows))
        part = Scored(*(side[rows] for side in found))
        scores = {w: ndcg(hits(convex(part, w, 10, order=ORDER), few, few.queries), 10) for w in WEIGHTS}
        weight = own_weight(part, few, few.queries, ORDER)
        gains = scores[weight] - scores[WEIGHT]
        assert weight == WEIGHT or gains.mean() > gains.std(ddof=1) / 6**0.5
        best = max(each.mean() for each in scores.values())
        chosen.append((weight == WEIGHT, best > scores[WEIGHT].mean()))
    assert (True, True) in chosen  # another was best, by no more than that


def test_a_search_for_other_queries_shares_the_index_and_finds_the_same(tmp_path: Path) -> None:
    texts, rules = ["red apple", "green pear", "red pear"], Rules(np.arange(3, dtype=np.int32))
    read: list[str] = []

    def documents() -> list[str]:
        read.append("")
        return texts

    first = LexicalSearch(documents, ["apple"], rules, ["a"], tmp_path)
    second = LexicalSearch(documents, ["red pear"], rules, ["b"], tmp_path, first)
    wanted = np.array([[0, 1, 2]], np.int32)
    assert second.scores_at(wanted).argmax() == 2 and first.scores_at(wanted).argmax() == 0 and len(read) == 1


def test_scores_of_a_search_are_those_of_its_vectors() -> None:
    random = np.random.default_rng(1)
    queries, documents = (random.normal(size=(n, 4)).astype(np.float32) for n in (3, 9))
    rules = Rules(np.arange(9, dtype=np.int32))
    dense = Dense(search(queries, documents, 9, rules), queries, documents)
    np.testing.assert_allclose(dense.scores_at(dense.run.documents, rules), dense.run.scores, atol=1e-6)
    assert isinstance(dense.run, Run)


@pytest.mark.slow
def test_an_evaluation_says_which_weights_it_took_and_takes_none_from_what_it_evaluates(
    tmp_path: Path, finished: Path, tiny_suite: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = EvaluationConfig(split="test", scann=False, pooled=False)
    plain = evaluate(str(finished), str(tiny_suite), config, tmp_path / "plain", console)
    assert {task["fusion"] for task in plain["tasks"].values()} == {None}  # six dev queries are too few
    monkeypatch.setattr(module, "FEWEST_QUERIES", 3)
    monkeypatch.setattr(module, "own_weight", lambda scored, judged, rows, order: 0.9)
    own = evaluate(str(finished), str(tiny_suite), config, tmp_path / "own", console)
    assert own["tasks"]["alpha"]["fusion"] == {"base": 0.9, "finetuned": 0.9}
    systems = [{name: each["systems"] for name, each in run["tasks"].items()} for run in (plain, own)]
    assert systems[0]["alpha"]["finetuned"] == systems[1]["alpha"]["finetuned"]
    assert any(systems[0][name]["hybrid"] != systems[1][name]["hybrid"] for name in systems[0])
    assert json.loads((tmp_path / "own" / "results.json").read_text(encoding="utf-8")) == own
    assert "own weights" in (tmp_path / "own" / "report.md").read_text(encoding="utf-8")
    dev: Any = evaluate(str(finished), str(tiny_suite), replace(config, split="dev"), tmp_path / "dev", console)
    assert {task["fusion"] for task in dev["tasks"].values()} == {None}
