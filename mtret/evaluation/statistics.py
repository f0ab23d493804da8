"""How sure a mean is: percentile bootstrap over queries, paired differences, and what they allow to be said."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64

RESAMPLES = 2000
TAILS = 100_000  # draws of a p-value: a correction for many comparisons asks for small ones
LEVEL = 0.95
# With 5 queries even five wins of five have a chance of 1/16 between equal systems (two-sided sign test).
MIN_QUERIES = 6

Verdict = Literal["better", "no difference", "WORSE"]


class Interval(NamedTuple):
    """A mean and the bounds of its 95% interval."""

    mean: float
    low: float
    high: float

    def as_json(self) -> dict[str, Any]:
        """As files of results have it."""
        return {"mean": self.mean, "ci95": [self.low, self.high]}


class Difference(NamedTuple):
    """A paired difference, the bounds of its 95% interval, and what these allow to be said."""

    mean: float
    low: float
    high: float
    verdict: Verdict

    def as_json(self) -> dict[str, Any]:
        """As files of results have it."""
        return {"mean": self.mean, "ci95": [self.low, self.high], "verdict": self.verdict}


def resampled_means(
    values: Float64[np.ndarray, "q c"], seed: int, name: str, resamples: int = RESAMPLES
) -> Float64[np.ndarray, "r c"]:
    """Means of queries drawn with replacement: every column over the same draws, so that differences are paired.

    Args:
      values: per query, one column for every system and metric.
      seed, name: what the draws depend on. Tasks have different names, so that their draws are independent.
      resamples: how many.

    Memory is bounded by about 16 MB per block of resamples, whatever the number of queries.
    """
    n = len(values)
    key = int.from_bytes(blake2b(name.encode(), digest_size=8).digest())
    block = max(1, min(resamples, 1_000_000 // max(n, 1)))
    means = np.empty((resamples, values.shape[1]))
    for number, start in enumerate(range(0, resamples, block)):
        stop = min(start + block, resamples)
        draws = np.random.default_rng((seed, key, number)).integers(n, size=(stop - start, n))
        draws += np.arange(stop - start)[:, None] * n
        counts = np.bincount(draws.ravel(), minlength=(stop - start) * n).reshape(-1, n)
        means[start:stop] = counts @ values / n
    return means


def run_noise(runs: Sequence[int], seed: int, resamples: int = RESAMPLES) -> Float64[np.ndarray, "r sides n"]:
    """What trainings that differ in their seed add to the uncertainty of their means, to be applied to how far each
    training is from the mean of its side.

    With `deviations` of all `n` trainings, `noise @ deviations` is, for a side of k trainings, s / sqrt(k) times a
    variable of Student's t distribution. Where the sides have as many trainings each, or one side has a single one, s
    is the spread pooled over the sides and n less the number of sides its degrees of freedom. Otherwise s is the side's
    own and k - 1 are: a pooled spread is mostly that of the larger side, and would be wrong of the smaller one wherever
    the two differ (experiments/006_seeds). One draw serves all tasks: what a training does to several tasks stays
    together. Zero where no side has two trainings, of which nothing could be learned.

    Args:
      runs: how many trainings each side has; their deviations come in that order.
    """
    sides, n = len(runs), sum(runs)
    if n == sides:
        return np.zeros((resamples, sides, n))
    rng = np.random.default_rng((seed, n, *runs))
    normal = rng.standard_normal((resamples, sides, n))
    count = np.array(runs)[:, None]
    if spread_apart(runs):
        freedom = count - 1
        normal *= np.arange(sides)[:, None] == np.repeat(np.arange(sides), runs)
        stretch = np.sqrt(freedom[:, 0] / rng.chisquare(freedom[:, 0], (resamples, sides)))
    else:
        freedom = np.full_like(count, n - sides)
        stretch = np.sqrt((n - sides) / rng.chisquare(n - sides, resamples))[:, None]
    # Deviations sum to zero on each side, so the sum of their products has the variance of `freedom` of them.
    return normal * stretch[:, :, None] / np.sqrt(count * freedom)


def p_value(difference: float, of_queries: float, of_runs: Float64[np.ndarray, "r"]) -> float:
    """How likely a difference as large is where there is none, two-sided: beside noise of trainings of which these are
    draws (`run_noise`), and of queries, which is normal with this standard deviation. At least 1 / (r + 1)."""
    noise = of_runs + of_queries * np.random.default_rng(len(of_runs)).standard_normal(len(of_runs))
    return float((1 + np.count_nonzero(np.abs(noise) >= abs(difference))) / (1 + len(of_runs)))


def holm(values: Sequence[float]) -> list[float]:
    """p-values of several comparisons, adjusted so that the chance of any false one below a level is that level at most
    (Holm 1979)."""
    order, adjusted, least = np.argsort(values, kind="stable"), [0.0] * len(values), 0.0
    for rank, place in enumerate(order.tolist()):
        least = max(least, min((len(values) - rank) * values[place], 1.0))
        adjusted[place] = least
    return adjusted


def spread_apart(runs: Sequence[int]) -> bool:
    """Whether the trainings of each side tell its own spread, or those of all sides one spread."""
    return min(runs) > 1 and len(set(runs)) > 1


def bounds(means: Float64[np.ndarray, "r *shape"]) -> Float64[np.ndarray, "2 *shape"]:
    """Lower and upper bound of the percentile interval of resampled means (Efron and Tibshirani 1993, chapter 13)."""
    return np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)


def verdict(difference: Interval, n_queries: int) -> Verdict:
    """What a paired difference allows to be said; of fewer than 6 queries, nothing."""
    if n_queries < MIN_QUERIES:
        return "no difference"
    return "better" if difference.low > 0 else "WORSE" if difference.high < 0 else "no difference"


def rounded(mean: Any, low: Any, high: Any) -> Interval:
    """To the six digits that are written."""
    return Interval(*(round(float(one), 6) for one in (mean, low, high)))


def paired(mean: Any, low: Any, high: Any, n_queries: int) -> Difference:
    """A difference whose word follows the rounded bounds, so that it can be checked against what is shown."""
    shown = rounded(mean, low, high)
    return Difference(*shown, verdict(shown, n_queries))
