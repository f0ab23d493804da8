"""Nothing is lost on import: each row is in the task, or is counted by name; and what is kept is what was meant."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mtret.data.formats import read_task
from mtret.data.imported import Counts
from mtret.data.importing import Columns, Source, import_task
from mtret.data.records import Dialect
from mtret.data.tasks import Task, TaskCard
from mtret.errors import UserError

CARD = TaskCard("t", "intent", "made up", ("en",), "Find it.", "CC0-1.0", "made for this test")
PAIRS = Columns(query="q", text="a")
APART = Columns(query="q", text="text", title="title", query_id="qid", doc_id="did", score="score")
Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, content: str) -> Path:
        (tmp_path / name).write_text(content, encoding="utf-8", newline="")
        return tmp_path / name

    return write


def run(
    source: Source, columns: Columns, folder: Path, shares: tuple[float, float, float] = (1.0, 0.0, 0.0)
) -> tuple[Counts, Task]:
    counts = import_task(source, columns, CARD, shares, folder / "t")
    return counts, read_task(folder / "t")


def pairs(task: Task) -> dict[str, dict[str, float]]:
    """Query's text -> document's id -> score."""
    found: dict[str, dict[str, float]] = {}
    for one in task.splits.values():
        for query, document, score in zip(one.pair_queries(), one.documents, one.scores, strict=True):
            found.setdefault(task.query_texts[query], {})[task.document_ids[document]] = float(score)
    return found


def rejected(folder: Path) -> list[tuple[int, str]]:
    records = map(json.loads, (folder / "t" / "rejected.jsonl").read_text(encoding="utf-8").splitlines())
    return [(record["line"], record["reason"]) for record in records]


def one_table(write: Write, name: str, content: str, **dialect: object) -> Source:
    return Source((("", write(name, content)),), dialect=Dialect(**dialect))  # type: ignore[arg-type]


def three_tables(write: Write, queries: str, docs: str, labels: str) -> Source:
    return Source(
        (("", write("queries.csv", f"qid,q\n{queries}")),),
        write("docs.csv", f"did,title,text\n{docs}"),
        (("test", write("labels.csv", f"qid,did,score\n{labels}")),),
    )


def adds_up(counts: Counts) -> bool:
    return counts.read == counts.pairs + counts.merged["pairs"] + counts.unjudged_pairs + counts.rejected_pairs


def test_a_stray_quote_in_tsv_swallows_no_line(tmp_path: Path, write: Write) -> None:
    rows = 'q\ta\n"Who goes there\tGuards ask.\nwhere to eat\tBelow.\nwhat is 5" wide\tA nail.\n'
    counts, task = run(one_table(write, "rows.tsv", rows, quotes="none"), PAIRS, tmp_path)
    assert task.query_texts == ('"Who goes there', "where to eat", 'what is 5" wide')
    assert (counts.read, counts.pairs) == (3, 3)


def test_a_row_without_its_text_is_no_document_of_its_title(tmp_path: Path, write: Write) -> None:
    rows = "q,title,a\none,Problem,Replaced.\ntwo,Problem,\nthree,Problem, \n"
    counts, task = run(one_table(write, "rows.csv", rows), Columns("q", "a", title="title"), tmp_path)
    assert task.document_texts == ("Problem Replaced.",)
    assert rejected(tmp_path) == [(3, "no document text"), (4, "no document text")]
    assert (counts.read, counts.pairs, counts.rejected_pairs) == (3, 1, 2)


def test_a_document_apart_may_have_a_title_only_and_is_counted(tmp_path: Path, write: Write) -> None:
    source = three_tables(write, "1,one\n2,two\n", "a,T,text\nb,Only a title,\nc,,\n", "1,a,1\n2,b,1\n2,c,1\n")
    counts, task = run(source, APART, tmp_path)
    assert task.document_texts == ("T text", "Only a title")
    assert counts.noted["title_only"] == 1
    assert rejected(tmp_path) == [(4, "no document text"), (4, "unknown document id: 'c'")]
    assert (counts.read, counts.pairs, counts.rejected_pairs) == (3, 2, 1)  # the rejected document is not a judged pair


def test_titles_are_where_they_are(tmp_path: Path, write: Write) -> None:
    docs = write("docs.jsonl", '{"did": "a", "text": "x"}\n{"did": "b", "text": "y", "title": "Y"}\n')
    rows = write("rows.csv", "q,did\none,a\ntwo,b\n")
    source = Source((("", rows),), docs, optional=("title",))
    _, task = run(source, Columns("q", "text", title="title", doc_id="did"), tmp_path)
    assert task.document_texts == ("x", "Y y")


def test_json_nan_is_missing_and_words_for_it_are_texts_that_are_named(tmp_path: Path, write: Write) -> None:
    rows = '{"q": "1", "a": NaN}\n{"q": NaN, "a": "b"}\n{"q": "3", "a": null}\n'
    rows += '{"q": "4", "a": "NaN"}\n{"q": "5", "a": "c"}\n'
    counts, task = run(one_table(write, "rows.jsonl", rows), PAIRS, tmp_path)
    assert task.document_texts == ("NaN", "c")
    assert counts.missing_words == {("a", "NaN"): 1}
    assert rejected(tmp_path) == [(1, "no document text"), (2, "no query text"), (3, "no document text")]
    source = one_table(write, "rows.jsonl", rows, missing=("NaN",))
    counts, task = run(source, PAIRS, tmp_path / "again")
    assert task.document_texts == ("c",) and not counts.missing_words
    assert adds_up(counts) and counts.rejected_pairs == 4


def test_a_score_that_is_missing_is_rejected_and_no_word_for_it_is_a_text(tmp_path: Path, write: Write) -> None:
    columns = Columns("q", "a", score="s")
    counts, _ = run(one_table(write, "rows.csv", "q,a,s\none,x,1\ntwo,y,\nthree,z,NaN\n"), columns, tmp_path)
    assert rejected(tmp_path) == [(3, "no score"), (4, "score that is not a number: 'NaN'")]
    assert not counts.missing_words


def test_rows_without_a_group_are_groups_of_their_own(tmp_path: Path, write: Write) -> None:
    rows = "".join(f"question {i},answer,{'' if i % 2 else ' same '}\n" for i in range(400))
    source = one_table(write, "rows.csv", "q,a,group\n" + rows)
    counts, task = run(source, Columns("q", "a", group_by="group"), tmp_path, (50.0, 25.0, 25.0))
    split_of = {task.query_texts[row]: split for split, one in task.splits.items() for row in one.queries}
    assert len({split_of[f"question {i}"] for i in range(0, 400, 2)}) == 1
    alone = [split_of[f"question {i}"] for i in range(1, 400, 2)]
    assert {alone.count(split) for split in ("train", "dev", "test")} != {0, 200}
    assert counts.noted["ungrouped"] == 200


def test_a_query_of_two_groups_is_counted(tmp_path: Path, write: Write) -> None:
    rows = "q,a,group\none,x,g\nOne?,y,h\none,z,\none,w,g\n"
    counts, _ = run(one_table(write, "rows.csv", rows), Columns("q", "a", group_by="group"), tmp_path)
    assert counts.noted == {"regrouped": 1, "ungrouped": 1}


def test_ids_of_merged_texts_are_written_down(tmp_path: Path, write: Write) -> None:
    docs = "A-2,,Red chair\nA-1,,Red  chair\nA-3,,Blue chair\nA-4,,Red chair\n"
    queries = "q1,red seat\nq2,Red seat?\nq3,blue seat\nq4,nobody judges\nq5,Nobody judges\n"
    source = three_tables(write, queries, docs, "q1,A-1,1\nq2,A-3,1\nq3,A-4,2\nq3,A-2,1\n")
    counts, task = run(source, APART, tmp_path)
    assert pairs(task) == {"red seat": {"A-2": 1, "A-3": 1}, "blue seat": {"A-2": 2}}
    assert (tmp_path / "t" / "merged.tsv").read_text() == (
        "kind\tmerged-id\tkept-id\ndocument\tA-1\tA-2\ndocument\tA-4\tA-2\nquery\tq2\tq1\n"
    )
    assert counts.merged_ids == 3
    assert counts.noted == {"rescored": 1}  # 2 and 1 of one pair
    assert (counts.read, counts.pairs, counts.merged["pairs"]) == (4, 3, 1)


def test_nothing_is_written_of_what_was_not_merged(tmp_path: Path, write: Write) -> None:
    counts, _ = run(three_tables(write, "q1,one\n", "a,,x\n", "q1,a,1\n"), APART, tmp_path)
    names = sorted(path.name for path in (tmp_path / "t").iterdir())
    assert names == ["corpus.jsonl", "qrels", "queries.jsonl", "task.json"]
    assert counts.merged_ids == counts.excluded == 0


def test_a_query_that_is_a_document_is_kept_from_itself(tmp_path: Path, write: Write) -> None:
    """The case of ArguAna: same id and text, with a title before the document's or not."""
    docs = (
        "x1,,Zoos protect.\nx2,Zoos,They do not.\nx3,On homework,It helps.\nx4,,Another\nx5,,Own\nx6,,zoos  protect\n"
    )
    queries = "x1,Zoos protect.\nx3,It helps.\nx4,something\nx5,Own\nx6,zoos protect!\n"
    labels = "x1,x2,1\nx3,x2,1\nx3,x3,0\nx4,x2,1\nx5,x5,1\nx6,x2,1\n"
    counts, task = run(three_tables(write, queries, docs, labels), APART, tmp_path)
    assert task.exclude is not None
    excluded = {
        (task.query_ids[query], task.document_ids[document])
        for query, document in zip(task.exclude.pair_queries(), task.exclude.documents, strict=True)
    }
    # x6 is the query x1 in another case; as documents the two are two.
    assert excluded == {("x1", "x1"), ("x3", "x3"), ("x1", "x6")}
    assert counts.excluded == 3
    assert counts.noted == {"namesakes": 1, "self_positives": 1}


def otherwise(kind: str, given: str, there: str) -> str:
    return f"unknown {kind} id: '{given}', but there is '{there}', which is written otherwise"


@pytest.mark.parametrize(
    ("queries", "docs", "labels", "reasons"),
    [
        ("7,one\n", "1,,x\n", "7,1.0,1\n", [otherwise("document", "1.0", "1")]),
        ("7,one\n", "1.0,,x\n", "7,1,1\n", [otherwise("document", "1", "1.0")]),
        ("7,one\n", "7,,x\n", "7,007,1\n", [otherwise("document", "007", "7")]),
        ("\u00e9,one\n", "a,,x\n", "e\u0301,a,1\n", [otherwise("query", "e\u0301", "\u00e9")]),
        ("7,one\n", "A,,x\n", "7,a,1\n", [otherwise("document", "a", "A")]),
        ("7,one\n", "a,,x\n", "7,1e3,1\n", ["unknown document id: '1e3'"]),
        ("7,one\n", "a,,x\n", ",a,1\n7,,1\n", ["no query id", "no document id"]),
        (
            "7,one\n",
            "a,,x\na,,y\n",
            "7,a,1\n7,a,1,0\n",
            ["document id with two texts: 'a' has another one before", "4 columns, the header has 3"],
        ),
    ],
)
def test_ids_that_lead_nowhere_are_named(
    tmp_path: Path, write: Write, queries: str, docs: str, labels: str, reasons: list[str]
) -> None:
    source = three_tables(write, queries + "known,sound\n", docs + "known,,sound\n", labels + "known,known,1\n")
    counts, task = run(source, APART, tmp_path)
    assert [reason for _, reason in rejected(tmp_path)] == reasons
    assert pairs(task)["sound"] == {"known": 1}
    assert adds_up(counts)


def test_ids_are_the_same_without_white_space_around_them(tmp_path: Path, write: Write) -> None:
    _, task = run(three_tables(write, " 7,one\n", "a\u00a0,,x\n", "7 , a,1\n"), APART, tmp_path)
    assert pairs(task) == {"one": {"a": 1}}


def test_pairs_of_queries_without_a_positive_are_counted(tmp_path: Path, write: Write) -> None:
    source = three_tables(write, "1,one\n2,two\n3,three\n", "a,,x\nb,,y\n", "1,a,1\n1,b,0\n2,a,0\n2,b,-1\n2,b,0\n")
    counts, task = run(source, APART, tmp_path)
    assert pairs(task) == {"one": {"a": 1, "b": 0}}
    assert (counts.read, counts.pairs, counts.unjudged_pairs, counts.merged["pairs"], counts.unjudged) == (
        5,
        2,
        2,
        1,
        2,
    )


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_what_no_file_can_hold_is_rejected_and_written_down(tmp_path: Path, write: Write, kind: str) -> None:
    columns = Columns("q", "a", query_id="id", group_by="g")
    if kind == "jsonl":
        odd = ["\\ud800", "a\\u0000b"]
        lines = [f'{{"q": "one", "a": "x", "id": "{one}", "g": ""}}\n' for one in odd]
        lines += [f'{{"q": "one", "a": "x", "id": "7", "g": "{one}"}}\n' for one in odd]
        lines += ['{"q": "two", "a": "x", "id": "8", "g": ""}\n']
        reasons = ["half of a surrogate pair in the text", "a null character in a text"] * 2
    else:
        lines = ["q,a,id,g\n", "on\0e,x,1,\n", "two,x,8,\n"]
        reasons = ["a null character in a text"]
    counts, task = run(one_table(write, f"rows.{kind}", "".join(lines)), columns, tmp_path)
    assert task.query_texts == ("two",)
    assert [reason for _, reason in rejected(tmp_path)] == reasons
    assert adds_up(counts)


def test_a_rejected_row_is_no_repetition(tmp_path: Path, write: Write) -> None:
    counts, _ = run(one_table(write, "rows.csv", "q,a\none,x\n,x\n,x\n"), PAIRS, tmp_path)
    assert counts.merged == {} and counts.rejected_pairs == 2


@pytest.mark.parametrize("labels", [False, True])
def test_files_with_and_without_a_split_are_not_mixed(tmp_path: Path, write: Write, labels: bool) -> None:
    """Rows of a file without a split would be in none."""
    if labels:
        source = three_tables(write, "1,one\n", "a,,x\n", "1,a,1\n")
        source = Source(source.rows, source.docs, (*source.labels, ("", write("more.csv", "qid,did,score\n1,a,1\n"))))
        columns = APART
    else:
        files = [write(name, "q,a\none,x\n") for name in ("test.csv", "more.csv")]
        source, columns = Source((("test", files[0]), ("", files[1]))), PAIRS
    name = "labels.csv" if labels else "test.csv"
    message = f"more.csv: has no split, while {name} has one; give it as SPLIT=FILE, such as train=more.csv"
    with pytest.raises(UserError, match=message):
        import_task(source, columns, CARD, (8.0, 1.0, 1.0), tmp_path / "t")


def test_a_file_that_is_read_for_two_things_has_no_unread_column(tmp_path: Path, write: Write) -> None:
    path = write("rows.csv", "q,did,text,more\none,a,x,1\ntwo,b,y,2\n")
    counts, _ = run(Source((("", path),), path), Columns("q", "text", doc_id="did"), tmp_path)
    assert counts.unread == {str(path): {"more": 2}}
