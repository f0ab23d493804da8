"""What an encoder that is not trained thinks of the texts of a training's batches."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int, Int64


@dataclass(frozen=True)
class Vectors:
    """Unit vectors of some texts of a task."""

    rows: Int64[np.ndarray, "n"]  # ascending
    vectors: Float32[np.ndarray, "n G"]

    def at(self, rows: Int[np.ndarray, "_"]) -> Float32[np.ndarray, "_ G"]:
        """Of these texts; zeros for one that there is none of, as for an empty slot, -1."""
        found = np.zeros((len(rows), self.vectors.shape[1]), np.float32)
        place = np.searchsorted(self.rows, rows).clip(max=max(len(self.rows) - 1, 0))
        there = np.flatnonzero(self.rows[place] == rows) if len(self.rows) else np.zeros(0, np.int64)
        found[there] = self.vectors[place[there]]
        return found


class TaskGuide(NamedTuple):
    """Of a task's queries and documents, by their rows in its `TrainingTask`."""

    queries: Vectors
    documents: Vectors

    @classmethod
    def without_vectors(cls, dimension: int) -> "TaskGuide":
        """All zeros: enough to plan and compile."""
        empty = Vectors(np.zeros(0, np.int64), np.zeros((0, dimension), np.float32))
        return cls(empty, empty)
