import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtret.errors import UserError
from mtret.models.lora import LoraConfig, adapted, initial_adapters
from mtret.pytrees import flatten, unflatten

RANDOM = np.random.default_rng(0)
TOWER = unflatten(
    {
        f"layer/{i}/{name}/{leaf}": RANDOM.normal(size=shape).astype(np.float32)
        for i in range(2)
        for name in ("query", "value", "dense")
        for leaf, shape in (("kernel", (6, 4)), ("bias", (4,)))
    }
)
CONFIG = LoraConfig(rank=2, alpha=6.0)


def test_at_the_start_the_tower_is_what_it_was_exactly() -> None:
    adapters = initial_adapters(TOWER, CONFIG, seed=0)
    assert {path: x.shape for path, x in flatten(adapters).items()} == {
        f"layer/{i}/{name}/kernel/{part}": shape
        for i in range(2)
        for name in ("query", "value")
        for part, shape in (("a", (6, 2)), ("b", (2, 4)))
    }
    found = flatten(adapted(TOWER, adapters, CONFIG))
    for path, value in flatten(TOWER).items():
        np.testing.assert_array_equal(found[path], value)


def test_an_adapter_adds_its_scaled_product() -> None:
    adapters = jax.tree.map(lambda x: x + 1, initial_adapters(TOWER, CONFIG, seed=0))
    found, before = flatten(adapted(TOWER, adapters, CONFIG)), flatten(TOWER)
    leaves = flatten(adapters)
    for path, value in before.items():
        wanted = value
        if path.endswith("/kernel") and "dense" not in path:
            wanted = value + 3.0 * leaves[f"{path}/a"] @ leaves[f"{path}/b"]
        np.testing.assert_allclose(found[path], wanted, rtol=1e-5)


def test_the_seed_decides() -> None:
    one, same, other = (flatten(initial_adapters(TOWER, CONFIG, seed)) for seed in (1, 1, 2))
    path = "layer/0/query/kernel/a"
    np.testing.assert_array_equal(one[path], same[path])
    assert not np.array_equal(one[path], other[path])


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (".*/key/kernel", r"no parameter of the tower matches; kernels are named like 'layer/0/dense/kernel'"),
        (".*/query/.*", r"'layer/0/query/bias' is not a kernel"),
    ],
)
def test_targets_that_are_no_kernels_are_refused(targets: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        initial_adapters(jax.tree.map(jnp.asarray, TOWER), LoraConfig(rank=2, targets=targets), 0)
