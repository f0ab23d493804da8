"""Trains and evaluates the runs of a sweep that are not finished yet: one after the other, beside other workers."""

import json
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from mtret.console import duration, say
from mtret.errors import UserError, first_line
from mtret.files import AnyPath, check_writable, replace_json, replace_text
from mtret.run_config import RunConfig, as_json, build, differences
from mtret.sweeps.definition import Runs, SweepRun
from mtret.sweeps.leases import Lease, LeaseLost, held, take
from mtret.train.loop import Stopped

SWEEP_FILE, LEASES = "sweep.json", ".leases"
SCHEMA = "mtret.sweep/1"
LOOK_AGAIN_S = 5.0  # at what other workers do

Work = Callable[[SweepRun, Path, Lease], None]  # trains and evaluates a run in its folder


@dataclass
class Outcome:
    """Of this worker."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # by run, what was wrong


def check_folder(out: AnyPath, runs: Runs) -> Path:
    """The sweep's folder. Raises UserError where it cannot be, or runs of these names that are there are others."""
    if not isinstance(out, Path):
        raise UserError(f"--out={out}: a sweep's folder cannot lie in an object store; give one that is mounted")
    check_writable(out, "--out")
    path = out / SWEEP_FILE
    if path.exists():
        there = _noted(path)
        for run in runs.every:
            if run.name in there and (found := differences(as_json(run.config), there[run.name])):
                raise UserError(f"{out}: holds another sweep: in run '{run.name}', {found[0]}; use another --out")
    elif out.exists() and any(not each.name.startswith(".") for each in out.iterdir()):  # such as another worker begins
        raise UserError(f"{out}: is not empty and holds no sweep; use another --out")
    return out


def note(out: Path, runs: Runs) -> None:
    """Writes down what the sweep is. Runs of a former definition stay in it, since their folders are there."""
    path = out / SWEEP_FILE
    there = _noted(path) if path.exists() else {}
    every = {**there, **{run.name: as_json(run.config) for run in runs.every}}
    about = {"baseline": runs.baseline, "split": runs.split, "tasks": list(runs.tasks), "hold_out": runs.hold_out}
    replace_json(path, {"schema": SCHEMA, **about, "runs": every})


def noted(out: Path) -> Runs:
    """The sweep of a folder, as it was written down."""
    path = out / SWEEP_FILE
    there, found = _read(path), []
    for name, config in _noted(path).items():
        setting, _, seed = name.rpartition("/seed")
        found.append(SweepRun(setting, int(seed), build(RunConfig, config, "")))
    return Runs(tuple(found), there["baseline"], there["split"], tuple(there["tasks"]), there["hold_out"])


def _noted(path: Path) -> dict[str, Any]:
    """Configurations by run."""
    return _read(path)["runs"]


def _read(path: Path) -> dict[str, Any]:
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        if there["schema"] == SCHEMA and {"baseline", "split", "tasks", "hold_out", "runs"} <= there.keys():
            return there
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: is damaged; remove it, the runs beside it go on") from error
    raise UserError(f"{path}: was written by another version of mtret; use another --out")


def is_finished(out: AnyPath, run: SweepRun, split: str) -> bool:
    """Whether it is trained and evaluated: results.json is written last."""
    return (out / run.name / split / "results.json").exists()


def work_off(
    runs: Sequence[SweepRun], split: str, out: Path, work: Work, console: Console, wait_s: float = LOOK_AGAIN_S
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


def train_and_evaluate(runs: Runs, console: Console) -> Work:
    """What a worker does with a run."""

    def work(run: SweepRun, workdir: Path, lease: Lease) -> None:
        import jax

        from mtret.runs.evaluate import EvaluationConfig, evaluate
        from mtret.runs.train import train

        train(run.config, workdir, console, fence=lease.check)
        lease.check()
        how = EvaluationConfig(split=runs.split, tasks=runs.tasks)
        evaluate(str(workdir), run.config.suite, how, workdir / runs.split, console)
        jax.clear_caches()  # what the next run needs is read from what is kept on disk

    return work
