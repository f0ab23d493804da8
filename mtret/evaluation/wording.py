"""How results are worded: the names of roles, metrics and verdicts, and cells of tables."""

from collections.abc import Mapping, Sequence
from typing import get_args

from mtret.evaluation.statistics import Difference, Interval, Verdict

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
NAMED = 10  # names or places in a line

ROLE_NAMES = {
    "in_domain": "In-domain",
    "cross_domain": "Cross-domain",
    "zero_shot": "Zero-shot",
    "all": "All tasks",
}
ROLE_MEANINGS = {
    "in_domain": "trained on, or of a trained family and sharing documents with the mixture",
    "cross_domain": "family trained on, documents not",
    "zero_shot": "family not trained on",
    "all": "the model was trained on no mixture",
}
METRIC_NAMES = {
    "ndcg": "nDCG",
    "recall": "recall",
    "capped_recall": "capped recall",
    "mrr": "MRR",
    "map": "MAP",
}
WORDS: Mapping[Verdict, str] = {"better": "better", "no difference": "no difference", "WORSE": "**WORSE**"}
STYLES = {"better": "green", "no difference": "dim", "WORSE": "bold red"}


def metric_name(metric: str) -> str:
    """`capped_recall@10` -> `capped recall@10`."""
    name, at, cutoff = metric.partition("@")
    return METRIC_NAMES.get(name, name) + at + cutoff


def interval(one: Interval | Difference, sign: str = "") -> str:
    """`[0.450, 0.550]`; with signs where `sign` is `+`."""
    return f"[{one.low:{sign}.3f}, {one.high:{sign}.3f}]"


def score(one: Interval) -> str:
    """`0.500 [0.450, 0.550]`"""
    return f"{one.mean:.3f} {interval(one)}"


def difference(one: Difference) -> str:
    """`+0.050 [+0.010, +0.090] better`, in Markdown."""
    return f"{one.mean:+.3f} {interval(one, '+')} {WORDS[one.verdict]}"


def count(n: int, one: str, many: str = "") -> str:
    """`1 task`, `2 tasks`; `many` where an s does not make it so."""
    return f"{n} {one if n == 1 else many or one + 's'}"


def counts(verdicts: Sequence[Verdict], markdown: bool = False) -> str:
    """`better on 2, WORSE on 1`, of those that there are."""
    return ", ".join(
        f"{WORDS[word] if markdown else word} on {verdicts.count(word)}" for word in VERDICTS if word in verdicts
    )


def some(names: Sequence[str | int]) -> str:
    """The first of many."""
    return ", ".join(map(str, names[:NAMED])) + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")
