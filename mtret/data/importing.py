"""A task folder from other people's tables, in one pass over each, with a database on disk in place of memory."""

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from mtret.data.cutting import Piece
from mtret.data.formats import CARD, CORPUS, QUERIES, SCORED, dump_card
from mtret.data.records import Dialect, Progress, Row, read_rows
from mtret.data.tasks import SPLITS, TaskCard, query_key
from mtret.data.templates import render_document
from mtret.errors import UserError
from mtret.files import AnyPath, folder_draft, replace_folder

REJECTED = "rejected.jsonl"  # in the task's folder: rows that were left out, and why
IDS = "\t\r\n"  # that no id may hold
COMMIT_ROWS = 50_000
CUT_AT_ONCE = 1_000_000  # characters of documents

TABLES = """
CREATE TABLE documents (row INTEGER PRIMARY KEY, key BLOB UNIQUE, id TEXT UNIQUE, title TEXT, text TEXT);
CREATE TABLE document_ids (id TEXT PRIMARY KEY, row INTEGER) WITHOUT ROWID;
CREATE TABLE queries (row INTEGER PRIMARY KEY, key BLOB UNIQUE, id TEXT UNIQUE, text TEXT, place INTEGER, split TEXT);
CREATE TABLE query_ids (id TEXT PRIMARY KEY, row INTEGER) WITHOUT ROWID;
CREATE TABLE chunk_ids (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE pairs (query INTEGER, document INTEGER, score REAL, PRIMARY KEY (query, document)) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Columns:
    """Names of columns; the empty ones are not there."""

    query: str
    text: str  # of the document
    title: str = ""
    query_id: str = ""
    doc_id: str = ""
    score: str = ""  # relevance; without it every row is a positive
    group_by: str = ""  # rows of one group come into one split
    docs_id: str = ""  # in the file of documents; as `doc_id` if not given, and so on
    labels_query_id: str = ""
    labels_doc_id: str = ""


@dataclass(frozen=True)
class Source:
    """Files, by what they hold."""

    # (split or "", file): queries, with their documents unless those stand apart
    rows: tuple[tuple[str, AnyPath], ...]
    docs: AnyPath | None = None
    labels: tuple[tuple[str, AnyPath], ...] = ()  # likewise: which document a query asks for, where `rows` does not say

    dialect: Dialect = field(default_factory=Dialect)

    @property
    def files(self) -> tuple[AnyPath, ...]:
        """All of them."""
        return tuple(path for _, path in (*self.rows, *self.labels)) + ((self.docs,) if self.docs else ())


@dataclass
class Counts:
    """What an import found."""

    documents: int = 0
    cut: int = 0  # of them
    chunks: int = 0  # that those became
    queries: dict[str, int] = field(default_factory=dict)  # by split
    merged: Counter[str] = field(default_factory=Counter)  # "documents", "queries", "pairs" that stood there twice
    rejected: Counter[str] = field(default_factory=Counter)  # by reason
    unjudged: int = 0  # queries without a positive
    untitled: bool = False  # a column of titles was named, and is empty everywhere


class _Rejected(Exception):
    """A row cannot be used, and why."""


def import_task(
    source: Source,
    columns: Columns,
    card: TaskCard,
    shares: tuple[float, float, float],
    folder: AnyPath,
    seed: int = 0,
    on_bytes: Progress = lambda count: None,
    cut: Callable[[Sequence[Piece]], Sequence[Sequence[Piece]]] | None = None,
) -> Counts:
    """Writes a task folder, whole or not at all.

    Args:
      shares: of the queries, for train, dev and test, where no file is named for a split; groups stay together. Where
        files are, dev is taken from train by the first two, unless it has a file.
      seed: of the division.
      on_bytes: is told how many more bytes of the files are read.
      cut: (title, text) of some documents -> those of each one's chunks; a single one leaves it whole.

    Raises UserError where a file or column is not there, or nothing is left to write.
    """
    counts = Counts()
    columns = replace(
        columns,
        docs_id=columns.docs_id or columns.doc_id,
        labels_query_id=columns.labels_query_id or columns.query_id,
        labels_doc_id=columns.labels_doc_id or columns.doc_id,
    )
    with folder_draft(folder) as draft:
        database = draft.parent / "import.sqlite"
        with closing(sqlite3.connect(database, isolation_level=None)) as store:
            store.executescript("PRAGMA journal_mode=MEMORY; PRAGMA synchronous=OFF; PRAGMA temp_store=FILE;" + TABLES)
            with (draft / REJECTED).open("w", encoding="utf-8", newline="\n") as rejected:
                reading = _Reading(store, columns, seed, counts, rejected, on_bytes)
                reading.read(source)
            counts.untitled = (
                bool(columns.title)
                and not store.execute("SELECT EXISTS (SELECT 1 FROM documents WHERE title != '')").fetchone()[0]
            )
            _divide(store, {split for split, _ in (*source.rows, *source.labels)}, shares)
            _write(store, draft, card, counts, cut)
        if not counts.rejected:
            (draft / REJECTED).unlink()
        replace_folder(draft, folder, last=(CARD,))
    return counts


class _Reading:
    """Fills the database from files."""

    def __init__(
        self, store: sqlite3.Connection, columns: Columns, seed: int, counts: Counts, rejected: Any, on_bytes: Progress
    ):
        self._store, self._columns, self._seed, self._counts = store, columns, seed, counts
        self._rejected, self._on_bytes = rejected, on_bytes

    def read(self, source: Source) -> None:
        columns = self._columns
        if source.docs is not None:
            wanted = [columns.docs_id, columns.text, columns.title]
            self._each(source, source.docs, wanted, lambda row: self._document(row.values, columns.docs_id))
        for split, path in _judged_first(source.rows):
            own = [columns.query, columns.query_id, columns.group_by]
            if not source.labels:
                own += [columns.score, columns.doc_id]
                own += [] if source.docs else [columns.text, columns.title]
            listed = columns.doc_id if source.docs and not source.labels else ""
            self._each(source, path, own, lambda row, split=split: self._pair(row, split, source), listed)
        for split, path in _judged_first(source.labels):
            wanted = [columns.labels_query_id, columns.labels_doc_id, columns.score]
            self._each(
                source, path, wanted, lambda row, split=split: self._label(row.values, split), columns.labels_doc_id
            )

    def _each(
        self, source: Source, path: AnyPath, columns: Sequence[str], use: Callable[[Row], object], listed: str = ""
    ) -> None:
        """`listed`: the column in which a row can have several ids."""
        named = [*dict.fromkeys(name for name in columns if name)]
        rows = read_rows(path, named, self._on_bytes, listed, source.dialect)
        self._store.execute("BEGIN")
        for number, row in enumerate(rows):
            try:
                if row.problem:
                    raise _Rejected(row.problem)
                self._store.execute("SAVEPOINT one_row")
                use(row)
                self._store.execute("RELEASE one_row")
            except _Rejected as reason:
                if not row.problem:  # what was entered of it goes again
                    self._store.execute("ROLLBACK TO one_row")
                    self._store.execute("RELEASE one_row")
                self._reject(path, row, str(reason))
            if number % COMMIT_ROWS == COMMIT_ROWS - 1:
                self._store.execute("COMMIT")
                self._store.execute("BEGIN")
        self._store.execute("COMMIT")

    def _reject(self, path: AnyPath, row: Row, reason: str) -> None:
        self._counts.rejected[reason.partition(":")[0]] += 1
        record = {"file": path.name, "line": row.line, "reason": reason, **row.values}
        self._rejected.write(json.dumps(record, ensure_ascii=False) + "\n")

    def _pair(self, row: Row, split: str, source: Source) -> None:
        """A row of queries: with its document, or with the id of one, or alone where labels stand apart."""
        values = row.values
        score = 1.0 if source.labels else self._score(values)
        document = None
        if not source.labels:
            own_id = self._columns.doc_id
            document = self._known("document", values[own_id]) if source.docs else self._document(values, own_id)
        query = self._query(values, split, row.again)
        if document is not None:
            self._judge(query, document, score)

    def _label(self, values: Mapping[str, str], split: str) -> None:
        query = self._known("query", values[self._columns.labels_query_id])
        document = self._known("document", values[self._columns.labels_doc_id])
        score = self._score(values)
        if split:
            self._put(query, split)
        self._judge(query, document, score)

    def _document(self, values: Mapping[str, str], id_column: str) -> int:
        title = values.get(self._columns.title, "").strip() if self._columns.title else ""
        text = _clean(values[self._columns.text]).strip()
        rendered = render_document(title, text)
        if not rendered:
            raise _Rejected("no document text")
        given = _clean_id(values[id_column], "document") if id_column else ""
        return self._enter("document", given, " ".join(rendered.split()), (_clean(title), text))

    def _query(self, values: Mapping[str, str], split: str, again: bool) -> int:
        text = _clean(values[self._columns.query]).strip()
        if not text:
            raise _Rejected("no query text")
        given = _clean_id(values[self._columns.query_id], "query") if self._columns.query_id else ""
        group = values[self._columns.group_by] if self._columns.group_by else query_key(text)
        place = int.from_bytes(_digest(f"{self._seed} {group}")[:7], "big")
        merged = self._counts.merged["queries"]
        row = self._enter("query", given, query_key(text), (text, place, split))
        if again:  # the same row as before
            self._counts.merged["queries"] = merged
        self._put(row, split)
        return row

    def _put(self, query: int, split: str) -> None:
        there = self._store.execute("SELECT split FROM queries WHERE row = ?", (query,)).fetchone()[0]
        if not there:
            self._store.execute("UPDATE queries SET split = ? WHERE row = ?", (split, query))
        elif there != split:
            raise _Rejected(f"query of another split: it stands in {there} already")

    def _enter(self, kind: str, given: str, identity: str, rest: tuple[Any, ...]) -> int:
        """The row of a document or query; a new one, or that of the same text. Ids of equal texts all lead there."""
        table = "documents" if kind == "document" else "queries"
        key = _digest(identity)
        if given:
            known = self._store.execute(
                f"SELECT {table}.row, {table}.key FROM {kind}_ids JOIN {table} USING (row) WHERE {kind}_ids.id = ?",
                (given,),
            ).fetchone()
            if known is not None:
                if known[1] != key:
                    raise _Rejected(f"{kind} id with two texts: '{given}' has another one before")
                self._counts.merged[table] += kind == "document"
                return int(known[0])
        found = self._store.execute(f"SELECT row FROM {table} WHERE key = ?", (key,)).fetchone()
        if found is not None:
            row = int(found[0])
            self._counts.merged[table] += 1
        else:
            marks = ", ".join("?" * (2 + len(rest)))
            names = "key, id, title, text" if kind == "document" else "key, id, text, place, split"
            cursor = self._store.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", (key, given or None, *rest))
            row = int(cursor.lastrowid or 0)
        if given:
            self._store.execute(f"INSERT INTO {kind}_ids VALUES (?, ?)", (given, row))
        return row

    def _known(self, kind: str, given: str) -> int:
        found = self._store.execute(f"SELECT row FROM {kind}_ids WHERE id = ?", (given.strip(),)).fetchone()
        if found is None:
            raise _Rejected(f"unknown {kind} id: '{given}'")
        return int(found[0])

    def _score(self, values: Mapping[str, str]) -> float:
        if not self._columns.score:
            return 1.0
        written = values[self._columns.score].strip()
        try:
            score = float({"true": "1", "false": "0"}.get(written.lower(), written))
        except ValueError:
            score = float("nan")
        if not abs(score) < float("inf"):
            raise _Rejected(f"score that is no number: '{written}'")
        return score

    def _judge(self, query: int, document: int, score: float) -> None:
        there = self._store.execute(
            "SELECT score FROM pairs WHERE query = ? AND document = ?", (query, document)
        ).fetchone()
        self._counts.merged["pairs"] += there is not None
        if there is None or score > there[0]:
            self._store.execute("INSERT OR REPLACE INTO pairs VALUES (?, ?, ?)", (query, document, score))


def _judged_first(files: Sequence[tuple[str, AnyPath]]) -> list[tuple[str, AnyPath]]:
    """A query that stands in two splits is kept where it is judged, not where it is learned."""
    order = ("test", "dev", "train", "")
    return sorted(files, key=lambda each: order.index(each[0]))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _clean(text: str) -> str:
    """Raises _Rejected for half a surrogate pair, which no UTF-8 file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _Rejected("half of a surrogate pair in the text") from None
    return text


def _clean_id(given: str, kind: str) -> str:
    given = _clean(given).strip()
    if not given:
        raise _Rejected(f"no {kind} id")
    if set(given) & set(IDS):
        raise _Rejected(f"{kind} id with a tab or line break in it")
    return given


LABEL = "title = '' AND length(text) <= 64 AND instr(text, char(9)) + instr(text, char(10)) + instr(text, char(13)) = 0"
JUDGED = "EXISTS (SELECT 1 FROM pairs WHERE pairs.query = queries.row AND score > 0)"


def _divide(store: sqlite3.Connection, named: Collection[str], shares: tuple[float, float, float]) -> None:
    """Gives each judged query a split, group by group, in the order of the groups' hashes."""
    train, dev, test = shares
    if not {*named} & {*SPLITS}:
        _cut(store, "", [("train", train), ("dev", dev), ("test", test)])
    elif "train" in named and "dev" not in named and dev:
        _cut(store, "train", [("train", train), ("dev", dev)])


def _cut(store: sqlite3.Connection, split: str, parts: Sequence[tuple[str, float]]) -> None:
    wanted = [(name, share) for name, share in parts if share > 0]
    total = store.execute(f"SELECT COUNT(*) FROM queries WHERE split = ? AND {JUDGED}", (split,)).fetchone()[0]
    whole, done, bounds = sum(share for _, share in wanted), 0, []
    ends = [total * sum(share for _, share in wanted[: i + 1]) / whole for i in range(len(wanted) - 1)]
    groups = store.execute(
        f"SELECT place, COUNT(*) FROM queries WHERE split = ? AND {JUDGED} GROUP BY place ORDER BY place", (split,)
    )
    for place, count in groups:
        while len(bounds) < len(ends) and done + count / 2 >= ends[len(bounds)] and done:
            bounds.append(place)
        done += count
    last = 2**62
    for (name, _), low, high in zip(wanted, [-1, *bounds], [*bounds, last], strict=False):
        store.execute(
            "UPDATE queries SET split = ? WHERE split = ? AND place >= ? AND place < ?", (f" {name}", split, low, high)
        )
    store.execute("UPDATE queries SET split = TRIM(split)")


def _write(
    store: sqlite3.Connection,
    draft: Path,
    card: TaskCard,
    counts: Counts,
    cut: Callable[[Sequence[Piece]], Sequence[Sequence[Piece]]] | None,
) -> None:
    """The native files. Raises UserError where there would be no document, or no query."""
    if not store.execute(f"SELECT 1 FROM queries WHERE {JUDGED} LIMIT 1").fetchone():
        why = f"; {sum(counts.rejected.values()):,} rows were rejected" if counts.rejected else ""
        first = f", most often: {counts.rejected.most_common(1)[0][0]}" if counts.rejected else ""
        raise UserError(
            f"{draft.name}: no query with a positive document is left{why}{first}. Check the columns' names"
        )
    if not store.execute(f"SELECT 1 FROM documents WHERE id IS NULL AND NOT ({LABEL}) LIMIT 1").fetchone():
        store.execute("UPDATE OR IGNORE documents SET id = text WHERE id IS NULL")  # a label is its own best name
    for table, letter in (("documents", "d"), ("queries", "q")):
        # Where some have ids, a made-up one must be none of them.
        store.execute(f"UPDATE OR IGNORE {table} SET id = ? || row WHERE id IS NULL", (letter,))
        store.execute(f"UPDATE {table} SET id = ? || row || '-' || hex(key) WHERE id IS NULL", (letter,))
    documents = store.execute("SELECT id, title, text FROM documents ORDER BY row")
    counts.documents = store.execute("SELECT COUNT(*) FROM documents").fetchone()[0]
    whole = ({"_id": i, "title": title, "text": text} for i, title, text in documents)
    _lines(draft / CORPUS, whole if cut is None else _in_chunks(store, documents, cut, counts))
    queries = store.execute(f"SELECT id, text FROM queries WHERE {JUDGED} ORDER BY row")
    _lines(draft / QUERIES, ({"_id": i, "text": text} for i, text in queries))
    counts.unjudged = store.execute(f"SELECT COUNT(*) FROM queries WHERE NOT {JUDGED}").fetchone()[0]
    (draft / "qrels").mkdir()
    for split in SPLITS:
        found = f"FROM queries WHERE split = ? AND {JUDGED}"
        counts.queries[split] = store.execute(f"SELECT COUNT(*) {found}", (split,)).fetchone()[0]
        if counts.queries[split]:
            pairs = store.execute(
                "SELECT queries.id, documents.id, score FROM queries JOIN pairs ON pairs.query = queries.row "
                f"JOIN documents ON documents.row = pairs.document WHERE split = ? AND {JUDGED} ORDER BY queries.row",
                (split,),
            )
            cells = (f"{query}\t{document}\t{score:.17g}" for query, document, score in pairs)
            _text(draft / "qrels" / f"{split}.tsv", chain(["\t".join(SCORED)], cells))
    (draft / CARD).write_text(dump_card(card), encoding="utf-8", newline="\n")


def _in_chunks(
    store: sqlite3.Connection,
    documents: Iterable[tuple[str, str, str]],
    cut: Callable[[Sequence[Piece]], Sequence[Sequence[Piece]]],
    counts: Counts,
) -> Iterator[dict[str, str]]:
    for block in _blocks(documents):
        for (given, _, _), chunks in zip(block, cut([(title, text) for _, title, text in block]), strict=True):
            if len(chunks) == 1:
                yield {"_id": given, "title": chunks[0][0], "text": chunks[0][1]}
                continue
            counts.cut += 1
            counts.chunks += len(chunks)
            for own, (title, text) in zip(_free_ids(store, given, len(chunks)), chunks, strict=True):
                yield {"_id": own, "parent": given, "title": title, "text": text}


def _blocks(documents: Iterable[tuple[str, str, str]]) -> Iterator[list[tuple[str, str, str]]]:
    block, size = [], 0
    for document in documents:
        block.append(document)
        size += len(document[2])
        if size >= CUT_AT_ONCE:
            yield block
            block, size = [], 0
    if block:
        yield block


def _free_ids(store: sqlite3.Connection, parent: str, count: int) -> list[str]:
    """`ID#1` and so on; with more marks where a document or a chunk of another one has such an id."""
    taken = "SELECT 1 FROM documents WHERE id = ? UNION ALL SELECT 1 FROM chunk_ids WHERE id = ?"
    mark = "#"
    while True:
        ids = [f"{parent}{mark}{number}" for number in range(1, count + 1)]
        if not any(store.execute(taken, (one, one)).fetchone() for one in ids):
            store.executemany("INSERT INTO chunk_ids VALUES (?)", [(one,) for one in ids])
            return ids
        mark += "#"


def _lines(path: Path, records: Iterable[Mapping[str, str]]) -> int:
    return _text(path, (json.dumps(record, ensure_ascii=False) for record in records))


def _text(path: Path, lines: Iterator[str] | Iterable[str]) -> int:
    written = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for line in lines:
            file.write(line + "\n")
            written += 1
    return written
