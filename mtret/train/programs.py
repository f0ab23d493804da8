"""A step compiled, ahead of the run, for every shape that its batches will have."""

import math
import os
import time
from collections.abc import Collection, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from mtret.data.planning import Planner
from mtret.data.shapes import Shape
from mtret.devices import compiler_options, give_back_memory, memory_limit
from mtret.models.dual_encoder import matmul_dtype_of
from mtret.pytrees import Tree
from mtret.train import layerwise
from mtret.train.sharding import batch_sharding, replicated
from mtret.train.step import StepConfig, TrainState, gradients
from mtret.train.updates import Update, compile_update, trained
from mtret.types import PairBatch

THREADS = max(1, (os.cpu_count() or 2) // 2)  # that compile: XLA itself takes a second core for most of the time
KEPT_SHARE = 0.7  # of all memory: what a batch's activations may take


@dataclass(frozen=True)
class WholeGradients:
    """(params, batch, step) -> loss, accuracy, gradient of what is trained by path: as one program."""

    program: "Future[Any]"

    def __call__(self, params: Tree, batch: PairBatch, step: Int[Array, ""]) -> tuple[Array, Array, dict[str, Array]]:
        return self.program.result()(params, batch, step)

    @property
    def temporary_bytes(self) -> int:
        """What a device needs for it beside parameters, batch and gradient."""
        return self.program.result().memory_analysis().temp_size_in_bytes


Gradients = WholeGradients | layerwise.LayerwiseGradients


@dataclass(frozen=True)
class CompiledStep:
    """A `Step` in two parts, of which the update is the same for batches of every shape."""

    gradients: Gradients
    update: Update
    gradient_bytes: int  # on a device

    def __call__(self, state: TrainState, batch: PairBatch) -> tuple[TrainState, Float[Array, "metrics"]]:
        return self.update(state, *self.gradients(state.params, batch, state.step))

    @property
    def runs_layers_again(self) -> bool:
        """Whether that was chosen for want of memory, or asked for."""
        own = self.gradients
        return isinstance(own, layerwise.LayerwiseGradients) and own.config.tower.config.remat  # type: ignore[attr-defined]

    @property
    def temporary_bytes(self) -> int:
        """What a device needs for a step beside its state and batch."""
        return self.gradient_bytes + max(self.gradients.temporary_bytes, self.update.temporary_bytes)


def suits_layers(mesh: Mesh, chunked: bool) -> bool:
    """Whether gradients are a program for each kind of layer, by default: on one CPU, unless the chunks of a batch are
    read twice."""
    return mesh.size == 1 and mesh.devices.item().platform == "cpu" and not chunked


def compile_steps(
    config: StepConfig,
    state: TrainState,
    planner: Planner,
    mesh: Mesh,
    specs: Tree,
    only: Collection[Shape] | None = None,
    by_layer: bool | None = None,
) -> tuple[Mapping[Shape, CompiledStep], float]:
    """By shape (of `only` these) a step, and the seconds they took; of batches in chunks, one serves all of a row
    length.

    `by_layer`: the gradient as a program for each kind of layer; None: where that `suits`. Then layers run a second
    time in the backward pass where a batch's activations do not fit. Executables, unlike jitted functions, cannot
    compile behind one's back: a shape that was not declared is an error.
    """
    began = time.monotonic()
    if by_layer is None:
        by_layer = suits_layers(mesh, config.chunked)
    like = jax.eval_shape(lambda: state)
    of = {shape: planner.abstract(shape) for shape in only or planner.shapes}
    distinct = sorted(set(of.values()), key=_size, reverse=True)  # the longest compilation first
    with ThreadPoolExecutor(max_workers=THREADS) as threads:
        shared = compile_update(config, state, mesh, threads, _options(config), by_part=by_layer)
        if by_layer:
            compiler = layerwise.Compiler(threads, replicated(mesh), _options(config))
            cuts = {batch: planner.chunks(shape) for shape, batch in of.items()}
            derived: dict[PairBatch, Gradients] = {}
            for batch in distinct:
                arguments = like.params, batch, like.step, compiler, cuts[batch]
                one = layerwise.compile_gradients(config, *arguments)
                if not derived and one.kept_bytes > KEPT_SHARE * memory_limit():  # the largest
                    config = _run_again(config)
                    one = layerwise.compile_gradients(config, *arguments)
                derived[batch] = one
        else:
            derived = _whole(config, state, distinct, mesh, specs, threads)
    gradient = sum(_bytes_on_a_device(leaf) for leaf in trained(state.params, config).values())
    compiled = {shape: CompiledStep(derived[batch], shared, gradient) for shape, batch in of.items()}
    for program in compiled.values():
        program.temporary_bytes  # noqa: B018  (whatever could not be compiled is said now)
    give_back_memory()
    return compiled, time.monotonic() - began


def _run_again(config: StepConfig) -> StepConfig:
    """The same, with towers that keep nothing of their layers for the backward pass."""

    def again(tower: Any) -> Any:
        own: Any = getattr(tower, "config", None)
        return tower.clone(config=replace(own, remat=True)) if hasattr(own, "remat") else tower

    return replace(config, tower=again(config.tower), vision=again(config.vision))


def _options(config: StepConfig) -> dict[str, str]:
    return compiler_options(matmul_dtype_of(config.tower))


def _size(batch: PairBatch) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves((batch.texts, batch.documents)))


def _whole(
    config: StepConfig, state: TrainState, shapes: Collection[PairBatch], mesh: Mesh, specs: Tree, threads: Executor
) -> dict[PairBatch, Gradients]:
    places, everywhere = jax.tree.map(lambda x: x.sharding, state), replicated(mesh)
    like = jax.eval_shape(lambda: state)

    def derive(params: Tree, batch: PairBatch, step: Array) -> tuple[Array, Array, dict[str, Array]]:
        loss, accuracy, gradient = gradients(params, batch, step, config, mesh, specs)
        return loss, accuracy, trained(gradient, config)

    derive_all = jax.jit(
        derive,
        in_shardings=(places.params, batch_sharding(mesh), everywhere),
        out_shardings=(everywhere, everywhere, trained(places.params, config)),
        compiler_options=_options(config),
    )

    def compiled(batch: PairBatch) -> Any:
        return derive_all.lower(like.params, batch, like.step).compile()

    return {batch: WholeGradients(threads.submit(compiled, batch)) for batch in shapes}


def _bytes_on_a_device(leaf: jax.Array) -> int:
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
