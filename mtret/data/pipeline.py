"""Batches planned and filled ahead in threads, in the order of their steps."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Shaped

from mtret.data.planning import Plan, Planner
from mtret.types import PairBatch

RELATION = tuple(name for name in PairBatch._fields if name not in ("texts", "documents"))


class Loaded(NamedTuple):
    """A batch on the devices, and the plan it came from."""

    plan: Plan
    batch: PairBatch


def batches(
    planner: Planner, sharding: PairBatch, first_step: int, threads: int = 2, ahead: int = 8
) -> Iterator[Loaded]:
    """The batches of steps `first_step` to the end. `sharding`: of a batch, as `batch_sharding` gives it.

    Each device is given its own shards only; a process copies tokens for the shards of its devices only.
    """
    import grain

    place: Any = sharding.texts
    own = _own_shards(place, planner.batch.shards)

    def load(step: int) -> Loaded:
        plan = planner.plan(int(step))
        filled = planner.fill(plan, own)
        parts: Any = jax.tree.map(
            partial(_place_shards, own, planner.batch.shards, sharding=place), (filled.texts, filled.documents)
        )
        texts, documents = parts
        rest = {
            name: jax.tree.map(partial(_place, sharding=getattr(sharding, name)), getattr(filled, name))
            for name in RELATION
        }
        return Loaded(plan, PairBatch(texts, documents, **rest))

    steps = grain.MapDataset.range(first_step, planner.steps).map(load)
    return iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)))


def _own_shards(sharding: Any, shards: int) -> range:
    """The shards of this process's devices, from the first to the last."""
    slices = [index[1] for index in sharding.addressable_devices_indices_map((1, shards)).values()]
    bounds = [each.indices(shards)[:2] for each in slices]
    return range(min(first for first, _ in bounds), max(last for _, last in bounds))


def _place_shards(
    own: range, shards: int, array: Shaped[np.ndarray, "C own R ..."], sharding: NamedSharding
) -> Shaped[Array, "C S R ..."]:
    def part(index: Any) -> Shaped[np.ndarray, "C part R ..."]:
        first, last, _ = index[1].indices(shards)
        return array[:, first - own.start : last - own.start]

    shape = (array.shape[0], shards, *array.shape[2:])
    return jax.make_array_from_callback(shape, sharding, part)


def _place(array: Shaped[np.ndarray, "..."], sharding: NamedSharding) -> Shaped[Array, "..."]:
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
