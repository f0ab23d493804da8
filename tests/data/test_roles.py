import json
from pathlib import Path

import numpy as np
import pytest

from mtret.data.formats import read_task
from mtret.data.roles import (
    check_leakage,
    document_hashes,
    load_record,
    query_hashes,
    role_of,
    save_record,
    seen_document_share,
    shared_documents,
    training_record,
)
from mtret.data.tasks import Task
from mtret.errors import UserError

HEADER = "query-id\tcorpus-id\tscore\n"


def lines(**texts: str) -> str:
    return "".join(json.dumps({"_id": key, "text": text}) + "\n" for key, text in texts.items())


@pytest.fixture
def trained(write_folder) -> Task:
    """Family article, material manuals; its training queries are q1 and q2, of which the positives are d1 and d2."""
    files = {
        "corpus.jsonl": lines(d1="first", d2="second", d3="third", d4="fourth"),
        "queries.jsonl": lines(q1="How do I log in?", q2="lost card", q3="a test query"),
        "qrels/train.tsv": HEADER + "q1\td1\t1\nq2\td2\t1\nq2\td3\t0\n",
        "qrels/test.tsv": HEADER + "q3\td1\t1\nq3\td3\t1\n",
    }
    return read_task(write_folder("manuals", files, material="manuals"))


def other(
    write_folder, documents: dict[str, str], queries: dict[str, str] | None = None, card: dict[str, str] | None = None
) -> Task:
    queries = queries or {"q": "something else"}
    files = {
        "corpus.jsonl": lines(**documents),
        "queries.jsonl": lines(**queries),
        "qrels/train.tsv": None,
        "qrels/test.tsv": HEADER + "".join(f"{query}\t{document}\t1\n" for query in queries for document in documents),
    }
    return read_task(write_folder("other", files, **(card or {})))


def test_a_task_of_the_mixture_is_in_domain(trained: Task):
    assert role_of(trained, training_record([trained])) == "in_domain"


@pytest.mark.parametrize(
    ("document", "card", "role"),
    [
        ("unseen", {"family": "article"}, "cross_domain"),
        ("unseen", {"family": "article", "material": "other"}, "cross_domain"),
        ("unseen", {"family": "article", "material": "manuals"}, "in_domain"),
        ("  second ", {"family": "article"}, "in_domain"),
        ("Second", {"family": "article"}, "cross_domain"),
        ("fourth", {"family": "article"}, "in_domain"),
        ("second", {"family": "table", "material": "manuals"}, "zero_shot"),
        ("unseen", {"family": "table"}, "zero_shot"),
    ],
)
def test_the_role_of_another_task_follows_family_documents_and_material(
    write_folder, trained: Task, document: str, card: dict[str, str], role: str
):
    task = other(write_folder, {"x": "new", "y": document}, card=card)
    assert role_of(task, training_record([trained])) == role


def test_tasks_without_material_do_not_share_one(write_folder):
    record = training_record([read_task(write_folder("helpdesk"))])
    assert record.tasks[0].material is None
    assert role_of(other(write_folder, {"x": "new"}), record) == "cross_domain"


def test_shared_documents_counts_texts(write_folder, trained: Task):
    task = other(write_folder, {"x": "first", "y": "first", "z": "third", "new": "new"})
    assert shared_documents(task, training_record([trained])) == 2


def test_a_training_query_is_found_in_another_form_and_a_test_query_is_not(write_folder, trained: Task):
    queries = {"new": "what is this", "leaked": "how do I  LOG in", "tested": "a test query"}
    task = other(write_folder, {"x": "new"}, queries)
    rows = check_leakage(task, "test", training_record([trained]), allow_leakage=True)
    assert rows.dtype == np.int32
    assert [task.query_ids[row] for row in rows] == ["leaked"]


def many(write_folder, total: int, leaked: int) -> Task:
    queries = {f"q{i}": f"question {i}" for i in range(total - leaked)}
    queries |= {f"leak{i}": text for i, text in enumerate(["how do I log in", "Lost card."][:leaked])}
    return other(write_folder, {"x": "new"}, queries)


def test_one_percent_of_leaked_queries_is_dropped(write_folder, trained: Task):
    task = many(write_folder, total=100, leaked=1)
    assert [task.query_ids[row] for row in check_leakage(task, "test", training_record([trained]))] == ["leak0"]


def test_more_than_one_percent_is_refused_until_allowed(write_folder, trained: Task):
    task, record = many(write_folder, total=199, leaked=2), training_record([trained])
    with pytest.raises(UserError) as caught:
        check_leakage(task, "test", record)
    assert str(caught.value) == (
        "task 'other': 2 of 199 test queries (1.0%) are training queries of the model, more than 1%. "
        "Pass --allow_leakage to drop them and evaluate the rest."
    )
    assert len(check_leakage(task, "test", record, allow_leakage=True)) == 2


def test_leakage_of_every_query_leaves_none(write_folder, trained: Task):
    task, record = many(write_folder, total=2, leaked=2), training_record([trained])
    with pytest.raises(
        UserError, match=r"2 of 2 test queries \(100.0%\).* Pass --allow_leakage to leave the task out\.$"
    ):
        check_leakage(task, "test", record)
    assert check_leakage(task, "test", record, allow_leakage=True).tolist() == [0, 1]


def test_seen_share_is_over_distinct_positives_that_were_training_positives(write_folder, trained: Task):
    record = training_record([trained])
    # d1 was a training positive; d3 only a training document judged not relevant.
    assert seen_document_share(trained, "test", record) == 0.5
    documents = {"a": "first", "b": "first", "c": "second", "d": "third", "e": "fourth", "f": "new"}
    assert seen_document_share(other(write_folder, documents), "test", record) == pytest.approx(2 / 5)


def test_the_record_covers_several_tasks_in_name_order(write_folder, trained: Task):
    helpdesk = read_task(write_folder("helpdesk"))
    record = training_record([trained, helpdesk])
    assert [task.name for task in record.tasks] == ["helpdesk", "manuals"]
    expected = query_hashes(["How do I change my password?", "how do i log in", "lost card"])
    assert record.queries.tolist() == sorted(expected.tolist())
    assert len(record.documents) == 7
    assert record.positives.tolist() == sorted(
        document_hashes([helpdesk.document_texts[0], "first", "second"]).tolist()
    )


def test_hashes_are_the_same_on_every_machine():
    # blake2b-64 of b"lost card", little-endian
    assert query_hashes(["Lost  card?"]).tolist() == [5895988385366094560]


def test_a_mixture_without_tasks_or_training_queries_is_refused(write_folder):
    with pytest.raises(UserError, match=r"the mixture names no task.* Add at least one"):
        training_record([])
    with pytest.raises(UserError, match=r"task 'other' has no split 'train', only test. Choose one"):
        training_record([other(write_folder, {"x": "new"})])


def test_a_record_survives_saving(tmp_path: Path, trained: Task):
    record = training_record([trained])
    save_record(record, tmp_path / "model")
    save_record(record, tmp_path / "model")
    loaded = load_record(tmp_path / "model")
    assert loaded.tasks == record.tasks
    for name in ("queries", "documents", "positives"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(record, name))
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "training_record.json",
        "training_record.safetensors",
    ]


@pytest.mark.parametrize(
    ("file", "old", "new", "what"),
    [
        (
            "training_record.json",
            None,
            None,
            "training_record.json: cannot be read .* Give a folder that mtret exported",
        ),
        (
            "training_record.json",
            b'"tasks"',
            b'"task"',
            "training_record.json: not a training record .*Export the model",
        ),
        ("training_record.json", b"{", b"", "training_record.json: not a training record .*Export the model"),
        ("training_record.json", b'"version": 1', b'"version": 9', "version 9, this mtret reads 1. Export the model"),
        ("training_record.safetensors", None, None, "safetensors: cannot be read .* Give a folder that mtret exported"),
        (
            "training_record.safetensors",
            b"queries",
            b"qveries",
            "safetensors: is not the file .* Export the model again",
        ),
    ],
)
def test_a_damaged_record_is_refused(
    tmp_path: Path, trained: Task, file: str, old: bytes | None, new: bytes, what: str
):
    save_record(training_record([trained]), tmp_path)
    path = tmp_path / file
    if old is None:
        path.unlink()
    else:
        assert old in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(UserError, match=what) as caught:
        load_record(tmp_path)
    assert "\n" not in str(caught.value)
