"""What a person is told of an import: what came of the rows, what was left out and why, and what was not read."""

import math
import shlex
from collections.abc import Iterator, Sequence

from mtret.data.imported import MERGED, NOTED, REJECTED, Counts
from mtret.data.tasks import SPLITS
from mtret.evaluation.wording import some
from mtret.files import AnyPath

Line = tuple[str, str | None]  # and its style
CAUTION = "yellow"
# Standard deviation of the difference of two systems' nDCG@10 on one query: the median over tasks and pairs of systems
# of the public suite (experiments/001_public_suite, 0.13 to 0.45).
PAIRED_DEVIATION = 0.27


def report(counts: Counts, out: AnyPath, unread_files: Sequence[str] = ()) -> Iterator[Line]:
    """Lines, in the order in which they are said."""
    queries = " / ".join(f"{counts.queries[split]:,}" for split in SPLITS)
    yield f"{counts.documents:,} documents, {queries} train / dev / test queries", None
    yield _ledger(counts), None
    if counts.untitled:
        yield "the column of titles is empty in every document", CAUTION
    merged = [f"{number:,} {what}" for what, number in counts.merged.items() if number]
    if merged:
        yield f"repetitions left out, each is there once: {', '.join(merged)}", None
    if counts.merged_ids:
        yield f"{counts.merged_ids:,} ids lead to another one with the same text: {out / MERGED}", None
    if counts.unjudged:
        yield f"left out: {counts.unjudged:,} queries without a positive document", None
    if counts.excluded:
        yield f"{counts.excluded:,} queries are documents too (same id and text); exclude.tsv keeps them from it", None
    if counts.rejected:
        reasons = ", ".join(f"{reason} ({number:,})" for reason, number in counts.rejected.most_common())
        total = sum(counts.rejected.values())
        yield f"rejected: {total:,} rows, in {out / REJECTED}: {reasons}", CAUTION
    yield from ((f"{counts.noted[what]:,} {words}", CAUTION) for what, words in NOTED.items() if counts.noted[what])
    yield from _doubts(counts)
    yield from _unread(counts, unread_files)
    if counts.queries["dev"]:
        least = 1.96 * PAIRED_DEVIATION / math.sqrt(counts.queries["dev"])
        yield f"dev: a difference of two models below about {least:.3f} nDCG@10 is noise with so many queries", None


def _ledger(counts: Counts) -> str:
    """Every judged pair that was read, by what became of it."""
    parts = {
        "in the task": counts.pairs,
        "repeated": counts.merged["pairs"],
        "of queries without a positive": counts.unjudged_pairs,
        "rejected": counts.rejected_pairs,
    }
    return f"{counts.read:,} judged pairs: {', '.join(f'{count:,} {what}' for what, count in parts.items() if count)}"


def _doubts(counts: Counts) -> Iterator[Line]:
    if counts.missing_words:
        found = some([f"'{word}' in {name} ({n:,})" for (name, word), n in counts.missing_words.most_common()])
        flag = shlex.quote(f"--missing={','.join(dict.fromkeys(word for _, word in counts.missing_words))}")
        yield f"texts that look like a missing value: {found}; {flag} makes them one", CAUTION
    for path, lines in counts.swallowing.items():
        yield (
            f"{path}: a quoted cell has line breaks and delimiters in it, in the row from line {some(lines)}; if a "
            "stray quote swallowed these lines, give --quotes=none",
            CAUTION,
        )


def _unread(counts: Counts, files: Sequence[str]) -> Iterator[Line]:
    for path, columns in counts.unread.items():
        if columns:
            yield f"not read of {path}: {some([f'{name} ({rows:,} rows)' for name, rows in columns.items()])}", None
    if files:
        yield f"files that are not read: {some(files)}", CAUTION
