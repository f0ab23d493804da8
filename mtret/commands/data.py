"""`mtret data ...`: task folders read, measured and written."""

from pathlib import Path
from typing import Any

from mtret.commands.common import Flags, console, define_suite, next_line, required
from mtret.errors import UserError


def check(values: Flags) -> None:
    name = required(values, "suite")
    from mtret.data.holding_out import holding_out
    from mtret.data.inspection import check
    from mtret.data.suites import load_suite

    suite = load_suite(name)
    print(
        *check(suite), "families, and what leaving one out of the training makes of it:", *holding_out(suite), sep="\n"
    )
    if any("train" in task.splits for task in suite.tasks.values()):
        print(next_line("train", f"--suite={name}", "--workdir=runs/first"))
    else:
        split = "dev" if any("dev" in task.splits for task in suite.tasks.values()) else "test"
        print(next_line("evaluate", "--model=minilm", f"--suite={name}", f"--split={split}", "--out=runs/base"))


def stats(values: Flags) -> None:
    name = required(values, "suite")
    from mtret.data.inspection import LEGEND, stats, stats_table
    from mtret.data.suites import load_suite
    from mtret.tables import to_terminal

    page = console()
    page.print(to_terminal(stats_table(stats(load_suite(name))), close=True))
    page.print(f"\n{LEGEND}", highlight=False)
    print(next_line("data", "check", name))


IMPORT_COLUMNS = {
    "query": "column of the query's text",
    "text": "column of the document's text; a label can be one",
    "title": "column of the document's title",
    "query_id": "column of the query's id, in the rows and the labels",
    "doc_id": "column of the document's id, wherever documents are named",
    "score": "column of the relevance; above 0 is a positive, and without it every row is one",
    "group_by": "column whose values stay in one split, such as a customer or a conversation",
    "docs_id": "column of the document's id in --docs, where it has another name there",
    "labels_query_id": "likewise, of the query's id in --labels",
    "labels_doc_id": "likewise, of the document's id in --labels",
}


def define_import(values: Flags) -> None:
    values.places(
        "rows",
        "files of queries (CSV, TSV, JSON Lines, Parquet), also without this flag; SPLIT=FILE where a file is a split; "
        "or one folder of BEIR's layout",
    )
    values.text("docs", "a file of documents, where they stand apart from the queries")
    values.places("labels", "files of query, document and score, where these stand apart")
    for name, words in IMPORT_COLUMNS.items():
        values.text(name, words)
    values.text("encoding", "of CSV, TSV and JSON Lines, such as cp1252 (default: utf-8)")
    values.text("delimiter", "of CSV and TSV (default: what the header shows of comma, semicolon, tab, bar)")
    values.text("separator", "between the ids in one cell of --doc_id; a list needs none")
    values.choice(
        "quotes",
        "whether quotes enclose cells (csv) or are characters (default: none where tabs part the cells, else csv)",
        ["none", "csv"],
        None,
    )
    values.names("missing", "texts that stand for no value, such as NA,None; an empty one always does")
    values.text("family", "the kind of thing retrieved: table, article, intent, ...")
    values.text("instruction", "what to retrieve given what, in a sentence")
    values.text("domain", "whose data it is, in words")
    values.names("language", "language codes", ["en"])
    values.text("license", "terms of the data")
    values.text("split", "shares of train, dev and test, where files name none", "80/10/10")
    values.whole("seed", "of the division", 0)
    values.whole("chunk", "cut documents of more tokens (MiniLM's) into chunks of at most so many; 0: none", 0)
    values.whole("overlap", "tokens of the chunk before that a chunk repeats, at most (default: an eighth of --chunk)")
    values.text("out", "the task folder to write; its name is the task's")


def import_tables(values: Flags) -> None:
    from mtret.files import locate

    out = locate(required(values, "out"))
    from mtret.data.importing import Columns
    from mtret.runs.data_import import ImportConfig, run_import

    columns = Columns(**{name: values[name].value or "" for name in IMPORT_COLUMNS})
    own = "rows docs labels encoding delimiter separator missing family instruction domain language license"
    own += " split seed chunk overlap"
    given: dict[str, Any] = {name: values[name].value for name in own.split()}
    given["quotes"] = values["quotes"].value or ""
    run_import(ImportConfig(columns=columns, **given), out, console())
    print(f"wrote {out}\n{next_line('data', 'check', f'--suite={out.parent}')}")


def define_write(values: Flags) -> None:
    values.text("out", "the folder to write the bundled suite to; must not exist")


def write_enterprise(values: Flags) -> None:
    from mtret.data.enterprise import write_suite
    from mtret.files import check_new, check_writable, folder_draft, locate, replace_folder

    out = locate(required(values, "out"))
    check_writable(out, "--out")
    check_new(out, "--out")
    with folder_draft(out) as draft:
        write_suite(draft)
        replace_folder(draft, out)
    print(f"wrote {out}\n{next_line('data', 'check', f'--suite={out}')}")


def define_tfds(values: Flags) -> None:
    define_suite(values)
    values.text("out", "the data folder; the data set goes to OUT/NAME/VERSION there")
    values.text("name", "of the data set; that of the suite's folder if not given")
    values.text("version", "of the data set", "1.0.0")


def write_tfds(values: Flags) -> None:
    name = required(values, "suite")
    from mtret.files import locate

    out = locate(required(values, "out"))
    if not isinstance(out, Path):
        raise UserError(f"--out={out}: array_record files are written to local folders only; give one, and copy it")
    from mtret.console import Bar
    from mtret.data.suites import load_suite
    from mtret.data.tfds_suites import PREFIX, count_records, dataset_folder, write_dataset
    from mtret.files import check_writable

    check_writable(out, "--out")
    own = values["name"].value or locate(name.rstrip("/")).name
    folder = dataset_folder(out, own, values["version"].value or "")
    suite = load_suite(name)
    with Bar(console(), "writing records", count_records(suite)) as bar:
        write_dataset(suite, folder, bar.advance)
    print(f"wrote {folder}\n{next_line('data', 'check', f'--suite={PREFIX}{folder}')}")
