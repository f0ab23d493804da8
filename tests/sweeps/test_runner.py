"""Workers that share a sweep's folder do each run once; with a stand-in for training and evaluation."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mtret.errors import UserError
from mtret.run_config import RunConfig, build
from mtret.runs.protocol import EvaluationConfig
from mtret.sweeps.definition import Runs, SweepRun
from mtret.sweeps.leases import Lease, LeaseLost, take
from mtret.sweeps.runner import check_folder, is_finished, note, work_off
from mtret.train.loop import Stopped

QUIET = Console(quiet=True)


def sweep_of(count: int, steps: int = 5) -> Runs:
    runs = tuple(
        SweepRun(f"s{n}", seed, build(RunConfig, {"seed": seed, "loop": {"steps": steps + n}}, ""))
        for n in range(count)
        for seed in (0, 1)
    )
    return Runs(runs, "s0", EvaluationConfig(split="test"))


def finish(run: SweepRun, folder: Path) -> None:
    (folder / "test").mkdir(parents=True, exist_ok=True)
    (folder / "test" / "results.json").write_text(run.name, encoding="utf-8")


def test_what_is_finished_is_left_and_what_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    runs, seen = sweep_of(2), list[str]()
    finish(runs.every[1], tmp_path / runs.every[1].name)

    def work(run: SweepRun, folder: Any, lease: Lease) -> None:
        seen.append(run.name)
        lease.check()
        if run.name == "s0/seed0":
            raise UserError("no such\nsuite")
        if run.name == "s1/seed0":
            raise RuntimeError("RESOURCE_EXHAUSTED: 9 TiB\nof them")
        finish(run, folder)

    outcome = work_off(runs.every, "test", tmp_path, work, QUIET)
    assert seen == ["s0/seed0", "s1/seed0", "s1/seed1"]
    place = tmp_path / "s1" / "seed0.error.txt"
    assert outcome.done == seen[2:] and outcome.failed == {
        "s0/seed0": "no such suite",
        "s1/seed0": f"RuntimeError: RESOURCE_EXHAUSTED: 9 TiB ({place})",
    }
    assert "in work\n" in place.read_text(encoding="utf-8")
    assert [is_finished(tmp_path, run, "test") for run in runs.every] == [False, True, False, True]


def test_a_stop_ends_the_worker_and_gives_its_run_up(tmp_path: Path) -> None:
    runs = sweep_of(1)

    def work(run: SweepRun, folder: Any, lease: Lease) -> None:
        raise Stopped(3, signal.SIGTERM)

    with pytest.raises(Stopped):
        work_off(runs.every, "test", tmp_path, work, QUIET)
    assert take(tmp_path / ".leases" / "s0" / "seed0") is not None


def test_a_lost_run_is_left_to_the_one_who_has_it(tmp_path: Path) -> None:
    runs, asked = sweep_of(1), list[str]()

    def work(run: SweepRun, folder: Any, lease: Lease) -> None:
        asked.append(run.name)
        finish(run, folder)  # by the other
        raise LeaseLost("lost")

    outcome = work_off(runs.every, "test", tmp_path, work, QUIET)
    assert not outcome.done and not outcome.failed and asked == ["s0/seed0", "s0/seed1"]


def test_a_folder_belongs_to_one_sweep(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    check_folder(out, sweep_of(1))
    note(out, sweep_of(1))
    check_folder(out, sweep_of(3))
    note(out, sweep_of(3))  # more runs are no other sweep
    check_folder(out, sweep_of(1))
    note(out, sweep_of(1))
    assert len(json.loads((out / "sweep.json").read_text(encoding="utf-8"))["runs"]) == 6
    with pytest.raises(UserError, match=r"another sweep: in run 's0/seed0', loop\.steps: 6, there 5; use another"):
        check_folder(out, sweep_of(1, steps=6))
    (out / "sweep.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"sweep\.json: is damaged"):
        check_folder(out, sweep_of(1))
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / ".sweep.json.1f").write_text("{", encoding="utf-8")  # by another worker, at this moment
    check_folder(tmp_path / "begun", sweep_of(1))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="is not empty and holds no sweep"):
        check_folder(tmp_path / "other", sweep_of(1))


def _worker(out: Path, number: int) -> None:
    """Writes down when it begins and ends a run; takes its time."""

    def work(run: SweepRun, folder: Any, lease: Lease) -> None:
        def write(what: str) -> None:
            line = f"{time.monotonic()} {what} {run.name} {os.getpid()}\n"
            with (out / "log").open("a", encoding="utf-8") as log:  # appended whole
                log.write(line)

        write("begins")
        time.sleep(random.Random(number).uniform(0.001, 0.01))
        lease.check()
        write("ends")
        finish(run, folder)

    work_off(sweep_of(3).every, "test", out, work, QUIET, wait_s=0.005)


def rounds(place: Path, seed: int) -> None:
    """Ten times: four workers, of which two are killed; `killed.json` says when."""
    draw, fork = random.Random(seed), multiprocessing.get_context("fork")
    for number in range(10):
        out = place / f"{number}"
        out.mkdir()
        workers = [fork.Process(target=_worker, args=(out, 100 * number + n)) for n in range(4)]
        for worker in workers:
            worker.start()
        killed: dict[str, float] = {}
        for worker in workers[:2]:
            time.sleep(draw.uniform(0, 0.03))
            assert worker.pid is not None
            killed[str(worker.pid)] = time.monotonic()
            os.kill(worker.pid, signal.SIGKILL)
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers[2:]] == [0, 0]
        (out / "killed.json").write_text(json.dumps(killed), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.system) for seed in (1, 2, 3))])
def test_workers_that_are_killed_at_random_do_every_run_once_and_never_two_at_a_time(tmp_path: Path, seed: int) -> None:
    # In a process without threads, which can fork: this one may have those of JAX.
    subprocess.run([sys.executable, __file__, str(tmp_path), str(seed)], check=True, timeout=200)
    for out in tmp_path.iterdir():
        assert all(is_finished(out, run, "test") for run in sweep_of(3).every)
        killed = json.loads((out / "killed.json").read_text(encoding="utf-8"))
        lines = [line.split() for line in (out / "log").read_text(encoding="utf-8").splitlines()]
        begun: dict[str, str] = {}
        for at, what, name, process in sorted(lines, key=lambda line: float(line[0])):
            # One that was killed before it had written its results is done again, once that is so.
            before = begun.get(name, process)
            assert before == process or float(at) >= killed.get(before, float("inf")), (name, before, process)
            assert what == "begins" or name in begun
            begun[name] = process


if __name__ == "__main__":
    rounds(Path(sys.argv[1]), int(sys.argv[2]))
