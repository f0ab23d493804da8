"""A configuration becomes data, model and loop, and in the end a model folder."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from mtret.console import TrainingBar, duration, say, say_once
from mtret.data.formats import Suite
from mtret.data.pipeline import batches
from mtret.data.planning import Plan, Planner
from mtret.data.shapes import Shape
from mtret.data.tasks import Task
from mtret.devices import free_memory
from mtret.errors import UserError
from mtret.files import (
    AnyPath,
    check_writable,
    load_arrays,
    read_arrays,
    read_metadata,
    replace_arrays,
    replace_json,
    written_locally,
)
from mtret.kernels import attention
from mtret.model_folder.folder import base_of
from mtret.processes import broadcast, gather, is_first
from mtret.pytrees import Tree, unflatten
from mtret.run_config import RunConfig
from mtret.runs import session
from mtret.runs.baseline import base_forms
from mtret.runs.costs import Took, note_costs
from mtret.runs.curves import CURVES, read_curves, write_curves
from mtret.runs.export import save_model
from mtret.runs.fitting import compile_fitting
from mtret.runs.guide import guides
from mtret.runs.identity import (
    UNDRAWN,
    WORDS,
    WORDS_FILE,
    alone_in,
    begun_by_older,
    check_same,
    check_shared,
    chunks_of,
    claim,
    identity_of,
    note_chunks,
    resuming,
    words_of,
)
from mtret.runs.preflight import memory_remarks
from mtret.runs.setup import Inputs, Prepared, bytes_of, load_inputs, prepare, sizes_of
from mtret.runs.summary import count_compilations, in_words, summary
from mtret.runs.tasks import other_tasks
from mtret.train.checkpoint import Checkpoints
from mtret.train.events import EventWriter
from mtret.train.loop import Best, KeptWeights, Loop, MetricsFile, OnDev, Sinks, Totals
from mtret.train.object_checkpoint import ObjectCheckpoints
from mtret.train.sharding import batch_sharding, layout, layout_lines
from mtret.train.step import Step, TrainState, create_state

Fence = Callable[[], None]  # is called before anything is written; raises where another process has the run now


def train(
    config: RunConfig,
    workdir: AnyPath,
    console: Console,
    profile: bool = False,
    fence: Fence = lambda: None,
    suite: Suite | None = None,
    on_dev: OnDev = lambda step, scores: None,
) -> AnyPath:
    """Trains, or goes on where the same command left off, and returns the folder of the finished model. A run that is
    finished is left as it is.

    Writes `config.json`, `checkpoints/`, `metrics.jsonl`, `curves.png`, `events/`, `best.safetensors`, `summary.json`
    and `model/` into `workdir`; with `profile` also a trace of a few steps for TensorBoard's profile page, in
    `profile/`. `suite`: the configuration's, where it was read before. `on_dev` may end the training by an error. Of
    several processes the first does, and all call this alike; only checkpoints are written by each. Raises UserError
    before anything is written where the input is wrong or `workdir` belongs to another configuration; raises `Stopped`
    after a requested stop, with the state saved.
    """
    with ExitStack() as held:
        return _train(config, workdir, console, Hooks(profile, fence, on_dev), suite, held)


@dataclass(frozen=True)
class Hooks:
    """What a caller of `train` wants of its loop beside the model."""

    profile: bool
    fence: Fence
    on_dev: OnDev


def _train(
    config: RunConfig, workdir: AnyPath, console: Console, hooks: Hooks, suite: Suite | None, held: ExitStack
) -> AnyPath:
    """`held` gets what has to be given back in the end: the workdir."""
    began, here = time.monotonic(), session.begin(console)
    programs_made = count_compilations()
    check_writable(workdir, "--workdir")
    inputs = load_inputs(config, console, begun_by_older(workdir), suite)
    config = inputs.config
    say(console, attention.in_words(inputs.model.encoder.config.attention))
    identity = identity_of(*inputs)
    check_same(identity)
    if is_first():
        claim(workdir, identity, write=False)
        say_once(console, resuming(workdir, identity))
        held.enter_context(alone_in(workdir))
    if broadcast("finished", (workdir / "model" / "modules.json").exists()):  # written last, and whole
        say(console, f"all {config.loop.steps} steps are done already")
        return workdir / "model"
    words = words_of(workdir, inputs.model.encoder.config.vocab_size)
    chunks = chunks_of(workdir)
    others = other_tasks(inputs.suite, config, inputs.tasks)
    run = prepare(config, inputs.tasks, inputs.model, here.cache, console, words, others)
    if run.planner.guides is not None:
        run.planner.guides = guides(run.planner, inputs.tasks, inputs.model.encoder, config, here.cache, console)
    if chunks and not run.step.chunked:
        run = run.in_chunks(chunks)
    undrawn = run.planner.without_steps()
    _say_undrawn(undrawn, config.loop.steps, console)
    if is_first():
        hooks.fence()
        replace_arrays(workdir / WORDS_FILE, {"ids": run.vocabulary.ids})
        claim(workdir, {**identity, UNDRAWN: undrawn, WORDS: len(run.vocabulary.ids)}, write=True)
    check_shared(workdir)
    folder, keep = workdir / "checkpoints", config.loop.keep_checkpoints
    kept = Checkpoints(folder, keep) if isinstance(folder, Path) else ObjectCheckpoints(folder, keep)
    with closing(kept) as checkpoints:
        state, best = _start(run, config, checkpoints, workdir, console)
        if (first := int(state.step)) < config.loop.steps:
            say(console, f"compiling {len(run.planner.arrays)} shape(s), which takes up to a minute the first time ...")
            run, steps, seconds = compile_fitting(run, state, console, as_planned=chunks is not None)
            if is_first():
                note_chunks(workdir, run.planner.batch.chunk_tokens or 0)
            number = len(run.planner.arrays)
            say(console, f"compiled {number} shape(s) in {duration(seconds)} (kept in {here.programs})")
            say_once(console, memory_remarks([*steps.values()], config.model.remat, free_memory()))
            state, totals = _run(run, inputs, steps, state, best, checkpoints, workdir, console, hooks)
            if is_first():
                hooks.fence()
                numbers = _numbers(run, config, state, totals, first, number, seconds)
                replace_json(workdir / "summary.json", {**numbers, "compilations": programs_made()})
                took = Took(seconds, time.monotonic() - began, numbers["peak_memory_bytes"])
                note_costs(config, inputs.model.encoder, totals, run.evaluate, took, here.cache)
                say(console, in_words(numbers))
        latest = run.whole(state)
    if is_first():
        hooks.fence()
        _write_model(inputs, undrawn, best, latest, int(state.step), workdir, here.cache, console)
    return workdir / "model"


def _say_undrawn(names: Sequence[str], steps: int, console: Console) -> None:
    for name in names:
        say(
            console,
            f"{name}: no step of {steps}, so it is not trained on; more loop.steps, a smaller mixture.alpha or "
            f"mixture.weights.{name} would draw it",
            style="yellow",
        )


def _run(
    run: Prepared,
    inputs: Inputs,
    steps: Mapping[Shape, Step],
    state: TrainState,
    best: Best,
    checkpoints: Checkpoints,
    workdir: AnyPath,
    console: Console,
    hooks: Hooks,
) -> tuple[TrainState, Totals]:
    """All steps that are left."""
    config, first = inputs.config, int(state.step)
    weights = KeptWeights(workdir / "weights", config.loop.keep_weights, writes=is_first())
    weights.forget_after(first)
    traced = written_locally(workdir / "profile") if hooks.profile and is_first() else nullcontext()
    skipped = partial(_list_skipped, run.planner, inputs.tasks, workdir / "skipped", console)
    with _sinks(run, workdir, first, console) as sinks, traced as traces:
        loop = Loop(
            config=config.loop,
            steps=steps,
            batches=lambda first: batches(run.planner, batch_sharding(run.mesh), first),
            checkpoints=checkpoints,
            best=best,
            sinks=sinks,
            evaluate=run.evaluate,
            on_skipped=skipped if is_first() else lambda plan: None,
            weights=weights,
            profile=traces,
            at_once=jax.default_backend() == "cpu" and jax.process_count() == 1,
            evaluated=run.evaluated,
            kept=run.whole,
            fence=hooks.fence,
            on_dev=hooks.on_dev,
        )
        return loop.run(state), loop.totals


def _numbers(
    run: Prepared, config: RunConfig, state: TrainState, totals: Totals, first: int, programs: int, seconds: float
) -> dict[str, Any]:
    """What `summary.json` says of the steps after the first so many."""
    counted = None if {"documents", "vision"} & {*state.params} else state.params["tower"]
    return {
        **summary(totals, counted, config.model.matmul_dtype, programs, seconds),
        "parameters": sizes_of(run.params, run.step.frozen),
        "optimizer_bytes": bytes_of(state.opt_state),
        "first_step": first + 1,
        "last_step": int(state.step),
        "skipped_steps": int(state.skipped),
    }


def _write_model(
    inputs: Inputs,
    undrawn: Sequence[str],
    best: Best,
    latest: Tree,
    last_step: int,
    workdir: AnyPath,
    cache: AnyPath,
    console: Console,
) -> None:
    """The best parameters as a model folder, with the curves that led to them."""
    config, tasks, model = inputs.config, inputs.tasks, inputs.model
    params, chosen = _chosen(best, latest, last_step)
    if chosen != last_step:
        say(console, f"the model is that of step {chosen}, the best on the dev samples")
    forms = base_forms(base_of(model.encoder, config.model), tasks, config.dev, config.seed, cache, console)
    trained = [task for task in tasks if task.name not in undrawn]
    save_model(workdir / "model", model.with_params(params), trained, config, chosen, forms=forms)
    with suppress(UserError):  # with a log_every of more than all steps, nothing was written down to draw
        write_curves({workdir.name: read_curves(workdir)}, workdir / CURVES)


def _start(
    run: Prepared,
    config: RunConfig,
    checkpoints: Checkpoints,
    workdir: AnyPath,
    console: Console,
) -> tuple[TrainState, Best]:
    """The state to go on from, and the best before it."""
    best = Best(workdir / "best.safetensors", writes=is_first())
    state = create_state(run.params, run.step.optimizer, run.mesh, run.specs)
    if run.mesh.size > 1:
        for line in layout_lines(layout(state.params, state.opt_state), run.mesh):
            say(console, line)
    restored = checkpoints.restore(state, complain=lambda line: say(console, line, style="yellow"))
    steps = gather("restored", -1 if restored is None else int(restored[0].step))
    if len(set(steps)) > 1:
        raise UserError(f"{workdir}: the processes restore different steps, {steps}; fix the disk")
    if restored is None:
        return state, best
    state, record = restored
    noted, done = record["best"], int(state.step)
    if noted["score"] is not None:
        if not _there(best.path):
            say(console, f"{best.path} is missing or damaged: the best of steps 0 to {done} is lost", style="yellow")
        else:
            best.score, best.step = noted["score"], noted["step"]
    say(console, f"resumed at step {done}")
    return state, best


def _there(path: AnyPath) -> bool:
    """Whether a file of parameters is whole. Raises OSError where one cannot know: no reason to give it up."""
    from safetensors import SafetensorError

    try:
        load_arrays(path)
    except (FileNotFoundError, SafetensorError):
        return False
    return True


@contextmanager
def _sinks(run: Prepared, workdir: AnyPath, first: int, console: Console) -> Iterator[Sinks | None]:
    if not is_first():
        yield None
        return
    file = MetricsFile(workdir / "metrics.jsonl", first)
    events = EventWriter(workdir / "events", purge_step=first + 1 if first else 0)
    try:
        bar = TrainingBar(console, "training", run.planner.steps, first)
        with bar:
            yield Sinks(file, events, bar, tuple(task.name for task in run.planner.tasks))
    finally:
        file.close()
        events.close()


def _list_skipped(planner: Planner, tasks: Sequence[Task], folder: AnyPath, console: Console, plan: Plan) -> None:
    """Writes down which texts a step held whose loss or gradient was not finite."""
    task, trained = tasks[plan.task], planner.tasks[plan.task]
    assert trained.query_rows is not None and trained.document_rows is not None
    queries, documents = (x.reshape(-1) for x in (plan.queries, plan.documents))
    path = folder / f"step_{plan.step + 1}.json"
    listed = {
        "step": plan.step + 1,
        "task": task.name,
        "queries": [task.query_ids[row] for row in trained.query_rows[queries[queries >= 0]]],
        "documents": [task.document_ids[row] for row in trained.document_rows[documents[documents >= 0]]],
    }
    replace_json(path, listed)
    say(console, f"step {plan.step + 1}: loss or gradient is not finite, left out; its texts: {path}", style="yellow")


def _chosen(best: Best, latest: Tree, last_step: int) -> tuple[Tree, int]:
    """The best parameters and their step; the latest where no task has a dev split."""
    if best.step < 0:
        return jax.device_get(latest), last_step
    arrays = read_arrays(best.path)
    if arrays is None:
        raise UserError(f"{best.path}: cannot be read; the run's state is saved, the same command tries again")
    # Not `best.step`: a run that was killed may have written a later one than its checkpoint knows of.
    return unflatten(arrays), int(read_metadata(best.path)["step"])
