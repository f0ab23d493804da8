"""What stands in a suite that was read without an error: figures per task, and what deserves a second look."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtret.data import teaching
from mtret.data.chunks import parent_keys
from mtret.data.formats import Suite
from mtret.data.images import decode
from mtret.data.roles import document_hashes
from mtret.data.tasks import SPLITS, Judgements, Task, query_key
from mtret.data.unread import unread
from mtret.tables import Table

LONG_CHARACTERS = 1000  # about 250 tokens of English; what a training length of 256 begins to cut
EMBEDDED = Path("enterprise")  # the suite that the package carries, and is read from no folder
LEGEND = (
    f"long: share of documents of more than {LONG_CHARACTERS:,} characters. train, dev, test: queries. positives: "
    "relevant documents of a query, mean and most. words: mean and 95th percentile."
)


@dataclass(frozen=True)
class TaskStats:
    """Figures of one task. Words are runs without white space, so they say little of Chinese, Japanese or Thai."""

    name: str
    family: str
    languages: tuple[str, ...]
    documents: int
    chunks: int  # that its documents stand in; 0 where none is cut
    distinct_documents: int  # as texts, white space apart
    long_documents: float  # share of more than `long_characters`; of chunks, where there are some
    queries: dict[str, int]  # train, dev, test: judged queries, 0 where there is no such split
    unused_queries: int  # in queries.jsonl, without a positive in any split
    repeated_queries: int  # judged queries whose text stands before in their split
    positives_mean: float  # per judged query, over all splits
    positives_max: int
    query_words_mean: float
    query_words_p95: float
    document_words_mean: float
    document_words_p95: float
    negatives: dict[str, int]  # split -> pairs, for splits that have some
    excluded: int  # pairs
    finding_themselves: int  # queries that are documents, by id and text, and neither a positive of theirs nor excluded
    images: bool  # whether the documents are images


def stats(suite: Suite, long_characters: int = LONG_CHARACTERS) -> list[TaskStats]:
    """Figures of every task, in name order."""
    return [_task_stats(task, long_characters) for task in suite.tasks.values()]


def _task_stats(task: Task, long_characters: int) -> TaskStats:
    judged = [one.queries for one in task.splits.values()]
    positives = np.concatenate([np.diff(one.positives().offsets) for one in task.splits.values()])
    query_words = _words(task.query_texts)
    document_words = _words(task.document_texts)
    return TaskStats(
        name=task.name,
        family=task.card.family,
        languages=task.card.languages,
        documents=len(task.parent_rows),
        chunks=len(task.document_ids) if task.parents is not None else 0,
        distinct_documents=len(np.unique(document_hashes(parent_keys(task)))),
        long_documents=float(np.mean([len(text) > long_characters for text in task.document_texts])),
        queries={split: len(task.splits[split]) if split in task.splits else 0 for split in SPLITS},
        unused_queries=len(task.query_ids) - len(np.unique(np.concatenate(judged))),
        repeated_queries=sum(_repeated_queries(task, one) for one in task.splits.values()),
        positives_mean=float(positives.mean()),
        positives_max=int(positives.max()),
        query_words_mean=float(query_words.mean()),
        query_words_p95=float(np.percentile(query_words, 95)),
        document_words_mean=float(document_words.mean()),
        document_words_p95=float(np.percentile(document_words, 95)),
        negatives={split: len(one.documents) for split, one in task.negatives.items()},
        excluded=len(task.exclude.documents) if task.exclude else 0,
        finding_themselves=_finding_themselves(task),
        images=task.images is not None,
    )


def _words(texts: Sequence[str]) -> np.ndarray:
    return np.array([len(text.split()) for text in texts])


def _repeated_queries(task: Task, judgements: Judgements) -> int:
    counts = Counter(query_key(task.query_texts[row]) for row in judgements.queries)
    return len(judgements) - len(counts)


def _finding_themselves(task: Task) -> int:
    """Queries with the id and the text of a document that is neither a positive of theirs nor excluded."""
    rows = {named: row for row, named in reversed([*enumerate(task.named_ids)])}
    pairs = [one.positives() for one in task.splits.values()] + ([task.exclude] if task.exclude else [])
    settled = {pair for one in pairs for pair in zip(one.pair_queries().tolist(), one.documents.tolist(), strict=True)}
    found = 0
    for query in np.unique(np.concatenate([one.queries for one in task.splits.values()])).tolist():
        row = rows.get(task.query_ids[query])
        if row is not None and (query, row) not in settled:
            asked, text = query_key(task.query_texts[query]), query_key(task.document_texts[row])
            found += asked == text or text.endswith(f" {asked}")  # the title may stand before it
    return found


def check(suite: Suite, long_characters: int = LONG_CHARACTERS) -> list[str]:
    """One line per remark, each beginning with its task, and a verdict as the last line.

    A suite that could be read breaks no rule, so that remarks are things to know, not errors. Images are looked at here
    only: raises UserError for the first that cannot be decoded.
    """
    for task in suite.tasks.values():
        for path in task.images.paths if task.images else ():
            decode(path, 8)
    rows = stats(suite, long_characters)
    remarks = [f"{row.name}: {remark}" for row in rows for remark in _remarks(row, long_characters)]
    if suite.folder != EMBEDDED:  # which a folder may be named like
        tasks = suite.tasks.items()
        remarks += [f"{name}: {remark}" for name, task in tasks for remark in unread(suite.folder / name, task)]
    remarks += [f"{task.name}: {remark}" for task in suite.tasks.values() for remark in teaching.remarks(task)]
    splits = " / ".join(f"{sum(row.queries[split] for row in rows):,}" for split in SPLITS)
    counted = _count(len(rows), "task", "tasks")
    documents = _count(sum(row.documents for row in rows), "document", "documents")
    verdict = (
        f"OK: {counted}, {documents}, {splits} train / dev / test queries; no error, "
        f"{_count(len(remarks), 'remark', 'remarks')}; content {suite.sha256[:12]}."
    )
    return [*sorted(remarks), verdict]


def _remarks(row: TaskStats, long_characters: int) -> list[str]:
    found = []
    absent = [split for split in SPLITS if not row.queries[split]]
    if absent:
        uses = {"train": "it can only be evaluated", "dev": "it cannot guide training", "test": "it has no final score"}
        found.append(f"no {' and no '.join(absent)} queries, so {' and '.join(uses[split] for split in absent)}.")
    if row.images:
        found.append("its documents are images, which only a model with an image tower (model.vision) can read.")
    if row.unused_queries:
        found.append(f"{_count(row.unused_queries, 'query', 'queries')} without a positive in any split, left out.")
    if row.repeated_queries:
        found.append(f"{_count(row.repeated_queries, 'query', 'queries')} with the text of another one of the split.")
    if row.finding_themselves:
        found.append(
            f"{_count(row.finding_themselves, 'query is a document', 'queries are documents')} too (same id and text) "
            "and found first: name the pairs in exclude.tsv, as mtret data import does."
        )
    copies = row.documents - row.distinct_documents
    what = "image" if row.images else "text"
    if copies:
        found.append(
            f"{_count(copies, 'document', 'documents')} with the {what} of another one: no encoder can tell them apart."
        )
    if row.chunks:
        found.append(f"{_count(row.documents, 'document stands', 'documents stand')} in {row.chunks:,} chunks.")
    if row.long_documents > 0.2:
        what = "chunks" if row.chunks else "documents"
        found.append(f"{row.long_documents:.0%} of the {what} are longer than {long_characters:,} characters.")
    return found


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def stats_table(rows: Sequence[TaskStats]) -> Table:
    """The figures, about 110 columns wide on a terminal, without domains and columns of zeros.

    `positives` are mean and most per query; `words` are mean and 95th percentile; `long` is a share of the documents.
    """
    columns: dict[str, list[str]] = {
        "task": [row.name for row in rows],
        "family": [row.family for row in rows],
        "languages": [row.languages[0] + (f" +{len(row.languages) - 1}" * (len(row.languages) > 1)) for row in rows],
        "docs": [f"{row.documents:,}" for row in rows],
        "long": [f"{row.long_documents:.0%}" for row in rows],
        **{split: [f"{row.queries[split]:,}" if row.queries[split] else "-" for row in rows] for split in SPLITS},
        "positives": [f"{row.positives_mean:.2f} {row.positives_max:>2}" for row in rows],
        "query\nwords": [f"{row.query_words_mean:.0f} {row.query_words_p95:>3.0f}" for row in rows],
        "document\nwords": [f"{row.document_words_mean:.0f} {row.document_words_p95:>3.0f}" for row in rows],
    }
    rare = {
        "chunks": [row.chunks for row in rows],
        "copies": [row.documents - row.distinct_documents for row in rows],
        "unused": [row.unused_queries for row in rows],
        "repeated": [row.repeated_queries for row in rows],
        "negatives": [sum(row.negatives.values()) for row in rows],
        "excluded": [row.excluded for row in rows],
    }
    columns |= {
        heading: [f"{one:,}" if one else "-" for one in counts] for heading, counts in rare.items() if any(counts)
    }
    return Table([*columns], [[*zip(*columns.values(), strict=True)]])
