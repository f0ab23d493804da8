"""A task folder from other people's tables, in one pass over each, with a database on disk in place of memory."""

import hashlib
import json
import sqlite3
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from mtret.data.chunking import Piece
from mtret.data.imported import REJECTED, TABLES, Counts, divide, write_files
from mtret.data.json_objects import half_a_pair
from mtret.data.records import Dialect, Findings, Progress, Row, read_rows
from mtret.data.task_files import CARD, dump_card
from mtret.data.tasks import TaskCard, query_key
from mtret.data.templates import render_document
from mtret.errors import UserError
from mtret.files import AnyPath, folder_draft, replace_folder

IDS = "\t\r\n"  # that no id may hold
COMMIT_ROWS = 50_000


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
    optional: tuple[str, ...] = ()  # columns that a file need not have

    @property
    def files(self) -> tuple[AnyPath, ...]:
        """All of them."""
        return tuple(path for _, path in (*self.rows, *self.labels)) + ((self.docs,) if self.docs else ())


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

    Raises UserError where a file or column is not there, some files name a split and others do not, or nothing is left
    to write.
    """
    _refuse_mixed_splits(source)
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
            with (draft / REJECTED).open("w", encoding="utf-8", newline="\n", errors="backslashreplace") as rejected:
                reading = _Reading(store, columns, seed, counts, rejected, on_bytes)
                reading.read(source)
            counts.untitled = (
                bool(columns.title)
                and columns.title not in source.optional
                and not store.execute("SELECT EXISTS (SELECT 1 FROM documents WHERE title != '')").fetchone()[0]
            )
            divide(store, {split for split, _ in (*source.rows, *source.labels)}, shares)
            write_files(store, draft, counts, cut)
            (draft / CARD).write_text(dump_card(card), encoding="utf-8", newline="\n")
        if not counts.rejected:
            (draft / REJECTED).unlink()
        replace_folder(draft, folder, last=(CARD,))
    return counts


def _refuse_mixed_splits(source: Source) -> None:
    """A file without a split beside one that has one would come into none."""
    decided = bool(source.labels) and all(split for split, _ in source.labels)
    for files in (() if decided else source.rows, source.labels):
        other = next((path for split, path in files if split), None)
        bare = next((path for split, path in files if not split), None)
        if other is not None and bare is not None:
            raise UserError(
                f"{bare}: has no split, while {other.name} has one; give it as SPLIT=FILE, such as train={bare.name}"
            )


class _Reading:
    """Fills the database from files."""

    def __init__(
        self, store: sqlite3.Connection, columns: Columns, seed: int, counts: Counts, rejected: Any, on_bytes: Progress
    ):
        self._store, self._columns, self._seed, self._counts = store, columns, seed, counts
        self._rejected, self._on_bytes = rejected, on_bytes
        self._of_row: list[tuple[Counter[str], str]] = []  # what is to be counted once the row is accepted

    def read(self, source: Source) -> None:
        columns = self._columns
        if source.docs is not None:
            wanted = [columns.docs_id, columns.text, columns.title]
            self._each(source, source.docs, wanted, lambda row: self._document(row.values, columns.docs_id, apart=True))
        for split, path in _judged_first(source.rows):
            own = [columns.query, columns.query_id, columns.group_by]
            if not source.labels:
                own += [columns.score, columns.doc_id]
                own += [] if source.docs else [columns.text, columns.title]
            listed = columns.doc_id if source.docs and not source.labels else ""
            judges = not source.labels
            self._each(source, path, own, lambda row, split=split: self._pair(row, split, source), listed, judges)
        for split, path in _judged_first(source.labels):
            wanted = [columns.labels_query_id, columns.labels_doc_id, columns.score]
            listed = columns.labels_doc_id
            self._each(source, path, wanted, lambda row, split=split: self._label(row.values, split), listed, True)

    def _each(
        self,
        source: Source,
        path: AnyPath,
        columns: Sequence[str],
        use: Callable[[Row], object],
        listed: str = "",
        judges: bool = False,
    ) -> None:
        """`listed`: the column in which a row can have several ids. `judges`: whether a row is a judged pair."""
        named = [*dict.fromkeys(name for name in columns if name)]
        findings = Findings()
        rows = read_rows(path, named, self._on_bytes, listed, source.dialect, source.optional, findings)
        self._store.execute("BEGIN")
        for number, row in enumerate(rows):
            self._counts.read += judges
            try:
                if row.problem:
                    raise _Rejected(row.problem)
                self._use(row, use)
            except _Rejected as reason:
                self._counts.rejected_pairs += judges
                self._reject(path, row, str(reason))
            if number % COMMIT_ROWS == COMMIT_ROWS - 1:
                self._store.execute("COMMIT")
                self._store.execute("BEGIN")
        self._store.execute("COMMIT")
        self._keep(path, findings)

    def _use(self, row: Row, use: Callable[[Row], object]) -> None:
        """Enters and counts all of a row, or nothing of it."""
        text = "".join(row.values.values())
        if half_a_pair(text):
            raise _Rejected("half of a surrogate pair in the text")
        if "\0" in text:
            raise _Rejected("a null character in a text")
        self._store.execute("SAVEPOINT one_row")
        self._of_row.clear()
        try:
            use(row)
        except _Rejected:
            self._store.execute("ROLLBACK TO one_row")
            self._store.execute("RELEASE one_row")
            raise
        self._store.execute("RELEASE one_row")
        for counter, what in self._of_row:
            counter[what] += 1

    def _reject(self, path: AnyPath, row: Row, reason: str) -> None:
        self._counts.rejected[reason.partition(":")[0]] += 1
        self._counts.first_rejected = self._counts.first_rejected or f"{path.name}:{row.line}: {reason}"
        record = {"file": path.name, "line": row.line, "reason": reason, **row.values}
        self._rejected.write(json.dumps(record, ensure_ascii=False) + "\n")

    def _keep(self, path: AnyPath, findings: Findings) -> None:
        counts, name = self._counts, str(path)
        before = counts.unread.get(name, findings.unread)  # of a file that is read for two things
        counts.unread[name] = Counter({each: findings.unread[each] for each in before if each in findings.unread})
        kept = {each: count for each, count in findings.missing_words.items() if each[0] != self._columns.score}
        counts.missing_words.update(kept)
        if findings.swallowing:
            counts.swallowing[name] = findings.swallowing

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

    def _document(self, values: Mapping[str, str], id_column: str, apart: bool = False) -> int:
        """`apart`: it stands in a corpus, where some have a title only; beside a query, that is no answer."""
        title = values.get(self._columns.title, "").strip() if self._columns.title else ""
        text = values[self._columns.text].strip()
        rendered = render_document(title, text)
        if not text and not (apart and title):
            raise _Rejected("no document text")
        if not text:
            self._of_row.append((self._counts.noted, "title_only"))
        given = _clean_id(values[id_column], "document") if id_column else ""
        return self._enter("document", given, " ".join(rendered.split()), (title, text))

    def _query(self, values: Mapping[str, str], split: str, again: bool) -> int:
        text = values[self._columns.query].strip()
        if not text:
            raise _Rejected("no query text")
        given = _clean_id(values[self._columns.query_id], "query") if self._columns.query_id else ""
        group = values[self._columns.group_by].strip() if self._columns.group_by else ""
        place = int.from_bytes(_digest(f"{self._seed} {group or query_key(text)}")[:7], "big")
        row = self._enter("query", given, query_key(text), (text, place, split), again)
        first = self._put(row, split)
        if self._columns.group_by and not again and (not group or place != first):
            self._of_row.append((self._counts.noted, "regrouped" if group else "ungrouped"))
        return row

    def _put(self, query: int, split: str) -> int:
        """Into this split, unless it is in another one already; returns its place."""
        there, place = self._store.execute("SELECT split, place FROM queries WHERE row = ?", (query,)).fetchone()
        if split and not there:
            self._store.execute("UPDATE queries SET split = ? WHERE row = ?", (split, query))
        elif there != split:
            raise _Rejected(f"query of another split: it stands in {there} already")
        return int(place)

    def _enter(self, kind: str, given: str, identity: str, rest: tuple[Any, ...], again: bool = False) -> int:
        """The row of a document or query; a new one, or that of the same text. Ids of equal texts all lead there.

        `again`: it is that of the row before, and no repetition.
        """
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
                if kind == "document":
                    self._of_row.append((self._counts.merged, table))
                return int(known[0])
        found = self._store.execute(f"SELECT row FROM {table} WHERE key = ?", (key,)).fetchone()
        if found is not None:
            row = int(found[0])
            if not again:
                self._of_row.append((self._counts.merged, table))
        else:
            marks = ", ".join("?" * (2 + len(rest)))
            names = "key, id, title, text" if kind == "document" else "key, id, text, place, split"
            cursor = self._store.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", (key, given or None, *rest))
            row = int(cursor.lastrowid or 0)
        if given:
            self._store.execute(f"INSERT INTO {kind}_ids VALUES (?, ?)", (given, row))
        return row

    def _known(self, kind: str, given: str) -> int:
        given = given.strip()
        if not given:
            raise _Rejected(f"no {kind} id")
        found = self._store.execute(f"SELECT row FROM {kind}_ids WHERE id = ?", (given,)).fetchone()
        if found is None:
            raise _Rejected(f"unknown {kind} id: '{given}'{self._nearly(kind, given)}")
        return int(found[0])

    def _nearly(self, kind: str, given: str) -> str:
        """What another program may have made of the id: of a number, of its case, of its letters' Unicode form."""
        forms = (given.lstrip("0"), given.removesuffix(".0"), f"{given}.0", given.lower(), given.upper())
        forms += tuple(unicodedata.normalize(form, given) for form in ("NFC", "NFD"))
        marks = ", ".join("?" * len(forms))
        found = self._store.execute(f"SELECT id FROM {kind}_ids WHERE id IN ({marks})", forms).fetchone()
        return f", but there is '{found[0]}', which is written otherwise" if found else ""

    def _score(self, values: Mapping[str, str]) -> float:
        if not self._columns.score:
            return 1.0
        written = values[self._columns.score].strip()
        if not written:
            raise _Rejected("no score")
        try:
            score = float({"true": "1", "false": "0"}.get(written.lower(), written))
        except ValueError:
            score = float("nan")
        if not abs(score) < float("inf"):
            raise _Rejected(f"score that is not a number: '{written}'")
        return score

    def _judge(self, query: int, document: int, score: float) -> None:
        there = self._store.execute(
            "SELECT score FROM pairs WHERE query = ? AND document = ?", (query, document)
        ).fetchone()
        if there is not None:
            self._of_row.append((self._counts.merged, "pairs"))
            if score != there[0]:
                self._of_row.append((self._counts.noted, "rescored"))
        if there is None or score > there[0]:
            self._store.execute("INSERT OR REPLACE INTO pairs VALUES (?, ?, ?)", (query, document, score))


def _judged_first(files: Sequence[tuple[str, AnyPath]]) -> list[tuple[str, AnyPath]]:
    """A query that stands in two splits is kept where it is judged, not where it is learned."""
    order = ("test", "dev", "train", "")
    return sorted(files, key=lambda each: order.index(each[0]))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _clean_id(given: str, kind: str) -> str:
    given = given.strip()
    if not given:
        raise _Rejected(f"no {kind} id")
    if set(given) & set(IDS):
        raise _Rejected(f"{kind} id with a tab or line break in it")
    return given
