"""What a training would do, told before it is begun: nothing is written but caches."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from rich.console import Console

from mtret.console import duration, say, say_once
from mtret.data.pipeline import batches
from mtret.data.planning import Plan, Planner
from mtret.data.tasks import Task
from mtret.data.tokenize import Tokens
from mtret.data.training_tasks import TrainingTask
from mtret.devices import free_memory
from mtret.evaluation.samples import dev_samples
from mtret.run_config import RunConfig
from mtret.runs import session
from mtret.runs.fitting import compile_fitting
from mtret.runs.preflight import memory_remarks
from mtret.runs.setup import Prepared, bytes_of, load_inputs, prepare
from mtret.runs.summary import peak_memory
from mtret.runs.tasks import other_tasks
from mtret.tables import Table, to_terminal
from mtret.train.sharding import batch_sharding
from mtret.train.step import TrainState, create_state

PLANNED = 300  # steps, to tell what batches are like
TIMED = 3  # steps of the largest shape
BACKWARD = 3.0  # a step's work, in passes forward
PROGRAM_BYTES = 12 * 2**20  # of memory that the programs of one more shape take (experiments/007_large_vocabularies)
COLUMNS = ("task", "queries", "pairs", "steps", "tokens", "cut off", "document\ntokens", "cut off", "fill")


def dry_run(config: RunConfig, console: Console) -> None:
    """Prints the plan of a training, what it would see of each task, the memory of a step and how long all would take:
    the largest shape is compiled and run a few times.

    Raises UserError for what `train` would raise it for, but for its workdir.
    """
    cache = session.begin(console).cache
    config, suite, tasks, model = load_inputs(config, console)
    others = other_tasks(suite, config, tasks)
    run = prepare(config, tasks, model, cache, console, others=others)
    planned = [run.planner.plan(step) for step in range(min(run.planner.steps, PLANNED))]
    rows = [_row(run.planner, index, task, planned) for index, task in enumerate(run.planner.tasks)]
    console.print(to_terminal(Table(COLUMNS, [rows])))
    if undrawn := run.planner.without_steps():
        say(console, f"no step of these, so they are not trained on: {', '.join(undrawn)}", style="yellow")
    tokens = sum(plan.tokens for plan in planned) / len(planned) * run.planner.steps
    places = sum(plan.slots for plan in planned) / len(planned)
    say(console, f"{run.planner.steps:,} steps, {tokens:,.0f} tokens, fill {tokens / places / run.planner.steps:.0%}")
    _say_costs(run, config, [*tasks, *others], places, console)


def _row(planner: Planner, index: int, task: TrainingTask, planned: Sequence[Plan]) -> list[str]:
    """Distinct queries, pairs and steps of a task; mean tokens of a query with its prompt and of a document, and the
    share that is longer than is read; and what of the places of its planned batches is filled."""
    counts = len(task.queries), len(task.positives.documents), int((planner.task_at == index).sum())
    cells = [task.name, *(f"{count:,}" for count in counts)]
    limits = task.config.query_length, task.config.document_length
    for texts, limit in zip((task.queries, task.documents), limits, strict=True):
        if not isinstance(texts, Tokens):
            cells += ["image", ""]
            continue
        lengths = texts.lengths(10**9)
        cells += [f"{np.minimum(lengths, limit).mean():.0f}", f"{(lengths > limit).mean():.1%}"]
    own = [plan for plan in planned if plan.task == index]
    fill = f"{sum(plan.tokens for plan in own) / sum(plan.slots for plan in own):.0%}" if own else ""
    return [*cells, fill]


def _say_costs(run: Prepared, config: RunConfig, tasks: Sequence[Task], places: float, console: Console) -> None:
    """`places`: of an average step."""
    state = create_state(run.params, run.step.optimizer, run.mesh, run.specs)
    kept, limit = bytes_of(state), free_memory()
    run, steps, seconds = compile_fitting(run, state, console, largest_alone=True)
    (largest, compiled), planner = *steps.items(), run.planner
    needed = kept + compiled.temporary_bytes
    say(
        console,
        f"memory: {needed / 2**30:.1f} GiB for the largest step on each device, of it {kept / 2**30:.2f} for "
        f"parameters and optimizer; {limit / 2**30:.1f} GiB were free",
        style="yellow" if needed > limit else None,
    )
    say_once(console, memory_remarks([compiled], config.model.remat, limit))
    per_place = _seconds_of_step(run, state, compiled, largest) / _places(run, largest)
    if jax.default_backend() == "cpu":
        others = PROGRAM_BYTES * (len(planner.arrays) - 1)
        say(console, f"memory of the whole process: about {(peak_memory() + others) / 2**30:.1f} GiB")
    training = per_place * places * planner.steps
    rounds = 1 + planner.steps // config.loop.evaluate_every
    dev = rounds * _dev_tokens(tasks, planner, config) * per_place / BACKWARD
    compiling = seconds * len(planner.arrays) / 2  # half of what the first takes is for all of them
    say(
        console,
        f"time: about {duration(training + compiling + dev)}: {duration(training)} for {planner.steps:,} steps, "
        f"{duration(compiling)} to compile {len(planner.arrays)} shapes (the first time), {duration(dev)} for {rounds} "
        "dev evaluations; without the verdict at the end (--noevaluate)",
    )
    say(console, "shorter: --config.loop.steps, a larger --config.loop.evaluate_every, a smaller --config.dev.queries")


def _seconds_of_step(run: Prepared, state: TrainState, compiled: Any, largest: Any) -> float:
    step = next(step for step in range(run.planner.steps) if run.planner.plan(step).shape == largest)
    loaded = next(iter(batches(run.planner, batch_sharding(run.mesh), step)))
    best = float("inf")
    for _ in range(TIMED):
        began = time.perf_counter()
        state, metrics = compiled(state, loaded.batch)
        jax.block_until_ready(metrics)
        best = min(best, time.perf_counter() - began)
    return best


def _places(run: Prepared, shape: Any) -> int:
    return (shape.rows * shape.length + shape.document_rows * shape.document_length) * run.planner.batch.shards


def _dev_tokens(tasks: Sequence[Task], planner: Planner, config: RunConfig) -> float:
    """Of one evaluation on the dev samples, from the lengths of what is trained on."""
    lengths = {task.name: task.document_lengths().mean() for task in planner.tasks}
    mean = float(np.mean([*lengths.values()]))  # of tasks that are not trained on
    samples = dev_samples(tasks, config.dev, config.seed)
    return float(sum(len(sample.documents) * lengths.get(name, mean) for name, sample in samples.items()))
