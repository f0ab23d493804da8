"""The loop's parts, and the loop itself over a toy step: what it logs, keeps and saves, and how it stops."""

import json
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from mtret.data.packing import Packing
from mtret.data.pipeline import Loaded
from mtret.data.planning import Plan
from mtret.data.shapes import Shape
from mtret.errors import UserError
from mtret.files import read_arrays, read_metadata
from mtret.train.checkpoint import Checkpoints
from mtret.train.loop import Best, Loop, LoopConfig, MetricsFile, Sinks, Stopped, StopRequest
from mtret.train.step import TrainState
from mtret.types import PairBatch, TokenBatch


class Watcher:
    """Keeps what it is shown; `then` is called with each step's number."""

    def __init__(self, then: Callable[[int], None] = lambda step: None):
        self.steps: list[Mapping[str, Any]] = []
        self.devs: list[tuple[int, float, bool]] = []
        self.then = then

    def step(self, values: Mapping[str, Any]) -> None:
        self.steps.append(values)
        self.then(values["step"])

    def dev(self, step: int, scores: Mapping[str, float], best: bool) -> None:
        self.devs.append((step, scores["mean"], best))


class Events:
    def __init__(self) -> None:
        self.scalars: list[tuple[str, float, int]] = []
        self.flushed = 0

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def flush(self) -> None:
        self.flushed = len(self.scalars)


def plan_at(step: int) -> Plan:
    none = np.zeros((1, 1), np.int32)
    packing = Packing(np.zeros(1, np.int64), np.zeros(1, np.int64), 1)
    shape = Shape(1 + step % 2, 8)
    texts = {"drawn": np.arange(3), "positive": np.zeros((3, 1), np.int64), "queries": none, "documents": none}
    rest = {"packings": (packing,), "document_packings": (), "needed": shape, "tokens": 30, "generic": False}
    return Plan(step=step, task=step % 2, target=none, masked=none, shape=shape, slots=40, **texts, **rest)


def batch() -> PairBatch:
    ids, column, ok = jnp.zeros((1, 1, 1, 2), jnp.int32), jnp.zeros((1, 1), jnp.int32), jnp.ones(1, bool)
    return PairBatch(
        TokenBatch(ids, ids, ids, ids.astype(jnp.float32)), None, column, column, ok, ok, jnp.ones(2, int), jnp.int32(0)
    )


def toy_step(rows: int, bad: Collection[int] = ()) -> Callable[[TrainState, PairBatch], tuple[TrainState, Array]]:
    """Adds `rows` to the only parameter; loss is the step's number plus a half, or not finite at `bad` steps."""

    def step(state: TrainState, batch: PairBatch) -> tuple[TrainState, Array]:
        params = {"tower": {"x": state.params["tower"]["x"] + rows}, "log_scale": state.params["log_scale"]}
        skipped = state.skipped + int(int(state.step) in bad)
        loss = jnp.float32(np.nan) if int(state.step) in bad else state.step + 0.5
        others = [jnp.float32(0.25), jnp.float32(2.0), jnp.float32(0.05), skipped.astype(jnp.float32)]
        return TrainState(state.step + 1, params, state.opt_state, skipped), jnp.stack([loss, *others])

    return step


def toy_state(step: int = 0, x: float = 0.0) -> TrainState:
    params = {"tower": {"x": jnp.float32(x)}, "log_scale": jnp.float32(3.0)}
    return TrainState(jnp.int32(step), params, jnp.zeros(1), jnp.int32(0))


class Run:
    """A loop of `config` in a folder, with scores of the dev sample by step (None: no dev sample)."""

    def __init__(
        self,
        folder: Path,
        config: LoopConfig,
        scores: Mapping[int, float] | None = None,
        then: Callable[[int], None] = lambda step: None,
        first: int = 0,
        bad: Collection[int] = (),
    ):
        self.watcher, self.events = Watcher(then), Events()
        self.asked: list[float] = []
        self.skipped: list[int] = []
        self.file = MetricsFile(folder / "metrics.jsonl", first)
        self.sinks = Sinks(self.file, self.events, self.watcher, ("alpha", "beta"))
        self.checkpoints = Checkpoints(folder / "checkpoints", config.keep_checkpoints)
        self.best = Best(folder / "best.safetensors")

        def evaluate(params: Any) -> dict[str, float]:
            assert scores is not None
            self.asked.append(float(params["tower"]["x"]))
            mean = scores[len(self.asked) - 1]
            return {"mean": mean, "alpha": mean}

        def batches(first: int) -> Iterator[Loaded]:
            return (Loaded(plan_at(step), batch()) for step in range(first, config.steps))

        self.loop = Loop(
            config, {Shape(rows, 8): toy_step(rows, bad) for rows in (1, 2)}, batches, self.checkpoints, self.best,
            self.sinks, None if scores is None else evaluate, lambda plan: self.skipped.append(plan.step),
        )  # fmt: skip

    def close(self) -> None:
        self.file.close()
        self.checkpoints.close()


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("log_every", [1, 3])
def test_steps_that_are_not_finite_are_found_and_counted(tmp_path: Path, log_every: int) -> None:
    """Also those between two logged steps."""
    config = LoopConfig(steps=9, log_every=log_every, evaluate_every=9, checkpoint_every=9, skip_limit=3)
    run = Run(tmp_path, config, bad=(1, 2, 6))
    state = run.loop.run(toy_state())
    run.close()
    assert run.skipped == [1, 2, 6] and int(state.skipped) == 3 and int(state.step) == 9
    logged = {line["step"]: line for line in lines(tmp_path)}
    assert logged[9]["skipped"] == 3 and logged[9]["loss"] == 8.5
    if log_every == 1:
        assert logged[3]["loss"] is None and logged[1]["skipped"] == 0
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")


def test_too_many_steps_that_are_not_finite_end_the_run_with_the_state_saved(tmp_path: Path) -> None:
    config = LoopConfig(steps=9, evaluate_every=9, checkpoint_every=9, skip_limit=1)
    run = Run(tmp_path, config, bad=(1, 3, 4, 5))
    with pytest.raises(UserError, match=r"stopped at step 5, state saved: 2 steps .* loop.skip_limit=1; .* step 4\. "):
        run.loop.run(toy_state())
    run.close()
    assert run.skipped == [1, 3]
    kept = Checkpoints(tmp_path / "checkpoints", 2)
    assert kept.steps() == [5]
    kept.close()


def test_every_step_is_logged_one_step_late_but_as_itself(tmp_path: Path) -> None:
    run = Run(tmp_path, LoopConfig(steps=4, evaluate_every=9, checkpoint_every=9))
    state = run.loop.run(toy_state())
    run.close()
    assert int(state.step) == 4
    assert float(state.params["tower"]["x"]) == 1 + 2 + 1 + 2
    logged = lines(tmp_path)
    assert [line["step"] for line in logged] == [1, 2, 3, 4]
    assert [line["loss"] for line in logged] == [0.5, 1.5, 2.5, 3.5]
    assert [line["task"] for line in logged] == ["alpha", "beta", "alpha", "beta"]
    assert [line["plan"] for line in logged] == [plan_at(step).digest for step in range(4)]
    first = logged[0]
    assert {k: first[k] for k in ("accuracy", "gradient_norm", "pairs", "tokens", "fill")} == {
        "accuracy": 0.25, "gradient_norm": 2.0, "pairs": 3, "tokens": 30, "fill": 0.75,
    }  # fmt: skip
    assert first["tokens_per_s"] / first["pairs_per_s"] == pytest.approx(10)
    assert run.watcher.steps == logged
    losses = [(value, step) for name, value, step in run.events.scalars if name == "train/loss"]
    assert losses == [(0.5, 1), (1.5, 2), (2.5, 3), (3.5, 4)]
    assert [(v, s) for name, v, s in run.events.scalars if name == "loss/beta"] == [(1.5, 2), (3.5, 4)]


def test_where_steps_are_done_when_they_return_the_speed_of_each_is_its_own(tmp_path: Path) -> None:
    seconds = [0.0, 0.5, 0.0, 0.5]

    def slow(state: TrainState, batch: PairBatch) -> tuple[TrainState, Array]:
        time.sleep(seconds[int(state.step)])
        return toy_step(1)(state, batch)

    run = Run(tmp_path, LoopConfig(steps=4, evaluate_every=9, checkpoint_every=9))
    replace(run.loop, steps={Shape(rows, 8): slow for rows in (1, 2)}, at_once=True).run(toy_state())
    run.close()
    found = [line["pairs"] / line["pairs_per_s"] for line in lines(tmp_path)]
    assert min(found[1], found[3]) >= 0.5 > max(found[0], found[2])


@pytest.mark.parametrize(("every", "logged"), [(1, [1, 2, 3, 4, 5, 6, 7]), (3, [3, 6]), (5, [5])])
def test_metrics_are_fetched_for_logged_steps_only(tmp_path: Path, every: int, logged: list[int]) -> None:
    run = Run(
        tmp_path, LoopConfig(steps=7, log_every=every, evaluate_every=4, checkpoint_every=2), {0: 0.1, 1: 0.2, 2: 0.3}
    )
    run.loop.run(toy_state())
    run.close()
    assert run.sinks.fetches == len(logged)
    assert [line["step"] for line in lines(tmp_path) if "dev" not in line] == logged


def test_speeds_are_over_all_steps_since_the_last_line(tmp_path: Path) -> None:
    """Fill counts every step since then; so a log of every third step tells of all."""
    run = Run(tmp_path, LoopConfig(steps=6, log_every=3, evaluate_every=9, checkpoint_every=9))
    run.loop.run(toy_state())
    run.close()
    for line in lines(tmp_path):
        assert line["fill"] == pytest.approx(0.75)
        assert 0 <= line["wait"] <= 1


def test_behind_the_fence_nothing_is_written(tmp_path: Path) -> None:
    """Whoever has lost a run to another process must leave its folder as it is, whatever would be written next."""
    for last in range(8):
        folder, calls = tmp_path / f"{last}", 0
        folder.mkdir()
        config = LoopConfig(steps=4, evaluate_every=2, checkpoint_every=2)
        run = Run(folder, config, {0: 0.1, 1: 0.2, 2: 0.3})
        before: list[set[str]] = []

        def fence(last: int = last, before: list[set[str]] = before, folder: Path = folder, run: Run = run) -> None:
            nonlocal calls
            calls += 1
            if calls > last:
                run.checkpoints.wait()
                before.append(written(folder))
                raise UserError("lost")

        with pytest.raises(UserError, match="lost"):
            replace(run.loop, fence=fence, at_once=True).run(toy_state())
        run.close()
        assert before == [written(folder)]


def written(folder: Path) -> set[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {f"{path.relative_to(folder)} {path.stat().st_size}" for path in files}


def test_the_best_is_kept_and_the_first_of_equals(tmp_path: Path) -> None:
    run = Run(
        tmp_path, LoopConfig(steps=8, evaluate_every=2, checkpoint_every=8), dict(enumerate([0.2, 0.5, 0.4, 0.5, 0.3]))
    )
    run.loop.run(toy_state())
    run.close()
    assert run.asked == [0, 3, 6, 9, 12]
    assert run.watcher.devs == [(0, 0.2, True), (2, 0.5, True), (4, 0.4, False), (6, 0.5, False), (8, 0.3, False)]
    assert (run.best.step, run.best.score) == (2, 0.5)
    arrays = read_arrays(run.best.path)
    assert arrays is not None
    assert float(arrays["tower/x"]) == 3
    assert float(arrays["log_scale"]) == 3
    assert read_metadata(run.best.path) == {"step": "2", "score": "0.5"}
    assert [line["best"] for line in lines(tmp_path) if "dev" in line] == [True, True, False, False, False]


def test_a_score_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    best = Best(tmp_path / "best.safetensors")
    assert not best.offer(float("nan"), 1, lambda: toy_state().params)
    assert not best.path.exists()
    assert best.offer(0.1, 2, lambda: toy_state().params)
    assert not best.offer(float("nan"), 3, lambda: toy_state().params)
    assert best.step == 2


def test_without_a_dev_sample_the_latest_is_the_best(tmp_path: Path) -> None:
    run = Run(tmp_path, LoopConfig(steps=4, checkpoint_every=3))
    run.loop.run(toy_state())
    run.close()
    arrays = read_arrays(run.best.path)
    assert arrays is not None
    assert float(arrays["tower/x"]) == 6
    assert read_metadata(run.best.path)["step"] == "4"


def test_checkpoints_come_at_intervals_and_at_the_end_with_the_best_so_far(tmp_path: Path) -> None:
    config = LoopConfig(steps=7, evaluate_every=2, checkpoint_every=3, keep_checkpoints=9)
    run = Run(tmp_path, config, dict(enumerate([0.1, 0.9, 0.2, 0.3, 0.4])))
    run.loop.run(toy_state())
    assert run.checkpoints.steps() == [3, 6, 7]
    assert run.events.flushed == len(run.events.scalars)  # what came before a checkpoint survives a kill after it
    found = run.checkpoints.restore(toy_state(), lambda line: None)
    run.close()
    assert found is not None
    assert float(found[0].params["tower"]["x"]) == 10
    assert found[1] == {"best": {"step": 2, "score": 0.9}}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("asked_at", [1, 2, 3])
def test_a_stop_saves_first(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], number: signal.Signals, asked_at: int
) -> None:
    """Also just before, at and just after a checkpoint of its own; no step is lost from the metrics."""
    before = signal.getsignal(number)
    config = LoopConfig(steps=9, evaluate_every=9, checkpoint_every=2)

    def ask(step: int) -> None:
        if step == asked_at:
            os.kill(os.getpid(), number)

    run = Run(tmp_path, config, then=ask)
    with pytest.raises(Stopped) as stopped:
        run.loop.run(toy_state())
    assert stopped.value.signal_number == number
    done = stopped.value.step
    assert asked_at <= done <= asked_at + 1  # lines are written one step late
    assert run.checkpoints.steps()[-1] == done
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, done + 1))
    run.close()
    assert signal.getsignal(number) is before
    assert "once more to end at once" in capfd.readouterr().err

    rest = Run(tmp_path, config, first=done)
    found = rest.checkpoints.restore(toy_state(), lambda line: None)
    assert found is not None
    state = rest.loop.run(found[0])
    rest.close()
    assert float(state.params["tower"]["x"]) == 13
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 10))


def test_a_stop_during_the_last_step_ends_as_any_other_run(tmp_path: Path) -> None:
    run = Run(
        tmp_path,
        LoopConfig(steps=3, checkpoint_every=9),
        then=lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 3 else None,
    )
    assert int(run.loop.run(toy_state()).step) == 3
    assert run.checkpoints.steps() == [3]
    run.close()


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_of_either_kind_is_obeyed(first: signal.Signals) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with StopRequest() as stop:
        os.kill(os.getpid(), first)
        assert stop.signal_number == first
        assert {number: signal.getsignal(number) for number in before} == before
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert stop.signal_number is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_resumed_metrics_file_drops_what_will_be_written_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    old = [{"step": 0, "dev": {}}, {"step": 1}, {"step": 2}, {"step": 2, "dev": {}}, {"step": 3}]
    path.write_text("".join(json.dumps(line) + "\n" for line in old) + '{"step": 4, "ta', encoding="utf-8")
    file = MetricsFile(path, 2)
    file.write({"step": 3, "again": True})
    file.close()
    assert lines(tmp_path) == [*old[:4], {"step": 3, "again": True}]


def test_a_metrics_file_from_the_first_step_begins_anew(tmp_path: Path) -> None:
    """The run was killed before its first checkpoint: its step 0 will be written again as well."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "dev": {}}\n{"step": 1}\n', encoding="utf-8")
    MetricsFile(path, 0).close()
    assert lines(tmp_path) == []
