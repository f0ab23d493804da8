"""Other people's tables as task folders: what is merged, what is rejected and why, who comes into which split."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtret.data import importing
from mtret.data.formats import read_task
from mtret.data.imported import Counts
from mtret.data.importing import Columns, Source, import_task
from mtret.data.tasks import Task, TaskCard
from mtret.errors import UserError

CARD = TaskCard("t", "intent", "made up", ("en",), "Find it.", "CC0-1.0", "made for this test")
PAIRS = Columns(query="question", text="answer")
ALL, TRAIN = (80.0, 10.0, 10.0), (1.0, 0.0, 0.0)
Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, content: str) -> Path:
        (tmp_path / name).write_text(content, encoding="utf-8")
        return tmp_path / name

    return write


def run(
    source: Source, columns: Columns, folder: Path, shares: tuple[float, float, float] = ALL
) -> tuple[Counts, Task]:
    counts = import_task(source, columns, CARD, shares, folder / "t")
    return counts, read_task(folder / "t")


def judged(task: Task, split: str) -> dict[str, dict[str, float]]:
    """Query's text -> document's text -> score."""
    found: dict[str, dict[str, float]] = {}
    one = task.splits[split]
    for query, document, score in zip(one.pair_queries(), one.documents, one.scores, strict=True):
        found.setdefault(task.query_texts[query], {})[task.document_texts[document]] = score
    return found


def rejected(folder: Path) -> list[tuple[str, int, str]]:
    path = folder / "t" / "rejected.jsonl"
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(record["file"], record["line"], record["reason"]) for record in records]


def test_a_label_is_a_document_and_equal_queries_are_one(tmp_path: Path, write: Write) -> None:
    rows = write(
        "rows.csv",
        "question,answer,more\n"
        "how do I reset it,reset,x\n"
        '"How do I  reset it?",restart,x\n'  # the same query, another document
        '"a ""quoted"" one,\nof two lines",reset,x\n'
        "how do I reset it,reset,x\n",  # word for word
    )
    counts, task = run(Source((("train", rows),)), PAIRS, tmp_path, TRAIN)
    assert judged(task, "train") == {
        "how do I reset it": {"reset": 1, "restart": 1},
        'a "quoted" one,\nof two lines': {"reset": 1},
    }
    assert counts.documents == 2 and counts.queries == {"train": 2, "dev": 0, "test": 0}
    assert counts.merged == {"documents": 2, "queries": 2, "pairs": 1}
    assert not (tmp_path / "t" / "rejected.jsonl").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv", "t"]  # no draft stays


def test_a_label_is_its_own_id_where_all_documents_are_labels(tmp_path: Path, write: Write) -> None:
    labels = write("a.csv", "question,answer\nwhere is it,card arrival\nwhen,Card  arrival\nlost,lost_card\n")
    _, task = run(Source((("train", labels),)), PAIRS, tmp_path, TRAIN)
    assert task.document_ids == ("card arrival", "Card  arrival", "lost_card")
    texts = write("b.csv", f"question,answer\na,card arrival\nb,{'a longer text ' * 6}\n")
    _, task = run(Source((("train", texts),)), PAIRS, tmp_path / "b", TRAIN)
    assert task.document_ids == ("d1", "d2")


def test_what_cannot_be_used_is_written_down_with_its_reason(tmp_path: Path, write: Write) -> None:
    rows = write(
        "rows.csv",
        "question,answer\none,first\n,second\nthree,  \nfour,fourth,too many\nfive\n\nsix,sixth\n",
    )
    counts, task = run(Source((("train", rows),)), PAIRS, tmp_path, TRAIN)
    assert set(judged(task, "train")) == {"one", "six"}
    assert rejected(tmp_path) == [
        ("rows.csv", 3, "no query text"),
        ("rows.csv", 4, "no document text"),
        ("rows.csv", 5, "3 columns, the header has 2"),
        ("rows.csv", 6, "1 columns, the header has 2"),
    ]
    assert sum(counts.rejected.values()) == 4
    assert counts.documents == 2 and counts.unjudged == 0  # nothing of a rejected row is there


KEYS = Columns("argument", "point", query_id="a", doc_id="p", score="label")


def three(write: Write, labels: str) -> Source:
    arguments = write("arguments.csv", "a,argument\na1,first\na2,second\na3,First!\na4,alone\n")
    points = write("points.csv", "p,point\np1,one\np2,two\np3,one\np4,four\n")
    return Source((("train", arguments),), points, (("", write("labels.csv", "a,p,label\n" + labels)),))


def test_three_tables_are_joined_by_ids_and_ids_of_one_text_are_one(tmp_path: Path, write: Write) -> None:
    source = three(write, "a1,p1,1\na3,p2,1\na1,p3,0\na2,p4,0\na2,p9,1\na9,p1,1\na2,p2,much\na2,p2,2\n")
    counts, task = run(source, KEYS, tmp_path, TRAIN)
    assert task.document_ids == ("p1", "p2", "p4") and task.query_ids == ("a1", "a2")
    # a3 is a1 under another id, p3 is p1: the higher score of a pair counts.
    assert judged(task, "train") == {"first": {"one": 1, "two": 1}, "second": {"four": 0, "two": 2}}
    assert counts.unjudged == 1  # a4
    assert [reason for *_, reason in rejected(tmp_path)] == [
        "unknown document id: 'p9'",
        "unknown query id: 'a9'",
        "score that is not a number: 'much'",
    ]


def test_one_id_cannot_stand_for_two_texts(tmp_path: Path, write: Write) -> None:
    rows = write("rows.tsv", "q\td\tid\none\tfirst\tx\ntwo\tsecond\tx\nthree\tfirst\tx\n\tfirst\ty\nfour\tf\t \n")
    counts, task = run(Source((("train", rows),)), Columns("q", "d", doc_id="id"), tmp_path, TRAIN)
    assert set(judged(task, "train")) == {"one", "three"} and task.document_ids == ("x",)
    assert [reason for *_, reason in rejected(tmp_path)] == [
        "document id with two texts: 'x' has another one before",
        "no query text",
        "no document id",
    ]
    assert counts.merged["documents"] == 1  # the rejected rows are no repetitions


def test_made_up_ids_are_nobodys(tmp_path: Path, write: Write) -> None:
    points = write("points.jsonl", '{"id": "d2", "t": "one"}\n{"id": "d1", "t": "two"}\n')
    rows = write("rows.jsonl", '{"q": "x", "id": "d1"}\n{"q": "y", "id": "d2"}\n')
    _, task = run(Source((("train", rows),), points), Columns("q", "t", doc_id="id"), tmp_path, TRAIN)
    assert judged(task, "train") == {"x": {"two": 1}, "y": {"one": 1}}


def numbered(write: Write, count: int, group: int = 1) -> Path:
    lines = [f"question {i},answer {i % 7},g{i // group}" for i in range(count)]
    return write("rows.csv", "\n".join(["question,answer,group", *lines, ""]))


@pytest.mark.parametrize("count", [10, 11, 100, 1003])
def test_shares_are_exact_and_the_same_every_time(tmp_path: Path, write: Write, count: int) -> None:
    source = Source((("", numbered(write, count)),))
    counts, _ = run(source, PAIRS, tmp_path)
    sizes = [counts.queries[split] for split in ("train", "dev", "test")]
    assert sum(sizes) == count
    assert all(abs(size - share * count) <= 1 for size, share in zip(sizes, (0.8, 0.1, 0.1), strict=True))
    again = import_task(source, PAIRS, CARD, ALL, tmp_path / "again")
    assert (
        again == counts
        and (tmp_path / "again" / "qrels" / "dev.tsv").read_bytes()
        == (tmp_path / "t" / "qrels" / "dev.tsv").read_bytes()
    )
    other = import_task(source, PAIRS, CARD, ALL, tmp_path / "other", seed=1)
    assert other == counts
    assert (tmp_path / "other" / "qrels" / "dev.tsv").read_bytes() != (
        tmp_path / "t" / "qrels" / "dev.tsv"
    ).read_bytes()


def test_groups_stay_together(tmp_path: Path, write: Write) -> None:
    columns = Columns("question", "answer", group_by="group")
    counts, task = run(Source((("", numbered(write, 300, group=10)),)), columns, tmp_path, (60.0, 20.0, 20.0))
    split_of = {int(text.split()[1]) // 10: split for split in task.splits for text in judged(task, split)}
    for split in task.splits:
        assert all(split_of[int(text.split()[1]) // 10] == split for text in judged(task, split))
    assert counts.queries == {"train": 180, "dev": 60, "test": 60}


def test_a_file_may_be_a_split_and_dev_is_taken_from_train(tmp_path: Path, write: Write) -> None:
    train, test = (
        write("a.csv", "question,answer\n" + "".join(f"q{i},a\n" for i in range(90))),
        write("b.csv", "question,answer\nQ7?,a\nr,a\n"),
    )
    counts, task = run(Source((("train", train), ("test", test))), PAIRS, tmp_path)
    assert counts.queries == {"train": 79, "dev": 10, "test": 2}
    assert set(judged(task, "test")) == {"Q7?", "r"}
    assert rejected(tmp_path) == [("a.csv", 9, "query of another split: it stands in test already")]


def test_labels_may_name_the_split(tmp_path: Path, write: Write) -> None:
    source = three(write, "")
    rows = {"train": "a1\tp1\t1", "test": "a2\tp2\t1"}
    labels = tuple((split, write(f"{split}.tsv", f"a\tp\tlabel\n{row}\n")) for split, row in rows.items())
    counts, _ = run(Source((("", source.rows[0][1]),), source.docs, labels), KEYS, tmp_path)
    assert counts.queries == {"train": 1, "dev": 0, "test": 1}


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        (
            "question,answr\na,b\n",
            PAIRS,
            r"rows.csv:1: no column 'answer'. Did you mean 'answr'\? It has: ",
        ),
        ("", PAIRS, r"rows.csv:1: empty; the first line must name the columns"),
        ("question,answer,answer\na,b,c\n", PAIRS, r"rows.csv:1: two columns are named 'answer'; rename one"),
        (
            "question,answer\n,\n",
            PAIRS,
            r"document is left; 1 rows were rejected, most often: no document text",
        ),
        ("question,answer\n", PAIRS, r"no query with a positive document is left\. Check"),
    ],
)
def test_a_table_that_cannot_be_imported_leaves_nothing(
    tmp_path: Path, write: Write, content: str, columns: Columns, message: str
) -> None:
    source = Source((("train", write("rows.csv", content)),))
    with pytest.raises(UserError, match=message):
        import_task(source, columns, CARD, ALL, tmp_path / "t")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_an_interrupted_import_leaves_nothing(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source((("", numbered(write, 100)),))

    def interrupted(store: sqlite3.Connection, *rest: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(importing, "write_files", interrupted)
        import_task(source, PAIRS, CARD, ALL, tmp_path / "t")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]
    run(source, PAIRS, tmp_path)


def test_a_query_can_list_its_documents(tmp_path: Path, write: Write) -> None:
    docs = write("docs.csv", "id;text;title\na;first;\nb;second;\nc;third;\n")
    rows = write("rows.jsonl", '{"q": "one?", "ids": ["a", "b"]}\n{"q": "two?", "ids": ["c", "nowhere"]}\n')
    columns = Columns(query="q", text="text", title="title", doc_id="ids", docs_id="id")
    counts, task = run(Source((("", rows),), docs), columns, tmp_path, TRAIN)
    assert judged(task, "train") == {"one?": {"first": 1.0, "second": 1.0}, "two?": {"third": 1.0}}
    assert counts.merged["queries"] == 0
    assert counts.untitled
    assert rejected(tmp_path) == [("rows.jsonl", 2, "unknown document id: 'nowhere'")]


def test_documents_that_differ_in_white_space_are_one(tmp_path: Path, write: Write) -> None:
    rows = write("rows.csv", 'question,answer\none?,"a b"\ntwo?,"a\nb"\n')
    counts, task = run(Source((("", rows),)), PAIRS, tmp_path, TRAIN)
    assert (counts.documents, counts.merged["documents"], counts.untitled) == (1, 1, False)
    assert judged(task, "train") == {"one?": {"a b": 1.0}, "two?": {"a b": 1.0}}
