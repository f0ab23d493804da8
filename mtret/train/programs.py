"""A step compiled, ahead of the run, for every shape that its batches will have."""

import math
import os
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from mtret.data.planning import Planner
from mtret.data.shapes import Chunks, Shape
from mtret.devices import compiler_options, device_memory, give_back_memory
from mtret.models.dual_encoder import matmul_dtype_of
from mtret.pytrees import Tree
from mtret.train import layerwise
from mtret.train.sharding import batch_sharding, replicated
from mtret.train.step import Seed, StepConfig, TrainState, gradients
from mtret.train.updates import Update, compile_update, placed, trained
from mtret.types import PairBatch

CORES = os.cpu_count() or 2
# Of a device's memory, what a state and a step may take. A CPU's memory holds texts, programs and caches as well.
SHARE, SHARE_OF_CPU = 0.9, 0.7
SEED = jax.ShapeDtypeStruct((), np.int32)


class TooLarge(Exception):
    """A step of the largest batch needs more bytes of a device than there is room for."""

    def __init__(self, needed: int, room: int):
        super().__init__(f"a step needs {needed:,} bytes, and there is room for {room:,}")
        self.needed, self.room = needed, room


@dataclass(frozen=True)
class WholeGradients:
    """(params, batch, step) -> loss, accuracy, gradient of what is trained by path: as one program."""

    program: "Future[Any]"

    def __call__(
        self, params: Tree, batch: PairBatch, step: Int[Array, ""], seed: Seed = None
    ) -> tuple[Array, Array, dict[str, Array]]:
        return self.program.result()(params, batch, step, seed)

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
    seed: Seed  # on every device

    def __call__(self, state: TrainState, batch: PairBatch) -> tuple[TrainState, Float[Array, "metrics"]]:
        return self.update(state, *self.gradients(state.params, batch, state.step, self.seed))

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
    bounded: bool = False,
) -> tuple[Mapping[Shape, CompiledStep], float]:
    """By shape (of `only` these) a step, and the seconds they took; of batches in chunks, one serves all of a row
    length.

    `by_layer`: the gradient as a program for each kind of layer; None: where that `suits_layers`. Then layers run a
    second time in the backward pass where a batch's activations do not fit. Executables, unlike jitted functions,
    cannot compile behind one's back: a shape that was not declared is an error. Raises TooLarge, if `bounded`, for
    batches that do not fit in a device's memory.
    """
    began = time.monotonic()
    if by_layer is None:
        by_layer = suits_layers(mesh, config.chunked)
    room = _room_beside(state, mesh)
    of = {shape: planner.abstract(shape) for shape in only or planner.shapes}
    distinct = sorted(set(of.values()), key=_size, reverse=True)  # the longest compilation first
    gradient = sum(_bytes_on_a_device(leaf) for leaf in trained(state.params, config).values())
    # XLA shares a large program out to threads of its own, but not a layer's.
    with ThreadPoolExecutor(max_workers=CORES if by_layer else max(1, CORES // 2)) as threads:
        shared = compile_update(config, state, mesh, threads, _options(config), by_part=by_layer)
        if by_layer:
            cuts = {batch: planner.chunks(shape) for shape, batch in of.items()}
            derived, needed = _by_layer(config, state, distinct, cuts, mesh, threads, room)
        else:
            derived = _whole(config, state, distinct, mesh, specs, threads)
            needed = gradient + derived[distinct[0]].temporary_bytes if bounded else 0
        if bounded and needed > room:
            threads.shutdown(wait=False, cancel_futures=True)
            raise TooLarge(needed, room)
    # As jax.random.key reads a number that is compiled in.
    seed = placed(np.asarray(config.seed, np.int64).astype(np.int32), mesh)
    compiled = {shape: CompiledStep(derived[batch], shared, gradient, seed) for shape, batch in of.items()}
    for program in compiled.values():
        program.temporary_bytes  # noqa: B018  (whatever could not be compiled is said now)
    give_back_memory()
    return compiled, time.monotonic() - began


def _room_beside(state: TrainState, mesh: Mesh) -> int:
    """Bytes of a device that a step may take."""
    share = SHARE_OF_CPU if mesh.devices.flat[0].platform == "cpu" else SHARE
    held = sum(map(_bytes_on_a_device, jax.tree.leaves(state)))
    return int(share * device_memory(len(mesh.local_devices))) - held


def _by_layer(
    config: StepConfig,
    state: TrainState,
    shapes: Sequence[PairBatch],
    cuts: Mapping[PairBatch, tuple[Chunks, Chunks]],
    mesh: Mesh,
    threads: Executor,
    room: int,
) -> tuple[dict[PairBatch, layerwise.LayerwiseGradients], int]:
    """Of these shapes, the largest first; and the bytes of activations that it keeps, which is known before anything is
    compiled."""
    like = jax.eval_shape(lambda: state)
    compiler = layerwise.Compiler(threads, replicated(mesh), _options(config))

    def derive(config: StepConfig, batch: PairBatch) -> layerwise.LayerwiseGradients:
        return layerwise.compile_gradients(config, like.params, batch, like.step, compiler, cuts[batch], SEED)

    largest = derive(config, shapes[0])
    if largest.kept_bytes > room:
        config = _run_again(config)
        largest = derive(config, shapes[0])
    return {shapes[0]: largest, **{batch: derive(config, batch) for batch in shapes[1:]}}, largest.kept_bytes


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

    def derive(params: Tree, batch: PairBatch, step: Array, seed: Array) -> tuple[Array, Array, dict[str, Array]]:
        loss, accuracy, gradient = gradients(params, batch, step, config, mesh, specs, seed)
        return loss, accuracy, trained(gradient, config)

    derive_all = jax.jit(
        derive,
        in_shardings=(places.params, batch_sharding(mesh), everywhere, everywhere),
        out_shardings=(everywhere, everywhere, trained(places.params, config)),
        compiler_options=_options(config),
    )

    def compiled(batch: PairBatch) -> Any:
        return derive_all.lower(like.params, batch, like.step, SEED).compile()

    return {batch: WholeGradients(threads.submit(compiled, batch)) for batch in shapes}


def _bytes_on_a_device(leaf: jax.Array) -> int:
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
