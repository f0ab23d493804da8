"""Steps that fit in memory: where a batch does not, it is read in chunks, each twice (GradCache)."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import jax
from rich.console import Console

from mtret.console import say
from mtret.data.shapes import Shape
from mtret.processes import gather
from mtret.runs.setup import Prepared
from mtret.train.programs import CompiledStep, TooLarge, compile_steps
from mtret.train.step import TrainState

MARGIN = 2  # a chunk takes what its share of the batch takes, and the batch's vectors besides
CPU_CHUNK = 4096  # tokens; larger ones are no faster there


class Fitting(NamedTuple):
    """A training whose steps are compiled."""

    run: Prepared
    steps: Mapping[Shape, CompiledStep]
    seconds: float  # to compile them


def compile_fitting(
    run: Prepared, state: TrainState, console: Console, as_planned: bool = False, largest_alone: bool = False
) -> Fitting:
    """Compiles the training's steps; if they do not fit in a device's memory, and not `as_planned`, those of the same
    training in chunks. `largest_alone`: the one that tells how much memory it takes.

    Of several processes all must call it: what one needs, all do.
    """

    def compiled(run: Prepared, bounded: bool = False) -> Fitting:
        planner = run.planner
        only = (max(planner.shapes, key=lambda shape: _tokens(shape, planner.patches)),) if largest_alone else None
        return Fitting(run, *compile_steps(run.step, state, planner, run.mesh, run.specs, only, bounded=bounded))

    if as_planned or run.step.chunked:
        return compiled(run)
    fitting = mine = None
    try:
        fitting = compiled(run, bounded=True)
    except TooLarge as error:
        mine = error.needed, error.room
    lacking = [each for each in gather("fitting", mine) if each is not None]
    if fitting is not None and not lacking:
        return fitting
    needed, room = max(lacking, key=lambda each: each[0] / max(each[1], 1))
    run = run.in_chunks(chunk_tokens(run.planner.shapes, run.planner.patches, needed, room))
    say(
        console,
        f"the largest step needs {needed / 2**30:.1f} GiB of a device, and there is room for {room / 2**30:.1f}: "
        f"batches are read in chunks of {run.planner.batch.chunk_tokens:,} tokens, each twice, which takes a third "
        "longer (smaller batches: --config.batch.queries)",
        style="yellow",
    )
    return compiled(run)


def chunk_tokens(shapes: Collection[Shape], patches: int, needed: int, room: int) -> int:
    """Tokens of a shard's chunk that fit where all of the largest batch does not: a power of two, a row at least.
    `patches`: of an image, each a token."""
    largest = max(_tokens(shape, patches) for shape in shapes)
    longest = max(max(shape.length, shape.document_length) for shape in shapes)
    fits = int(largest * max(room, 0) / (MARGIN * needed))
    if jax.default_backend() == "cpu":
        fits = min(fits, CPU_CHUNK)
    return max(1 << max(fits, 1).bit_length() - 1, longest)


def _tokens(shape: Shape, patches: int) -> int:
    return shape.rows * shape.length + shape.document_rows * (shape.document_length or patches)
