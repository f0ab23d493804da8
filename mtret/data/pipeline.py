"""Batches planned and filled ahead in threads, in the order of their steps."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Shaped

from mtret.data.planning import Plan, Planner
from mtret.types import PairBatch


class Loaded(NamedTuple):
    """A batch on the devices, and the plan it came from."""

    plan: Plan
    batch: PairBatch


def batches(
    planner: Planner, sharding: PairBatch, first_step: int, threads: int = 2, ahead: int = 8
) -> Iterator[Loaded]:
    """The batches of steps `first_step` to the end. `sharding`: a NamedSharding for each array of a batch.

    Each device is given its own groups only.
    """
    import grain

    def load(step: int) -> Loaded:
        plan = planner.plan(int(step))
        return Loaded(plan, jax.tree.map(_place, planner.fill(plan), sharding))

    steps = grain.MapDataset.range(first_step, planner.steps).map(load)
    return iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)))


def _place(array: Shaped[np.ndarray, "..."], sharding: NamedSharding) -> Shaped[Array, "..."]:
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
