"""A configuration becomes tasks, starting models, a plan of batches and a step: all that a training needs."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int32
from rich.console import Console

from mtret.console import say, say_once, timed
from mtret.data.formats import Suite
from mtret.data.guide import TaskGuide
from mtret.data.images import Images
from mtret.data.planning import Planner
from mtret.data.shapes import Shape
from mtret.data.suites import load_suite, read_all_pixels
from mtret.data.tasks import Task
from mtret.data.templates import TemplateConfig, Templates
from mtret.data.tokenize import Tokenizer
from mtret.data.training_tasks import TrainingTask, training_task
from mtret.errors import UserError
from mtret.evaluation.samples import dev_samples
from mtret.files import AnyPath
from mtret.index.encode import Texts
from mtret.kernels import attention
from mtret.model_folder.folder import base_of, load_model, starting_templates
from mtret.model_folder.towers import Towers
from mtret.models import hf, hf_images
from mtret.pytrees import Tree, flatten
from mtret.run_config import RunConfig
from mtret.runs.dev import DevEvaluator, Sides, dev_sides, watched_by
from mtret.runs.preflight import check_room, check_teaching, slow_average
from mtret.runs.tasks import mixture_tasks, untrainable
from mtret.train.optim import OptimConfig, frozen_paths, optimizer, warmup_remark, without_gradient
from mtret.train.programs import suits_layers
from mtret.train.sharding import make_mesh, param_specs
from mtret.train.step import StepConfig, TrainState, deployed, deployed_of, initial_params, interpolated
from mtret.train.vocabulary import Vocabulary, adapts_words, vocabulary_of


def with_templates(config: RunConfig, encoder: hf.Pretrained, begun: TemplateConfig | None = None) -> RunConfig:
    """The configuration with its templates settled: what it does not say follows from the encoder, or is that of a run
    that was `begun` by it."""
    own = begun.over(Templates()) if begun else starting_templates(encoder, config.model)
    return replace(config, templates=TemplateConfig(**asdict(config.templates.over(own))))


def said_of_source(config: RunConfig, encoder: hf.Pretrained) -> list[str]:
    """What a user should know of the encoder that a training starts from, and of what is put before texts because of
    it; a line each."""
    base, templates = base_of(encoder, config.model), config.templates.chosen
    own, lines = base.published, list(base.remarks)
    if own and (own.query or own.document):
        lines.append(
            f"prompts of the source ({own.origin}): texts become {templates.query!r} and {templates.document!r}"
        )
    return lines


def start_models(config: RunConfig, tasks: Sequence[Task]) -> Towers:
    """What the training starts from: the text encoder, a document tower where it is separate, an image tower where a
    task has images."""
    model = load_model(config.model.source, config.model).towers
    encoder, images = model.encoder.to_train(), None
    documents = model.documents.to_train() if model.documents else None
    if config.model.documents != "shared":
        documents = documents or encoder
    elif documents is not None:
        raise UserError(
            f"model.source: {config.model.source} reads documents by a tower of their own; give "
            "model.documents='frozen' or 'separate'"
        )
    if any(task.images for task in tasks):
        own = config.model
        images = hf_images.begin(own.vision, encoder.dimension, config.seed, own.matmul_dtype, own.remat)
    elif config.model.vision.source:
        raise UserError(
            "model.vision.source: names an image tower, but no task of the mixture has images; leave it out"
        )
    return Towers(encoder, documents, images)


class Inputs(NamedTuple):
    """What a training begins with."""

    config: RunConfig  # with its templates settled
    suite: Suite
    tasks: list[Task]
    model: Towers


def load_inputs(
    config: RunConfig, console: Console, begun: TemplateConfig | None = None, suite: Suite | None = None
) -> Inputs:
    """Reads suite (unless it was read before) and encoder, and says what one would not expect of them. `begun`:
    templates of a run that an older mtret began. Raises UserError for the first mistake in them."""
    suite = suite or load_suite(config.suite)
    tasks = mixture_tasks(suite, config)
    for line in untrainable(suite, config, tasks):
        say(console, line)
    model = start_models(config, tasks)
    config = with_templates(config, model.encoder, begun)
    say_once(console, said_of_source(config, model.encoder))
    attention.choose(config.model.attention, model.encoder.config.attention_dropout_rate)
    return Inputs(config, suite, tasks, model)


@dataclass(frozen=True)
class Prepared:
    """What a training needs, before any state."""

    planner: Planner
    step: StepConfig
    params: Tree
    mesh: jax.sharding.Mesh
    specs: Tree
    evaluate: DevEvaluator | None
    optim: OptimConfig
    start: Tree  # all parameters that the training starts from
    vocabulary: Vocabulary  # of the word embeddings that are trained

    def in_chunks(self, tokens: int) -> "Prepared":
        """The same training, with batches that are read in chunks of so many tokens, each twice."""
        planner = self.planner.in_chunks(tokens)
        return replace(self, planner=planner, step=replace(self.step, chunked=True))

    def evaluated(self, state: TrainState) -> Tree:
        """What is evaluated of a state, on this host: as `deployed_of`, the base's share of it worked in."""
        lora = self.step.lora
        return interpolated(deployed_of(state, lora), deployed(self.params, lora), self.optim.base_share)

    def whole(self, state: TrainState) -> Tree:
        """What is kept and exported of a state, on this host: as `evaluated`, with all word embeddings."""
        if self.vocabulary.is_whole:
            return self.evaluated(state)
        params = deployed_of(state, self.step.lora)
        updates = int(state.step) - int(state.skipped)
        scale = partial(without_gradient, self.optim, self.step.frozen, steps=self.planner.steps, updates=updates)
        params = self.vocabulary.whole(jax.device_get(params), self.start, scale)
        return interpolated(params, deployed(self.start, self.step.lora), self.optim.base_share)


def prepare(
    config: RunConfig,
    tasks: Sequence[Task],
    model: Towers,
    cache: AnyPath,
    console: Console,
    words: Int32[np.ndarray, "kept"] | None = None,
    others: Sequence[Task] = (),
) -> Prepared:
    """Tokenises, plans every batch, and says what will be trained on.

    `words`: whose embeddings a run that goes on was begun with; None: those that its texts draw. `others`: tasks that
    are not trained on, but evaluated meanwhile. Raises UserError where configuration, tasks and encoder do not fit
    together.
    """
    encoder, images = model.encoder, model.images
    config = with_templates(config, encoder)
    mesh = make_mesh(config.batch.shards, config.mesh.state_shards)
    tokenizer = Tokenizer(encoder.folder, cache, encoder.pools_prompt)
    pixels = read_all_pixels([*tasks, *others], images.config.image_size, cache, console) if images else {}
    with timed(console, "tokenising"):
        training = [
            training_task(task, tokenizer, config.templates.chosen, config.batch, pixels.get(task.name))
            for task in tasks
        ]
    _check_lengths(training, encoder)
    remarks = check_room(tasks, training, config, tokenizer, encoder.max_length)
    _check_dimensions(config, encoder)
    samples = dev_samples([*tasks, *others], config.dev, config.seed)
    watched = watched_by(samples, {task.name for task in others}, config.loop.choose_by)
    dev = dev_sides(samples, encoder, tokenizer, pixels, config)
    start = params = _initial(model, config)
    vocabulary = _vocabulary(encoder, training, dev, config, words)
    if not vocabulary.is_whole:
        training, dev = _renumbered(training, dev, vocabulary)
        model, params = model.with_text_towers(vocabulary.tower), vocabulary.cut(start)
        drawn, every = len(vocabulary.ids), vocabulary.size
        say(console, f"word embeddings: {drawn:,} of {every:,} are drawn and trained, the others only decay")
    chunked = config.batch.chunk_tokens is not None
    planner = Planner(
        training,
        config.mixture,
        config.batch,
        encoder.pooling,
        config.seed,
        config.loop.steps,
        separate=model.documents is not None,
        patches=images.config.patches if images else 1,
        even_chunks=suits_layers(mesh, chunked),
    )
    if config.loss.guide_margin is not None:
        _check_guide(training)
        planner.guides = [TaskGuide.without_vectors(encoder.dimension)] * len(training)
    remarks += [*check_teaching(training, planner.without_steps()), *slow_average(config)]
    remarks += filter(None, [warmup_remark(config.optim, config.loop.steps)])
    with timed(console, "planning"):
        planner.shapes  # noqa: B018  (cached)
    _print_plan(planner, tasks, training, config, console)
    for line in remarks:
        say(console, line, style="yellow")
    optim = config.optim
    if config.model.documents == "frozen":
        optim = replace(optim, trainable=(("documents/.*", False), *optim.trainable))
    frozen = frozen_paths(params, optim)
    specs = param_specs(params, config.mesh)
    step = StepConfig(
        tower=model.encoder.tower,
        optimizer=optimizer(optim, params, config.loop.steps),
        loss=config.loss,
        shard_queries=planner.shard_queries,
        shard_texts=planner.shard_texts,
        chunked=chunked,
        dropout=config.model.dropout != 0.0,
        seed=config.seed,
        lora=config.model.lora,
        frozen=frozen,
        vision=images.tower if images else None,
    )
    _print_trained(params, frozen, console)
    evaluate = DevEvaluator(samples, watched, dev, model, config) if samples else None
    return Prepared(planner, step, params, mesh, specs, evaluate, optim, start, vocabulary)


def _vocabulary(
    encoder: hf.Pretrained,
    training: Sequence[TrainingTask],
    dev: Sequence[Sides],
    config: RunConfig,
    words: Int32[np.ndarray, "kept"] | None,
) -> Vocabulary:
    """Of these words, or of all that the run reads; of all words there are where adapters change every one."""
    size = encoder.config.vocab_size
    if words is None and config.model.lora.rank and adapts_words(encoder.params, config.model.lora):
        words = np.arange(size, dtype=np.int32)
    if words is not None:
        return Vocabulary(words, size)
    texts = [tokens for task in training for tokens in task.texts()]
    texts += [side.tokens for sides in dev for side in sides if isinstance(side, Texts)]
    return vocabulary_of(texts, size, max(getattr(encoder.config, "first_position", 0), 1))


def _renumbered(
    training: Sequence[TrainingTask], dev: Sequence[Sides], vocabulary: Vocabulary
) -> tuple[list[TrainingTask], list[Sides]]:
    """The same texts, by the numbers of this vocabulary."""

    def read(side: Texts) -> Texts:
        return replace(side, tokens=vocabulary.renumbered(side.tokens))

    tasks = [task.with_texts(vocabulary.renumbered) for task in training]
    return tasks, [(read(queries), read(other) if isinstance(other, Texts) else other) for queries, other in dev]


def _initial(model: Towers, config: RunConfig) -> Tree:
    """The parameters of all towers, adapters and the loss."""
    return initial_params(
        model.encoder.params,
        config.loss,
        config.model.lora,
        config.seed,
        documents=model.documents.params if model.documents else None,
        vision=model.images.params if model.images else None,
    )


def _check_dimensions(config: RunConfig, encoder: hf.Pretrained) -> None:
    if any(dimension >= encoder.dimension for dimension in config.loss.dimensions):
        raise UserError(
            f"loss.dimensions: {config.loss.dimensions}, but the vectors of {encoder.folder} have {encoder.dimension} "
            "dimensions, which are trained anyway; name smaller numbers"
        )
    if any(not 0 < dimension < encoder.dimension for dimension in config.dev.dimensions):
        raise UserError(
            f"dev.dimensions: {config.dev.dimensions}, but the vectors of {encoder.folder} have {encoder.dimension} "
            "dimensions; name smaller numbers"
        )


def _check_guide(training: Sequence[TrainingTask]) -> None:
    for task in training:
        if isinstance(task.documents, Images):
            raise UserError(
                f"loss.guide_margin: the documents of task '{task.name}' are images, which the encoder as it came "
                "cannot read; leave it or the margin out"
            )


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
        f"batch {batch.queries} queries, {batch.positives} positive(s) and {_hard_negatives(training)} each, at "
        f"most {batch.query_length}/{batch.document_length} tokens, in {batch.shards} shard(s)",
    )
    words = [f"{_in_words(alike)} ({sum(planner.shapes[each] for each in alike)})" for alike in planner.arrays.values()]
    chunks = f", in chunks of {batch.chunk_tokens:,} tokens" if batch.chunk_tokens else ""
    say(console, f"{len(words)} shape(s){chunks}, rows x tokens (steps): {', '.join(words)}")


def _hard_negatives(training: Sequence[TrainingTask]) -> str:
    """How many a query has in its batch, of those that the configuration asks for."""
    most = max(task.config.negatives for task in training)
    if not most:
        return "0 hard negatives"
    found = [
        np.minimum(task.negatives.sizes(), task.config.negatives) if task.negatives else np.zeros(len(task.queries))
        for task in training
    ]
    return f"up to {most} hard negatives ({np.concatenate(found).mean():.2g} on average)"


def _in_words(alike: Sequence[Shape]) -> str:
    """Of batches that differ in rows alone."""
    rows, documents = (
        str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"
        for counts in (
            sorted({shape.rows for shape in alike}),
            sorted({shape.document_rows for shape in alike}),
        )
    )
    words = f"{rows} x {alike[0].length}"
    if alike[0].document_length:
        return f"{words} and {documents} x {alike[0].document_length}"
    return f"{words} and {documents} images" if alike[0].document_rows else words


def _print_trained(params: Tree, frozen: Collection[str], console: Console) -> None:
    if frozen:
        sizes = sizes_of(params, frozen)
        trained, whole = sizes["trained"], sizes["all"]
        say(console, f"trained: {trained:,} of {whole:,} parameters ({trained / whole:.1%}), the others are frozen")


def sizes_of(params: Tree, frozen: Collection[str]) -> dict[str, int]:
    """Numbers of all parameters and of those that are trained."""
    sizes = {path: int(np.prod(leaf.shape)) for path, leaf in flatten(params).items()}
    return {"all": sum(sizes.values()), "trained": sum(n for path, n in sizes.items() if path not in frozen)}


def bytes_of(tree: Any) -> int:
    """Of all arrays in it."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
