"""`mtret data import`: the command, its report and its mistakes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mtret.data.formats import read_task

Mtret = Callable[..., tuple[int, str, str]]
CARD = ("--family=intent", "--instruction=Find the intent.")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    lines = [f"question {i},intent {i % 5},c{i // 4}" for i in range(40)]
    (tmp_path / "rows.csv").write_text("\n".join(["q,label,customer", *lines, ",intent 1,c1", ""]))
    return tmp_path / "rows.csv"


def test_a_table_becomes_a_task(mtret: Mtret, tmp_path: Path, rows: Path) -> None:
    out = tmp_path / "tasks" / "desk"
    columns = ("--query=q", "--text=label", "--group_by=customer", "--split=50/25/25")
    code, said, _ = mtret("data", "import", rows, *columns, *CARD, f"--out={out}", "--license=CC0-1.0")
    assert code == 0
    assert "5 documents, 20 / 8 / 12 train / dev / test queries" in said or "5 documents, 20 / 12 / 8 train" in said
    assert f"rejected: 1 rows, in {out}/rejected.jsonl: no query text (1)" in said
    assert "dev: a difference of two models below about 0.1" in said
    assert said.endswith(f"wrote {out}\nnext: mtret data check --suite={tmp_path / 'tasks'}\n")
    card = read_task(out).card
    assert (card.name, card.family, card.license, card.source) == (
        "desk",
        "intent",
        "CC0-1.0",
        "imported from rows.csv",
    )
    code, said, _ = mtret("data", "check", f"--suite={tmp_path / 'tasks'}")
    assert code == 0 and "OK: 1 task, 5 documents" in said


def test_a_beir_folder_is_imported_as_it_is(mtret: Mtret, tmp_path: Path, tiny_suite: Path) -> None:
    out = tmp_path / "tasks" / "alpha"
    code, _, _ = mtret("data", "import", tiny_suite / "alpha", *CARD, f"--out={out}")
    assert code == 0
    ours, theirs = read_task(out), read_task(tiny_suite / "alpha")
    assert (ours.document_ids, ours.document_texts) == (theirs.document_ids, theirs.document_texts)
    for split, wanted in theirs.splits.items():
        found = ours.splits[split]
        assert [ours.query_ids[row] for row in found.queries] == [theirs.query_ids[row] for row in wanted.queries]
        assert found.documents.tolist() == wanted.documents.tolist()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--query=q"], "--text is needed: the name of a column"),
        (
            ["--query=q", "--text=labl"],
            "rows.csv:1: no column 'labl'. Did you mean 'label'? It has: q, label, customer",
        ),
        (["--query=q", "--text=label", "--docs=d.csv"], "--doc_id is needed with --docs: the name of a column"),
        (["--query=q", "--text=label", "--labels=l.csv"], "--query_id is needed with --labels: the name of a column"),
        (["--query=q", "--text=label", "--labels=l.csv", "--query_id=q"], "--docs is needed with --labels"),
        (["--query=q", "--text=label", "--split=80/20"], "--split=80/20: give three shares, for train, dev and test"),
        (
            ["--query=q", "--text=label", "--split=-1/1/1"],
            "--split=-1/1/1: shares are numbers, not negative, and not all zero",
        ),
        (["none.csv", "--query=q", "--text=label"], "none.csv: no such file"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    mtret: Mtret, tmp_path: Path, rows: Path, flags: list[str], message: str
) -> None:
    code, _, said = mtret("data", "import", rows, *flags, *CARD, f"--out={tmp_path / 'tasks' / 'desk'}")
    assert code == 2 and message in said and said.count("\n") == 1
    assert not (tmp_path / "tasks" / "desk").exists()


def test_what_is_there_is_not_overwritten_and_a_card_needs_its_words(mtret: Mtret, tmp_path: Path, rows: Path) -> None:
    columns = ("--query=q", "--text=label")
    code, _, said = mtret("data", "import", rows, *columns, "--family=x", f"--out={tmp_path / 'desk'}")
    assert code == 2 and "--instruction is needed" in said
    (tmp_path / "desk").mkdir()
    code, _, said = mtret("data", "import", rows, *columns, *CARD, f"--out={tmp_path / 'desk'}")
    assert code == 2 and "desk: exists already and is never overwritten; give another --out" in said
    code, _, said = mtret("data", "import", *columns, *CARD, f"--out={tmp_path / 'other'}")
    assert code == 2 and "name a file of rows, or a folder of BEIR's layout" in said


@pytest.fixture
def articles(tmp_path: Path) -> Path:
    """Ten long articles and ten short ones; an article's id begins as another's chunks would."""
    lines = ["q,text,title,doc"]
    for i in range(20):
        sentences = " ".join(f"Sentence {j} of article {i} says so." for j in range(60 if i % 2 else 2))
        lines += [f"question {i} {k},{sentences},Article {i},{'a1#1' if i == 0 else f'a{i}'}" for k in range(3)]
    (tmp_path / "articles.csv").write_text("\n".join([*lines, ""]))
    return tmp_path / "articles.csv"


def test_long_documents_are_cut_into_chunks_of_their_parent(mtret: Mtret, tmp_path: Path, articles: Path) -> None:
    columns = ("--query=q", "--text=text", "--title=title", "--doc_id=doc")
    whole, cut = tmp_path / "whole" / "desk", tmp_path / "cut" / "desk"
    code, said, _ = mtret("data", "import", articles, *columns, *CARD, f"--out={whole}")
    assert code == 0 and "50.0% of the documents are longer than 256 tokens (MiniLM's)" in said
    assert "--chunk=256 cuts them into chunks" in said
    code, said, _ = mtret("data", "import", articles, *columns, *CARD, f"--out={cut}", "--chunk=128", "--overlap=0")
    assert code == 0
    before, after = read_task(whole), read_task(cut)
    assert (
        f"longer than 128 tokens: 10 of 20 documents (50.0%), cut into {len(after.document_ids) - 10} chunks\n" in said
    )
    assert "longer than 256 tokens" not in said
    assert after.card.notes == "Documents of more than 128 tokens were cut into chunks."
    assert [after.named_ids[row] for row in after.parent_rows] == list(before.document_ids)
    assert {"a1#1", "a1##1", "a1##2", "a3#1", "a3#2"} <= set(after.document_ids)
    for parent, text in zip(before.document_ids, before.document_texts, strict=True):
        rows = [row for row, one in enumerate(after.named_ids) if one == parent]
        title = text[: text.index(" Sentence")]
        texts = [after.document_texts[row] for row in rows]
        assert all(each.startswith(f"{title} Sentence") and each.endswith(".") for each in texts)
        assert " ".join([texts[0], *(each.removeprefix(f"{title} ") for each in texts[1:])]) == text
    for split, judged in before.splits.items():
        theirs = after.splits[split]
        assert judged.queries.tolist() == theirs.queries.tolist()
        assert [before.document_ids[row] for row in judged.documents] == [
            after.named_ids[row] for row in theirs.documents
        ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--chunk=8"], "--chunk=8: a chunk has at least 16 tokens"),
        (["--chunk=64", "--overlap=17"], "--overlap=17: give 0 to 16, a quarter of --chunk at most"),
        (["--overlap=17"], "--overlap=17: only chunks overlap; give --chunk too"),
    ],
)
def test_a_cut_that_makes_no_sense_writes_nothing(
    mtret: Mtret, tmp_path: Path, rows: Path, flags: list[str], message: str
) -> None:
    out = tmp_path / "tasks" / "desk"
    code, _, said = mtret("data", "import", rows, "--query=q", "--text=label", *flags, *CARD, f"--out={out}")
    assert code == 2 and message in said and said.count("\n") == 1
    assert not out.exists()


def test_check_explains_what_leaving_out_means_and_says_what_comes_next(mtret: Mtret, tiny_suite: Path) -> None:
    code, said, _ = mtret("data", "check", f"--suite={tiny_suite}")
    assert code == 0
    assert "article: alpha, gamma (not trained)\n  train without article (--hold_out=article) and all of them" in said
    assert "  gamma is evaluated cross-domain\n" in said
    assert said.endswith(f"\nnext: mtret train --suite={tiny_suite} --workdir=runs/first\n")


PAIR = "query-id\tcorpus-id\tscore\n"


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    """A folder of BEIR's layout as others publish it, with a first document that has no title."""
    files = {
        "corpus.jsonl": '{"_id": "a", "text": "x"}\n{"_id": "b", "title": "Why", "text": "y", "metadata": {}}\n'
        '{"_id": "q2", "title": "", "text": "two"}\n',
        "queries.jsonl": "".join(
            f'{{"_id": "q{i}", "text": "{word}"}}\n' for i, word in enumerate(["one", "1", "two"])
        ),
        "qrels/train.tsv": f"{PAIR}q0\ta\t1\n",
        "qrels/validation.tsv": f"{PAIR}q1\tb\t1\n",
        "qrels/test.tsv": f"{PAIR}q2\tb\t1\n",
        "qrels/test_hard.tsv": f"{PAIR}q2\ta\t1\n",
        "queries_de.jsonl": "",
        ".DS_Store": "",
    }
    for name, text in files.items():
        (tmp_path / "beir" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "beir" / name).write_text(text)
    return tmp_path / "beir"


def test_of_a_folder_all_is_read_or_named(mtret: Mtret, tmp_path: Path, beir: Path) -> None:
    out = tmp_path / "tasks" / "one"
    code, said, _ = mtret("data", "import", beir, *CARD, f"--out={out}")
    assert code == 0
    task = read_task(out)
    assert task.document_texts == ("x", "Why y", "two")  # titles where there are some, whatever the first line has
    assert list(task.splits) == ["train", "dev", "test"]
    assert (out / "exclude.tsv").read_text() == "query-id\tcorpus-id\nq2\tq2\n"
    assert "\n3 judged pairs: 3 in the task\n" in said
    assert "1 queries are documents too (same id and text); exclude.tsv keeps them from it\n" in said
    assert f"not read of {beir}/corpus.jsonl: metadata (1 rows)\n" in said
    assert "files that are not read: queries_de.jsonl, qrels/test_hard.tsv\n" in said
    code, said, _ = mtret("data", "check", f"--suite={out.parent}")
    # What is left to remark is of the one pair that is trained on; the files of the folder are all known.
    assert code == 0 and ", 1 remark;" in said and "no train query has a negative" in said


def test_of_two_files_for_dev_that_of_its_name_is_read(mtret: Mtret, tmp_path: Path, beir: Path) -> None:
    (beir / "qrels/dev.tsv").write_text(f"{PAIR}q1\ta\t1\n")
    out = tmp_path / "tasks" / "one"
    code, said, _ = mtret("data", "import", beir, *CARD, f"--out={out}")
    assert code == 0 and "qrels/test_hard.tsv, qrels/validation.tsv\n" in said
    assert (out / "qrels/dev.tsv").read_text() == f"{PAIR}q1\ta\t1\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--group_by=x"], "--group_by says nothing of a folder of BEIR's layout, which names its own; leave it out"),
        (["--docs=x.csv"], "--docs says nothing of a folder of BEIR's layout"),
        (["rows.csv", "--docs_id=x"], "--docs_id says nothing without --docs; give that too, or leave it out"),
        (["rows.csv", "--labels_doc_id=x"], "--labels_doc_id says nothing without --labels"),
        (["rows.csv", "--separator=|"], "--separator says nothing without --docs"),
        (["rows.csv", "--split=inf/1/1"], "--split=inf/1/1: shares are numbers, not negative, and not all zero"),
    ],
)
def test_a_flag_that_nothing_reads_is_named(
    mtret: Mtret, tmp_path: Path, rows: Path, beir: Path, flags: list[str], message: str
) -> None:
    files, flags = ([rows, "--query=q", "--text=label"], flags[1:]) if flags[0] == "rows.csv" else ([beir], flags)
    code, _, said = mtret("data", "import", *files, *flags, *CARD, f"--out={tmp_path / 'tasks' / 'one'}")
    assert code == 2 and message in said and said.count("\n") == 1


def test_what_is_doubtful_is_said_with_a_flag_that_settles_it(mtret: Mtret, tmp_path: Path) -> None:
    table = 'q,a,more\none,"an answer,\nof two lines",1\ntwo,NaN,2\nthree,(null),3\nfour,NaN,4\nfive,\n'
    (tmp_path / "rows.csv").write_text(table)
    command = ("data", "import", tmp_path / "rows.csv", "--query=q", "--text=a", *CARD)
    code, said, _ = mtret(*command, f"--out={tmp_path / 'first'}")
    assert code == 0
    assert "\n5 judged pairs: 4 in the task, 1 rejected\n" in said
    assert (
        "texts that look like a missing value: 'NaN' in a (2), '(null)' in a (1); '--missing=NaN,(null)' makes them one"
        in said
    )
    assert (
        f"{tmp_path}/rows.csv: a quoted cell has line breaks and delimiters in it, in the row from line 2; if a stray "
        "quote swallowed these lines, give --quotes=none" in said
    )
    assert f"not read of {tmp_path}/rows.csv: more (5 rows)\n" in said
    code, said, _ = mtret(*command, "--missing=NaN,(null)", f"--out={tmp_path / 'second'}")
    assert code == 0
    assert "\n5 judged pairs: 1 in the task, 4 rejected\n" in said and "look like a missing value" not in said


def test_the_remedies_for_quotes_work(mtret: Mtret, tmp_path: Path) -> None:
    (tmp_path / "rows.tsv").write_text('q\ta\none\t"An answer\nof two lines"\ntwo\tplain\n')
    command = ("data", "import", tmp_path / "rows.tsv", "--query=q", "--text=a", *CARD)
    code, _, said = mtret(*command, f"--out={tmp_path / 'asked'}")
    assert code == 2 and "rows.tsv:2: a cell begins with a quote; give --quotes=csv if" in said
    texts = {}
    for quotes in ("csv", "none"):
        code, _, _ = mtret(*command, f"--quotes={quotes}", f"--out={tmp_path / quotes}")
        assert code == 0
        texts[quotes] = read_task(tmp_path / quotes).document_texts
    assert texts == {"csv": ("An answer\nof two lines", "plain"), "none": ('"An answer', "plain")}


def test_columns_may_have_another_name_in_every_file(mtret: Mtret, tmp_path: Path) -> None:
    tables = {
        "queries.csv": "query_id,query\n0,red\n",
        "products.csv": "product,name\n00,chair\n01,table\n",
        "labels.csv": "question,product_id,label\n0,00,2\n0,01,0\n",
    }
    for name, text in tables.items():
        (tmp_path / name).write_text(text)
    files = [
        tmp_path / "queries.csv",
        f"--docs={tmp_path / 'products.csv'}",
        f"--labels=test={tmp_path / 'labels.csv'}",
    ]
    columns = ["--query=query", "--query_id=query_id", "--labels_query_id=question"]
    columns += ["--text=name", "--docs_id=product", "--labels_doc_id=product_id", "--score=label"]
    code, _, _ = mtret("data", "import", *files, *columns, *CARD, f"--out={tmp_path / 'one'}")
    assert code == 0
    assert (tmp_path / "one/qrels/test.tsv").read_text() == f"{PAIR}0\t00\t2\n0\t01\t0\n"
    files = [f"validation={tmp_path / 'queries.csv'}", *files[1:2], f"--labels={tmp_path / 'labels.csv'}"]
    code, _, _ = mtret("data", "import", *files, *columns, *CARD, f"--out={tmp_path / 'two'}")
    assert code == 0 and (tmp_path / "two/qrels/dev.tsv").exists()


def test_where_nothing_is_left_the_first_rejected_row_says_why(mtret: Mtret, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("q,a,label\none,x,Exact\ntwo,y,Partial\n")
    columns = ("--query=q", "--text=a", "--score=label")
    code, _, said = mtret("data", "import", tmp_path / "rows.csv", *columns, *CARD, f"--out={tmp_path / 'one'}")
    assert code == 2
    assert "2 rows were rejected, most often: score that is not a number; the first is rows.csv:2: " in said
    assert "score that is not a number: 'Exact'" in said


def test_the_report_of_the_documentation_is_what_is_said(
    mtret: Mtret, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = {
        "products.csv": "sku,text,price\nA-1,Red chair,10\nA-2,Red chair,12\nA-3,Blue chair,9\n",
        "queries.csv": "id,q\n1,red seat\n2,blue seat\n3,where to sit\n4,a table\n",
        "train.csv": "id,sku,score\n1,A-1,1\n1,A-2,1\n",
        "test.csv": "id,sku,score\n2,A-3,2\n2,A-1,0\n3,A-2,1\n3,A-1,1\n4,A-3,0\n3,A-9,1\n2,A-2,\n",
    }
    for name, text in tables.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    files = ("queries.csv", "--docs=products.csv", "--labels=train=train.csv,test=test.csv")
    columns = ("--query=q", "--query_id=id", "--text=text", "--doc_id=sku", "--score=score")
    code, said, _ = mtret("data", "import", *files, *columns, *CARD, "--out=tasks/chairs")
    assert code == 0
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    shown = page.split("nothing is lost in silence:\n\n```\n")[1].split("```")[0]
    assert f"\n{shown}wrote tasks/chairs\n" in said


def test_queries_that_are_documents_are_scored_by_what_else_they_find(mtret: Mtret, tmp_path: Path) -> None:
    """As ArguAna is: every argument is a document, and its counterargument is the positive."""
    from mtret.data.formats import read_suite
    from mtret.evaluation.metrics import hits, ndcg
    from mtret.index.bm25 import BM25Index
    from mtret.index.exact import Rules, excluded_pairs, tie_order

    subjects = ["school uniforms", "city zoos", "daily homework"]
    documents = [(f"a{i}-pro", f"{what} are good.") for i, what in enumerate(subjects)]
    documents += [(f"a{i}-con", f"{what} are by no means of any use.") for i, what in enumerate(subjects)]
    lines = [f'{{"_id": "{key}", "text": "{text}"}}\n' for key, text in documents]
    (tmp_path / "in" / "qrels").mkdir(parents=True)
    (tmp_path / "in/corpus.jsonl").write_text("".join(lines))
    (tmp_path / "in/queries.jsonl").write_text("".join(lines[:3]))
    (tmp_path / "in/qrels/test.tsv").write_text(PAIR + "".join(f"a{i}-pro\ta{i}-con\t1\n" for i in range(3)))
    code, said, _ = mtret("data", "import", tmp_path / "in", *CARD, f"--out={tmp_path / 'tasks' / 'one'}")
    assert code == 0 and "3 queries are documents too" in said
    task = read_suite(tmp_path / "tasks").tasks["one"]
    judged, order = task.splits["test"], tie_order(task.document_ids)
    for exclude, score in ((task.exclude, 1.0), (None, 0.63093)):  # of 1 / log2(3), where each finds itself first
        pairs = excluded_pairs(exclude, judged.queries)
        run = BM25Index(task.document_texts).search(task.query_texts, 10, Rules(order, pairs))
        assert ndcg(hits(run, judged, judged.queries), 10) == pytest.approx([score] * 3, abs=1e-5)
