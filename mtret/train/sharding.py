"""The mesh of devices, and how a batch lies on it."""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mtret.errors import UserError
from mtret.types import PairBatch, TokenBatch


def make_mesh(groups: int) -> Mesh:
    """All devices on one axis, `data`. Raises UserError where they cannot share `groups` evenly."""
    count = jax.device_count()
    if groups % count:
        raise UserError(
            f"batch.groups: {groups} groups cannot be shared evenly by {count} devices; set it to a multiple of {count}"
        )
    # Explicit axes, the newer default, refuse a product of two arrays that are both sharded on `data`.
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,))


def batch_sharding(mesh: Mesh) -> PairBatch:
    """Groups over `data`; rows of the relation with their queries; the rest everywhere."""

    def over(*axes: str | None) -> Any:  # a sharding stands where the array will
        return NamedSharding(mesh, P(*axes))

    groups, rows, everywhere = over(None, "data"), over("data"), over()
    return PairBatch(
        texts=TokenBatch(groups, groups, groups, groups),
        target=rows,
        known=rows,
        query_ok=rows,
        doc_ok=everywhere,
        task=everywhere,
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, P())
