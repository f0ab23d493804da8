"""Batches that do not fit in memory are read in chunks, and a run stays as it began."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from mtret.data.shapes import Shape
from mtret.run_config import read_config
from mtret.runs import fitting, setup
from mtret.runs.dry_run import dry_run
from mtret.runs.fitting import chunk_tokens
from mtret.runs.train import train
from mtret.train import programs
from mtret.train.loop import Loop, Stopped
from mtret.train.sharding import make_mesh

SAID = "batches are read in chunks of"
OVERRIDES = ("mixture.tasks=('beta',)", "loop.keep_weights=1", "loop.checkpoint_every=2")
SMALL, LARGE = 1, 2**40  # bytes of a device


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return lambda size: monkeypatch.setattr(programs, "device_memory", lambda devices: size)


def run(config: Path, workdir: Path, *overrides: str) -> str:
    console = Console(record=True, file=io.StringIO(), width=300)
    train(read_config(str(config), (*OVERRIDES, *overrides)), workdir, console)
    return console.export_text()


def noted(workdir: Path) -> int | None:
    return json.loads((workdir / "config.json").read_text(encoding="utf-8")).get("chunk_tokens")


def last(workdir: Path) -> dict[str, np.ndarray]:
    return load_file(workdir / "weights" / "step_6.safetensors")


@pytest.mark.slow  # whole runs
@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.system), 8])
def test_a_batch_that_does_not_fit_is_read_in_chunks(
    tiny_config: Path, tmp_path: Path, memory: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, devices: int
):
    mesh = make_mesh(8, devices=jax.devices()[:devices])
    monkeypatch.setattr(setup, "make_mesh", lambda shards, state_shards: mesh)
    memory(LARGE)
    assert SAID not in run(tiny_config, tmp_path / "whole")
    memory(SMALL)
    assert SAID in run(tiny_config, tmp_path / "chunked")
    assert noted(tmp_path / "whole") == 0
    assert noted(tmp_path / "chunked") == 128  # the tokens of a row
    plain, chunked = last(tmp_path / "whole"), last(tmp_path / "chunked")
    for name, tensor in plain.items():
        if name.endswith("key/bias"):  # softmax takes no notice of it: its gradient is rounding, which Adam enlarges
            continue
        np.testing.assert_allclose(chunked[name], tensor, atol=2e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(SMALL, LARGE), pytest.param(LARGE, SMALL, marks=pytest.mark.system)])
def test_a_run_that_goes_on_reads_its_batches_as_before(
    tiny_config: Path,
    tmp_path: Path,
    memory: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    first: int,
    then: int,
):
    memory(first)
    run(tiny_config, tmp_path / "undisturbed")
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        save = Loop._save

        def stop(self: Loop, state: object) -> None:
            save(self, state)  # type: ignore[arg-type]
            raise Stopped(int(state.step), 2)  # type: ignore[attr-defined]

        patch.setattr(Loop, "_save", stop)
        run(tiny_config, tmp_path / "stopped")
    memory(then)
    assert SAID not in run(tiny_config, tmp_path / "stopped")
    assert noted(tmp_path / "stopped") == noted(tmp_path / "undisturbed")
    for name, tensor in last(tmp_path / "undisturbed").items():
        np.testing.assert_array_equal(last(tmp_path / "stopped")[name], tensor, err_msg=name)


@pytest.mark.slow
@pytest.mark.system
def test_a_dry_run_says_so(tiny_config: Path, memory: Callable[[int], None]):
    memory(SMALL)
    console = Console(record=True, file=io.StringIO(), width=300)
    dry_run(read_config(str(tiny_config), OVERRIDES), console)
    assert SAID in console.export_text()


@pytest.mark.slow
def test_all_processes_read_as_the_one_with_least_room(
    tiny_config: Path, tmp_path: Path, memory: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
):
    memory(LARGE)
    monkeypatch.setattr(fitting, "gather", lambda name, mine: [mine, (4 * 2**30, 3 * 2**30), (4 * 2**30, 2**30)])
    said = run(tiny_config, tmp_path / "run")
    assert "needs 4.0 GiB of a device, and there is room for 1.0" in said and SAID in said


@pytest.mark.parametrize(
    ("needed", "room", "tokens"), [(100, 99, 4096), (100, 49, 2048), (100, 20, 1024), (100, 1, 256), (100, -7, 256)]
)
def test_a_chunk_takes_half_of_the_room(needed: int, room: int, tokens: int):
    shapes = [Shape(64, 256, 0, 0), Shape(8, 128, 0, 0)]
    assert chunk_tokens(shapes, 1, needed, room) == tokens
    images = [Shape(16, 256, 96, 0), Shape(16, 256, 0, 0)]
    assert chunk_tokens(images, 128, needed, room) == tokens
