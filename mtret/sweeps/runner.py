"""Trains and evaluates the runs of a sweep that are not finished yet: one after the other, beside other workers."""

import json
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console

from mtret.console import duration, say
from mtret.data.formats import Suite
from mtret.errors import UserError, first_line
from mtret.files import AnyPath, check_writable, inside, replace_json, replace_text
from mtret.run_config import RunConfig, as_json, build, differences
from mtret.runs.protocol import EvaluationConfig
from mtret.schema import to_json
from mtret.sweeps.definition import Runs, SweepRun
from mtret.sweeps.leases import Lease, LeaseLost, check_exclusive, held, take
from mtret.train.loop import OnDev, Stopped

SWEEP_FILE, LEASES = "sweep.json", ".leases"
SCHEMA = "mtret.sweep/2"
LOOK_AGAIN_S = 5.0  # at what other workers do

Work = Callable[[SweepRun, AnyPath, Lease], None]  # trains and evaluates a run in its folder


@dataclass
class Outcome:
    """Of this worker."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # by run, what was wrong


def check_place(out: AnyPath) -> None:
    """Raises UserError where a sweep's folder cannot be, workers cannot share it, or it holds something else."""
    check_writable(out, "--out")
    check_exclusive(out)
    others = any(not each.name.startswith(".") for each in inside(out))  # with a dot: another worker's, as it begins
    if others and not (out / SWEEP_FILE).exists():
        raise UserError(f"{out}: is not empty and holds no sweep; use another --out")


def check_folder(out: AnyPath, runs: Runs) -> None:
    """As `check_place`; and where runs of these names that are there are others."""
    check_place(out)
    path = out / SWEEP_FILE
    if path.exists():
        if "search" in read_sweep_file(path):
            raise UserError(f"{out}: holds a search; use another --out")
        there = _noted(path)
        for run in runs.every:
            if run.name in there and (found := differences(as_json(run.config), there[run.name])):
                raise UserError(f"{out}: holds another sweep: in run '{run.name}', {found[0]}; use another --out")
        about = read_sweep_file(path)
        found = differences(to_json(runs.evaluation), about["evaluation"])
        if found and any(is_finished(out, run, runs.split) for run in runs.every):
            raise UserError(f"{out}: holds runs that were evaluated otherwise: {found[0]}; use another --out")


def note(out: AnyPath, runs: Runs) -> None:
    """Writes down what the sweep is. Runs of a former definition stay in it, since their folders are there."""
    path = out / SWEEP_FILE
    there = _noted(path) if path.exists() else {}
    every = {**there, **{run.name: as_json(run.config) for run in runs.every}}
    about = {"baseline": runs.baseline, "evaluation": to_json(runs.evaluation), "hold_out": runs.hold_out}
    replace_json(path, {"schema": SCHEMA, **about, "runs": every})


def noted(out: AnyPath) -> Runs:
    """The sweep of a folder, as it was written down."""
    path = out / SWEEP_FILE
    there, found = read_sweep_file(path), []
    for name, config in _noted(path).items():
        setting, _, seed = name.rpartition("/seed")
        found.append(SweepRun(setting, int(seed), build(RunConfig, config, "")))
    evaluation = build(EvaluationConfig, there["evaluation"], "evaluation")
    return Runs(tuple(found), there["baseline"], evaluation, there["hold_out"])


def _noted(path: AnyPath) -> dict[str, Any]:
    """Configurations by run."""
    return read_sweep_file(path)["runs"]


def read_sweep_file(path: AnyPath) -> dict[str, Any]:
    """What a sweep's folder says that it is. Raises UserError where that is damaged, or of another version."""
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        if there["schema"] == SCHEMA and {"baseline", "evaluation", "hold_out", "runs"} <= there.keys():
            return there
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: is damaged; remove it, the runs beside it go on") from error
    raise UserError(f"{path}: was written by another version of mtret; use another --out")


def is_finished(out: AnyPath, run: SweepRun, split: str) -> bool:
    """Whether it is trained and evaluated: results.json is written last."""
    return (out / run.name / split / "results.json").exists()


def work_off(
    runs: Sequence[SweepRun], split: str, out: AnyPath, work: Work, console: Console, wait_s: float = LOOK_AGAIN_S
) -> Outcome:
    """Does these runs, each by one worker, until all are finished, by whomever.

    A run that fails does not keep the others from being done. Raises Stopped where a training was stopped.
    """
    outcome, began, waiting = Outcome(), time.monotonic(), False
    while left := [run for run in runs if not is_finished(out, run, split) and run.name not in outcome.failed]:
        did = False
        for run in left:
            lease = None if is_finished(out, run, split) else take(out / LEASES / run.name)
            if lease is None:
                continue
            did = True
            with held(lease):
                if is_finished(out, run, split):  # by another, since it was looked at
                    continue
                number = len(runs) - len(left) + left.index(run) + 1
                say(console, f"run {number} of {len(runs)}: {run.name}", style="bold")
                try:
                    work(run, out / run.name, lease)
                    outcome.done.append(run.name)
                except LeaseLost as error:
                    say(console, str(error), style="yellow")
                except UserError as error:
                    outcome.failed[run.name] = " ".join(str(error).split())
                except (Stopped, BrokenPipeError):
                    raise
                except Exception as error:  # whatever it is, the other runs may do without: the night is long
                    place = out / f"{run.name}.error.txt"  # beside the folder, which a training wants to itself
                    replace_text(place, traceback.format_exc())
                    outcome.failed[run.name] = f"{type(error).__name__}: {first_line(error)[:200]} ({place})"
                if run.name in outcome.failed:
                    say(console, f"{run.name}: {outcome.failed[run.name]}", style="red")
        if not did:
            if not waiting:
                names = ", ".join(run.name for run in left)
                say(console, f"waiting for other workers, who do {names}")
                waiting = True
            time.sleep(wait_s)
    say(console, f"{len(outcome.done)} runs done here in {duration(time.monotonic() - began)}")
    return outcome


@dataclass
class Worker:
    """Trains and evaluates runs. It reads a suite once for all."""

    evaluation: EvaluationConfig
    sources: tuple[str, ...]  # the encoders that runs start from
    console: Console
    suites: dict[str, Suite] = field(default_factory=dict)

    def suite(self, name: str) -> Suite:
        """By its name."""
        from mtret.data.suites import load_suite

        if name not in self.suites:
            self.suites[name] = load_suite(name)
        return self.suites[name]

    def train(self, run: SweepRun, workdir: AnyPath, lease: Lease, on_dev: OnDev = lambda step, scores: None) -> None:
        """Trains a run, or goes on with it."""
        from mtret.runs.train import train

        suite = self.suite(run.config.suite)
        train(run.config, workdir, self.console, fence=lease.check, suite=suite, on_dev=on_dev)
        lease.check()

    def train_for_score(self, run: SweepRun, workdir: AnyPath, lease: Lease, on_dev: OnDev) -> float:
        """Trains a run; returns the best of its dev scores."""
        import jax

        from mtret.evaluation.plots import MEAN
        from mtret.runs.curves import read_curves

        self.train(run, workdir, lease, on_dev)
        jax.clear_caches()
        dev = read_curves(workdir).dev
        if MEAN not in dev:
            raise UserError("no task has a dev split, by which a search would choose; mtret data check says more")
        return max(dev[MEAN].values)

    def train_and_evaluate(self, run: SweepRun, workdir: AnyPath, lease: Lease) -> None:
        """All of a run."""
        import jax

        from mtret.runs.evaluate import evaluate

        self.train(run, workdir, lease)
        # Pooled of all encoders of the sweep, so that the sample is the same for all.
        how = replace(self.evaluation, pool=self.sources if self.evaluation.sample else ())
        evaluate(str(workdir), self.suite(run.config.suite), how, workdir / how.split, self.console)
        jax.clear_caches()  # what the next run needs is read from what is kept on disk
