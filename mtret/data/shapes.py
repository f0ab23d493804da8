"""The few shapes of batches that a run compiles."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from mtret.data.packing import pack

MOST_SHAPES = 24  # that a run compiles; each takes seconds
SMALL_WASTE = 0.002  # of a run's places: what a shape must save to be worth having
COMPILE_STEPS = 0.5  # average steps: what it must save to be worth compiling, which counts in a short run
SHORTEST_ROW = 32
# Where the activations of all chunks are kept (a program for each kind of layer): what one costs beside its places, and
# a second size of chunks to compile, both as tokens; and the most that one holds (experiments/007_large_vocabularies).
CHUNK_COST = 40
SIZE_COST = 3000
CHUNK_TOKENS = 4096
# Attention over a row costs as much as everything else does at this many tokens (MiniLM on a CPU: experiments/LOG.md).
EVEN_LENGTH = 490


class Shape(NamedTuple):
    """What a shard of a batch holds."""

    rows: int  # of texts
    length: int  # tokens of such a row
    document_rows: int = 0  # of separate documents; where they are images, how many
    document_length: int = 0  # 0: images, or no separate documents


class Kind(NamedTuple):
    """Batches whose shapes differ in one number of rows alone: of all texts, or of separate documents."""

    separate: bool
    length: int
    document_length: int

    @property
    def row_length(self) -> int:
        """Of the rows that differ; 0: images."""
        return self.document_length if self.separate else self.length


def kind_of(shape: Shape) -> Kind:
    """The batches that differ from one of this shape in rows alone."""
    return Kind(shape.document_rows > 0, shape.length, shape.document_length)


def best_row_length(lengths: Int[np.ndarray, "texts"], longest: int) -> int:
    """A power of two for texts like these: short rows are cheap to attend over, long ones pack better."""
    shortest = max(SHORTEST_ROW, 1 << (longest - 1).bit_length())
    costs = {
        length: pack(lengths, length).rows * length * (length + EVEN_LENGTH)
        for length in (shortest, 2 * shortest, 4 * shortest)
    }
    return min(costs, key=lambda length: costs[length])


def declared_rows(
    needed: Mapping[tuple[Any, int], int], tokens: Callable[[Any], int] = lambda kind: kind
) -> dict[tuple[Any, int], int]:
    """(kind, rows) -> rows to round up to, chosen for one run. A kind is a row's length, or anything that sorts.

    Each count of rows that occurs begins as a shape of its own. Then the one that wastes least is rounded up to the
    next of the same length, again and again, while that wastes next to nothing or there are more than MOST_SHAPES.

    Args:
      needed: (kind, rows) -> steps.
      tokens: of a row of each kind.
    """
    places = sum(tokens(kind) * rows * steps for (kind, rows), steps in needed.items())
    small = max(SMALL_WASTE, COMPILE_STEPS / max(sum(needed.values()), 1)) * places
    steps = dict(needed)
    declared = {key: key[1] for key in needed}
    while True:
        kept = sorted(steps)
        waste = {
            (here, after): steps[here] * tokens(here[0]) * (after[1] - here[1])
            for here, after in pairwise(kept)
            if here[0] == after[0]
        }
        if not waste:
            return declared
        here, after = min(waste, key=lambda pair: waste[pair])
        if waste[here, after] > small and len(kept) <= MOST_SHAPES:
            return declared
        steps[after] += steps.pop(here)
        declared = {key: after[1] if (key[0], rows) == here else rows for key, rows in declared.items()}


class Chunks(NamedTuple):
    """How batches of a run are cut where the activations of all chunks are kept."""

    rows: int  # of a chunk
    together: int  # as many chunks are read at once while there are so many; 1: each alone

    def reads(self, chunks: int) -> list[tuple[int, int]]:
        """(first, how many) of the chunks of a batch that are read at once."""
        large, small = divmod(chunks, self.together)
        whole = [(number * self.together, self.together) for number in range(large)]
        return whole + [(chunks - left, 1) for left in range(small, 0, -1)]


def even_chunks(needed: Mapping[int, int], tokens: int) -> Chunks:
    """One or two sizes for all batches of a run, so that they cost least.

    Args:
      needed: rows -> batches.
      tokens: of a row.
    """

    def cost(cut: Chunks) -> int:
        total = 0
        for rows, batches in needed.items():
            chunks = -(-rows // cut.rows)
            total += batches * (chunks * cut.rows * tokens + len(cut.reads(chunks)) * CHUNK_COST)
        return total + (SIZE_COST if cut.together > 1 else 0)

    most = max(min(max(needed), CHUNK_TOKENS // tokens), 1)
    sizes = [Chunks(rows, together) for rows in range(most, 0, -1) for together in {1, most // rows}]
    return min(sizes, key=cost)


def roomy(chunks: int) -> int:
    """Rounded up by an eighth at most: what runs of other seeds need too. Chunks that are not filled cost nothing."""
    step = 1 << max(chunks.bit_length() - 4, 0)
    return -(-chunks // step) * step


def up(rows: int, size: int | None) -> int:
    """To whole chunks of so many rows, where there are chunks."""
    return -(-rows // size) * size if size else rows
