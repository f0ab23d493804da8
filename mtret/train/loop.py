"""The only training loop."""

import io
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from mtret.data.pipeline import Loaded
from mtret.data.planning import Plan
from mtret.data.shapes import Shape
from mtret.errors import UserError
from mtret.files import AnyPath, inside, remove, replace_arrays, replace_text
from mtret.processes import stop_together
from mtret.pytrees import Tree, flatten
from mtret.schema import AT_LEAST_0, AT_LEAST_1, one_of, setting
from mtret.train.checkpoint import Checkpoints
from mtret.train.sharding import whole
from mtret.train.step import METRICS, Step, TrainState

PROFILED = range(3, 6)  # steps after the start of a run


@dataclass(frozen=True)
class LoopConfig:
    """How long, and what is written how often. All counted in steps."""

    steps: int = setting(200, "optimiser steps in all, a batch each", AT_LEAST_1)
    log_every: int = setting(1, "of steps; as the next two", AT_LEAST_1)
    evaluate_every: int = setting(50, "on the dev sample; the best is kept", AT_LEAST_1)
    evaluate_tasks: tuple[str, ...] = setting(
        (), "tasks or families beside the mixture that are evaluated too, on samples of their dev splits; ('all',): all"
    )
    choose_by: str = setting(
        "trained",
        "which of them the best step is chosen by: those of the mixture ('trained'), the 'others', or 'both'",
        one_of(("trained", "others", "both")),
    )
    checkpoint_every: int = setting(50, "the state, to go on from", AT_LEAST_1)
    keep_checkpoints: int = setting(2, "of the whole state", AT_LEAST_1)
    keep_weights: int = setting(
        0, "of the parameters alone, of as many checkpoints; `mtret export --step` reads them", AT_LEAST_0
    )
    skip_limit: int = setting(
        10, "steps left out because loss or gradient is not finite; one more ends the run", AT_LEAST_0
    )


class Stopped(Exception):
    """The run was asked to stop, and has saved its state. `signal_number` says how it was asked."""

    def __init__(self, step: int, signal_number: int):
        super().__init__(f"stopped at step {step}")
        self.step, self.signal_number = step, signal_number


class StopRequest:
    """While entered, the first SIGINT or SIGTERM is noted, not obeyed: the loop saves first. The second is obeyed.

    One that was ignored before (Ctrl-C, for a job in a shell's background) stays ignored. Where several processes
    train, JAX notes SIGTERM, so that all stop after the same step; SIGINT is passed on to it as that.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._before: dict[int, Any] = {}
        self._several = jax.process_count() > 1

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT,) if self._several else (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        # A step can take a while, and who hears nothing asks again. Not by print: that may be what was interrupted.
        os.write(2, b"\nmtret: stopping after this step, the state is saved first; once more to end at once\n")
        self._restore()
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class MetricsFile:
    """One JSON object a line: steps and dev scores. A resumed run drops the lines that it will write again.

    An object store cannot append: there the lines are kept, and `save` writes all of them.
    """

    def __init__(self, path: AnyPath, first_step: int):
        lines = path.read_text(encoding="utf-8").splitlines() if first_step and path.exists() else []
        kept = "".join(f"{line}\n" for line in lines if _step_of(line) <= first_step)
        replace_text(path, kept)
        self._path = path
        if isinstance(path, Path):
            self._file = path.open("a", encoding="utf-8")
        else:
            self._file = io.StringIO()
            self._file.write(kept)

    def write(self, values: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()

    def save(self) -> None:
        """Nothing that was written before is lost to a kill."""
        if isinstance(self._file, io.StringIO):
            replace_text(self._path, self._file.getvalue())

    def close(self) -> None:
        self.save()
        self._file.close()


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # the torn last line of a killed run


@dataclass
class Best:
    """The best dev score so far, and where its parameters lie."""

    path: AnyPath
    score: float = -np.inf
    step: int = -1
    writes: bool = True  # of several processes one does

    def offer(self, score: float, step: int, params: Callable[[], Tree]) -> bool:
        """Keeps what `params` returns if `score` is higher than all before; says whether it was."""
        if not score > self.score:
            return False
        self.keep(score, step, params())
        return True

    def keep(self, score: float, step: int, params: Tree) -> None:
        """Keeps `params`, whatever came before."""
        if self.writes:
            replace_arrays(self.path, _host_arrays(params), {"step": str(step), "score": repr(score)})
        self.score, self.step = score, step


@dataclass(frozen=True)
class KeptWeights:
    """The parameters alone of the last `keep` checkpoints, in the form of the best."""

    folder: AnyPath
    keep: int
    writes: bool = True  # of several processes one does

    def path(self, step: int) -> AnyPath:
        return self.folder / f"step_{step}.safetensors"

    def steps(self) -> list[int]:
        """Those that are there, in order."""
        names = [path.name.removeprefix("step_").removesuffix(".safetensors") for path in inside(self.folder)]
        return sorted(int(name) for name in names if name.isdigit())

    def save(self, step: int, params: Tree) -> None:
        if not self.writes:
            return
        replace_arrays(self.path(step), _host_arrays(params), {"step": str(step)})
        for old in self.steps()[: -self.keep]:
            remove(self.path(old))

    def forget_after(self, step: int) -> None:
        """Removes what a run that goes on from `step` will write again."""
        for later in (one for one in self.steps() if self.writes and one > step):
            remove(self.path(later))


def _host_arrays(params: Tree) -> dict[str, np.ndarray]:
    return {path: np.asarray(value) for path, value in flatten(jax.device_get(params)).items()}


@dataclass
class Sinks:
    """Where a run's numbers go."""

    file: MetricsFile
    events: Any  # an EventWriter
    observer: Any  # a TrainingBar: is shown what happens
    task_names: tuple[str, ...]
    fetches: int = field(default=0)  # of metrics from the devices, to be counted in tests


@dataclass
class Totals:
    """What the steps of a loop added up to; evaluations and checkpoints stand outside its seconds."""

    steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0  # seconds, for data
    pairs: int = 0
    tokens: int = 0  # real ones
    slots: int = 0  # places for tokens
    evaluations: int = 0
    evaluating_s: float = 0.0


OnDev = Callable[[int, Mapping[str, float]], None]  # is shown a step and its dev scores
Evaluate = Callable[[Tree], Mapping[str, float]]  # parameters -> scores, the one to choose by under "mean"


@dataclass(frozen=True)
class Loop:
    """Everything the loop drives, put together by the caller."""

    config: LoopConfig
    steps: Mapping[Shape, Step]
    batches: Callable[[int], Iterator[Loaded]]
    checkpoints: Checkpoints
    best: Best
    sinks: Sinks | None  # of several processes one has some
    evaluate: Evaluate | None  # None where no task has a dev split; the latest parameters are the best then
    on_skipped: Callable[[Plan], None] = lambda plan: None  # is shown the plan of each step that was left out
    totals: Totals = field(default_factory=Totals)
    weights: KeptWeights | None = None
    profile: Path | None = None  # folder for a trace of a few early steps
    # Log a step before the next is begun. On a CPU it is done when it returns: later, its seconds were the next one's.
    at_once: bool = False
    on_dev: OnDev = lambda step, scores: None
    fence: Callable[[], None] = lambda: None  # is called before anything is written; raises where that must not be
    evaluated: Callable[[TrainState], Tree] = lambda state: whole(state.params)  # what of a state `evaluate` is given
    kept: Callable[[TrainState], Tree] = lambda state: whole(state.params)  # what of it is written

    def run(self, state: TrainState) -> TrainState:
        """From the state's own step to the last. Raises Stopped, the state saved, when asked to stop."""
        first = int(state.step)
        if self.evaluate and first == 0:
            self._dev(0, state)
        with StopRequest() as stop:
            clock = _Clock(self.totals)
            source = self.batches(first)
            late: tuple[Plan, Array] | None = None
            skips = _Skips(int(state.skipped), self.on_skipped)
            for step in range(first, self.config.steps):
                if self.profile is not None and first + PROFILED.stop < self.config.steps:
                    self._trace(step - first)
                plan, batch = clock.wait_for(source)
                state, metrics = self.steps[plan.shape](state, batch)
                if late is not None:
                    self._log(*late, clock, skips)
                late = (plan, metrics)
                if self.at_once:
                    self._log(*late, clock, skips)
                    late = None
                done = step + 1
                last = done == self.config.steps
                # Checkpoints and evaluations stand outside the clock: they are not part of a step's speed.
                if last or done % self.config.evaluate_every == 0 or done % self.config.checkpoint_every == 0:
                    if late is not None:
                        self._log(*late, clock, skips)
                        late = None
                    if self.evaluate and (last or done % self.config.evaluate_every == 0):
                        self._dev(done, state)
                    if last or done % self.config.checkpoint_every == 0:
                        self._save(state)
                    clock = _Clock(self.totals)
                if skips.count > self.config.skip_limit:
                    self._save(state)
                    self.checkpoints.wait()
                    raise UserError(
                        f"stopped at step {done}, state saved: {skips.count} steps had a loss or gradient that is not "
                        f"finite, more than loop.skip_limit={self.config.skip_limit}; the last was step {skips.last}. "
                        "Their texts are listed in the folder skipped; a lower optim.learning_rate, in another "
                        "--workdir, may help"
                    )
                number = stop_together(done, stop.signal_number)
                if number is not None and not last:
                    if late is not None:
                        self._log(*late, clock, skips)
                    self._save(state)
                    self.checkpoints.wait()
                    raise Stopped(done, number)
        self.checkpoints.wait()
        return state

    def _trace(self, steps_done: int) -> None:
        """Of steps after the first ones, which still wait for data that was not yet planned ahead."""
        if steps_done == PROFILED.start:
            jax.profiler.start_trace(str(self.profile))
        elif steps_done == PROFILED.stop:
            jax.profiler.stop_trace()

    def _save(self, state: TrainState) -> None:
        self.fence()
        step = int(state.step)
        # Before the checkpoint, or a kill would lose what a resumed run does not write again.
        if self.sinks:
            self.sinks.events.flush()
            self.sinks.file.save()
        if self.evaluate is None:
            self.best.keep(-np.inf, step, self.kept(state))
        if step not in self.checkpoints.steps():
            if self.weights is not None and self.weights.keep:
                self.weights.save(step, self.kept(state))
            self.checkpoints.save(state, {"best": {"step": self.best.step, "score": _finite(self.best.score)}})

    def _log(self, plan: Plan, metrics: Array, clock: "_Clock", skips: "_Skips") -> None:
        clock.add(plan)
        skips.add(plan, metrics)
        if (plan.step + 1) % self.config.log_every:
            return
        values = dict(zip(METRICS, (float(x) for x in np.asarray(metrics)), strict=True))
        skips.look(int(values["skipped"]))
        if self.sinks is None:
            return
        self.fence()
        self.sinks.fetches += 1
        line = {
            "step": plan.step + 1,
            "task": self.sinks.task_names[plan.task],
            **{name: _finite(value) for name, value in values.items()},
            **clock.speeds(plan),
            "plan": plan.digest,
        }
        self.sinks.file.write(line)
        for name in (*METRICS, "pairs_per_s", "tokens_per_s", "fill", "wait"):
            if line[name] is not None:
                self.sinks.events.add_scalar(f"train/{name}", line[name], plan.step + 1)
        self.sinks.events.add_scalar(f"loss/{line['task']}", values["loss"], plan.step + 1)
        self.sinks.observer.step(line)

    def _dev(self, step: int, state: TrainState) -> None:
        assert self.evaluate is not None
        began = time.monotonic()
        scores = self.evaluate(self.evaluated(state))
        self.totals.evaluations += 1
        self.totals.evaluating_s += time.monotonic() - began
        self.fence()
        is_best = self.best.offer(scores["mean"], step, lambda: self.kept(state))
        if self.sinks is None:
            return
        self.sinks.file.write({"step": step, "dev": dict(scores), "best": is_best})
        for name, score in scores.items():
            self.sinks.events.add_scalar(f"dev/{name}", score, step)
        self.sinks.observer.dev(step, scores, is_best)
        self.on_dev(step, scores)


def _finite(score: float) -> float | None:
    return score if np.isfinite(score) else None


class _Skips:
    """Finds the steps that were left out: the count comes with every metrics that are fetched, the others are asked for
    only when it has grown."""

    def __init__(self, count: int, tell: Callable[[Plan], None]):
        self.count, self.last = count, 0
        self._tell = tell
        self._waiting: list[tuple[Plan, Array]] = []

    def add(self, plan: Plan, metrics: Array) -> None:
        self._waiting.append((plan, metrics))

    def look(self, count: int) -> None:
        if count > self.count:
            at = METRICS.index("skipped")
            for plan, metrics in self._waiting:
                if int(np.asarray(metrics)[at]) > self.count:
                    self.count, self.last = int(np.asarray(metrics)[at]), plan.step + 1
                    self._tell(plan)
        self._waiting.clear()


class _Clock:
    """Speeds between two logged steps."""

    def __init__(self, totals: Totals) -> None:
        self._whole, self._part, self._began = totals, Totals(), time.monotonic()

    def wait_for(self, source: Iterator[Loaded]) -> Loaded:
        began = time.monotonic()
        loaded = next(source)
        for totals in (self._whole, self._part):
            totals.waited += time.monotonic() - began
        return loaded

    def add(self, plan: Plan) -> None:
        now = time.monotonic()
        for totals in (self._whole, self._part):
            totals.steps += 1
            totals.seconds += now - self._began
            totals.pairs += plan.pairs
            totals.tokens += plan.tokens
            totals.slots += plan.slots
        self._began = now

    def speeds(self, plan: Plan) -> dict[str, float | int]:
        part = self._part
        seconds = max(part.seconds, 1e-9)
        self._part = Totals()
        return {
            "pairs": plan.pairs,
            "tokens": plan.tokens,
            "pairs_per_s": part.pairs / seconds,
            "tokens_per_s": part.tokens / seconds,
            "fill": part.tokens / part.slots,
            "wait": part.waited / seconds,
        }
