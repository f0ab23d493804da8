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
from mtret.run_config import read_config
from mtret.runs.identity import check_same
from mtret.runs.train import train

pytestmark = pytest.mark.slow

CLOCK = ("pairs_per_s", "tokens_per_s", "wait")
LONG = (
    "batch.queries=40",
    "batch.row_length=256",
    "loop.steps=1000",
    "loop.evaluate_every=1000",
    "loop.checkpoint_every=40",
)


# `mtret`, to which a signal comes where a function is called the so manyeth time: after it, its own process gets it.
STRUCK = """
import importlib, itertools, os, sys
from mtret.cli import main

module, name, time, number = sys.argv.pop(1).split()
place = importlib.import_module(module)
*parts, last = name.split(".")
for part in parts:
    place = getattr(place, part)
original, calls = getattr(place, last), itertools.count(1)

def struck(*arguments, **named):
    found = original(*arguments, **named)
    if next(calls) == int(time):
        os.kill(os.getpid(), int(number))
    return found

setattr(place, last, struck)
sys.exit(main())
"""
PLACES = {
    "compilation": "mtret.runs.train create_state 1",  # what comes just before it
    "step": "mtret.train.loop _Clock.wait_for 4",
    "save": "mtret.train.checkpoint Checkpoints.save 2",  # which goes on behind
    "evaluation": "mtret.evaluation.samples TaskSample.ndcg_at_10 2",
}


def start(
    config: Path, workdir: AnyPath, environment: Mapping[str, str], count: int = 2, changes: tuple[str, ...] = (),
    devices: int = 4,
    timeout_s: int = 45,
    struck: Mapping[int, str] | None = None,
) -> list[subprocess.Popen[str]]:  # fmt: skip
    """`mtret train` in `count` processes of four devices each. `struck`: where a signal comes to which of them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    line = ["train", f"--config={config}", f"--workdir={workdir}"]
    line += [f"--config.{change}" for change in changes]
    several = (
        [f"--coordinator=localhost:{port}", f"--processes={count}", f"--heartbeat_timeout={timeout_s}"]
        if count > 1
        else []
    )
    programs = [["-c", STRUCK, struck[i]] if struck and i in struck else ["-m", "mtret.cli"] for i in range(count)]
    flags = {"XLA_FLAGS": f"{environment['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"}
    return [
        subprocess.Popen(
            [sys.executable, *programs[process], *line, *several, *([f"--process={process}"] if several else [])],
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
    (code, out, err), other = ends(start(tiny_config, workdir, environment, changes=("mesh.state_shards=8",)))
    assert (code, err) == (0, "")
    assert other == (0, "", "")
    assert out.startswith("if a process is lost, JAX ends the others within 45 s")
    assert "\ndevice: CPU, " in out and "8 JAX device(s) of 2 processes\n" in out
    assert "\nmesh: 1 data x 8 state\n" in out and "dimension 1 of 2 cut in 8" in out
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
    changes = ("mesh.state_shards=8", "loop.keep_weights=1")
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
    assert [(one["devices"]["processes"], one["mesh"]["state_shards"]) for one in starts] == [(2, 8), (1, 1)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_config: Path, environment: Mapping[str, str]) -> Path:
    """The workdir of two processes that nothing happened to."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    assert [code for code, _, _ in ends(start(tiny_config, workdir, environment))] == [0, 0]
    return workdir


def assert_goes_on(config: Path, workdir: Path, environment: Mapping[str, str], undisturbed: Path) -> None:
    """The same command, in both processes, to the end, bit for bit."""
    (code, _, err), (other, _, _) = ends(start(config, workdir, environment))
    assert (code, other, err) == (0, 0, "")
    for name in ("model/model.safetensors", "best.safetensors"):
        found, wanted = (load_file(folder / name) for folder in (workdir, undisturbed))
        assert found.keys() == wanted.keys()
        assert all(array.tobytes() == wanted[path].tobytes() for path, array in found.items()), name
    kept = ("step", "loss", "gradient_norm", "plan", "dev", "best")
    ours, theirs = ([{key: line.get(key) for key in kept} for line in lines(each)] for each in (workdir, undisturbed))
    assert ours == theirs


@pytest.mark.system
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_stops_all_after_one_step(
    tmp_path: Path, tiny_config: Path, environment: Mapping[str, str], number: signal.Signals
) -> None:
    """SIGTERM to the one, Ctrl-C to the other: both are told to JAX as SIGTERM."""
    workdir, asked = tmp_path / "run", int(number == signal.SIGTERM)
    both = start(tiny_config, workdir, environment, changes=LONG)
    wait_for_step(workdir, 10, both)
    os.kill(both[asked].pid, number)
    (code, out, err), (other_code, other_out, other_err) = ends(both)
    assert code == other_code == 128 + signal.SIGTERM
    steps = [line["step"] for line in lines(workdir) if "dev" not in line]
    assert steps == list(range(1, len(steps) + 1))
    saved = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert saved == steps[-1]
    assert out.endswith(f"\nstopped at step {saved}, state saved; the same command goes on from there\n")
    # That one or the other was asked JAX says from C++.
    told = [line for line in (err if asked == 0 else other_err).splitlines() if "SIGTERM caught" not in line]
    assert [line for line in told if line and "stopping after this step" not in line] == []
    assert other_out == "" and (other_err == "" or asked == 1)
    assert ("mtret: stopping after this step" in err) == (number == signal.SIGINT)


LOSSES = [(0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGSTOP)]
CASES = [(*loss, place) for loss in LOSSES for place in PLACES]
# One of each; all of them take seven minutes: MTRET_ALL_LOSSES=1.
FEW = [(1, signal.SIGKILL, "step"), (0, signal.SIGKILL, "evaluation"), (1, signal.SIGSTOP, "save")]


@pytest.mark.system
@pytest.mark.parametrize(
    ("victim", "number", "place"),
    CASES if os.environ.get("MTRET_ALL_LOSSES") else FEW,
    ids=lambda value: value.name if isinstance(value, signal.Signals) else str(value),
)
def test_a_lost_process_ends_the_other_and_the_same_command_goes_on(
    tmp_path: Path, tiny_config: Path, environment: Mapping[str, str], undisturbed: Path,
    victim: int, number: signal.Signals, place: str,
) -> None:  # fmt: skip
    workdir, timeout_s = tmp_path / "run", 8
    struck = {victim: f"{PLACES[place]} {int(number)}"}
    both = start(tiny_config, workdir, environment, timeout_s=timeout_s, struck=struck)
    lost, other = both[victim], both[1 - victim]
    if number == signal.SIGKILL:
        assert lost.wait(120) == -number
    else:
        assert os.WIFSTOPPED(os.waitpid(lost.pid, os.WUNTRACED)[1])
    began = time.monotonic()
    out, err = other.communicate(timeout=120)
    took = time.monotonic() - began
    lost.kill()
    told, _ = lost.communicate()
    assert other.returncode not in (0, None), out + err
    assert took < 3 * timeout_s, (took, err)
    assert "if a process is lost, JAX ends the others within 8 s" in (told if victim == 0 else out)
    assert_goes_on(tiny_config, workdir, environment, undisturbed)


def test_processes_that_train_different_things_are_told_in_which_part(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(name: str, value: Any) -> Any:
        return {**value, "config": {**value["config"], "seed": 5}, "data": {"alpha": "other"}}

    identity = {"config": {"seed": 0, "suite": "x"}, "data": {"alpha": "one"}, "weights_sha256": "", "source": {}}
    check_same(identity)
    monkeypatch.setattr("mtret.runs.identity.broadcast", told)
    with pytest.raises(UserError, match=r"process 0 .* than process 0: config.seed: 0, there 5 \(and 1 more\); start"):
        check_same(identity)


@pytest.mark.system
def test_a_run_goes_on_with_other_devices(
    tmp_path: Path, tiny_config: Path, environment: Mapping[str, str], console: Console
) -> None:
    """From eight devices, in twos of four parts, to four with whole copies."""
    config = read_config(str(tiny_config))
    before = tmp_path / "before"
    train(replace(config, mesh=replace(config.mesh, state_shards=4)), before, console)
    assert "mesh: 2 data x 4 state" in console.export_text()
    after = Path(shutil.copytree(before, tmp_path / "after"))
    shutil.rmtree(after / "model")
    shutil.rmtree(after / "checkpoints" / "6")
    ((code, out, err),) = ends(start(tiny_config, after, environment, count=1, devices=4))
    assert (code, err) == (0, "")
    assert "\nresumed at step 4\n" in out and "\nmesh: 4 data x 1 state\n" in out
    assert_same_course(lines(after), lines(before))
