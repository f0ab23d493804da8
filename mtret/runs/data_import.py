"""Tables become a task folder, with what a person wants to know before training on it."""

import codecs
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from rich.console import Console

from mtret.console import Bar, say
from mtret.data.chunking import Cut, pieces
from mtret.data.importing import Columns, Source, import_task
from mtret.data.records import Dialect
from mtret.data.task_files import CORPUS, QUERIES, VALIDATION
from mtret.data.tasks import SPLITS, TaskCard
from mtret.data.templates import render_document
from mtret.data.tokenize import Tokenizer
from mtret.errors import UserError, nearest_folder
from mtret.files import AnyPath, check_new, check_writable, inside, locate, size_of
from mtret.models import hf
from mtret.runs.import_report import report

MEANINGS = {
    "family": "the kind of thing retrieved, such as table, article or intent",
    "instruction": "what to retrieve given what, in a sentence",
}
SAMPLED = 5_000  # documents, to tell how many are long


@dataclass(frozen=True)
class ImportConfig:
    """Which files are imported as what."""

    rows: Sequence[str]  # files, or SPLIT=FILE; or one folder of BEIR's layout
    docs: str = ""
    labels: Sequence[str] = ()
    columns: Columns = field(default_factory=lambda: Columns("", ""))
    family: str = ""
    instruction: str = ""
    domain: str = ""
    language: Sequence[str] = ("en",)
    license: str = ""
    encoding: str = ""  # of CSV, TSV and JSON Lines; empty: UTF-8
    delimiter: str = ""  # of CSV and TSV; empty: as the columns show
    separator: str = ""  # between the ids of one cell
    quotes: str = ""  # of CSV and TSV: csv, none; empty: none where tabs part the cells
    missing: Sequence[str] = ()  # texts that stand for no value
    split: str = "80/10/10"
    seed: int = 0
    limit: int = 256  # tokens of a document, beyond which it is said to be long
    chunk: int = 0  # tokens (MiniLM's) beyond which a document is cut into chunks of so many; 0: none is
    overlap: int | None = None  # tokens that a chunk repeats of the one before, at most; None: an eighth


def run_import(config: ImportConfig, out: AnyPath, console: Console) -> None:
    """Writes the task folder `out` and says what came of it.

    Raises UserError where something is missing or wrong; then nothing is written.
    """
    check_writable(out, "--out")
    check_new(out, "--out")
    source, columns, unread = _source(config)
    cut = _cut(config)
    for path in source.files:
        if not path.exists():
            raise UserError(f"{path}: no such file.{nearest_folder(str(path))} Check the path")
    with Bar(console, "reading, bytes", sum(map(size_of, source.files))) as bar:
        card, shares = _card(config, out, source), _shares(config.split)
        cutter = partial(pieces, cut=cut, tokenizer=Tokenizer(hf.resolve("minilm"))) if cut else None
        counts = import_task(source, columns, card, shares, out, config.seed, bar.advance, cutter)
        bar.finish()
    for line, style in report(counts, out, unread):
        say(console, line, style=style)
    if cut:
        became = f"{counts.cut:,} of {counts.documents:,} documents ({counts.cut / counts.documents:.1%})"
        overlap = f", with at most {cut.overlap} in common" if cut.overlap else ""
        say(console, f"longer than {cut.tokens} tokens: {became}, cut into {counts.chunks:,} chunks{overlap}")
    _say_long(out, config.limit, console)


def _cut(config: ImportConfig) -> Cut | None:
    if config.chunk:
        return Cut(config.chunk, config.chunk // 8 if config.overlap is None else config.overlap)
    if config.overlap is not None:
        raise UserError(f"--overlap={config.overlap}: only chunks overlap; give --chunk too")
    return None


def _source(config: ImportConfig) -> tuple[Source, Columns, Sequence[str]]:
    """What is read, and which files of a folder are not."""
    if not config.rows:
        raise UserError("data import: name a file of rows, or a folder of BEIR's layout")
    first = locate(config.rows[0])
    if len(config.rows) == 1 and first.is_dir():
        return _beir(first, config)
    _refuse_flags(config)
    docs = locate(config.docs) if config.docs else None
    rows, labels = (tuple(_named(each) for each in files) for files in (config.rows, config.labels))
    return Source(rows, docs, labels, _dialect(config)), config.columns, ()


def _refuse_flags(config: ImportConfig) -> None:
    """Raises UserError for the first flag that is missing, or that nothing would read."""
    columns = config.columns
    named_there = bool(config.labels and columns.docs_id and columns.labels_doc_id)
    needed = {
        "query": True,
        "text": True,
        "query_id": bool(config.labels),
        "doc_id": bool(config.docs) and not named_there,
    }
    for name in needed:
        if needed[name] and not getattr(columns, name):
            why = {"query_id": " with --labels", "doc_id": " with --docs"}.get(name, "")
            raise UserError(f"--{name} is needed{why}: the name of a column")
    if config.labels and not config.docs:
        raise UserError("--docs is needed with --labels: the file of the documents that they name")
    read_with = {"docs_id": "docs", "separator": "docs", "labels_query_id": "labels", "labels_doc_id": "labels"}
    for name, files in read_with.items():
        given = config.separator if name == "separator" else getattr(columns, name)
        if given and not getattr(config, files):
            raise UserError(f"--{name} says nothing without --{files}; give that too, or leave it out")


def _dialect(config: ImportConfig) -> Dialect:
    delimiter = {"tab": "\t", "\\t": "\t"}.get(config.delimiter, config.delimiter)
    if len(delimiter) > 1 or delimiter in ('"', "\n", "\r"):
        raise UserError(f"--delimiter={config.delimiter}: give one character, such as ';', or 'tab'")
    given = Dialect(
        delimiter=delimiter, separator=config.separator, quotes=config.quotes, missing=tuple(config.missing)
    )
    if not config.encoding:
        return given
    try:
        known = codecs.lookup(config.encoding).name
        "".encode(known)
    except (LookupError, ValueError, UnicodeError) as error:
        raise UserError(f"--encoding={config.encoding}: is not known; give such as utf-8, cp1252 or utf-16") from error
    return replace(given, encoding="utf-8-sig" if known == "utf-8" else known)


def _named(file: str) -> tuple[str, AnyPath]:
    """`train=rows.csv` -> its split and path."""
    split, equals, path = file.partition("=")
    split = "dev" if f"{split}.tsv" in VALIDATION else split
    return (split, locate(path)) if equals and split in SPLITS else ("", locate(file))


def _beir(folder: AnyPath, config: ImportConfig) -> tuple[Source, Columns, Sequence[str]]:
    given = [name for name, value in vars(config.columns).items() if value]
    given += [name for name in ("docs", "labels", "separator") if getattr(config, name)]
    if given:
        raise UserError(f"--{given[0]} says nothing of a folder of BEIR's layout, which names its own; leave it out")
    for name in (CORPUS, QUERIES, "qrels"):
        if not (folder / name).exists():
            raise UserError(f"{folder / name}: missing; BEIR's layout is corpus.jsonl, queries.jsonl and qrels/")
    labels = []
    for split in SPLITS:
        names = (f"{split}.tsv", *VALIDATION) if split == "dev" else (f"{split}.tsv",)
        labels += [(split, folder / "qrels" / name) for name in names if (folder / "qrels" / name).exists()][:1]
    if not labels:
        found = ", ".join(path.name for path in inside(folder / "qrels")) or "nothing"
        raise UserError(f"{folder / 'qrels'}: has no {', '.join(f'{split}.tsv' for split in SPLITS)} but {found}")
    columns = Columns(
        query="text",
        text="text",
        title="title",
        query_id="_id",
        docs_id="_id",
        labels_query_id="query-id",
        labels_doc_id="corpus-id",
        score="score",
    )
    dialect, optional = _dialect(config), ("title",)
    source = Source((("", folder / QUERIES),), folder / CORPUS, tuple(labels), dialect, optional)
    return source, columns, _unread_files(folder, source.files)


def _unread_files(folder: AnyPath, read: Sequence[AnyPath]) -> list[str]:
    there = [path for path in inside(folder) if path.name != "qrels"]
    names = [path.name for path in there if path not in read]
    names += [f"qrels/{path.name}" for path in inside(folder / "qrels") if path not in read]
    return [name for name in names if not name.rpartition("/")[2].startswith(".")]


def _card(config: ImportConfig, out: AnyPath, source: Source) -> TaskCard:
    for name in ("family", "instruction"):
        if not getattr(config, name).strip():
            raise UserError(f"--{name} is needed: {MEANINGS[name]}")
    files = ", ".join(path.name for path in source.files)
    return TaskCard(
        name=out.name,
        family=config.family,
        domain=config.domain or "not said",
        languages=tuple(config.language),
        instruction=config.instruction,
        license=config.license or "not said",
        source=f"imported from {files}",
        notes=f"Documents of more than {config.chunk} tokens were cut into chunks." if config.chunk else "",
    )


def _shares(split: str) -> tuple[float, float, float]:
    try:
        train, dev, test = map(float, split.split("/"))
    except ValueError:
        raise UserError(f"--split={split}: give three shares, for train, dev and test, such as 80/10/10") from None
    if min(train, dev, test) < 0 or not 0 < train + dev + test < float("inf"):
        raise UserError(f"--split={split}: shares are numbers, not negative, and not all zero")
    return train, dev, test


def _say_long(out: AnyPath, limit: int, console: Console) -> None:
    """The share of documents that an encoder cuts, by MiniLM's tokens, of a sample."""
    try:
        tokenizer = Tokenizer(hf.resolve("minilm"))
    except UserError:
        return
    with (out / CORPUS).open("r", encoding="utf-8") as file:
        total = sum(1 for _ in file)
    every = max(total // SAMPLED, 1)
    with (out / CORPUS).open("r", encoding="utf-8") as file:
        records = [json.loads(line) for number, line in enumerate(file) if number % every == 0]
    lengths = tokenizer([render_document(one["title"], one["text"]) for one in records]).lengths(10**9)
    share = float((lengths > limit).mean())
    if share:
        say(
            console,
            f"{share:.1%} of the documents are longer than {limit} tokens (MiniLM's), beyond which nothing is read; "
            f"--chunk={limit} cuts them into chunks",
        )
