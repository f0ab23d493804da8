"""How results are worded: the names of roles, metrics and verdicts, and cells of tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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
    "kind": "own kind",
}
WORDS = {"better": "better", "no difference": "no difference", "WORSE": "**WORSE**"}
STYLES = {"better": "green", "no difference": "dim", "WORSE": "bold red"}


def metric_name(metric: str) -> str:
    """`capped_recall@10` -> `capped recall@10`."""
    name, at, cutoff = metric.partition("@")
    return METRIC_NAMES.get(name, name) + at + cutoff


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Columns of numbers stand to the right."""
    titles, *filled = [[str(cell).replace("|", "\\|") for cell in row] for row in (header, *rows)]
    numeric = [all(row[i][:1] in "+-°*.0123456789" for row in filled) and i > 0 for i in range(len(header))]
    lines = [titles, ["---:" if right else "---" for right in numeric], *filled]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def interval(one: Mapping[str, Any]) -> str:
    """`0.500 [0.450, 0.550]`"""
    low, high = one["ci95"]
    return f"{one['mean']:.3f} [{low:.3f}, {high:.3f}]"


def difference(one: Mapping[str, Any]) -> str:
    """`+0.050 [+0.010, +0.090] better`, in Markdown."""
    low, high = one["ci95"]
    return f"{one['mean']:+.3f} [{low:+.3f}, {high:+.3f}] {WORDS[one['verdict']]}"
