from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from mtret.data.formats import Suite, read_suite
from mtret.data.inspection import check, stats, stats_table
from mtret.errors import UserError
from mtret.tables import to_terminal

HEADER = "query-id\tcorpus-id\tscore\n"
PNG = BytesIO()
Image.new("L", (3, 3)).save(PNG, "PNG")


@pytest.fixture
def suite(write_folder) -> Suite:
    """`clean` breaks nothing; `odd` has one of everything worth a remark; `icons` is an image task."""
    write_folder(
        "clean",
        {"qrels/dev.tsv": HEADER + "q4\tkb2\t1\n", "queries.jsonl": QUERIES + '{"_id": "q4", "text": "vpn?"}\n'},
    )
    documents = [("d1", "one two three"), ("d2", "one  two three"), ("d3", "x" * 101), ("d4", "y" * 100)]
    queries = [("a1", "where is it"), ("a2", "Where is it?"), ("a3", "who"), ("a4", "never judged")]
    odd = {
        "corpus.jsonl": "".join(f'{{"_id": "{key}", "text": "{text}"}}\n' for key, text in documents),
        "queries.jsonl": "".join(f'{{"_id": "{key}", "text": "{text}"}}\n' for key, text in queries),
        "qrels/train.tsv": None,
        "qrels/test.tsv": HEADER + "a1\td1\t1\na1\td2\t1\na1\td3\t1\na1\td4\t0\na2\td1\t1\na3\td1\t0\n",
        "negatives/test.tsv": HEADER + "a1\td4\t1\na2\td4\t1\n",
        "exclude.tsv": "query-id\tcorpus-id\na3\td2\n",
    }
    folder = write_folder("odd", odd, languages=["en", "[de]"])
    image = {
        "corpus.jsonl": '{"_id": "kb1", "image": "a.png"}\n',
        "a.png": PNG.getvalue(),
        "queries.jsonl": QUERIES,
        "qrels/train.tsv": None,
    }
    write_folder("icons", {**image, "qrels/test.tsv": HEADER + "q1\tkb1\t1\n"}, modality="image")
    return read_suite(folder.parent)


QUERIES = (
    '{"_id": "q1", "text": "How do I change my password?"}\n'
    '{"_id": "q2", "text": "connect from home"}\n'
    '{"_id": "q3", "text": "where can I print"}\n'
)


def test_figures_of_a_task(suite: Suite):
    clean, icons, odd = stats(suite, long_characters=100)
    assert (icons.images, icons.documents, icons.distinct_documents) == (True, 1, 1)
    assert not clean.images
    assert (clean.name, clean.family, clean.languages) == ("clean", "article", ("en",))
    assert clean.queries == {"train": 1, "dev": 1, "test": 2}
    assert (clean.unused_queries, clean.repeated_queries, clean.excluded, clean.negatives) == (0, 0, 0, {})
    assert clean.positives_mean == 1.0
    assert clean.query_words_mean == pytest.approx((6 + 3 + 4 + 1) / 4)
    assert clean.document_words_mean == pytest.approx((8 + 5 + 5) / 3)
    assert odd.queries == {"train": 0, "dev": 0, "test": 2}
    assert (odd.documents, odd.distinct_documents, odd.long_documents) == (4, 3, 0.25)
    assert (odd.unused_queries, odd.repeated_queries) == (2, 1)
    assert (odd.positives_mean, odd.positives_max) == (2.0, 3)
    assert (odd.negatives, odd.excluded) == ({"test": 2}, 1)
    # Word counts 3, 3, 1 and 2, of which the 95th percentile is 3; documents 3, 3, 1 and 1.
    assert (odd.query_words_mean, odd.query_words_p95) == (2.25, 3.0)
    assert (odd.document_words_mean, odd.document_words_p95) == (2.0, 3.0)


def test_the_check_names_what_deserves_a_look_and_ends_in_a_verdict(suite: Suite):
    assert check(suite, long_characters=100) == [
        "clean: no train query has a negative in a batch of 64, a document that is not a right answer of its own; "
        "training on it teaches only with hard negatives (negatives/train.tsv and batch.negatives) or more documents.",
        "icons: 1 test query has every document as a right answer: whatever a model finds is right.",
        "icons: 2 queries without a positive in any split, left out.",
        "icons: its documents are images, which only a model with an image tower (model.vision) can read.",
        "icons: no train and no dev queries, so it can only be evaluated and it cannot guide training.",
        "odd: 1 document with the text of another one: no encoder can tell them apart.",
        "odd: 1 query with the text of another one of the split.",
        "odd: 2 queries without a positive in any split, left out.",
        "odd: 25% of the documents are longer than 100 characters.",
        "odd: no train and no dev queries, so it can only be evaluated and it cannot guide training.",
        f"OK: 3 tasks, 8 documents, 1 / 1 / 5 train / dev / test queries; no error, 10 remarks; "
        f"content {suite.sha256[:12]}.",
    ]


def test_a_suite_without_remarks(write_folder):
    queries = QUERIES + '{"_id": "q4", "text": "vpn?"}\n{"_id": "q5", "text": "printer"}\n'
    train, dev = HEADER + "q1\tkb1\t1\nq5\tkb3\t1\n", HEADER + "q4\tkb2\t1\n"
    folder: Path = write_folder("clean", {"queries.jsonl": queries, "qrels/train.tsv": train, "qrels/dev.tsv": dev})
    (verdict,) = check(read_suite(folder.parent))
    assert verdict.startswith("OK: 1 task, 3 documents, 2 / 1 / 2 train / dev / test queries; no error, 0 remarks;")


def rendered(suite: Suite, names: tuple[str, ...]) -> list[str]:
    console = Console(width=130, color_system=None)
    with console.capture() as capture:
        table = stats_table([row for row in stats(suite, long_characters=100) if row.name in names])
        console.print(to_terminal(table, close=True))
    return capture.get().splitlines()


def test_the_table_shows_the_figures_and_no_column_of_zeros(suite: Suite):
    lines = rendered(suite, ("clean", "odd"))
    assert lines[1].split()[:5] == ["task", "family", "languages", "docs", "long"]
    assert " ".join(lines[2].split()) == "clean article en 3 0% 1 1 2 1.00 1 4 6 6 8 - - - - -"
    assert " ".join(lines[3].split()) == "odd article en +1 4 25% - - 2 2.00 3 2 3 2 3 1 2 1 2 1"
    assert "negatives" not in "".join(rendered(suite, ("clean",)))


def test_brackets_in_names_are_no_markup(write_folder):
    folder = write_folder("clean", languages=["[red]"], family="[bold]x")
    text = "".join(rendered(read_suite(folder.parent), ("clean",)))
    assert "[red]" in text
    assert "[bold]x" in text


def test_an_image_that_cannot_be_decoded_is_named(write_folder):
    files = {
        "corpus.jsonl": '{"_id": "kb1", "image": "a.png"}\n',
        "a.png": PNG.getvalue()[:20],
        "qrels/train.tsv": None,
        "qrels/test.tsv": HEADER + "q1\tkb1\t1\n",
    }
    suite = read_suite(write_folder("icons", files, modality="image").parent)
    with pytest.raises(UserError, match=r"a\.png: no readable image"):
        check(suite)


def test_what_lies_in_the_folder_and_is_not_read_is_named(write_folder):
    files = {
        "corpus.jsonl": '{"_id": "kb1", "Title": "T", "text": "a"}\n'
        + "".join(f'{{"_id": "kb{i}", "text": "{i}"}}\n' for i in (2, 3)),
        "qrels.tsv": "",
        "merged.tsv": "",
        "rejected.jsonl": "",
        "README.md": "",
        ".cache": "",
    }
    remarks = check(read_suite(write_folder("one", files).parent))
    assert "one: not read: qrels.tsv." in remarks
    assert "one: keys of corpus.jsonl that are not read: Title (1)." in remarks


def test_images_are_read(write_folder):
    image = {
        "corpus.jsonl": '{"_id": "kb1", "image": "pictures/a.png"}\n',
        "pictures/a.png": PNG.getvalue(),
        "qrels/train.tsv": None,
        "qrels/test.tsv": HEADER + "q1\tkb1\t1\n",
    }
    remarks = check(read_suite(write_folder("icons", image, modality="image").parent))
    assert not any("not read" in remark for remark in remarks)


def test_queries_that_are_documents_are_counted(write_folder):
    files = {
        "corpus.jsonl": "".join(
            f'{{"_id": "{key}", "title": "{title}", "text": "{text}"}}\n'
            for key, title, text in [
                ("q1", "", "One"),
                ("q2", "On", "two."),
                ("q3", "", "3"),
                ("q4", "", "4"),
                ("a", "", "x"),
            ]
        ),
        "queries.jsonl": "".join(
            f'{{"_id": "q{i}", "text": "{text}"}}\n' for i, text in enumerate(["one?", "two", "3", "four"], start=1)
        ),
        "qrels/train.tsv": None,
        "qrels/test.tsv": HEADER + "q1\ta\t1\nq2\ta\t1\nq3\ta\t1\nq3\tq3\t1\nq4\ta\t1\n",
    }
    folder = write_folder("one", files)
    remark = "one: 2 queries are documents too (same id and text) and found first: name the pairs in exclude.tsv, "
    assert remark + "as mtret data import does." in check(read_suite(folder.parent))
    (folder / "exclude.tsv").write_text("query-id\tcorpus-id\nq1\tq1\nq2\tq2\n")
    assert not any("documents too" in remark for remark in check(read_suite(folder.parent)))
