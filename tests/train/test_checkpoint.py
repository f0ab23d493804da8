"""Checkpoints come back bit for bit, and a damaged one gives way to the one before."""

import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtret.errors import UserError
from mtret.train.checkpoint import Checkpoints
from mtret.train.step import TrainState

OPTIMIZER = optax.adamw(1e-3)


def state_at(step: int) -> TrainState:
    random = np.random.default_rng(step)
    tower = {"dense": {"kernel": jnp.asarray(random.normal(size=(16, 8)), jnp.float32)}}
    params = {"tower": tower, "log_scale": jnp.float32(step / 7)}
    opt_state = jax.tree.map(lambda x: x + jnp.ones_like(x) * step, OPTIMIZER.init(params))
    return TrainState(jnp.int32(step), params, opt_state, jnp.int32(0))


def assert_same(found: TrainState, wanted: TrainState) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.sharding == theirs.sharding
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


def write(folder: Path, steps: tuple[int, ...], keep: int = 2) -> None:
    checkpoints = Checkpoints(folder, keep)
    for step in steps:
        checkpoints.save(state_at(step), {"best": {"step": step, "score": step / 3}})
    checkpoints.close()


def restore(folder: Path) -> tuple[tuple[TrainState, dict] | None, list[str]]:
    said: list[str] = []
    checkpoints = Checkpoints(folder)
    try:
        return checkpoints.restore(state_at(0), said.append), said
    finally:
        checkpoints.close()


def test_a_save_that_waits_for_the_one_before_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from absl import logging
    from orbax.checkpoint import checkpoint_manager

    monkeypatch.setattr(checkpoint_manager, "_WAIT_FOR_PREV_SAVE_WARNING_THRESHOLD_SECS", -1.0)
    write(tmp_path, (3, 5))
    logging.warning("another warning")
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == ["another warning"]


def test_the_newest_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    write(tmp_path, (3, 5, 9))
    found, said = restore(tmp_path)
    assert found is not None
    assert_same(found[0], state_at(9))
    assert found[1] == {"best": {"step": 9, "score": 3.0}}
    assert said == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["5", "9"]


def test_nothing_there_is_nothing_found(tmp_path: Path) -> None:
    assert restore(tmp_path / "new") == (None, [])


def test_steps_are_those_that_were_saved_even_if_not_yet_written(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 3)
    checkpoints.save(state_at(4), {})
    assert checkpoints.steps() == [4]
    checkpoints.save(state_at(6), {})
    assert checkpoints.steps() == [4, 6]
    checkpoints.close()


def truncate(pattern: str, size: int) -> Callable[[Path], None]:
    def damage(checkpoint: Path) -> None:
        files = [path for path in checkpoint.glob(pattern) if path.is_file()]
        assert files
        for path in files:
            path.write_bytes(path.read_bytes()[:size])

    return damage


def remove(place: str) -> Callable[[Path], None]:
    def damage(checkpoint: Path) -> None:
        path = checkpoint / place
        assert path.exists()
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def empty(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


DAMAGES = {
    "array data cut": truncate("state/**/d/*", 30),
    "array data gone": remove("state/d"),
    "state emptied": truncate("state/**/*", 0),
    "manifest cut": truncate("state/manifest.ocdbt", 8),
    "metadata of the state cut": truncate("state/_METADATA", 20),
    "metadata of the state empty": truncate("state/_METADATA", 0),
    "metadata of the checkpoint cut": truncate("_CHECKPOINT_METADATA", 10),
    "record cut": truncate("record/metadata", 5),
    "record gone": remove("record"),
    "state gone": remove("state"),
    "an empty folder": empty,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """Or is read all the same, where what is gone is not needed; in both cases the run can go on and save again."""
    write(tmp_path, (5, 9))
    damage(tmp_path / "9")
    found, said = restore(tmp_path)
    assert found is not None
    step = int(found[0].step)
    assert_same(found[0], state_at(step))
    assert found[1] == {"best": {"step": step, "score": step / 3}}
    if step == 5:
        assert len(said) == 1
        assert said[0].startswith("checkpoint 9 is damaged (")
        assert said[0].endswith("; falling back to the one before")
        assert "\n" not in said[0]
        write(tmp_path, (9,))
        again, said = restore(tmp_path)
        assert again is not None
        assert_same(again[0], state_at(9))
    else:
        assert damage is DAMAGES["metadata of the checkpoint cut"]
    assert said == []


def test_all_damaged_is_an_error_that_destroys_nothing(tmp_path: Path) -> None:
    write(tmp_path, (5, 9))
    for step in ("5", "9"):
        DAMAGES["array data cut"](tmp_path / step)
    with pytest.raises(
        UserError, match=rf"{tmp_path}: none of the checkpoints \[5, 9\] can be read; use a new workdir"
    ):
        restore(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["5", "9"]


def test_what_a_kill_left_half_written_is_no_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, (5, 9))
    names = {path.name for path in tmp_path.iterdir()}
    shutil.copytree(tmp_path / "9", tmp_path / "11.orbax-checkpoint-tmp-1")
    found, said = restore(tmp_path)
    assert found is not None
    assert int(found[0].step) == 9
    assert said == []
    assert {path.name for path in tmp_path.iterdir()} >= names


def test_what_a_killed_run_left_half_written_is_removed_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torn = tmp_path / "7.orbax-checkpoint-tmp"
    (torn / "state").mkdir(parents=True)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == []
    checkpoints.save(state_at(7), {})
    checkpoints.close()
    assert [path.name for path in tmp_path.iterdir()] == ["7"]
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
