"""ScaNN, the approximate index: tuned to a recall target, never reported without its recall against exact search."""

import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float32, Int32

from mtret.devices import not_importing
from mtret.errors import UserError, first_line
from mtret.index.exact import BLOCK_SCORES, NOTHING, Rules, Run

Kind = Literal["brute force", "hashing", "tree"]

BRUTE_FORCE_BELOW = 20_000
TREE_FROM = 100_000
TARGET_RECALL = 0.95  # of an index that is tuned: the share of exact search's first 10 documents that it finds
TUNED_ON = 500  # queries at most
MEASURED_AT = 10


@dataclass(frozen=True)
class ScannMeasured:
    """What an index was tuned to and what it reached on the tuning sample; `runs` adds the recall of all queries."""

    kind: Kind
    target_recall: float
    sample_recall: float  # of exact search's first 10, over the tuning sample
    sample_queries: int
    build_seconds: float
    queries_per_second: float  # in one parallel batch of the sample, embeddings given
    reorder: int  # documents scored again in full precision; 0 for brute force, which scores all
    leaves: int
    leaves_searched: int


def agreement(run: Run, exact: Run, k: int = MEASURED_AT) -> float:
    """Mean share of exact search's first k documents that stand in the run's first k."""
    truth, found = exact.documents[:, :k], run.documents[:, :k]
    shared = ((truth[:, :, None] == found[:, None, :]) & (truth != NOTHING)[:, :, None]).any(axis=2)
    return float(np.mean(shared.sum(axis=1) / np.maximum((truth != NOTHING).sum(axis=1), 1)))


class ScannIndex:
    """Documents under ScaNN by dot product: brute force, asymmetric hashing with reordering, or a tree above it."""

    def __init__(self, documents: Float32[np.ndarray, "m d"], *, depth: int = 100) -> None:
        """Builds the index, always the same one from the same documents.

        Args:
          documents: embeddings, normalised where the score is to be the cosine.
          depth: the most neighbours that are usually asked for.

        Raises:
          UserError: scann cannot be imported here.
        """
        scann = import_scann()
        m = len(documents)
        self.kind: Kind = "brute force" if m < BRUTE_FORCE_BELOW else "hashing" if m < TREE_FROM else "tree"
        self.n_documents = m
        self.leaves = round(2 * m**0.5) if self.kind == "tree" else 0
        start = time.perf_counter()
        builder = scann.builder(np.ascontiguousarray(documents, np.float32), min(depth, m), "dot_product")
        if self.kind == "brute force":
            builder = builder.score_brute_force()
        else:
            if self.kind == "tree":
                # k-means++ starts are the same in every build, random ones are not.
                builder = builder.tree(self.leaves, max(self.leaves // 20, 1), random_init=False, soar_lambda=1.5)
            builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(min(4 * depth, m))
        self._searcher: Any = builder.build()
        self.build_seconds = time.perf_counter() - start
        self._rungs = self._ladder(depth)
        self._reorder, self._leaves_searched = self._rungs[0]

    def tune(self, queries: Float32[np.ndarray, "q d"], exact: Run) -> ScannMeasured:
        """Searches deeper until a sample of the queries reaches the recall, or nothing deeper is left.

        Args:
          queries: embeddings, likewise.
          exact: their exact run, without exclusions, of at least 10 columns.
        """
        rows = np.sort(np.random.default_rng((0, 0)).permutation(len(queries))[:TUNED_ON])
        truth = Run(exact.documents[rows], exact.scores[rows])
        recall, seconds = 0.0, float("inf")
        for rung in self._rungs:
            self._reorder, self._leaves_searched = rung
            start = time.perf_counter()
            documents, _ = self._neighbours(queries[rows], min(MEASURED_AT, self.n_documents))
            seconds = time.perf_counter() - start
            recall = agreement(Run(documents, np.zeros(documents.shape, np.float32)), truth)
            if recall >= TARGET_RECALL:
                break
        return ScannMeasured(
            kind=self.kind,
            target_recall=TARGET_RECALL,
            sample_recall=recall,
            sample_queries=len(rows),
            build_seconds=self.build_seconds,
            queries_per_second=len(rows) / seconds,
            reorder=self._reorder,
            leaves=self.leaves,
            leaves_searched=self._leaves_searched,
        )

    def search(self, queries: Float32[np.ndarray, "q d"], k: int, rules: Rules) -> Run:
        """The k documents that ScaNN finds nearest. Equal scores stand in tie order; arguments as of exact search.

        Of chunks it is asked for twice as many as long as some query has fewer than k parents.
        """
        m, chunks = self.n_documents, rules.parents is not None
        parents = rules.parents if rules.parents is not None else np.arange(m, dtype=np.int32)
        run = Run(np.full((len(queries), k), NOTHING, np.int32), np.full((len(queries), k), -np.inf, np.float32))
        position = np.argsort(rules.order)
        banned = rules.exclude[:, 0].astype(np.int64) * m + parents[rules.exclude[:, 1]]
        # ScaNN knows no exclusions: ask for as many more as any query has.
        wanted = min(k + int(np.bincount(rules.exclude[:, 0], minlength=1).max()), m)
        left = np.arange(len(queries))
        while len(left):
            block = max(BLOCK_SCORES // wanted, 1)
            for start in range(0, len(left), block):
                rows = left[start : start + block]
                documents, scores = self._neighbours(queries[rows], wanted)
                found = np.where(documents == NOTHING, NOTHING, parents[documents])
                scores = np.where(np.isin(rows[:, None] * m + found, banned), np.float32(-np.inf), scores)
                best = np.lexsort((position[found], -scores), axis=1)
                found, scores = np.take_along_axis(found, best, axis=1), np.take_along_axis(scores, best, axis=1)
                kept = _first_of_each(found) & ~np.isneginf(scores)
                rank = np.cumsum(kept, axis=1) - 1
                run.documents[rows], run.scores[rows] = NOTHING, -np.inf
                at, column = np.nonzero(kept & (rank < k))
                run.documents[rows[at], rank[at, column]] = found[at, column]
                run.scores[rows[at], rank[at, column]] = scores[at, column]
            short = (run.documents[left] == NOTHING).any(axis=1)
            left = left[short] if chunks and wanted < m else left[:0]
            wanted = min(2 * wanted, m)
        return run

    def _neighbours(
        self, queries: Float32[np.ndarray, "q d"], k: int
    ) -> tuple[Int32[np.ndarray, "q k"], Float32[np.ndarray, "q k"]]:
        # -1 is ScaNN's word for what the index was built with, the only choice where there is nothing to tune.
        reorder = max(self._reorder, k) if self._reorder else -1
        documents, scores = self._searcher.search_batched_parallel(
            np.ascontiguousarray(queries, np.float32), k, reorder, self._leaves_searched or -1
        )
        # Where the searched leaves hold fewer than k documents, ScaNN fills up with document 0 and score NaN.
        missing = np.isnan(scores)
        documents = np.where(missing, NOTHING, documents.astype(np.int64)).astype(np.int32)
        return documents, np.where(missing, np.float32(-np.inf), scores)

    def _ladder(self, depth: int) -> list[tuple[int, int]]:
        """Pairs (documents reordered, leaves searched), each about twice the work of the one before."""
        if self.kind == "brute force":
            return [(0, 0)]
        steps = range(8)
        reorder = [min(depth << i, self.n_documents) for i in steps]
        leaves = [min(max(self.leaves // 40, 1) << i, self.leaves) if self.leaves else 0 for i in steps]
        return list(dict.fromkeys(zip(reorder, leaves, strict=True)))


def _first_of_each(found: Int32[np.ndarray, "q n"]) -> Bool[np.ndarray, "q n"]:
    """Where a row holds a document for the first time."""
    by_document = np.argsort(found, axis=1, kind="stable")
    ordered = np.take_along_axis(found, by_document, axis=1)
    new = np.ones(found.shape, bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.empty(found.shape, bool)
    np.put_along_axis(first, by_document, new, axis=1)
    return first


def import_scann() -> Any:
    """The library; ask for it before long work that will need it. Raises UserError where it cannot be imported."""
    try:
        with not_importing("tensorflow"):
            from scann.scann_ops.py import scann_ops_pybind
    except Exception as error:  # a TensorFlow that ScaNN was not built for raises its own error, not ImportError
        raise UserError(
            f"scann cannot be imported ({first_line(error)}): it has wheels for Linux x86-64 only and fails beside "
            "TensorFlow 2.21. Install it where TensorFlow is not, or evaluate with --noscann."
        ) from error
    return scann_ops_pybind
