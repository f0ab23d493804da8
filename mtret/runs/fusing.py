"""Every encoder's hybrid with BM25, by one rule: the common weight, or a task's own where its dev queries show one."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32

from mtret.data.tasks import Judgements
from mtret.evaluation.metrics import hits, ndcg
from mtret.evaluation.retrieval import BASE, BM25, HYBRID_OF, HYBRID_RANKS
from mtret.index.exact import Rules, Run, scores_at
from mtret.index.fusion import WEIGHT, Scored, convex, fuse, union
from mtret.runs.lexical import LexicalSearch
from mtret.runs.protocol import DEPTH

WEIGHTS = tuple(round(0.05 * step, 2) for step in range(21))
FEWEST_QUERIES = 100  # of a dev split that may have a say
MOST_QUERIES = 300  # of it that are looked at


class Dense(NamedTuple):
    """An encoder's search, and the vectors that it was made with."""

    run: Run
    queries: Float32[np.ndarray, "q D"]
    documents: Float32[np.ndarray, "m D"]

    def scores_at(self, wanted: Int32[np.ndarray, "q u"], rules: Rules) -> Float32[np.ndarray, "q u"]:
        """Of these documents of each query."""
        return scores_at(self.queries, self.documents, wanted, rules.parents)


def systems(
    words: LexicalSearch, dense: Mapping[str, Dense], rules: Rules, weights: Mapping[str, float]
) -> dict[str, Run]:
    """In the order of the report: BM25, then every encoder and its hybrid with it. `weights`: by encoder, where it is
    not the common one."""
    runs = {BM25: words.run}
    for name, one in dense.items():
        runs[name] = one.run
        if name == BASE:
            runs[HYBRID_RANKS] = fuse([words.run, one.run], DEPTH, order=rules.order)
        weight = weights.get(name, WEIGHT)
        runs[HYBRID_OF[name]] = convex(both(words, one, rules), weight, DEPTH, order=rules.order)
    return runs


def both(words: LexicalSearch, dense: Dense, rules: Rules) -> Scored:
    """What BM25 and an encoder found, scored by both."""
    return union(words.run, dense.run, words.scores_at, partial(dense.scores_at, rules=rules))


def own_weight(
    scored: Scored, judged: Judgements, rows: Int32[np.ndarray, "q"], order: Int32[np.ndarray, "m"]
) -> float:
    """The weight of highest mean nDCG@10 on these queries; the common one unless the gain over that is larger than its
    standard error."""

    def scores(weight: float) -> np.ndarray:
        return ndcg(hits(convex(scored, weight, 10, order=order), judged, rows), 10)

    by_weight = {weight: scores(weight) for weight in WEIGHTS}
    best = max(WEIGHTS, key=lambda weight: (by_weight[weight].mean(), -abs(weight - WEIGHT)))
    gain = by_weight[best] - by_weight[WEIGHT]
    return best if gain.mean() > gain.std(ddof=1) / len(rows) ** 0.5 else WEIGHT
