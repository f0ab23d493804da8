"""Which task at which step: as even as can be, and a function of seed and step alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int32, Int64

from mtret.errors import UserError, nearest
from mtret.schema import SHARE, setting


@dataclass(frozen=True)
class MixtureConfig:
    """The tasks to train on. What each evaluated task is (in-domain, cross-domain, zero-shot) follows from this."""

    tasks: tuple[str, ...] = setting((), "names; empty: every task of the suite that has a train split")
    hold_out: tuple[str, ...] = setting((), "tasks and families that are left out of it, to be evaluated on")
    weights: Mapping[str, float] = setting(dict, "explicit shares by task name; tasks left out get n^alpha")
    alpha: float = setting(0.5, "a task with n training queries is drawn in proportion to n^alpha")
    generic_share: float = setting(
        0.1, "of the steps, those with templates.generic in place of the task's instruction", SHARE
    )


def shares(names: Sequence[str], n_queries: Sequence[int], config: MixtureConfig) -> Float64[np.ndarray, "tasks"]:
    """Each task's share of the steps; they sum to 1.

    Raises UserError for a weight of an unknown task, or one that is not positive.
    """
    for name, weight in config.weights.items():
        if name not in names:
            raise UserError(f"mixture.weights: '{name}' is not in the mixture.{nearest(name, names)}")
        if not (weight > 0 and np.isfinite(weight)):
            raise UserError(f"mixture.weights.{name}: {weight} is not a positive number; leave the task out instead")
    weights = np.array(
        [config.weights.get(name, float(n) ** config.alpha) for name, n in zip(names, n_queries, strict=True)]
    )
    return weights / weights.sum()


def schedule(
    task_shares: Float64[np.ndarray, "tasks"], steps: int, seed: int
) -> tuple[Int32[np.ndarray, "steps"], Int64[np.ndarray, "steps"]]:
    """The task of each step, and how many steps before it had the same task.

    Of the tasks that are not ahead of their share, the one whose next step is due first goes first; the seed decides
    among equals. After any number of steps each task's count is then less than one step off its share (Tijdeman, The
    chairman assignment problem, 1980), which independent draws would miss by the square root of the count. A longer run
    begins with the same steps.
    """
    order = np.random.default_rng((seed, 0)).permutation(len(task_shares))
    own = task_shares[order]
    done = np.zeros(len(own), np.int64)
    task, occurrence = np.empty(steps, np.int32), np.empty(steps, np.int64)
    for step in range(steps):
        due = np.where(done < (step + 1) * own, (done + 1) / own, np.inf)
        first = due.argmin()
        task[step], occurrence[step] = order[first], done[first]
        done[first] += 1
    return task, occurrence
