"""A configuration becomes data, model and loop, and in the end a model folder."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from rich.console import Console

from mtret.artefact.folder import DOCUMENTS, load_artefact, prompts_of, save_artefact
from mtret.artefact.retriever import Retriever
from mtret.console import TrainingBar, duration, say, timed
from mtret.data.formats import Suite
from mtret.data.images import Images
from mtret.data.pipeline import batches
from mtret.data.planning import Plan, Planner
from mtret.data.roles import training_record
from mtret.data.shapes import Shape
from mtret.data.tasks import Task
from mtret.data.tokenize import Tokenizer
from mtret.data.training_tasks import TrainingTask, training_task
from mtret.devices import cache_folder, device_line, keep_compilations, keep_memory, prepare_gpu
from mtret.errors import UserError, nearest
from mtret.evaluation.dev_sample import DevSample, dev_samples
from mtret.evaluation.report import role_tables
from mtret.evaluation.results import read_results
from mtret.files import AnyPath, load_arrays, read_arrays, read_metadata, replace_json, written_locally
from mtret.index.encode import Texts
from mtret.index.exact import cut
from mtret.models import attention, hf, hf_images
from mtret.processes import ALONE, Peers
from mtret.pytrees import Tree, flatten, unflatten
from mtret.run_config import RunConfig, as_json, build
from mtret.runs.identity import check_same, check_shared, claim, identity_of, read_identity
from mtret.runs.setting import check_writable, load_suite, read_all_pixels, versions
from mtret.runs.summary import count_compilations, in_words, summary
from mtret.train.checkpoint import Checkpoints
from mtret.train.events import EventWriter
from mtret.train.loop import Best, Evaluate, KeptWeights, Loop, MetricsFile, Nowhere, Sinks
from mtret.train.object_checkpoint import ObjectCheckpoints
from mtret.train.optim import frozen_paths, optimizer
from mtret.train.sharding import batch_sharding, layout, layout_lines, make_mesh, param_specs
from mtret.train.step import Step, StepConfig, TrainState, compile_steps, create_state, deployed_of, initial_params

BLIND = "; its documents are images, which need an image tower: model.vision.source"


def mixture_tasks(suite: Suite, config: RunConfig) -> list[Task]:
    """The tasks that the configuration trains on; all with a train split where it names none.

    Raises UserError for a name that the suite does not have.
    """
    sees = bool(config.model.vision.source)
    names = config.mixture.tasks or tuple(
        name for name, task in suite.tasks.items() if "train" in task.splits and (sees or task.images is None)
    )
    for name in names:
        if name not in suite.tasks:
            raise UserError(f"mixture.tasks: no task '{name}' in {suite.folder}.{nearest(name, suite.tasks)}")
        if suite.tasks[name].images is not None and not sees:
            raise UserError(
                f"mixture.tasks: '{name}' is a task of images, which needs an image tower; name one in "
                "model.vision.source, or 'scratch'"
            )
    if reserved := {"query", "document"} & set(names):
        raise UserError(f"mixture.tasks: '{reserved.pop()}' is the name of a prompt of every model; rename the task")
    if len(set(names)) < len(names):
        raise UserError(f"mixture.tasks: a task is named twice in {', '.join(names)}")
    if not names:
        unseen = "" if sees or not any(task.images for task in suite.tasks.values()) else BLIND
        raise UserError(f"{suite.folder}: no task has a train split, so there is nothing to train on{unseen}")
    return [suite.tasks[name] for name in names]


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
    if not config.mixture.tasks:
        for name in sorted({name for name, task in suite.tasks.items() if "train" in task.splits}):
            if name not in {task.name for task in tasks}:
                say(console, f"{name}: left out{BLIND}")
    model = _start_models(config, tasks)
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
    run = _prepare(config, tasks, model, cache, console, peers)
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
                    "parameters": _sizes(run.params, run.step.frozen),
                    "optimizer_bytes": _bytes(state.opt_state),
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
    model = _start_models(config, tasks)
    claim(workdir, identity_of(config, suite, tasks, model), write=False)
    step = int(read_metadata(path).get("step", -1))
    scores = partial(_scores, workdir)
    return _save_model(out, model.with_params(unflatten(arrays)), tasks, config, step, scores, target)


def _start_models(config: RunConfig, tasks: Sequence[Task]) -> Retriever:
    """What the training starts from: the text encoder, a document tower where it is apart, an image tower where a task
    has images."""
    model = load_artefact(config.model.source, config.model).model
    encoder, documents, images = model.encoder, model.documents, None
    if config.model.documents != "shared":
        documents = documents or encoder
    elif documents is not None:
        raise UserError(
            f"model.source: {config.model.source} reads documents by a tower of their own; give "
            "model.documents='frozen' or 'separate'"
        )
    if any(task.images for task in tasks):
        own = config.model
        images = hf_images.begin(own.vision, encoder.features, config.seed, own.operands, own.remat)
    elif config.model.vision.source:
        raise UserError(
            "model.vision.source: names an image tower, but no task of the mixture has images; leave it out"
        )
    return Retriever(encoder, documents, images)


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


@dataclass(frozen=True)
class _Run:
    """What a training needs, before any state."""

    planner: Planner
    step: StepConfig
    params: Tree
    mesh: jax.sharding.Mesh
    specs: Tree
    evaluate: Evaluate | None


def _prepare(
    config: RunConfig,
    tasks: Sequence[Task],
    model: Retriever,
    cache: AnyPath,
    console: Console,
    peers: Peers,
) -> _Run:
    encoder, images = model.encoder, model.images
    mesh = make_mesh(config.batch.groups, config.mesh.fsdp)
    tokenizer = Tokenizer(encoder.folder, cache, encoder.pools_prompt)
    pixels = read_all_pixels(tasks, images.config.image_size, cache, console) if images else {}
    with timed(console, "tokenising"):
        training = [
            training_task(task, tokenizer, config.templates, config.batch, pixels.get(task.name)) for task in tasks
        ]
    _check_lengths(training, encoder)
    if any(dimension >= encoder.features for dimension in config.loss.dimensions):
        raise UserError(
            f"loss.dimensions: {config.loss.dimensions}, but the vectors of {encoder.folder} have {encoder.features} "
            "features, which are trained anyway; name smaller numbers"
        )
    if any(not 0 < dimension < encoder.features for dimension in config.dev.dimensions):
        raise UserError(
            f"dev.dimensions: {config.dev.dimensions}, but the vectors of {encoder.folder} have {encoder.features} "
            "features; name smaller numbers"
        )
    apart = model.documents is not None
    patches = images.config.patches if images else 1
    arguments = config.mixture, config.batch, encoder.pooling, config.seed, config.loop.steps, apart, patches
    planner = Planner(training, *arguments)
    with timed(console, "planning"):
        shapes = planner.shapes
    _print_plan(planner, shapes, tasks, training, config, console)
    params = initial_params(
        encoder.params,
        config.loss,
        config.model.lora,
        config.seed,
        documents=model.documents.params if model.documents else None,
        vision=images.params if images else None,
    )
    optim = config.optim
    if config.model.documents == "frozen":
        optim = replace(optim, train=(("documents/.*", False), *optim.train))
    frozen = frozen_paths(params, optim)
    specs = param_specs(params, config.mesh)
    step = StepConfig(
        tower=encoder.tower,
        optimizer=optimizer(optim, params, config.loop.steps),
        loss=config.loss,
        group_queries=planner.group_queries,
        group_texts=planner.group_texts,
        chunked=config.batch.chunk_tokens is not None,
        dropout=config.model.dropout != 0.0,
        seed=config.seed,
        lora=config.model.lora,
        frozen=frozen,
        vision=images.tower if images else None,
    )
    _print_trained(params, frozen, console)
    samples = dev_samples(tasks, config.dev, config.seed)
    evaluate = _dev_evaluator(samples, model, tokenizer, pixels, config, peers) if samples else None
    return _Run(planner, step, params, mesh, specs, evaluate)


def _check_lengths(training: Sequence[TrainingTask], encoder: hf.Pretrained) -> None:
    """Nor would anyone embed so long a text later: what is deployed truncates it."""
    for task in training:
        texts = ("query_length",) if isinstance(task.documents, Images) else ("query_length", "document_length")
        for name in texts:
            if getattr(task.config, name) > encoder.max_length:
                raise UserError(
                    f"batch.{name}: {getattr(task.config, name)} tokens for task '{task.name}', but the encoder in "
                    f"{encoder.folder} reads {encoder.max_length}; give {encoder.max_length} or less"
                )


def _print_plan(
    planner: Planner,
    shapes: Mapping[Shape, int],
    tasks: Sequence[Task],
    training: Sequence[TrainingTask],
    config: RunConfig,
    console: Console,
) -> None:
    families = sorted({task.card.family for task in tasks})
    queries = sum(len(task.queries) for task in training)
    pairs = sum(len(task.positives.documents) for task in training)
    batch = config.batch
    say(console, f"{len(tasks)} tasks of {len(families)} families: {', '.join(families)}")
    say(console, f"{queries:,} distinct queries, {pairs:,} pairs")
    say(
        console,
        f"batch {batch.queries} queries, {batch.positives} positive(s) and {batch.negatives} hard negatives each, at "
        f"most {batch.query_length}/{batch.document_length} tokens, in {batch.groups} group(s)",
    )
    words = ", ".join(f"{_in_words(shape)} ({count})" for shape, count in shapes.items())
    chunks = f", in chunks of {batch.chunk_tokens:,} tokens" if batch.chunk_tokens else ""
    say(console, f"{len(shapes)} shapes{chunks}, rows x tokens (steps): {words}")


def _in_words(shape: Shape) -> str:
    words = f"{shape.rows} x {shape.length}"
    if shape.document_length:
        return f"{words} and {shape.document_rows} x {shape.document_length}"
    return f"{words} and {shape.document_rows} images" if shape.document_rows else words


def _print_trained(params: Tree, frozen: Collection[str], console: Console) -> None:
    if frozen:
        sizes = _sizes(params, frozen)
        trained, whole = sizes["trained"], sizes["all"]
        say(console, f"trained: {trained:,} of {whole:,} parameters ({trained / whole:.1%}), the others are frozen")


def _sizes(params: Tree, frozen: Collection[str]) -> dict[str, int]:
    sizes = {path: int(np.prod(leaf.shape)) for path, leaf in flatten(params).items()}
    return {"all": sum(sizes.values()), "trained": sum(n for path, n in sizes.items() if path not in frozen)}


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _dev_evaluator(
    samples: Mapping[str, DevSample],
    model: Retriever,
    tokenizer: Tokenizer,
    pixels: Mapping[str, UInt8[np.ndarray, "_ S S 3"]],
    config: RunConfig,
    peers: Peers,
) -> Evaluate:
    """Scores of parameters on the dev samples, by task, and their mean, which of cut vectors alone is kept
    (`mean@128`). Processes share out the tasks."""
    parts: list[tuple[Texts, Texts | Images]] = []
    limit = model.encoder.max_length
    own = list(samples.items())[peers.index :: peers.count]
    rounds = count()
    for _, sample in own:
        task = sample.task
        prompt = config.templates.query_prefix(task.card.instruction)
        queries = tokenizer.after(prompt, [task.query_texts[i] for i in sample.queries])
        side: Texts | Images
        if task.images:
            side = Images(pixels[task.name], sample.documents.astype(np.int64))
        else:
            texts = [task.document_texts[i] for i in sample.documents]
            side = Texts(tokenizer.after(config.templates.document_prefix, texts), limit)
        parts.append((Texts(queries, limit), side))

    def evaluate(params: Tree) -> dict[str, float]:
        sides = model.with_params(params).embedders()(parts)
        mine = {name: sample.ndcg_at_10(*side) for (name, sample), side in zip(own, sides, strict=True)}
        for features in config.dev.dimensions:
            for (name, sample), (queries, documents) in zip(own, sides, strict=True):
                mine[f"{name}@{features}"] = sample.ndcg_at_10(cut(queries, features), cut(documents, features))
        found = {name: score for each in peers.gather(f"dev/{next(rounds)}", mine) for name, score in each.items()}
        means = {"mean": [found[name] for name in samples]}
        means |= {f"mean@{d}": [found[f"{name}@{d}"] for name in samples] for d in config.dev.dimensions}
        return {name: float(np.mean(each)) for name, each in means.items()} | {name: found[name] for name in samples}

    return evaluate


def _start(
    run: _Run,
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
def _sinks(run: _Run, workdir: AnyPath, first: int, console: Console, peers: Peers) -> Iterator[Sinks]:
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
    run: _Run,
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
