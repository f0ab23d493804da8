"""Searches with a stand-in for training: what is proposed, shared out, ended early, gone on with and found."""

import json
import math
import multiprocessing
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mtret.errors import UserError
from mtret.files import AnyPath
from mtret.sweeps import between, choice, search, searching
from mtret.sweeps.definition import SearchPlan, SweepRun, read_sweep
from mtret.sweeps.leases import Lease, take
from mtret.sweeps.searching import _complete, note, noted, open_study, run_search
from mtret.train.loop import Stopped

QUIET = Console(quiet=True)
SPACE = """{"optim.learning_rate": between(1e-6, 1e-2, log=True), "batch.queries": choice(16, 32)}"""


def plan_of(folder: Path, space: str = SPACE, more: str = "trials=14, prune=False") -> SearchPlan:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "sweep.py"
    path.write_text(
        "from mtret.sweeps import Sweep, between, choice, search\n\n"
        "def get_sweep():\n"
        f"    config = {{'batch': {{'queries': 16}}, 'optim': {{'learning_rate': 2e-3}}}}\n"
        f"    return Sweep(config, search({space}, {more}), seeds=(7,))\n",
        encoding="utf-8",
    )
    plan = read_sweep(str(path))
    assert isinstance(plan, SearchPlan)
    return plan


def score(run: SweepRun) -> float:
    """Best at a rate of 1e-4."""
    return 1 - (math.log10(run.config.optim.learning_rate) + 4) ** 2 / 10 + 0.01 * (run.config.batch.queries == 32)


def trained(run: SweepRun, folder: Any, lease: Lease, on_dev: Any) -> float:
    on_dev(1, {"mean": score(run)})
    return score(run)


def evaluated(run: SweepRun, folder: Any, lease: Lease) -> None:
    (folder / "test").mkdir(parents=True, exist_ok=True)
    (folder / "test" / "results.json").write_text(run.name, encoding="utf-8")


def trials(plan: SearchPlan, out: Path, storage: str = "") -> Any:
    return open_study(storage, out, plan).get_trials()


def test_it_begins_with_the_configuration_and_finds_better(tmp_path: Path) -> None:
    plan, out = plan_of(tmp_path), tmp_path / "out"
    run_search(plan, out, "", trained, evaluated, QUIET)
    found = trials(plan, out)
    assert len(found) == 14 and found[0].params == {"optim.learning_rate": 2e-3, "batch.queries": "16"}
    best = _complete(open_study("", out, plan))[0]
    assert best.value > found[0].value + 0.05 and best.value == max(each.value for each in found)
    assert {path.parent.parent.name for path in out.glob("*/seed7/test")} == {"trial0", f"trial{best.number}"}
    run_search(plan, out, "", trained, evaluated, QUIET)
    assert len(trials(plan, out)) == 14
    again = tmp_path / "again"
    run_search(plan, again, f"sqlite:///{tmp_path / 'study.db'}", trained, evaluated, QUIET)
    same = trials(plan, again, f"sqlite:///{tmp_path / 'study.db'}")
    assert [each.params for each in same] == [each.params for each in found]  # by seed, in whatever storage
    back = noted(out)
    assert back is not None and back[0] == plan and back[1] == ""


def test_what_falls_behind_is_ended_and_what_fails_is_left_out(tmp_path: Path) -> None:
    plan, out = plan_of(tmp_path, more="trials=12"), tmp_path / "out"

    def train(run: SweepRun, folder: Any, lease: Lease, on_dev: Any) -> float:
        if run.setting == "trial3":
            raise RuntimeError("no memory")
        for step in range(3):
            on_dev(step, {"mean": score(run)})
        return score(run)

    run_search(plan, out, "", train, evaluated, QUIET)
    found = trials(plan, out)
    states = [each.state.name for each in found]
    assert len(found) == 12 and states[3] == "FAIL" and states.count("FAIL") == 1
    assert {*states[:3]} == {"COMPLETE"} and "PRUNED" in states[6:]
    ended = [each for each in found if each.state.name == "PRUNED"]
    assert all(max(each.intermediate_values) < 2 for each in ended)


def test_a_trial_that_was_stopped_is_gone_on_with(tmp_path: Path) -> None:
    plan, out = plan_of(tmp_path, more="trials=4, prune=False"), tmp_path / "out"
    begun: list[tuple[str, float]] = []

    def train(run: SweepRun, folder: Any, lease: Lease, on_dev: Any) -> float:
        begun.append((run.name, run.config.optim.learning_rate))
        if len(begun) == 2:
            raise Stopped(3, 15)
        return score(run)

    with pytest.raises(Stopped):
        run_search(plan, out, "", train, evaluated, QUIET)
    run_search(plan, out, "", train, evaluated, QUIET)
    assert begun[1] == begun[2] and [name for name, _ in begun] == [
        "trial0/seed7", "trial1/seed7", "trial1/seed7", "trial2/seed7", "trial3/seed7",
    ]  # fmt: skip


def test_a_trial_whose_worker_ended_while_it_was_proposed_is_given_up(tmp_path: Path) -> None:
    plan, out = plan_of(tmp_path, more="trials=4, prune=False"), tmp_path / "out"
    note(out, plan, "")
    open_study("", out, plan).ask()  # and no value of it
    run_search(plan, out, "", trained, evaluated, QUIET)
    assert [each.state.name for each in trials(plan, out)] == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]


def _worker(place: Path, plan: SearchPlan) -> None:
    def train(run: SweepRun, folder: Any, lease: Lease, on_dev: Any) -> float:
        with (place / "log").open("a", encoding="utf-8") as log:
            log.write(f"{run.name} {run.config.optim.learning_rate}\n")
        time.sleep(0.02)
        return score(run)

    def slow(path: AnyPath) -> Any:
        """Between a trial's beginning and its lease others look for trials that nobody has."""
        time.sleep(0.05 * path.name.startswith("trial"))
        return take(path)

    searching.take = slow  # in a process of its own
    run_search(plan, place / "out", "", train, evaluated, QUIET)


def workers(place: Path) -> None:
    fork = multiprocessing.get_context("fork")
    plan = plan_of(place / "file")
    every = [fork.Process(target=_worker, args=(place, plan)) for _ in range(3)]
    for worker in every:
        worker.start()
    for worker in every:
        worker.join()
    assert not any(worker.exitcode for worker in every)


def test_workers_share_it_out(tmp_path: Path) -> None:
    # In a process without threads, which can fork: this one may have those of JAX.
    subprocess.run([sys.executable, __file__, str(tmp_path)], check=True, timeout=200)
    lines = [line.split() for line in (tmp_path / "log").read_text(encoding="utf-8").splitlines()]
    assert sorted(name for name, _ in lines) == sorted(f"trial{n}/seed7" for n in range(14))
    assert len({rate for _, rate in lines}) == 14
    assert all(each.state.name == "COMPLETE" for each in trials(plan_of(tmp_path / "file"), tmp_path / "out"))


def test_a_folder_belongs_to_one_search(tmp_path: Path) -> None:
    plan, out = plan_of(tmp_path, more="trials=2"), tmp_path / "out"
    run_search(plan, out, "", trained, evaluated, QUIET)
    run_search(plan_of(tmp_path, more="trials=3"), out, "", trained, evaluated, QUIET)  # more trials are no other
    assert len(trials(plan, out)) == 3
    with pytest.raises(UserError, match="holds another sweep"):
        run_search(plan_of(tmp_path, more="trials=3, seed=4"), out, "", trained, evaluated, QUIET)
    raw = json.loads((out / "sweep.json").read_text(encoding="utf-8"))
    assert raw["search"]["space"]["batch.queries"] == {"values": ["16", "32"]}


def test_a_password_is_not_written_down(tmp_path: Path) -> None:
    out = tmp_path / "out"
    note(out, plan_of(tmp_path), "postgresql://me:secret@host/studies")
    assert "secret" not in (out / "sweep.json").read_text(encoding="utf-8")
    with pytest.raises(UserError, match="has a password and was not written down; give the sweep's command again"):
        noted(out)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: between(2, 1), "a smaller and a larger number, got 2 and 1"),
        (lambda: between(0, 1, log=True), "above 0, got 0 and 1"),
        (lambda: choice(1), "two values or more"),
        (lambda: search({"a": 3}, 4), "a must be between"),  # type: ignore[dict-item]
        (lambda: search({}, 4), "needs keys to search"),
        (lambda: search({"a": choice(1, 2)}, 1), "two trials or more"),
    ],
)
def test_what_makes_no_space_is_refused(make: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()


def test_mistakes_are_found_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown key 'optim\.learning_rat'"):
        plan_of(tmp_path, '{"optim.learning_rat": between(1e-5, 1e-3)}')
    with pytest.raises(UserError, match=r"batch\.queries"):
        plan_of(tmp_path, '{"batch.queries": choice(16, "many")}')
    with pytest.raises(UserError, match=r"--storage=nowhere://x: cannot be used"):
        run_search(plan_of(tmp_path), tmp_path / "out", "nowhere://x", trained, evaluated, QUIET)


if __name__ == "__main__":
    workers(Path(sys.argv[1]))
