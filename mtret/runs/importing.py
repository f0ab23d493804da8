"""Tables become a task folder, with what a person wants to know before training on it."""

import codecs
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from rich.console import Console

from mtret.console import Bar, say
from mtret.data.cutting import Cut, pieces
from mtret.data.formats import CORPUS
from mtret.data.importing import REJECTED, Columns, Counts, Source, import_task
from mtret.data.records import Dialect
from mtret.data.tasks import SPLITS, TaskCard
from mtret.data.templates import render_document
from mtret.data.tokenize import Tokenizer
from mtret.errors import UserError, nearest_folder
from mtret.files import AnyPath, inside, locate, size_of
from mtret.models import hf
from mtret.runs.setting import check_writable

MEANINGS = {
    "family": "the kind of thing retrieved, such as table, article or intent",
    "instruction": "what to retrieve given what, in a sentence",
}
SAMPLED = 5_000  # documents, to tell how many are long
# Standard deviation of the difference of two systems' nDCG@10 on one query: the median over tasks and pairs of systems
# of the public suite (experiments/001_public_suite, 0.13 to 0.45).
PAIRED_DEVIATION = 0.27


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
    encoding: str = ""  # of CSV and TSV; empty: UTF-8
    delimiter: str = ""  # likewise; empty: as the columns show
    separator: str = ""  # between the ids of one cell
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
    if out.exists():
        raise UserError(f"{out}: exists already and is never overwritten; give another --out, or delete it first")
    source, columns = _source(config)
    cut = _cut(config)
    for path in source.files:
        if not path.exists():
            raise UserError(f"{path}: no such file.{nearest_folder(str(path))} Check the path")
    with Bar(console, "reading, bytes", sum(map(size_of, source.files))) as bar:
        card, shares = _card(config, out, source), _shares(config.split)
        cutter = partial(pieces, cut=cut, tokenizer=Tokenizer(hf.resolve("minilm"))) if cut else None
        counts = import_task(source, columns, card, shares, out, config.seed, bar.advance, cutter)
        bar.finish()
    _report(counts, out, console)
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


def _source(config: ImportConfig) -> tuple[Source, Columns]:
    if not config.rows:
        raise UserError("data import: name a file of rows, or a folder of BEIR's layout")
    first = locate(config.rows[0])
    if len(config.rows) == 1 and first.is_dir():
        return _beir(first)
    columns, docs = config.columns, locate(config.docs) if config.docs else None
    needs = {"query": True, "text": True, "query_id": bool(config.labels), "doc_id": docs is not None}
    for name, needed in needs.items():
        if needed and not getattr(columns, name):
            why = {"query_id": " with --labels", "doc_id": " with --docs"}.get(name, "")
            raise UserError(f"--{name} is needed{why}: the name of a column")
    if config.labels and docs is None:
        raise UserError("--docs is needed with --labels: the file of the documents that they name")
    labels = tuple(_named(each) for each in config.labels)
    return Source(tuple(_named(each) for each in config.rows), docs, labels, _dialect(config)), columns


def _dialect(config: ImportConfig) -> Dialect:
    delimiter = {"tab": "\t", "\\t": "\t"}.get(config.delimiter, config.delimiter)
    if len(delimiter) > 1 or delimiter in ('"', "\n", "\r"):
        raise UserError(f"--delimiter={config.delimiter}: give one character, such as ';', or 'tab'")
    if not config.encoding:
        return Dialect(delimiter=delimiter, separator=config.separator)
    try:
        known = codecs.lookup(config.encoding).name
        "".encode(known)
    except (LookupError, ValueError, UnicodeError) as error:
        raise UserError(f"--encoding={config.encoding}: is not known; give such as utf-8, cp1252 or utf-16") from error
    return Dialect("utf-8-sig" if known == "utf-8" else known, delimiter, config.separator)


def _named(file: str) -> tuple[str, AnyPath]:
    """`train=rows.csv` -> its split and path."""
    split, equals, path = file.partition("=")
    return (split, locate(path)) if equals and split in SPLITS else ("", locate(file))


def _beir(folder: AnyPath) -> tuple[Source, Columns]:
    for name in (CORPUS, "queries.jsonl", "qrels"):
        if not (folder / name).exists():
            raise UserError(f"{folder / name}: missing; BEIR's layout is corpus.jsonl, queries.jsonl and qrels/")
    labels = tuple((split, folder / "qrels" / f"{split}.tsv") for split in SPLITS)
    labels = tuple((split, path) for split, path in labels if path.exists())
    if not labels:
        found = ", ".join(path.name for path in inside(folder / "qrels")) or "nothing"
        raise UserError(f"{folder / 'qrels'}: has no {', '.join(f'{split}.tsv' for split in SPLITS)} but {found}")
    with (folder / CORPUS).open("rb") as file:
        try:
            titled = "title" in json.loads(file.readline())
        except ValueError:
            titled = True
    columns = Columns(
        query="text",
        text="text",
        title="title" if titled else "",
        query_id="_id",
        docs_id="_id",
        labels_query_id="query-id",
        labels_doc_id="corpus-id",
        score="score",
    )
    return Source((("", folder / "queries.jsonl"),), folder / CORPUS, labels), columns


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
    if min(train, dev, test) < 0 or not train + dev + test > 0:
        raise UserError(f"--split={split}: shares are not negative, and not all zero")
    return train, dev, test


def _report(counts: Counts, out: AnyPath, console: Console) -> None:
    queries = " / ".join(f"{counts.queries[split]:,}" for split in SPLITS)
    say(console, f"{counts.documents:,} documents, {queries} train / dev / test queries")
    if counts.untitled:
        say(console, "the column of titles is empty in every document", style="yellow")
    merged = [f"{number:,} {what}" for what, number in counts.merged.items() if number]
    if merged:
        say(console, f"repetitions left out, each is there once: {', '.join(merged)}")
    if counts.unjudged:
        say(console, f"left out: {counts.unjudged:,} queries without a positive document")
    if counts.rejected:
        reasons = ", ".join(f"{reason} ({number:,})" for reason, number in counts.rejected.most_common())
        total = sum(counts.rejected.values())
        say(console, f"rejected: {total:,} rows, in {out / REJECTED}: {reasons}", style="yellow")
    if counts.queries["dev"]:
        least = 1.96 * PAIRED_DEVIATION / np.sqrt(counts.queries["dev"])
        say(console, f"dev: a difference of two models below about {least:.3f} nDCG@10 is noise with so many queries")


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
