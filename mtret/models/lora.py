"""Low-rank adapters (Hu et al., 2106.09685) of any tower, as a function of its parameters: the tower knows nothing."""

import re
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtret.errors import UserError
from mtret.pytrees import Tree, flatten, unflatten
from mtret.schema import AT_LEAST_0, setting


@dataclass(frozen=True)
class LoraConfig:
    """Which kernels get an adapter, kernel + alpha / rank * a @ b, and of which rank. The tower is frozen then."""

    rank: int = setting(0, "0: no adapters", AT_LEAST_0)
    alpha: float = setting(16.0, "an adapter is scaled by alpha / rank")
    targets: str = setting(r".*/(query|value|qkv_proj|Wqkv)/kernel", "expression for parameters' paths in the tower")


def initial_adapters(tower: Tree, config: LoraConfig, seed: int) -> dict[str, Any]:
    """{kernel's path: {"a": [inner, rank], "b": [rank, outer]}}, nested. All b are zero: the tower is what it was.

    `tower` may be shapes. Raises UserError where the expression names no kernel.
    """
    shapes = {path: leaf.shape for path, leaf in flatten(tower).items() if re.fullmatch(config.targets, path)}
    if not shapes or any(len(shape) != 2 for shape in shapes.values()):
        wrong = next((path for path, shape in shapes.items() if len(shape) != 2), None)
        reason = f"'{wrong}' is not a kernel" if wrong else "no parameter of the tower matches"
        example = next(path for path in flatten(tower) if path.endswith("/kernel"))
        raise UserError(f"model.lora.targets: '{config.targets}': {reason}; kernels are named like '{example}'")
    random = np.random.default_rng((seed, 7))
    adapters = {}
    for path, (inner, outer) in shapes.items():
        adapters[f"{path}/a"] = random.normal(0, inner**-0.5, (inner, config.rank)).astype(np.float32)
        adapters[f"{path}/b"] = np.zeros((config.rank, outer), np.float32)
    return unflatten(adapters)


def adapted(tower: Tree, adapters: Tree, config: LoraConfig) -> Tree:
    """The tower's parameters with their adapters added: what is trained, and what is deployed."""
    found = flatten(adapters)
    scale = config.alpha / config.rank

    def add(path: str, kernel: Any) -> Any:
        if f"{path}/a" not in found:
            return kernel
        a, b = found[f"{path}/a"], found[f"{path}/b"]
        return kernel + scale * jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)

    return unflatten({path: add(path, leaf) for path, leaf in flatten(tower).items()})
