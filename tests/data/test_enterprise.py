"""The bundled enterprise: pinned bytes, the promised sizes, the lexical gap. How it is made: tests/experiments."""

import gzip
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import bm25s
import numpy as np
import pytest

from mtret.data import enterprise
from mtret.data.enterprise import read_tasks, write_suite
from mtret.data.formats import read_suite
from mtret.data.roles import role_of, training_record
from mtret.data.tasks import Judgements, Task, query_key
from mtret.errors import UserError
from mtret.index.bm25 import tokenize
from mtret.index.exact import tie_order

SHA256 = "39a3ebaf989ca63c104fab6ff6e80f2f76548444fd6f286edddd374dc024393c"
TRAINED = ("step", "table", "field", "catalog", "article", "api")
UNSEEN = ("workflow", "report")


@pytest.fixture(scope="module")
def suite() -> dict[str, Task]:
    return read_tasks()


def _gold(judgements: Judgements) -> list[set[int]]:
    return [set(one.tolist()) for one in np.split(judgements.documents, judgements.offsets[1:-1])]


def _texts(task: Task, split: str) -> list[str]:
    return [task.query_texts[row] for row in task.splits[split].queries]


def test_tasks_splits_and_sizes(suite: dict[str, Task]) -> None:
    assert set(suite) == {f"{division}_{family}" for division in ("it", "business") for family in TRAINED + UNSEEN}
    for name, task in suite.items():
        trained = name.startswith("it_") and task.card.family in TRAINED
        assert set(task.splits) == ({"train", "dev", "test"} if trained else {"dev", "test"})
        assert (len(task.splits["dev"]), len(task.splits["test"])) == (70, 140)
        if trained:
            assert 400 <= len(task.splits["train"].documents) <= 900
    assert sum(len(task.document_texts) for task in suite.values()) <= 5_000


def test_roles_follow_from_a_mixture_of_it_tasks(suite: dict[str, Task]) -> None:
    record = training_record([suite[f"it_{family}"] for family in TRAINED])
    counts: Counter[str] = Counter()
    for name, task in suite.items():
        role = role_of(task, record)
        division, _, family = name.partition("_")
        assert role == ("zero_shot" if family in UNSEEN else "in_domain" if division == "it" else "cross_domain")
        counts[role] += len(task.splits["test"])
    assert counts == {"in_domain": 840, "cross_domain": 840, "zero_shot": 560}


def test_no_query_and_no_document_occurs_twice(suite: dict[str, Task]) -> None:
    queries = Counter(query_key(text) for task in suite.values() for text in task.query_texts)
    documents = Counter(text for task in suite.values() for text in task.document_texts)
    assert max(queries.values()) == 1
    assert max(documents.values()) == 1


def test_the_written_suite_is_pinned_and_reads_back_the_same(suite: dict[str, Task], tmp_path: Path) -> None:
    write_suite(tmp_path / "suite")
    read = read_suite(tmp_path / "suite")
    assert read.sha256 == SHA256
    assert set(read.tasks) == set(suite)
    for name, task in suite.items():
        twin = read.tasks[name]
        assert (twin.card, twin.query_texts, twin.document_texts) == (task.card, task.query_texts, task.document_texts)
        assert twin.document_ids == task.document_ids
        for split, judgements in task.splits.items():
            for mine, theirs in zip(vars(judgements).values(), vars(twin.splits[split]).values(), strict=True):
                np.testing.assert_array_equal(mine, theirs)


def _bm25_recall_at_10(task: Task, split: str) -> float:
    """Divided by min(10, positives); a document that shares no term with the query is not a hit."""
    order = tie_order(task.document_ids)
    scorer = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    scorer.index(tokenize([task.document_texts[row] for row in order]), show_progress=False)
    recalls = []
    for terms, gold in zip(tokenize(_texts(task, split)), _gold(task.splits[split]), strict=True):
        scores = scorer.get_scores(terms)
        best = np.argsort(-scores, kind="stable")[:10]
        recalls.append(len(gold.intersection(order[best[scores[best] > 0]].tolist())) / min(10, len(gold)))
    return float(np.mean(recalls))


def test_bm25_is_neither_hopeless_nor_enough(suite: dict[str, Task]) -> None:
    for name, task in suite.items():
        for split in ("dev", "test"):
            assert 0.3 < _bm25_recall_at_10(task, split) < 0.8, f"{name} {split}"


def test_several_positives_are_common(suite: dict[str, Task]) -> None:
    several = [len(gold) > 1 for task in suite.values() for gold in _gold(task.splits["test"])]
    assert 0.2 < np.mean(several) < 0.6


def test_withdrawn_documents_are_never_right(suite: dict[str, Task]) -> None:
    for family, mark in (("step", "(2019)"), ("api", "/v1/")):
        task = suite[f"it_{family}"]
        withdrawn = {row for row, text in enumerate(task.document_texts) if mark in text}
        assert len(withdrawn) > 3
        assert all(withdrawn.isdisjoint(judgements.documents.tolist()) for judgements in task.splits.values())


def test_every_task_of_a_family_has_its_instruction(suite: dict[str, Task]) -> None:
    instructions = {(task.card.family, task.card.instruction) for task in suite.values()}
    assert {family for family, _ in instructions} == {*TRAINED, *UNSEEN}
    assert len(instructions) == len({instruction for _, instruction in instructions}) == 8


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: gzip.compress(gzip.decompress(data).replace(b"laptop", b"tablet")),
        lambda data: data[:10_000],
        lambda data: b"{}",
    ],
)
def test_other_data_than_the_pinned_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[bytes], bytes]
) -> None:
    spoiled = spoil(enterprise.DATA.read_bytes())
    monkeypatch.setattr(enterprise, "DATA", tmp_path / "enterprise.json.gz")
    (tmp_path / "enterprise.json.gz").write_bytes(spoiled)
    with pytest.raises(UserError, match=r"enterprise\.json\.gz: is not the suite of this version of mtret"):
        read_tasks()
