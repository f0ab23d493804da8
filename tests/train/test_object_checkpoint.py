"""Checkpoints in an object store come back bit for bit, and a damaged one gives way to the one before."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mtret.errors import UserError
from mtret.files import inside, load_arrays, locate, replace_arrays, replace_bytes
from mtret.train.object_checkpoint import ObjectCheckpoints
from mtret.train.step import TrainState

pytestmark = pytest.mark.system

OPTIMIZER = optax.adamw(1e-3)


@pytest.fixture
def folder(store: str, request: pytest.FixtureRequest) -> epath.Path:
    found = locate(f"{store}/{request.node.name}")
    assert isinstance(found, epath.Path)
    return found


def state_at(step: int, cut: bool = False) -> TrainState:
    """`cut`: its matrices over eight devices."""
    random = np.random.default_rng(step)
    tower = {"dense": {"kernel": jnp.asarray(random.normal(size=(16, 8)), jnp.float32)}}
    params = {"tower": tower, "log_scale": jnp.float32(step / 7)}
    opt_state = jax.tree.map(lambda x: x + jnp.ones_like(x) * step, OPTIMIZER.init(params))
    state = TrainState(jnp.int32(step), params, opt_state, jnp.int32(0))
    mesh = jax.make_mesh((8,), ("state",))
    return jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, P("state") if cut and x.ndim else P())), state)


def assert_same(found: TrainState, wanted: TrainState) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert (ours.dtype, ours.sharding) == (theirs.dtype, theirs.sharding)
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


def write(folder: epath.Path, steps: tuple[int, ...], keep: int = 2) -> None:
    checkpoints = ObjectCheckpoints(folder, keep)
    for step in steps:
        checkpoints.save(state_at(step), {"best": {"step": step, "score": step / 3}})
    checkpoints.close()


def restore(folder: epath.Path, like: TrainState) -> tuple[Any, list[str]]:
    said: list[str] = []
    checkpoints = ObjectCheckpoints(folder)
    try:
        return checkpoints.restore(like, said.append), said
    finally:
        checkpoints.close()


@pytest.mark.parametrize("cut", [False, True])
def test_the_newest_state_comes_back_bit_for_bit_on_any_mesh(folder: epath.Path, cut: bool) -> None:
    write(folder, (3, 5, 11))
    found, said = restore(folder, state_at(0, cut))
    assert_same(found[0], state_at(11, cut))
    assert found[1] == {"best": {"step": 11, "score": 11 / 3}}
    assert said == []
    assert {path.name for path in inside(folder)} == {"5.safetensors", "11.safetensors"}


def test_nothing_there_is_nothing_found(folder: epath.Path) -> None:
    assert restore(folder, state_at(0)) == (None, [])


def test_what_is_saved_is_the_state_of_that_moment(folder: epath.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step after it takes the arrays' memory all the same; and a step counts as saved before it is written."""
    import threading

    go = threading.Event()

    def late(*arguments: Any) -> None:
        assert go.wait(30)
        replace_arrays(*arguments)

    monkeypatch.setattr("mtret.train.object_checkpoint.replace_arrays", late)
    double = jax.jit(lambda state: jax.tree.map(lambda x: x * 2, state), donate_argnums=0)
    checkpoints = ObjectCheckpoints(folder)
    state = state_at(4)
    checkpoints.save(state, {})
    jax.block_until_ready(double(state))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert checkpoints.steps() == [4] and inside(folder) == []
    go.set()
    checkpoints.close()
    found, _ = restore(folder, state_at(0))
    assert_same(found[0], state_at(4))


def test_a_failed_write_is_raised_by_the_next_call(folder: epath.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr("mtret.train.object_checkpoint.replace_arrays", fail)
    checkpoints = ObjectCheckpoints(folder)
    checkpoints.save(state_at(4), {})
    with pytest.raises(PermissionError, match="Access Denied"):
        checkpoints.wait()
    checkpoints.close()


def renamed(path: epath.Path) -> None:
    arrays = load_arrays(path)
    arrays["params/tower/other/kernel"] = arrays.pop("params/tower/dense/kernel")
    replace_arrays(path, arrays, {"record": "{}"})


def reshaped(path: epath.Path) -> None:
    arrays = load_arrays(path)
    name = "params/tower/dense/kernel"
    replace_arrays(path, {**arrays, name: arrays[name].reshape(-1)}, {"record": "{}"})


DAMAGES: dict[str, tuple[Callable[[epath.Path], None], str]] = {
    "cut": (lambda path: replace_bytes(path, path.read_bytes()[:-10]), ""),
    "empty": (lambda path: replace_bytes(path, b""), ""),
    "no record": (lambda path: replace_arrays(path, load_arrays(path)), "record"),
    "another array": (renamed, "params/tower/dense/kernel"),
    "another shape": (reshaped, r"float32\[128\], not float32\[16, 8\]"),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=list(DAMAGES))
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    folder: epath.Path, damage: Callable[[epath.Path], None], reason: str
) -> None:
    write(folder, (5, 9))
    damage(folder / "9.safetensors")
    found, (said,) = restore(folder, state_at(0))
    assert_same(found[0], state_at(5))
    assert said.startswith("checkpoint 9 is damaged (") and said.endswith("; falling back to the one before")
    assert re.search(reason, said)
    assert [path.name for path in inside(folder)] == ["5.safetensors"]
    write(folder, (9,))
    assert_same(restore(folder, state_at(0))[0][0], state_at(9))


def test_all_damaged_is_an_error_that_destroys_nothing(folder: epath.Path) -> None:
    write(folder, (5, 9))
    for path in inside(folder):
        replace_bytes(path, b"")
    with pytest.raises(UserError, match=rf"{folder}: none of the checkpoints \[5, 9\] can be read; use a new workdir"):
        restore(folder, state_at(0))
    assert len(inside(folder)) == 2


def test_a_store_that_does_not_answer_is_no_damage(folder: epath.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, (5, 9))

    def fail(path: epath.Path) -> None:
        raise ConnectionError("reset by peer")

    monkeypatch.setattr("mtret.train.object_checkpoint.load_arrays", fail)
    with pytest.raises(ConnectionError):
        restore(folder, state_at(0))
    assert len(inside(folder)) == 2
