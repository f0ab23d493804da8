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
        (["--query=q", "--text=label", "--split=-1/1/1"], "--split=-1/1/1: shares are numbers, not negative, and not all zero"),
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
    assert "  gamma is judged cross-domain\n" in said
    assert said.endswith(f"\nnext: mtret train --suite={tiny_suite} --workdir=runs/first\n")
