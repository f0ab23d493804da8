"""What a sweep would take: steps, tokens, memory and time of every run, before any is begun."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from mtret.console import duration
from mtret.data.formats import Suite
from mtret.data.suites import load_suite
from mtret.files import AnyPath
from mtret.models import hf
from mtret.run_config import RunConfig
from mtret.runs import setup
from mtret.runs.costs import Costs, costs
from mtret.runs.sampling import DISTRACTORS
from mtret.runs.tasks import other_tasks
from mtret.sweeps.definition import Runs, SweepRun
from mtret.sweeps.runner import is_finished
from mtret.tables import Table
from mtret.train.optim import OptimConfig

PLANNED = 40  # batches of a run that are planned, to tell what its others are like
COLUMNS = ("run", "steps", "tokens", "memory", "time", "")
BY_PRODUCT = (
    "No training of {names} was seen on this machine yet: time is estimated from the rate of a large product, and may "
    "be wrong by half; memory is told by `mtret train --dry_run`."
)


@dataclass(frozen=True)
class Planned:
    """What runs have in common that differ in seed and optimisation alone."""

    encoder: hf.Pretrained
    tokens: float  # of a step, as the next
    places: float
    dev_tokens: int  # of one evaluation
    evaluated_tokens: float  # of the split at the end


class Estimator:
    """Plans what runs have in common once."""

    def __init__(self, runs: Runs, cache: AnyPath) -> None:
        self._runs, self._cache = runs, cache
        self._suites: dict[str, Suite] = {}
        self._inputs: dict[str, setup.Inputs] = {}
        self._planned: dict[str, Planned] = {}
        self._costs: dict[str, Costs] = {}

    def planned(self, config: RunConfig) -> Planned:
        """Of a run. Raises UserError for what `train` would raise it for."""
        alike = repr(replace(config, seed=0, optim=OptimConfig()))
        if alike not in self._planned:
            self._planned[alike] = self._plan(config)
        return self._planned[alike]

    def costs(self, config: RunConfig) -> Costs:
        """Of runs with this model."""
        kind = repr((config.model, config.optim.trainable, config.batch.chunk_tokens))
        if kind not in self._costs:
            self._costs[kind] = costs(config, self.planned(config).encoder, self._cache)
        return self._costs[kind]

    def _plan(self, config: RunConfig) -> Planned:
        source = repr((config.suite, config.model, config.mixture.tasks, config.mixture.hold_out, config.templates))
        quiet = Console(quiet=True)
        if source not in self._inputs:
            if config.suite not in self._suites:
                self._suites[config.suite] = load_suite(config.suite)
            self._inputs[source] = setup.load_inputs(config, quiet, suite=self._suites[config.suite])
        read = self._inputs[source]
        config = setup.with_templates(config, read.model.encoder)
        others = other_tasks(read.suite, config, read.tasks)
        run = setup.prepare(config, read.tasks, read.model, self._cache, quiet, others=others)
        steps = np.linspace(0, run.planner.steps - 1, min(PLANNED, run.planner.steps)).astype(int)
        plans = [run.planner.plan(int(step)) for step in np.unique(steps)]
        by_character = _tokens_by_character(read, run)
        return Planned(
            encoder=read.model.encoder,
            tokens=float(np.mean([plan.tokens for plan in plans])),
            places=float(np.mean([plan.slots for plan in plans])),
            dev_tokens=run.evaluate.tokens if run.evaluate else 0,
            evaluated_tokens=self._evaluated_tokens(read, by_character),
        )

    def _evaluated_tokens(self, read: setup.Inputs, by_character: float) -> float:
        """Of the split that all runs are evaluated on, by the length of its texts."""
        how, limit = self._runs.evaluation, read.model.encoder.max_length
        total = 0.0
        for name, task in read.suite.tasks.items():
            if how.split not in task.splits or (how.tasks and name not in how.tasks) or task.images:
                continue
            lengths = np.array([len(text) for text in task.document_texts]) * by_character
            documents, queries = len(lengths), len(task.splits[how.split])
            if how.sample.isdigit():
                queries = min(queries, int(how.sample))
                documents = min(documents, queries + DISTRACTORS)
            total += np.minimum(lengths, limit).mean() * documents
            total += (len(task.card.instruction) * by_character + 20) * queries
        return total


def estimate(runs: Runs, chosen: Sequence[SweepRun], out: AnyPath | None, cache: AnyPath) -> Table:
    """A line for each run, and their sum; the time is that of those which are not finished.

    Raises UserError for what a training of one of them would raise it for.
    """
    estimator, rows, notes = Estimator(runs, cache), [], []
    tokens, seconds, unknown, compiled = 0.0, 0.0, set(), set()
    left = 0
    for run in chosen:
        config, finished = run.config, out is not None and is_finished(out, run, runs.split)
        plan, cost = estimator.planned(config), estimator.costs(config)
        unknown |= set() if cost.is_noted else {Path(config.model.source).name}
        programs = repr((config.model, config.batch, config.mixture.tasks, config.mixture.hold_out))
        own = _seconds(plan, cost, config)
        if programs not in compiled:
            own += cost.compilation_s
        if (source := config.model.source) not in compiled:  # it is evaluated too, once
            own += plan.evaluated_tokens * cost.embedding_s
        compiled |= {programs, source}
        steps = config.loop.steps
        tokens += plan.tokens * steps
        seconds += 0.0 if finished else own
        left += not finished
        memory = f"{cost.process_bytes / 2**30:.1f} GiB" if cost.process_bytes else ""
        state = "finished" if finished else ""
        rows.append([run.name, f"{steps:,}", f"{plan.tokens * steps:,.0f}", memory, duration(own), state])
    whole = [f"{left} of {len(chosen)} to do", "", f"{tokens:,.0f}", "", duration(seconds), ""]
    if unknown:
        notes.append(BY_PRODUCT.format(names=", ".join(sorted(unknown))))
    return Table(COLUMNS, [rows, [whole]], notes=notes)


def _seconds(plan: Planned, cost: Costs, config: RunConfig) -> float:
    """Of a training and its evaluation, less what is done once for several."""
    rounds = 1 + -(-config.loop.steps // config.loop.evaluate_every)
    embedded = rounds * plan.dev_tokens + plan.evaluated_tokens
    steps = config.loop.steps * plan.places * cost.step_s
    return steps + embedded * cost.embedding_s + cost.other_s


def _tokens_by_character(read: setup.Inputs, run: setup.Prepared) -> float:
    """Of the documents that are trained on."""
    tokens = characters = 0
    for task, trained in zip(read.tasks, run.planner.tasks, strict=True):
        if task.images is None and trained.document_rows is not None:
            tokens += int(trained.document_tokens.lengths(10**9).sum())
            characters += sum(len(task.document_texts[row]) for row in trained.document_rows)
    return tokens / max(characters, 1)
