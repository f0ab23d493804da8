"""A run in its own process: what it writes, what it compiles and fetches, and how it goes on."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from mtret.console import TrainingBar
from mtret.errors import UserError
from mtret.model_folder.folder import load_model
from mtret.pytrees import flatten
from mtret.run_config import RunConfig, read_config
from mtret.runs import train as module
from mtret.runs.export import export
from mtret.runs.train import train
from mtret.train.loop import LoopConfig, Sinks

pytestmark = pytest.mark.slow  # a whole run is compiled first

Mtret = Callable[..., tuple[int, str, str]]
Tree = Callable[[Path], dict[str, bytes]]
Scalars = Callable[[Path], dict[str, list[tuple[int, float]]]]


@pytest.fixture
def config(tiny_config: Path) -> RunConfig:
    return read_config(str(tiny_config))


def lines(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def steps(workdir: Path) -> list[dict[str, Any]]:
    """The lines of steps, less what depends on the clock."""
    clock = ("pairs_per_s", "tokens_per_s", "wait")
    return [{k: v for k, v in line.items() if k not in clock} for line in lines(workdir) if "dev" not in line]


def dev(workdir: Path) -> list[dict[str, Any]]:
    return [line for line in lines(workdir) if "dev" in line]


def same_arrays(a: Path, b: Path) -> bool:
    ours, theirs = load_file(a), load_file(b)
    return ours.keys() == theirs.keys() and all(ours[name].tobytes() == theirs[name].tobytes() for name in ours)


def test_a_run_leaves_a_complete_record(finished: Path, config: RunConfig) -> None:
    assert sorted(path.name for path in finished.iterdir()) == [
        "best.safetensors", "checkpoints", "config.json", "curves.png", "events", "metrics.jsonl", "model",
        "summary.json", "words.safetensors",
    ]  # fmt: skip
    assert [line["step"] for line in steps(finished)] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in dev(finished)] == [0, 3, 6]
    assert {line["task"] for line in steps(finished)} == {"alpha", "beta"}
    for line in steps(finished):
        assert line["pairs"] == 16
        assert 0 < line["fill"] <= 1
        assert 0 < line["loss"] < 10
        assert line["temperature"] == pytest.approx(0.05)
    there = json.loads((finished / "config.json").read_text(encoding="utf-8"))
    assert set(there["data"]) == {"alpha", "beta"}
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == ["4", "6"]


def test_a_run_says_what_it_depended_on_and_what_it_cost(finished: Path) -> None:
    there = json.loads((finished / "config.json").read_text(encoding="utf-8"))
    assert len(there["data_sha256"]) == 64
    (start,) = there["starts"]
    assert start["versions"]["jax"] == jax.__version__
    assert start["devices"] == {
        "platform": "cpu", "kind": "cpu", "count": 8, "processes": 1, "cpu_cores": os.cpu_count(),
    }  # fmt: skip
    assert 0 <= (datetime.now(UTC) - datetime.fromisoformat(start["time"])).total_seconds() < 3600
    assert start["command"].startswith(Path(sys.argv[0]).name)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    assert start["git"] is None or start["git"].removesuffix(" with changes") == commit
    cost = json.loads((finished / "summary.json").read_text(encoding="utf-8"))
    logged = [line for line in lines(finished) if "dev" not in line]
    assert cost["steps"] == len(logged) == 6
    seconds = sum(line["pairs"] / line["pairs_per_s"] for line in logged)
    assert cost["seconds"] == pytest.approx(seconds, abs=0.01)
    assert cost["pairs_per_s"] == pytest.approx(sum(line["pairs"] for line in logged) / seconds)
    assert cost["tokens_per_s"] == pytest.approx(sum(line["tokens"] for line in logged) / seconds)
    assert 0 <= cost["wait"] < 1 and 0 < cost["fill"] <= 1
    assert cost["peak_memory_bytes"] > 50 * 2**20
    assert cost["flops_per_s"] > 0 and cost["utilisation"] is None  # a run of seconds measures no rates
    assert (cost["first_step"], cost["last_step"], cost["skipped_steps"]) == (1, 6, 0)
    made = cost["compilations"]
    assert made["count"] >= cost["shapes"] and 0 <= made["cached"] <= made["count"] and made["seconds"] > 0


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, tiny_config: Path) -> tuple[Path, Sinks]:
    """A run of eight steps, of which the fifth is logged, with a trace."""
    config = read_config(str(tiny_config))
    config = replace(config, loop=LoopConfig(steps=8, log_every=5, evaluate_every=8, checkpoint_every=8))
    made: list[Sinks] = []
    workdir = tmp_path_factory.mktemp("runs") / "traced"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "Sinks", lambda *arguments: made.append(Sinks(*arguments)) or made[0])
        train(config, workdir, Console(file=io.StringIO()), profile=True)
    return workdir, made[0]


def test_a_trace_is_written_where_one_is_asked_for(traced: tuple[Path, Sinks], finished: Path) -> None:
    assert list((traced[0] / "profile").rglob("*.xplane.pb"))
    assert not (finished / "profile").exists()


def test_tensorboard_gets_what_the_metrics_file_gets(finished: Path, scalars: Scalars) -> None:
    found = scalars(finished)
    for name in ("loss", "accuracy", "gradient_norm", "pairs_per_s", "tokens_per_s", "fill", "wait"):
        written = [(line["step"], line[name]) for line in lines(finished) if "dev" not in line]
        assert [step for step, _ in found[f"train/{name}"]] == [step for step, _ in written]
        np.testing.assert_allclose([v for _, v in found[f"train/{name}"]], [v for _, v in written], rtol=1e-6)
    assert [step for step, _ in found["dev/alpha"]] == [0, 3, 6]
    by_task = [line["step"] for line in steps(finished) if line["task"] == "beta"]
    assert [step for step, _ in found["loss/beta"]] == by_task


def test_the_best_parameters_become_the_model(finished: Path) -> None:
    scores = {line["step"]: line["dev"]["mean"] for line in dev(finished)}
    best = max(scores, key=lambda step: (scores[step], -step))
    assert best > 0  # or the rest would show nothing of the training
    for line in dev(finished):
        assert line["dev"]["mean"] == pytest.approx((line["dev"]["alpha"] + line["dev"]["beta"]) / 2)
        assert line["best"] == all(line["dev"]["mean"] > scores[step] for step in scores if step < line["step"])
    model = load_model(str(finished))
    assert model.details["step"] == best
    kept = load_file(finished / "best.safetensors")
    name = "encoder/layer/0/output/dense/kernel"
    ours = model.encoder.params["encoder"]["layer"]["0"]["output"]["dense"]["kernel"]
    np.testing.assert_array_equal(ours, kept[f"tower/{name}"])


def test_first_lines_say_what_is_trained(tmp_path: Path, config: RunConfig, console: Console) -> None:
    train(replace(config, loop=replace(config.loop, steps=1)), tmp_path / "run", console)
    said = console.export_text().splitlines()
    assert said[0].startswith("device: CPU, ")
    for words in (
        "2 tasks of 2 families: article, table",
        "80 distinct queries, 80 pairs",
        "batch 16 queries, 1 positive(s) and 0 hard negatives each, at most 24/32 tokens, in 8 shard(s)",
    ):
        assert words in said
    assert any(line.startswith("1 shape(s), rows x tokens (steps): ") for line in said)
    assert any(line.startswith("compiled 1 shape(s) in ") for line in said)
    assert any(line.startswith("training 1/1  loss ") for line in said)


def test_the_remedy_for_an_unseen_gpu_is_shown_whole(
    tmp_path: Path, config: RunConfig, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brackets are markup to rich, which would swallow the name of the extra."""
    monkeypatch.setattr("mtret.devices._has_nvidia_gpu", lambda: True)
    with pytest.raises(UserError):
        train(replace(config, suite=""), tmp_path / "run", console)
    assert "pip install 'mtret[cuda]'" in console.export_text()


def test_one_small_fetch_for_each_logged_step(traced: tuple[Path, Sinks]) -> None:
    workdir, sinks = traced
    assert sinks.fetches == 1
    assert [line["step"] for line in steps(workdir)] == [5]


def test_a_finished_run_is_left_as_it_is(
    tmp_path: Path, finished: Path, config: RunConfig, console: Console, tree: Tree
) -> None:
    """Also where what it could be made from again is gone."""
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    (workdir / "best.safetensors").unlink()
    before = tree(workdir)
    assert train(config, workdir, console) == workdir / "model"
    assert tree(workdir) == before
    assert "all 6 steps are done already" in console.export_text()


def test_a_run_that_lacks_only_its_model_writes_the_same(
    unfinished: Path, finished: Path, config: RunConfig, console: Console, tree: Tree
) -> None:
    train(config, unfinished, console)
    assert tree(unfinished / "model") == tree(finished / "model")
    assert "compiled" not in console.export_text()


def damage(checkpoint: Path) -> None:
    for path in (checkpoint / "state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:20])


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    unfinished: Path, finished: Path, config: RunConfig, console: Console, tree: Tree
) -> None:
    """With a torn last line of metrics beside it: as a crash of the machine would leave them."""
    damage(unfinished / "checkpoints" / "6")
    with (unfinished / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 7, "task": "al')
    train(config, unfinished, console)
    said = console.export_text()
    assert "checkpoint 6 is damaged" in said
    assert "resumed at step 4" in said
    assert steps(unfinished) == steps(finished)
    assert dev(unfinished) == dev(finished)
    assert tree(unfinished / "model") == tree(finished / "model")
    assert same_arrays(unfinished / "best.safetensors", finished / "best.safetensors")
    assert sorted(path.name for path in (unfinished / "checkpoints").iterdir()) == ["4", "6"]


def test_no_checkpoint_left_is_said(unfinished: Path, config: RunConfig, console: Console) -> None:
    for step in (4, 6):
        damage(unfinished / "checkpoints" / str(step))
    with pytest.raises(
        UserError, match=r"checkpoints: none of the checkpoints \[4, 6\] can be read; use a new workdir"
    ):
        train(config, unfinished, console)


@pytest.mark.parametrize("content", [None, b"torn"])
def test_a_lost_best_is_said_and_never_mistaken(
    unfinished: Path, config: RunConfig, console: Console, content: bytes | None
) -> None:
    best = unfinished / "best.safetensors"
    best.unlink() if content is None else best.write_bytes(content)
    train(config, unfinished, console)
    assert f"{best} is missing or damaged: the best of steps 0 to 6 is lost" in console.export_text()
    assert load_model(str(unfinished)).details["step"] == 6


def test_a_best_that_cannot_be_read_for_now_is_not_given_up(
    unfinished: Path, config: RunConfig, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither when a run goes on nor at its end: the latest parameters would pass for the best."""

    def out_of_reach(path: Path) -> None:
        raise TimeoutError(110, "timed out", str(path))

    with monkeypatch.context() as patch, pytest.raises(TimeoutError):
        patch.setattr(module, "load_arrays", out_of_reach)
        train(config, unfinished, console)
    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"best.safetensors: cannot be read; .* again"):
        patch.setattr(module, "read_arrays", lambda path: None)
        train(config, unfinished, console)
    assert not (unfinished / "model").exists()
    train(config, unfinished, console)
    assert load_model(str(unfinished)).details["step"] == read_best_step(unfinished)


def read_best_step(workdir: Path) -> int:
    return max((line for line in dev(workdir) if line["best"]), key=lambda line: line["step"])["step"]


def test_a_run_of_an_older_version_is_exported_but_not_gone_on_with(
    unfinished: Path, finished: Path, config: RunConfig, console: Console, tmp_path: Path, tree: Tree
) -> None:
    for workdir in (unfinished, shutil.copytree(finished, tmp_path / "finished")):
        path = workdir / "config.json"
        there = json.loads(path.read_text(encoding="utf-8"))
        del there["starts"], there["config"]["loss"]["dimensions"], there["config"]["loop"]["keep_weights"]
        path.write_text(json.dumps(there), encoding="utf-8")
    export(unfinished, tmp_path / "exported")
    assert tree(tmp_path / "exported").keys() == tree(finished / "model").keys()
    with pytest.raises(UserError, match=r"was begun by an older mtret, whose batches were others; use another"):
        train(config, unfinished, console)
    assert train(config, tmp_path / "finished", console) == tmp_path / "finished" / "model"


def test_a_run_killed_before_its_first_checkpoint_begins_anew(
    unfinished: Path, finished: Path, config: RunConfig, console: Console, tree: Tree
) -> None:
    """Nothing stands twice in its metrics, and TensorBoard is told to drop what was there."""
    shutil.rmtree(unfinished / "checkpoints")
    train(config, unfinished, console)
    assert [line["step"] for line in lines(unfinished)] == [line["step"] for line in lines(finished)]
    assert tree(unfinished / "model") == tree(finished / "model")


def test_without_dev_splits_the_latest_parameters_are_the_best(
    tmp_path: Path, config: RunConfig, tiny_suite: Path, console: Console
) -> None:
    suite = tmp_path / "suite"
    shutil.copytree(tiny_suite, suite)
    for path in suite.glob("*/qrels/dev.tsv"):
        if (path.parent / "train.tsv").exists():
            path.unlink()
    workdir = tmp_path / "run"
    config = replace(config, suite=str(suite), loop=replace(config.loop, log_every=100))
    train(config, workdir, console)
    assert dev(workdir) == []
    assert not (workdir / "curves.png").exists()  # nothing was logged, and that is not a reason to lose the model
    assert load_model(str(workdir)).details["step"] == 6
    shutil.rmtree(workdir / "model")
    assert load_model(str(export(workdir, tmp_path / "out"))).details["step"] == 6


@pytest.mark.system
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_says_how_to_go_on_and_does(
    tmp_path: Path, tiny_config: Path, finished: Path, mtret: Mtret, monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:  # fmt: skip
    class Stopping(TrainingBar):
        def step(self, values: Mapping[str, Any]) -> None:
            super().step(values)
            if values["step"] == 2:
                os.kill(os.getpid(), number)

    workdir = tmp_path / "run"
    run = ("train", f"--config={tiny_config}", f"--workdir={workdir}")
    with monkeypatch.context() as patch:
        patch.setattr(module, "TrainingBar", Stopping)
        code, out, err = mtret(*run)
    assert code == 128 + number
    assert "\nstopped at step 2, state saved; the same command goes on from there\n" in out
    assert err.strip() == "mtret: stopping after this step, the state is saved first; once more to end at once"
    assert not (workdir / "model").exists()
    code, out, err = mtret(*run)
    assert (code, err) == (0, "")
    assert "\nresumed at step 2\n" in out
    assert steps(workdir) == steps(finished)
    assert dev(workdir) == dev(finished)
    assert same_arrays(workdir / "model" / "model.safetensors", finished / "model" / "model.safetensors")
    assert len(json.loads((workdir / "config.json").read_text(encoding="utf-8"))["starts"]) == 2
    cost = json.loads((workdir / "summary.json").read_text(encoding="utf-8"))
    assert (cost["first_step"], cost["last_step"], cost["steps"]) == (3, 6, 4)


def test_export_before_the_end_and_after(unfinished: Path, finished: Path, tmp_path: Path, tree: Tree) -> None:
    before = tree(unfinished)
    export(unfinished, tmp_path / "early")
    export(finished, tmp_path / "late")
    assert tree(tmp_path / "early") == tree(tmp_path / "late") == tree(finished / "model")
    assert tree(unfinished) == before


@pytest.mark.system
def test_parameters_of_the_last_checkpoints_are_kept_apart(
    tmp_path: Path, config: RunConfig, finished: Path, console: Console, tree: Tree, mtret: Mtret
) -> None:
    keeping = replace(config, loop=replace(config.loop, keep_weights=2, keep_checkpoints=3))
    workdir = tmp_path / "run"
    train(keeping, workdir, console)
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["2", "4", "6"]
    kept = tree(workdir / "weights")
    assert list(kept) == ["step_4.safetensors", "step_6.safetensors"]
    assert not (finished / "weights").exists()

    shutil.rmtree(workdir / "model")
    for step in ("4", "6"):
        damage(workdir / "checkpoints" / step)
    train(keeping, workdir, console)
    assert "resumed at step 2" in console.export_text()
    assert tree(workdir / "weights") == kept

    code, _, err = mtret("export", f"--model={workdir}", f"--out={tmp_path / 'four'}", "--step=4")
    assert (code, err) == (0, "")
    four = load_model(str(tmp_path / "four"))
    assert four.details["step"] == 4
    for path, value in flatten(four.encoder.params).items():
        np.testing.assert_array_equal(value, load_file(workdir / "weights" / "step_4.safetensors")[f"tower/{path}"])
    code, _, err = mtret("export", f"--model={workdir}", f"--out={tmp_path / 'two'}", "--step=2")
    assert (code, err.strip()) == (
        2, f"mtret: {workdir}: has no readable parameters of step 2; it has those of steps 4, 6"
    )  # fmt: skip
    code, _, err = mtret("export", f"--model={finished}", f"--out={tmp_path / 'two'}", "--step=2")
    assert (code, err.strip()) == (
        2, f"mtret: {finished}: has no readable parameters of step 2; it kept those of no step (loop.keep_weights)"
    )  # fmt: skip
