"""What an import found, and the files of a task folder from the database that it has filled."""

import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mtret.data.chunking import Piece
from mtret.data.task_files import CORPUS, EXCLUDE, QUERIES, SCORED, UNSCORED, write_lines, write_table
from mtret.data.tasks import SPLITS, query_key
from mtret.data.templates import render_document
from mtret.errors import UserError

REJECTED = "rejected.jsonl"  # in the task's folder: rows that were left out, and why
MERGED = "merged.tsv"  # in the task's folder: ids that lead to another one, whose text is the same
CUT_AT_ONCE = 1_000_000  # characters of documents

TABLES = """
CREATE TABLE documents (row INTEGER PRIMARY KEY, key BLOB UNIQUE, id TEXT UNIQUE, title TEXT, text TEXT);
CREATE TABLE document_ids (id TEXT PRIMARY KEY, row INTEGER) WITHOUT ROWID;
CREATE TABLE queries (row INTEGER PRIMARY KEY, key BLOB UNIQUE, id TEXT UNIQUE, text TEXT, place INTEGER, split TEXT);
CREATE TABLE query_ids (id TEXT PRIMARY KEY, row INTEGER) WITHOUT ROWID;
CREATE TABLE chunk_ids (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE pairs (query INTEGER, document INTEGER, score REAL, PRIMARY KEY (query, document)) WITHOUT ROWID;
"""

NOTED = {
    "title_only": "documents have a title and no text, so that the title is all that is found of them",
    "ungrouped": "rows have no value in the column of groups; the query of each is a group of its own",
    "regrouped": "rows ask a query of another group once more; it stays with the first",
    "rescored": "pairs that stand there twice have two scores; the higher one counts",
    "namesakes": "queries have the id of a document with another text; nothing follows from it",
    "self_positives": "queries have themselves as a positive document, of the same id and text",
}


@dataclass
class Counts:
    """What an import found. Of the judged pairs, `read` is the sum of `pairs`, `merged`, `unjudged` and `rejected`."""

    documents: int = 0
    cut: int = 0  # of them
    chunks: int = 0  # that those became
    queries: dict[str, int] = field(default_factory=dict)  # by split
    merged: Counter[str] = field(default_factory=Counter)  # "documents", "queries", "pairs" that stood there twice
    merged_ids: int = 0  # that are written to MERGED
    rejected: Counter[str] = field(default_factory=Counter)  # by reason
    first_rejected: str = ""  # file, line and reason
    unjudged: int = 0  # queries without a positive
    untitled: bool = False  # a column of titles was named, and is empty everywhere
    read: int = 0  # judged pairs
    pairs: int = 0  # that are in the task
    unjudged_pairs: int = 0  # of the queries without a positive
    rejected_pairs: int = 0
    excluded: int = 0  # pairs of a query and itself as a document
    noted: Counter[str] = field(default_factory=Counter)  # rows and queries that deserve a look, by the keys of NOTED
    unread: dict[str, Counter[str]] = field(default_factory=dict)  # file -> column or key -> rows that have it
    missing_words: Counter[tuple[str, str]] = field(default_factory=Counter)  # (column, text): as `Findings` has it
    swallowing: dict[str, list[int]] = field(default_factory=dict)  # file -> lines: likewise


LABEL = "title = '' AND length(text) <= 64 AND instr(text, char(9)) + instr(text, char(10)) + instr(text, char(13)) = 0"
JUDGED = "EXISTS (SELECT 1 FROM pairs WHERE pairs.query = queries.row AND score > 0)"
MERGED_IDS = f"""
SELECT 'document', document_ids.id, documents.id FROM document_ids JOIN documents USING (row)
WHERE document_ids.id != documents.id
UNION ALL SELECT 'query', query_ids.id, queries.id FROM query_ids JOIN queries USING (row)
WHERE query_ids.id != queries.id AND {JUDGED} ORDER BY 1, 3, 2
"""
# Queries with an id that a document has too, with the score of the two.
NAMESAKES = f"""
SELECT DISTINCT queries.id, queries.text, documents.id, documents.title, documents.text, pairs.score
FROM query_ids JOIN document_ids ON document_ids.id = query_ids.id
JOIN queries ON queries.row = query_ids.row JOIN documents ON documents.row = document_ids.row
LEFT JOIN pairs ON pairs.query = queries.row AND pairs.document = documents.row
WHERE {JUDGED} ORDER BY queries.row, documents.row
"""


def divide(store: sqlite3.Connection, named: Collection[str], shares: tuple[float, float, float]) -> None:
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


def write_files(
    store: sqlite3.Connection,
    draft: Path,
    counts: Counts,
    cut: Callable[[Sequence[Piece]], Sequence[Sequence[Piece]]] | None,
) -> None:
    """All files but the card. Raises UserError where no query would be left."""
    _refuse_nothing(store, draft.name, counts)
    _name_all(store)
    documents = store.execute("SELECT id, title, text FROM documents ORDER BY row")
    counts.documents = store.execute("SELECT COUNT(*) FROM documents").fetchone()[0]
    whole = ({"_id": i, "title": title, "text": text} for i, title, text in documents)
    write_lines(draft / CORPUS, whole if cut is None else _in_chunks(store, documents, cut, counts))
    queries = store.execute(f"SELECT id, text FROM queries WHERE {JUDGED} ORDER BY row")
    write_lines(draft / QUERIES, ({"_id": i, "text": text} for i, text in queries))
    _write_qrels(store, draft / "qrels", counts)
    _write_exclude(store, draft / EXCLUDE, counts)
    counts.merged_ids = write_table(draft / MERGED, ("kind", "merged-id", "kept-id"), store.execute(MERGED_IDS))


def _refuse_nothing(store: sqlite3.Connection, name: str, counts: Counts) -> None:
    counts.unjudged = store.execute(f"SELECT COUNT(*) FROM queries WHERE NOT {JUDGED}").fetchone()[0]
    if store.execute(f"SELECT 1 FROM queries WHERE {JUDGED} LIMIT 1").fetchone():
        return
    why = f"; {counts.unjudged:,} queries have none" if counts.unjudged else ""
    if counts.rejected:
        why += f"; {sum(counts.rejected.values()):,} rows were rejected, most often: "
        why += f"{counts.rejected.most_common(1)[0][0]}; the first is {counts.first_rejected}"
    raise UserError(f"{name}: no query with a positive document is left{why}. Check the columns' names")


def _name_all(store: sqlite3.Connection) -> None:
    """Gives an id to what came without one."""
    if not store.execute(f"SELECT 1 FROM documents WHERE id IS NULL AND NOT ({LABEL}) LIMIT 1").fetchone():
        store.execute("UPDATE OR IGNORE documents SET id = text WHERE id IS NULL")  # a label is its own best name
    for table, letter in (("documents", "d"), ("queries", "q")):
        # Where some have ids, a made-up one must be none of them.
        store.execute(f"UPDATE OR IGNORE {table} SET id = ? || row WHERE id IS NULL", (letter,))
        store.execute(f"UPDATE {table} SET id = ? || row || '-' || hex(key) WHERE id IS NULL", (letter,))


def _write_qrels(store: sqlite3.Connection, folder: Path, counts: Counts) -> None:
    for split in SPLITS:
        found = f"FROM queries WHERE split = ? AND {JUDGED}"
        counts.queries[split] = store.execute(f"SELECT COUNT(*) {found}", (split,)).fetchone()[0]
        pairs = store.execute(
            "SELECT queries.id, documents.id, score FROM queries JOIN pairs ON pairs.query = queries.row "
            f"JOIN documents ON documents.row = pairs.document WHERE split = ? AND {JUDGED} ORDER BY queries.row",
            (split,),
        )
        counts.pairs += write_table(folder / f"{split}.tsv", SCORED, pairs)
    counts.unjudged_pairs = store.execute(
        f"SELECT COUNT(*) FROM queries JOIN pairs ON pairs.query = queries.row WHERE NOT {JUDGED}"
    ).fetchone()[0]


def _write_exclude(store: sqlite3.Connection, path: Path, counts: Counts) -> None:
    """A query that is a document of the corpus would find itself: what is evaluated is what else it finds."""

    def pairs() -> Iterator[tuple[str, str]]:
        for query, asked, document, title, text, score in store.execute(NAMESAKES):
            if query_key(asked) not in (query_key(text), query_key(render_document(title, text))):
                counts.noted["namesakes"] += 1
            elif score is not None and score > 0:
                counts.noted["self_positives"] += 1
            else:
                yield query, document

    counts.excluded = write_table(path, UNSCORED, pairs())


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
