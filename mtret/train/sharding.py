"""The mesh of devices, and how batches and parameters lie on it."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mtret.errors import UserError
from mtret.pytrees import Tree, flatten, match_rules, unflatten
from mtret.schema import AT_LEAST_1, setting
from mtret.tables import Table, to_lines
from mtret.types import PairBatch

AXES = ("data", "state")  # a batch's shards are shared out over both


@dataclass(frozen=True)
class MeshConfig:
    """Which parameters, with their optimizer state, are cut into how many parts."""

    state_shards: int = setting(
        1, "devices that share one copy of the parameters; a divisor of their number", AT_LEAST_1
    )
    partition_rules: tuple[tuple[str, int | None], ...] = setting(
        ((r".*/(kernel|embedding)", -1), (r".*", None)),
        "(expression for a parameter's path, its dimension that is cut, -1 from the end, or None); the first counts",
    )


def make_mesh(shards: int, state_shards: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """Devices (None: all) as (data, state). Raises UserError where they cannot share `shards`, or their number is no
    multiple of `state_shards`."""
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    if shards % count:
        raise UserError(
            f"batch.shards: {shards} shards cannot be shared evenly by {count} devices; set it to a multiple of {count}"
        )
    if count % state_shards:
        raise UserError(
            f"mesh.state_shards: {count} devices cannot be cut into parts of {state_shards}; give a divisor of {count}"
        )
    # Explicit axes, the newer default, refuse a product of two arrays that are sharded alike.
    return jax.make_mesh((count // state_shards, state_shards), AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)


def batch_specs() -> PairBatch:
    """A PartitionSpec for each array, or for several: shards, and the relation's rows with them, over all devices."""
    shards: Any = P(None, AXES)
    rows, everywhere = P(AXES), P()
    specs: dict[str, Any] = {
        "texts": shards,
        "documents": shards,
        "target": rows,
        "masked": rows,
        "query_ok": rows,
        "doc_ok": rows,
        "chunks": everywhere,
        "task": everywhere,
        "guide": rows,
    }
    return PairBatch(**specs)


def batch_sharding(mesh: Mesh) -> PairBatch:
    """`batch_specs` on a mesh."""
    return named(mesh, batch_specs())


def param_specs(params: Tree, config: MeshConfig) -> Tree:
    """A PartitionSpec for each parameter. Raises UserError for one that cannot be cut as the rules say."""
    rules = flatten(match_rules(params, config.partition_rules, "mesh.partition_rules"))
    return unflatten({path: _spec(path, leaf.shape, rules[path], config) for path, leaf in flatten(params).items()})


def _spec(path: str, shape: Sequence[int], dimension: int | None, config: MeshConfig) -> P:
    if dimension is None or config.state_shards == 1:
        return P()
    if not -len(shape) <= dimension < len(shape) or shape[dimension] % config.state_shards:
        raise UserError(
            f"mesh.partition_rules: dimension {dimension} of '{path}', whose shape is {tuple(shape)}, cannot be cut "
            f"into {config.state_shards} equal parts; name another dimension for it, or None"
        )
    return P(*("state" if i == dimension % len(shape) else None for i in range(len(shape))))


def gathered(params: Tree, specs: Tree) -> Tree:
    """Inside `shard_map`: whole parameters. Its derivative cuts gradients again, summed over the parts' devices."""

    def gather(param: jax.Array, spec: P) -> jax.Array:
        return jax.lax.all_gather(param, "state", axis=spec.index("state"), tiled=True) if "state" in spec else param

    return jax.tree.map(gather, params, specs)


def summed(gradients: Tree, specs: Tree, zero: Collection[str] = ()) -> Tree:
    """Inside `shard_map`: each device's gradients added up over those devices that hold copies of a parameter.

    `zero`: paths of gradients that are zero on all of them.
    """
    of = flatten(specs)

    def add(path: str, gradient: jax.Array) -> jax.Array:
        return gradient if path in zero else jax.lax.psum(gradient, "data" if "state" in of[path] else AXES)

    return unflatten({path: add(path, leaf) for path, leaf in flatten(gradients).items()})


def named(mesh: Mesh, specs: Any) -> Any:
    """A tree of PartitionSpecs as shardings."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda x: isinstance(x, P))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, P())


def whole(params: Tree) -> Tree:
    """Parameters that this host can read, wherever they lie. Where several processes hold parts, all must ask."""
    leaves = jax.tree.leaves(params)
    if all(leaf.is_fully_addressable for leaf in leaves):
        return params
    if not all(leaf.is_fully_replicated for leaf in leaves):
        params = jax.jit(lambda tree: tree, out_shardings=replicated(leaves[0].sharding.mesh))(params)
    return jax.device_get(params)


@dataclass(frozen=True)
class Kept:
    """What each device holds of the arrays of one name that are cut alike."""

    name: str  # the last part of their paths
    how: str
    arrays: int
    param_bytes: int
    optimizer_bytes: int


def layout(params: Tree, opt_state: Any) -> list[Kept]:
    """How the state lies on the devices, largest first: arrays, or their shapes, that have a sharding."""
    rows: dict[tuple[str, str], list[int]] = {}
    for kind, tree in enumerate((params, opt_state)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            names = [str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey)]
            row = rows.setdefault((names[-1] if names else "counts", _how(leaf)), [0, 0, 0])
            row[0] += kind == 0 or not names
            row[1 + kind] += math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    kept = [Kept(*key, *numbers) for key, numbers in rows.items()]
    return sorted(kept, key=lambda row: -row.param_bytes - row.optimizer_bytes)


def _how(leaf: Any) -> str:
    spec = getattr(leaf.sharding, "spec", P())
    cut = [(i, leaf.sharding.mesh.shape[axis]) for i, axis in enumerate(spec) if axis is not None]
    return ", ".join(f"dimension {i} of {leaf.ndim} cut in {parts}" for i, parts in cut if parts > 1) or "whole"


def layout_lines(kept: Sequence[Kept], mesh: Mesh) -> list[str]:
    """`layout` as a table to print."""
    totals = [
        sum(numbers) for numbers in zip(*((k.arrays, k.param_bytes, k.optimizer_bytes) for k in kept), strict=True)
    ]
    unit, size = ("MiB", 2**20) if totals[1] >= 2**20 else ("KiB", 2**10)
    rows = [
        [row.name, row.how, row.arrays, f"{row.param_bytes / size:,.1f}", f"{row.optimizer_bytes / size:,.1f}"]
        for row in (*kept, Kept("all", "", *totals))
    ]
    header = ["on each device", "", "arrays", f"parameters, {unit}", f"optimizer, {unit}"]
    lines = to_lines(Table(header, [rows]))
    return [f"mesh: {mesh.shape['data']} data x {mesh.shape['state']} state", *(f"  {line}" for line in lines)]
