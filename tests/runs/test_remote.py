"""A run with its suite, model, cache and workdir in an object store ends bit for bit as a local one does."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtret.files import AnyPath, inside, load_arrays, locate, replace_bytes

pytestmark = [pytest.mark.slow, pytest.mark.system]

CLOCK = ("pairs_per_s", "tokens_per_s", "wait")
STEPS = 60
# Large batches of one shape, or steps would pass faster than they can be watched.
SETTINGS = (
    "batch.queries=40", "batch.row_length=256", f"loop.steps={STEPS}", "loop.checkpoint_every=10",
    "loop.evaluate_every=25", "loop.keep_weights=2",
)  # fmt: skip


def copy(source: Path, target: AnyPath) -> AnyPath:
    for path in source.rglob("*"):
        if path.is_file():
            replace_bytes(target / path.relative_to(source).as_posix(), path.read_bytes())
    return target


def fetched(source: AnyPath, target: Path) -> Path:
    from fsspec.core import url_to_fs

    store, key = url_to_fs(str(source))
    store.get(key, str(target), recursive=True)
    return target


def lines(workdir: AnyPath) -> list[dict[str, Any]]:
    """The metrics, without what depends on the clock."""
    text = (workdir / "metrics.jsonl").read_text()
    return [{key: value for key, value in json.loads(one).items() if key not in CLOCK} for one in text.splitlines()]


def orbax_arrays(folder: Path) -> dict[str, np.ndarray]:
    import jax
    import orbax.checkpoint as ocp

    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with ocp.StandardCheckpointer() as checkpointer:
        metadata = checkpointer.metadata(folder).item_metadata
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), metadata.tree)
        tree = checkpointer.restore(folder, like)
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(re.findall(r"[^\[\]'.]+", jax.tree_util.keystr(path))): np.asarray(x) for path, x in leaves}


def assert_same(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name].tobytes() != theirs[name].tobytes()] == []


def killed_after_a_checkpoint(line: list[str], environment: Mapping[str, str], workdir: AnyPath) -> int:
    """Starts a run, kills it when it has written a checkpoint, and returns the newest one's step."""
    process = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while process.poll() is None and not inside(workdir / "checkpoints"):
        time.sleep(0.1)  # the store answers in this process
    assert process.poll() is None, process.communicate()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    return max(int(path.name.removesuffix(".safetensors")) for path in inside(workdir / "checkpoints"))


def test_a_killed_run_in_a_store_ends_as_a_local_one(
    tmp_path: Path, store: str, tiny_config: Path, tiny_suite: Path, tiny_model: Path,
    environment: Mapping[str, str], command: Callable[..., subprocess.CompletedProcess[str]],
    mtret: Callable[..., tuple[int, str, str]], scalars: Callable[[Path], dict[str, list[tuple[int, float]]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    place = locate(f"{store}/whole")
    suite, model = copy(tiny_suite, place / "suite"), copy(tiny_model, place / "encoder")
    alone, workdir = tmp_path / "alone", place / "runs" / "first"
    settings = [f"--config.{one}" for one in SETTINGS]
    done = command("train", f"--config={tiny_config}", f"--workdir={alone}", *settings)
    assert (done.returncode, done.stderr) == (0, "")

    monkeypatch.setenv("MTRET_CACHE", f"{place}/cache")
    remote = {**environment, **{name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}}
    remote |= {"PYTHONPATH": environment["PYTHONPATH"]}
    line = [
        sys.executable, "-m", "mtret.cli", "train", f"--config={tiny_config}", f"--workdir={workdir}",
        f"--suite={suite}", f"--config.model.source={model}", *settings,
    ]  # fmt: skip
    newest = killed_after_a_checkpoint(line, remote, workdir)
    assert newest < STEPS
    assert lines(workdir)[-1]["step"] >= newest
    (workdir / "weights" / "step_55.safetensors").write_bytes(b"of a step that the run comes to again")

    done = subprocess.run(line, env=remote, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"\nresumed at step {newest}\n" in done.stdout
    assert f"\nmodel: {workdir}/model\nnext: mtret evaluate --model={workdir} --suite={suite}" in done.stdout

    assert {path.name for path in inside(workdir)} == {path.name for path in alone.iterdir()}
    assert lines(workdir) == lines(alone)
    assert_same(load_arrays(workdir / "best.safetensors"), load_arrays(alone / "best.safetensors"))
    for name in ("model/model.safetensors", "model/training_record.safetensors", "model/tokenizer.json"):
        assert (workdir / name).read_bytes() == (alone / name).read_bytes()
    assert [path.name for path in inside(workdir / "checkpoints")] == ["50.safetensors", "60.safetensors"]
    ours = load_arrays(workdir / "checkpoints" / f"{STEPS}.safetensors")
    assert len(ours) > 50  # parameters and both moments
    assert_same(ours, orbax_arrays(alone / "checkpoints" / str(STEPS) / "state"))
    assert [path.name for path in inside(workdir / "weights")] == ["step_50.safetensors", "step_60.safetensors"]
    for path in inside(workdir / "weights"):
        assert_same(load_arrays(path), load_arrays(alone / "weights" / path.name))
    found = scalars(fetched(workdir, tmp_path / "fetched"))
    assert {step for step, _ in found["train/loss"]} == set(range(1, STEPS + 1))
    assert dict(found["train/loss"]) == dict(scalars(alone)["train/loss"])
    assert {path.name.split("-")[0] for path in inside(place / "cache")} == {"tokens", "bm25", "vectors", "costs"}

    code, out, err = mtret(*line[3:])
    assert (code, err, f"\nall {STEPS} steps are done already\n" in out) == (0, "", True)
    for run, tasks in ((workdir, suite), (alone, tiny_suite)):
        code, out, err = mtret("evaluate", f"--model={run}", f"--suite={tasks}", "--split=test")
        assert (code, err) == (0, "")
        assert f"wrote {run}/test/results.json, queries.jsonl, report.md and results.png\n" in out
    results = [json.loads((run / "test" / "results.json").read_text()) for run in (workdir, alone)]
    for one in results:
        one["protocol"] = {key: one["protocol"][key] for key in ("weights_sha256", "suite_sha256", "step", "split")}
        for task in one["tasks"].values():
            task.pop("scann")  # holds how long it took
        one["pooled"].pop("scann")
    assert results[0] == results[1]
    assert (workdir / "test" / "results.png").read_bytes().startswith(b"\x89PNG")

    code, out, err = mtret("export", f"--model={workdir}", f"--out={place}/exported", "--step=50")
    assert (code, err) == (0, "")
    assert json.loads((place / "exported" / "mtret.json").read_text())["step"] == 50
    code, out, err = mtret("export", f"--model={workdir}", f"--out={place}/exported")
    assert (code, err.strip()) == (
        2,
        f"mtret: {place}/exported: exists already and is never overwritten; give another --out",
    )


def test_steps_that_are_not_finite_end_a_run_in_a_store_with_their_texts_listed(
    store: str, tiny_config: Path, tiny_suite: Path, mtret: Callable[..., tuple[int, str, str]]
) -> None:
    workdir = locate(f"{store}/diverging")
    settings = (
        "optim.learning_rate=1e38", "optim.warmup_steps=0", "optim.clip_norm=0.0", "loop.skip_limit=1",
        "loop.evaluate_every=6",
    )  # fmt: skip
    run = ("train", f"--config={tiny_config}", f"--workdir={workdir}", *(f"--config.{one}" for one in settings))
    code, out, err = mtret(*run)
    assert code == 2
    assert err.startswith("mtret: stopped at step ") and err.count("\n") == 1
    assert "the folder skipped" in err
    listed = [json.loads(path.read_text()) for path in inside(workdir / "skipped")]
    assert len(listed) >= 2  # what is not finite is found a step late
    for one in listed:
        text = (tiny_suite / one["task"] / "queries.jsonl").read_text(encoding="utf-8")
        there = {json.loads(line)["_id"] for line in text.splitlines()}
        assert len(one["queries"]) == 16 and set(one["queries"]) <= there
        assert f"its texts: {workdir}/skipped/step_{one['step']}.json\n" in out
    assert any(path.name.endswith(".safetensors") for path in inside(workdir / "checkpoints"))
