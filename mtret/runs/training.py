"""A configuration becomes data, model and loop, and in the end a model folder."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
from rich.console import Console

from mtret.artefact.folder import DOCUMENTS, prompts_of, save_artefact
from mtret.artefact.retriever import Retriever
from mtret.console import TrainingBar, duration, say
from mtret.data.pipeline import batches
from mtret.data.planning import Plan, Planner
from mtret.data.roles import training_record
from mtret.data.shapes import Shape
from mtret.data.tasks import Task
from mtret.devices import cache_folder, device_line, keep_compilations, keep_memory, prepare_gpu
from mtret.errors import UserError
from mtret.evaluation.report import role_tables
from mtret.evaluation.results import read_results
from mtret.files import AnyPath, load_arrays, read_arrays, read_metadata, replace_json, written_locally
from mtret.models import attention
from mtret.processes import ALONE, Peers
from mtret.pytrees import Tree, unflatten
from mtret.run_config import RunConfig, as_json, build
from mtret.runs.identity import check_same, check_shared, claim, identity_of, read_identity
from mtret.runs.preparing import Prepared, bytes_of, mixture_tasks, prepare, sizes_of, start_models, untrainable
from mtret.runs.setting import check_writable, load_suite, versions
from mtret.runs.summary import count_compilations, in_words, summary
from mtret.train.checkpoint import Checkpoints
from mtret.train.events import EventWriter
from mtret.train.loop import Best, KeptWeights, Loop, MetricsFile, Nowhere, Sinks
from mtret.train.object_checkpoint import ObjectCheckpoints
from mtret.train.sharding import batch_sharding, layout, layout_lines
from mtret.train.step import Step, TrainState, compile_steps, create_state, deployed_of


def train(
    config: RunConfig, workdir: AnyPath, console: Console, profile: bool = False, peers: Peers = ALONE
) -> AnyPath:
    """Trains, or goes on where the same command left off, and returns the folder of the finished model. A run that is
    finished is left as it is.

    Writes `config.json`, `checkpoints/`, `metrics.jsonl`, `events/`, `best.safetensors`, `summary.json` and `model/`
    into `workdir`; with `profile` also a trace of a few steps for TensorBoard's profile page, in `profile/`. Of several
    processes (`peers`) the first does, and all call this alike; only checkpoints are written by each.
    Raises UserError before anything is written where the input is wrong or `workdir` belongs to another configuration;
    raises `Stopped` after a requested stop, with the state saved.
    """
    keep_memory()
    prepare_gpu()
    say(console, device_line())
    check_writable(workdir, "--workdir")
    cache = cache_folder()
    check_writable(cache, "MTRET_CACHE")
    programs, programs_made = keep_compilations(), count_compilations()
    suite = load_suite(config.suite)
    tasks = mixture_tasks(suite, config)
    for line in untrainable(suite, config, tasks):
        say(console, line)
    model = start_models(config, tasks)
    encoder = model.encoder
    attention.choose(config.model.attention, encoder.config.attention_dropout_rate)
    say(console, attention.in_words(encoder.config.attention))
    identity = identity_of(config, suite, tasks, model)
    check_same(peers, identity)
    if peers.first:
        claim(workdir, identity, write=False)
    if peers.share("finished", (workdir / "model" / "modules.json").exists()):  # written last, and whole
        say(console, f"all {config.loop.steps} steps are done already")
        return workdir / "model"
    run = prepare(config, tasks, model, cache, console, peers)
    if peers.first:
        claim(workdir, identity, write=True)
    check_shared(peers, workdir)

    checkpoints = _checkpoints(workdir / "checkpoints", config.loop.keep_checkpoints)
    try:
        state, best = _start(run, config, checkpoints, workdir, console, peers)
        first = int(state.step)
        if first < config.loop.steps:
            steps, seconds = compile_steps(run.step, state, run.planner, run.mesh, run.specs)
            say(console, f"compiled {len(steps)} shapes in {duration(seconds)} (kept in {programs})")
            weights = KeptWeights(workdir / "weights", config.loop.keep_weights, writes=peers.first)
            weights.forget_after(first)
            traced = written_locally(workdir / "profile") if profile and peers.first else nullcontext()
            with _sinks(run, workdir, first, console, peers) as sinks, traced as traces:
                tell = partial(_list_skipped, run.planner, tasks, workdir / "skipped", console)
                loop = _loop(run, config, steps, checkpoints, best, sinks, tell, peers)
                state = replace(loop, weights=weights, profile=traces).run(state)
            if peers.first:
                counted = None if {"documents", "vision"} & {*state.params} else state.params["tower"]
                numbers = summary(loop.totals, counted, config.model.operands, len(steps), seconds)
                numbers |= {
                    "parameters": sizes_of(run.params, run.step.frozen),
                    "optimizer_bytes": bytes_of(state.opt_state),
                }
                numbers |= {"first_step": first + 1, "last_step": int(state.step), "skipped_steps": int(state.skipped)}
                replace_json(workdir / "summary.json", {**numbers, "compilations": programs_made()})
                say(console, in_words(numbers))
        latest = deployed_of(state, config.model.lora)
    finally:
        checkpoints.close()
    if peers.first:
        params, chosen = _chosen(best, latest, int(state.step))
        _save_model(workdir / "model", model.with_params(params), tasks, config, chosen)
    return workdir / "model"


def export(workdir: AnyPath, out: AnyPath, step: int | None = None, target: str = "") -> AnyPath:
    """Writes the best parameters so far of a run, finished or not, as a model folder; or those that it kept of `step`.
    The card tells what `mtret evaluate` found of the same parameters, if it was asked.

    Raises UserError where `workdir` is no run, has not these parameters, its data has changed, `out` exists, or
    `target` could not serve the model.
    """
    check_writable(out, "--out")
    if out.exists():
        raise UserError(f"{out}: exists already; export never overwrites, give another --out")
    there = read_identity(workdir)
    config = build(RunConfig, there["config"], "")
    path, arrays = _parameters(workdir, step)
    suite = load_suite(config.suite)
    tasks = mixture_tasks(suite, config)
    model = start_models(config, tasks)
    claim(workdir, identity_of(config, suite, tasks, model), write=False)
    step = int(read_metadata(path).get("step", -1))
    scores = partial(_scores, workdir)
    return _save_model(out, model.with_params(unflatten(arrays)), tasks, config, step, scores, target)


def _scores(workdir: AnyPath, weights_sha256: str) -> str:
    """Of a run's model by role, in Markdown, where it was judged."""
    for split in ("test", "dev"):
        path = workdir / split / "results.json"
        if path.exists() and (results := read_results(path))["protocol"]["weights_sha256"] == weights_sha256:
            suite, date = results["protocol"]["suite"], results["protocol"]["date"]
            about = f"Mean nDCG@10 over tasks, {split} split of {suite}, exact search, 95% intervals; {date}."
            return f"{about}\n\n{role_tables(results['roles'], results['systems'])}"
    return ""


def _parameters(workdir: AnyPath, step: int | None) -> tuple[AnyPath, dict[str, np.ndarray]]:
    """A file of parameters in a run's folder, and what it holds."""
    path, what = workdir / "best.safetensors", "best parameters"
    remedy = "go on with its training to its next evaluation"
    if step is not None:
        kept = KeptWeights(workdir / "weights", 0)
        path, what, steps = kept.path(step), f"parameters of step {step}", ", ".join(map(str, kept.steps()))
        remedy = f"it has those of steps {steps}" if steps else "it kept those of no step (loop.keep_weights)"
    arrays = read_arrays(path)
    if arrays is None:
        raise UserError(f"{workdir}: has no readable {what}; {remedy}")
    return path, arrays


def _checkpoints(folder: AnyPath, keep: int) -> Checkpoints | ObjectCheckpoints:
    return Checkpoints(folder, keep) if isinstance(folder, Path) else ObjectCheckpoints(folder, keep)


def _save_model(
    folder: AnyPath,
    model: Retriever,
    tasks: Sequence[Task],
    config: RunConfig,
    step: int,
    scores: Callable[[str], str] = lambda sha256: "",
    target: str = "",
) -> AnyPath:
    frozen = ""
    if model.documents and config.model.documents == "frozen":
        own = model.documents.folder.name == DOCUMENTS  # the source's, whose queries are read by another
        frozen = f"{config.model.source}/{DOCUMENTS}" if own else config.model.source
    details = {
        "mtret": versions()["mtret"],
        "source": config.model.source,
        "source_sha256": model.encoder.weights_sha256,
        "frozen_documents": frozen,
        "step": step,
        "config": as_json(config),
    }
    prompts = prompts_of(config.templates, {task.card.name: task.card.instruction for task in tasks})
    save_artefact(folder, model, config.templates, prompts, training_record(tasks), details, scores, target)
    return folder


def _start(
    run: Prepared,
    config: RunConfig,
    checkpoints: Checkpoints | ObjectCheckpoints,
    workdir: AnyPath,
    console: Console,
    peers: Peers,
) -> tuple[TrainState, Best]:
    """The state to go on from, and the best before it."""
    best = Best(workdir / "best.safetensors", writes=peers.first)
    state = create_state(run.params, run.step.optimizer, run.mesh, run.specs)
    if run.mesh.size > 1:
        for line in layout_lines(layout(state.params, state.opt_state), run.mesh):
            say(console, line)
    restored = checkpoints.restore(state, complain=lambda line: say(console, line, style="yellow"))
    steps = peers.gather("restored", -1 if restored is None else int(restored[0].step))
    if len(set(steps)) > 1:
        raise UserError(f"{workdir}: the processes restore different steps, {steps}; mend the disk")
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
    """Whether a file of parameters is whole. Raises OSError where one cannot know, which is no reason to give it up."""
    from safetensors import SafetensorError

    try:
        load_arrays(path)
    except (FileNotFoundError, SafetensorError):
        return False
    return True


@contextmanager
def _sinks(run: Prepared, workdir: AnyPath, first: int, console: Console, peers: Peers) -> Iterator[Sinks]:
    names = tuple(task.name for task in run.planner.tasks)
    if not peers.first:
        yield Sinks(Nowhere(), Nowhere(), Nowhere(), names)
        return
    file = MetricsFile(workdir / "metrics.jsonl", first)
    events = EventWriter(workdir / "events", purge_step=first + 1 if first else 0)
    try:
        bar = TrainingBar(console, "training", run.planner.steps, first)
        with bar:
            yield Sinks(file, events, bar, names)
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


def _loop(
    run: Prepared,
    config: RunConfig,
    steps: Mapping[Shape, Step],
    checkpoints: Checkpoints | ObjectCheckpoints,
    best: Best,
    sinks: Sinks,
    on_skipped: Callable[[Plan], None],
    peers: Peers,
) -> Loop:
    return Loop(
        config=config.loop,
        steps=steps,
        batches=lambda first: batches(run.planner, batch_sharding(run.mesh), first),
        checkpoints=checkpoints,
        best=best,
        sinks=sinks,
        evaluate=run.evaluate,
        on_skipped=on_skipped if peers.first else lambda plan: None,
        stop=peers.stop,
        deployed=partial(deployed_of, lora=config.model.lora),
    )


def _chosen(best: Best, latest: Tree, last_step: int) -> tuple[Tree, int]:
    """The best parameters and their step; the latest where no task has a dev split."""
    if best.step < 0:
        return jax.device_get(latest), last_step
    arrays = read_arrays(best.path)
    if arrays is None:
        raise UserError(f"{best.path}: cannot be read; the run's state is saved, the same command tries again")
    # Not `best.step`: a run that was killed may have written a later one than its checkpoint knows of.
    return unflatten(arrays), int(read_metadata(best.path)["step"])
