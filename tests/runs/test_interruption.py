"""A run that was killed, stopped and damaged ends bit for bit as one that was left alone."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

STEPS = 60
CLOCK = ("pairs_per_s", "tokens_per_s", "wait")


def lines(workdir: Path) -> list[dict[str, Any]]:
    """The metrics, without what depends on the clock; a line that is being written is left out."""
    try:
        text = (workdir / "metrics.jsonl").read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    whole = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("}\n")]
    return [{key: value for key, value in line.items() if key not in CLOCK} for line in whole]


def last_step(workdir: Path) -> int:
    return max((line["step"] for line in lines(workdir)), default=0)


def checkpoint(workdir: Path) -> Mapping[str, np.ndarray]:
    """The last checkpoint's arrays, by path."""
    import orbax.checkpoint as ocp

    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    folder = workdir / "checkpoints" / str(STEPS) / "state"
    with ocp.StandardCheckpointer() as checkpointer:
        metadata = checkpointer.metadata(folder).item_metadata
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), metadata.tree)
        tree = checkpointer.restore(folder, like)
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def assert_same(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name].tobytes() != theirs[name].tobytes()] == []


class Runs:
    """Starts the same training again and again."""

    def __init__(self, config: Path, environment: Mapping[str, str], workdir: Path):
        # Large batches, or steps would pass faster than they can be watched; in rows that hold the whole share of a
        # shard, so that there is one shape to compile.
        batch = ("batch.queries=40", "batch.row_length=256")
        loop = (f"loop.steps={STEPS}", "loop.checkpoint_every=10", "loop.evaluate_every=25")
        arguments = [
            "train",
            f"--config={config}",
            f"--workdir={workdir}",
            *(f"--config.{one}" for one in batch + loop),
        ]
        self.line = [sys.executable, "-m", "mtret.cli", *arguments]
        self.environment, self.workdir = environment, workdir

    def checkpoints(self) -> list[int]:
        folder = self.workdir / "checkpoints"
        return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.exists() else []

    def interrupt(self, number: signal.Signals) -> tuple[int, str, str]:
        """Sends a signal some steps after a new checkpoint; exit code and what was said."""
        metrics = self.workdir / "metrics.jsonl"
        before = metrics.stat().st_ino if metrics.exists() else None  # what is there yet is of the process before
        known = self.checkpoints()
        process = subprocess.Popen(
            self.line, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while process.poll() is None:
            fresh = metrics.exists() and metrics.stat().st_ino != before
            new = [step for step in self.checkpoints() if step not in known]
            if fresh and new and last_step(self.workdir) > new[0] + 3:
                break
            time.sleep(0.005)
        assert process.poll() is None, process.communicate()
        os.kill(process.pid, number)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    def to_the_end(self) -> str:
        done = subprocess.run(self.line, env=self.environment, capture_output=True, text=True, timeout=300)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout


Scalars = Callable[[Path], dict[str, list[tuple[int, float]]]]


@pytest.fixture(scope="module")
def optimised(environment: Mapping[str, str]) -> Mapping[str, str]:
    """As a user's: bits are compared here."""
    return {key: environment[key] for key in environment.keys() - {"XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS"}}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tiny_config: Path, optimised: Mapping[str, str]) -> Path:
    workdir = tmp_path_factory.mktemp("interruption") / "alone"
    Runs(tiny_config, optimised, workdir).to_the_end()
    return workdir


@pytest.fixture
def runs(tmp_path: Path, tiny_config: Path, optimised: Mapping[str, str]) -> Runs:
    return Runs(tiny_config, optimised, tmp_path / "disturbed")


def kill(runs: Runs) -> None:
    code, _, err = runs.interrupt(signal.SIGKILL)
    assert (code, err) == (-signal.SIGKILL, "")
    assert 13 < last_step(runs.workdir) < STEPS


def assert_same_end(disturbed: Path, alone: Path, scalars: Scalars) -> None:
    assert lines(disturbed) == lines(alone)  # plans, losses, dev scores
    assert (disturbed / "model/model.safetensors").read_bytes() == (alone / "model/model.safetensors").read_bytes()
    assert_same(load_file(disturbed / "best.safetensors"), load_file(alone / "best.safetensors"))
    ours, theirs = checkpoint(disturbed), checkpoint(alone)
    assert len(ours) > 50  # parameters and both moments
    assert_same(ours, theirs)
    assert {step for step, _ in scalars(disturbed)["train/loss"]} == set(range(1, STEPS + 1))
    assert dict(scalars(disturbed)["train/loss"]) == dict(scalars(alone)["train/loss"])


@pytest.mark.slow
def test_a_kill_changes_nothing_in_the_end(runs: Runs, alone: Path, scalars: Scalars) -> None:
    kill(runs)
    newest = runs.checkpoints()[-1]
    assert f"\nresumed at step {newest}\n" in runs.to_the_end()
    assert_same_end(runs.workdir, alone, scalars)


@pytest.mark.system
@pytest.mark.slow
def test_kill_stop_and_damage_change_nothing_in_the_end(runs: Runs, alone: Path, scalars: Scalars) -> None:
    kill(runs)
    newest = runs.checkpoints()[-1]
    code, out, err = runs.interrupt(signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert f"\nresumed at step {newest}\n" in out
    stopped = last_step(runs.workdir)
    assert f"\nstopped at step {stopped}, state saved; the same command goes on from there\n" in out
    assert err.strip() == "mtret: stopping after this step, the state is saved first; once more to end at once"
    saved = runs.checkpoints()
    assert newest < stopped == saved[-1] < STEPS

    for path in (runs.workdir / "checkpoints" / str(saved[-1]) / "state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:100])
    with (runs.workdir / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 200, "los')
    out = runs.to_the_end()
    assert f"checkpoint {saved[-1]} is damaged (" in out
    assert f"resumed at step {saved[-2]}\n" in out
    assert_same_end(runs.workdir, alone, scalars)
