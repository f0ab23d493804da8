"""The command line in two processes on loopback, and a run that goes on with other devices than it began with."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from mtret.errors import UserError
from mtret.files import AnyPath, inside, locate, remove
from mtret.processes import Peers
from mtret.run_config import read_config
from mtret.runs.identity import check_same
from mtret.runs.training import train

pytestmark = pytest.mark.slow

CLOCK = ("pairs_per_s", "tokens_per_s", "wait")
LONG = (
    "batch.queries=40",
    "batch.row_length=256",
    "loop.steps=1000",
    "loop.evaluate_every=1000",
    "loop.checkpoint_every=40",
)


def start(
    config: Path, workdir: AnyPath, environment: Mapping[str, str], count: int = 2, changes: tuple[str, ...] = (),
    devices: int = 4,
    timeout_s: int = 60,
) -> list[subprocess.Popen[str]]:  # fmt: skip
    """`mtret train` in `count` processes of four devices each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    line = [sys.executable, "-m", "mtret.cli", "train", f"--config={config}", f"--workdir={workdir}"]
    line += [f"--config.{change}" for change in changes]
    several = (
        [f"--coordinator=localhost:{port}", f"--processes={count}", f"--peer_timeout={timeout_s}"] if count > 1 else []
    )
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    return [
        subprocess.Popen(
            [*line, *several, *([f"--process={process}"] if several else [])],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**environment, **flags},
        )
        for process in range(count)
    ]  # fmt: skip


def ends(started: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    said = [process.communicate(timeout=240) for process in started]
    return [(process.returncode, *each) for process, each in zip(started, said, strict=True)]


def lines(workdir: AnyPath) -> list[dict[str, Any]]:
    text = (workdir / "metrics.jsonl").read_text(encoding="utf-8") if (workdir / "metrics.jsonl").exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("}\n")]


def wait_for_step(workdir: Path, step: int, started: list[subprocess.Popen[str]]) -> None:
    while max((line["step"] for line in lines(workdir)), default=0) < step:
        assert all(process.poll() is None for process in started), ends(started)
        time.sleep(0.02)


def assert_same_course(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    """The same batches, and losses equal to 1e-5; norms and dev scores to what follows from that."""
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for a, b in zip(ours, theirs, strict=True):
        if "dev" in a:
            assert a["dev"] == pytest.approx(b["dev"], abs=1e-6) and a["best"] == b["best"]
            continue
        assert {key: a[key] for key in ("plan", "task", "pairs", "tokens", "fill")} == {
            key: b[key] for key in ("plan", "task", "pairs", "tokens", "fill")
        }
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-4)


def test_two_processes_train_as_one(
    tmp_path: Path, tiny_config: Path, finished: Path, environment: Mapping[str, str]
) -> None:
    """Each with half of the devices; parameters are cut over all of them, so neither could save them alone."""
    workdir = tmp_path / "run"
    (code, out, err), other = ends(start(tiny_config, workdir, environment, changes=("mesh.fsdp=8",)))
    assert (code, err) == (0, "")
    assert other == (0, "", "")
    assert out.startswith("device: CPU, ") and "8 JAX device(s) of 2 processes\n" in out
    assert "\nmesh: 1 data x 8 fsdp\n" in out and "dimension 1 of 2 cut in 8" in out
    assert out.count("training 6/6  loss ") == 1 and out.endswith("--split=test\n")
    assert sorted(p.name for p in workdir.iterdir()) == sorted(p.name for p in finished.iterdir())
    assert sorted(p.name for p in (workdir / "model").iterdir()) == sorted(
        p.name for p in (finished / "model").iterdir()
    )
    assert_same_course(lines(workdir), lines(finished))
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (workdir, finished))
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        # A key's bias changes no softmax: its gradient is rounding error, which Adam makes a step of full length.
        if not name.endswith("key.bias"):
            np.testing.assert_allclose(array, theirs[name], atol=5e-5, err_msg=name)


@pytest.mark.system
def test_two_processes_train_into_a_store_and_one_goes_on(
    store: str, tiny_config: Path, finished: Path, environment: Mapping[str, str]
) -> None:
    """The state is cut over both, and written whole; the one has all devices, and parameters whole on each."""
    workdir = locate(f"{store}/several")
    changes = ("mesh.fsdp=8", "loop.keep_weights=1")
    (code, _, err), other = ends(start(tiny_config, workdir, {**os.environ, **environment}, changes=changes))
    assert (code, err) == (0, "")
    assert other == (0, "", "")
    assert {path.name for path in inside(workdir)} == {path.name for path in finished.iterdir()} | {"weights"}
    assert [path.name for path in inside(workdir / "checkpoints")] == ["4.safetensors", "6.safetensors"]
    assert [path.name for path in inside(workdir / "weights")] == ["step_6.safetensors"]
    assert_same_course(lines(workdir), lines(finished))

    remove(workdir / "checkpoints" / "6.safetensors")
    remove(workdir / "model" / "modules.json")
    console = Console(record=True, file=io.StringIO(), width=200)
    train(read_config(str(tiny_config), ["loop.keep_weights=1"]), workdir, console)
    assert "resumed at step 4" in console.export_text()
    assert_same_course(lines(workdir), lines(finished))
    starts = json.loads((workdir / "config.json").read_text())["starts"]
    assert [(one["devices"]["processes"], one["mesh"]["fsdp"]) for one in starts] == [(2, 8), (1, 1)]


@pytest.mark.system
def test_a_signal_to_one_stops_all_after_one_step_and_a_killed_one_is_named(
    tmp_path: Path, tiny_config: Path, environment: Mapping[str, str]
) -> None:
    workdir = tmp_path / "run"
    both = start(tiny_config, workdir, environment, changes=LONG, timeout_s=8)
    wait_for_step(workdir, 10, both)
    os.kill(both[1].pid, signal.SIGTERM)
    (code, out, err), (other_code, other_out, other_err) = ends(both)
    assert code == other_code == 128 + signal.SIGTERM
    steps = [line["step"] for line in lines(workdir) if "dev" not in line]
    assert steps == list(range(1, len(steps) + 1))
    saved = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert saved == steps[-1]
    assert out.endswith(f"\nstopped at step {saved}, state saved; the same command goes on from there\n")
    assert (err, other_out) == ("", "")
    assert other_err.strip().startswith("mtret: stopping after this step")

    both = start(tiny_config, workdir, environment, changes=LONG, timeout_s=8)
    wait_for_step(workdir, saved + 5, both)
    os.kill(both[1].pid, signal.SIGKILL)
    began = time.monotonic()
    (code, out, err), _ = ends(both)
    assert time.monotonic() - began < 20
    assert f"\nresumed at step {saved}\n" in out
    assert code == 75
    (line,) = err.splitlines()
    assert line.startswith(f"mtret: process 1 of 2 ({socket.gethostname()}, process id {both[1].pid}) is lost: ")
    assert line.endswith("the same command in all of them goes on from the last checkpoint")


def test_processes_that_train_different_things_are_told_in_which_part() -> None:
    class Third(Peers):
        index, count = 2, 3

        def share(self, name: str, value: Any) -> Any:
            return {**value, "config": {**value["config"], "seed": 5}, "data": {"alpha": "other"}}

    identity = {"config": {"seed": 0, "suite": "x"}, "data": {"alpha": "one"}, "weights_sha256": "", "source": {}}
    with pytest.raises(UserError, match=r"process 2 .* than process 0: config.seed: 0, there 5 \(and 1 more\); start"):
        check_same(Third(), identity)
    check_same(Peers(), identity)


@pytest.mark.system
def test_a_run_goes_on_with_other_devices(
    tmp_path: Path, tiny_config: Path, environment: Mapping[str, str], console: Console
) -> None:
    """From eight devices, in twos of four parts, to four with whole copies."""
    config = read_config(str(tiny_config))
    before = tmp_path / "before"
    train(replace(config, mesh=replace(config.mesh, fsdp=4)), before, console)
    assert "mesh: 2 data x 4 fsdp" in console.export_text()
    after = Path(shutil.copytree(before, tmp_path / "after"))
    shutil.rmtree(after / "model")
    shutil.rmtree(after / "checkpoints" / "6")
    ((code, out, err),) = ends(start(tiny_config, after, environment, count=1, devices=4))
    assert (code, err) == (0, "")
    assert "\nresumed at step 4\n" in out and "\nmesh: 4 data x 1 fsdp\n" in out
    assert_same_course(lines(after), lines(before))
