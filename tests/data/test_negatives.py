"""Shares of queries with a negative, against values worked out by hand."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mtret.data import negatives
from mtret.data.formats import read_suite, read_task
from mtret.data.inspection import check
from mtret.data.negatives import enough_queries, share_in_training, share_of_texts, share_with_negatives
from mtret.data.tokenize import Tokens
from mtret.data.training_tasks import BatchConfig, Relation, TrainingTask, relation_of


def relation(*documents: Sequence[int]) -> Relation:
    """Of each query, its documents."""
    pairs = [(query, document) for query, own in enumerate(documents) for document in own]
    return relation_of(np.array(pairs, np.int64).reshape(-1, 2).T, len(documents))


ONE_FOR_ALL = relation([0], [0], [0], [0])
TWO_HALVES = relation([0], [0], [1], [1])
OWN_EACH = relation([0], [1], [2], [3])


@pytest.mark.parametrize(
    ("positives", "masked", "hard", "batch", "share"),
    [
        (ONE_FOR_ALL, ONE_FOR_ALL, None, BatchConfig(queries=4), 0.0),
        (ONE_FOR_ALL, ONE_FOR_ALL, relation([1], [1], [], []), BatchConfig(queries=4, negatives=1), 1.0),
        (ONE_FOR_ALL, relation([0, 1], [0], [0], [0]), relation([], [1], [], []), BatchConfig(4, negatives=1), 0.75),
        (OWN_EACH, OWN_EACH, None, BatchConfig(queries=1), 0.0),
        (OWN_EACH, OWN_EACH, None, BatchConfig(queries=2), 1.0),
        (OWN_EACH, relation([0, 1, 2, 3], [1], [2], [3]), None, BatchConfig(queries=4), 0.75),
        (TWO_HALVES, TWO_HALVES, None, BatchConfig(queries=4), 1.0),
        # The other query of a batch is one of three, two of which have the other document.
        (TWO_HALVES, TWO_HALVES, None, BatchConfig(queries=2), 2 / 3),
        # Three queries are never all of one document.
        (TWO_HALVES, TWO_HALVES, None, BatchConfig(queries=3), 1.0),
        # Both documents are right answers of both queries, whichever is drawn.
        (relation([0, 1], [0, 1]), relation([0, 1], [0, 1]), None, BatchConfig(queries=2), 0.0),
    ],
)
def test_shares(
    monkeypatch: pytest.MonkeyPatch, positives: Relation, masked: Relation, hard: Relation | None, batch: BatchConfig,
    share: float,
) -> None:  # fmt: skip
    monkeypatch.setattr(negatives, "BATCHES", 2000)
    assert share_with_negatives(positives, masked, hard, batch) == pytest.approx(share, abs=0.03)


def trained(positives: Relation, queries: int) -> TrainingTask:
    count = len(positives.sizes())
    tokens = Tokens(np.arange(count, dtype=np.int32), np.arange(count + 1), 0)
    return TrainingTask("one", tokens, tokens, positives, positives, None, BatchConfig(queries=queries))


def test_a_larger_batch_is_advised_where_it_helps() -> None:
    assert share_in_training(trained(OWN_EACH, 1)) == 0 and enough_queries(trained(OWN_EACH, 1)) == 2
    assert enough_queries(trained(ONE_FOR_ALL, 2)) is None
    # One query in twelve has another document: it is in a batch of four with 1/3, in one of eight with 2/3.
    rare = relation(*([[0]] * 11), [1])
    assert enough_queries(trained(rare, 2)) == 8


def write(folder: Path, documents: Sequence[str], answers: Sequence[str], instruction: str = "Find it.") -> Path:
    """A task whose train and dev queries have these answers, one after the other."""
    card = {"name": folder.name, "family": "f", "domain": "d", "languages": ["en"], "instruction": instruction}
    card |= {"license": "CC0-1.0", "source": "by hand"}
    (folder / "qrels").mkdir(parents=True)
    (folder / "task.json").write_text(json.dumps(card), encoding="utf-8")
    lines = [json.dumps({"_id": f"d{row}", "text": text}) for row, text in enumerate(documents)]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    queries = []
    for split in ("train", "dev"):
        rows = [f"{split}{i}\t{document}\t1" for i, document in enumerate(answers)]
        queries += [json.dumps({"_id": f"{split}{i}", "text": f"{split} question {i}"}) for i in range(len(rows))]
        text = "\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n"
        (folder / "qrels" / f"{split}.tsv").write_text(text, encoding="utf-8")
    (folder / "queries.jsonl").write_text("\n".join(queries) + "\n", encoding="utf-8")
    return folder


def test_documents_of_one_text_are_one_document(tmp_path: Path) -> None:
    alike = read_task(write(tmp_path / "alike", ["the same", "the same", "unused"], ["d0", "d1", "d0"]))
    assert share_of_texts(alike, BatchConfig()) == 0
    differing = read_task(write(tmp_path / "differing", ["one", "another"], ["d0", "d1", "d0"]))
    assert share_of_texts(differing, BatchConfig()) == 1


def test_data_check_names_what_cannot_teach(tmp_path: Path) -> None:
    beginning = "All of it begins alike. " * 50
    write(tmp_path / "boilerplate", [beginning + str(i) for i in range(3)], ["d0", "d1", "d2"])
    write(tmp_path / "one", ["ask the desk", "ask facilities"], ["d0"] * 5)
    write(tmp_path / "sole", ["ask the desk"], ["d0"] * 5)
    write(tmp_path / "wordy", ["one", "another"], ["d0", "d1"], "Given a question of the handbook, find it. " * 20)
    lines = check(read_suite(tmp_path))
    of = {name: [line for line in lines if line.startswith(f"{name}: ")] for name in ("one", "sole", "wordy")}
    none = "no train query has a negative in a batch of 64"
    assert any(none in line for line in of["one"]) and any(none in line for line in of["sole"])
    assert "sole: 5 dev queries have every document as a right answer: whatever a model finds is right." in lines
    assert "boilerplate: 2 documents read like another one in the first 1,000 characters." in lines
    assert any(
        "takes about 219 of the 128 tokens" in line and "nothing of a query is read" in line for line in of["wordy"]
    )
