"""Checkpoints in an object store: one object each, which is there whole or not at all.

Orbax writes to local folders and to gs:// alone, and marks what is complete by renaming or by a further file. An object
needs neither, and reads the same in every store and on every mesh.
"""

import json
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from safetensors import SafetensorError

from mtret.files import inside, load_arrays, read_metadata, remove, replace_arrays
from mtret.train.checkpoint import Checkpoints
from mtret.train.step import TrainState

SUFFIX = ".safetensors"
RECORD = "record"


class ObjectCheckpoints(Checkpoints):
    """In `gs://` or `s3://`. The whole state passes through the memory of the machine."""

    damage = (SafetensorError, ValueError, KeyError, FileNotFoundError)

    def __init__(self, folder: epath.Path, keep: int = 2):
        self._folder, self._keep = folder, keep
        names = [path.name for path in inside(folder)]
        self._steps = sorted(
            int(stem) for name in names if (stem := name.removesuffix(SUFFIX)) != name and stem.isdigit()
        )
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def save(self, state: TrainState, record: dict[str, Any]) -> None:
        self.wait()
        step = int(state.step)
        arrays = {name: _whole(value) for name, value in _named(state).items()}
        self._steps.append(step)
        if jax.process_index() == 0:
            self._writing = self._writer.submit(self._write, step, arrays, json.dumps(record))

    def _write(self, step: int, arrays: dict[str, np.ndarray], record: str) -> None:
        replace_arrays(self._path(step), arrays, {RECORD: record})
        while len(self._steps) > self._keep:
            remove(self._path(self._steps.pop(0)))

    def steps(self) -> list[int]:
        return sorted(self._steps)

    def _read(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        path = self._path(step)
        return _placed(load_arrays(path), like), json.loads(read_metadata(path)[RECORD])

    def _remove(self, step: int) -> None:
        if jax.process_index() == 0:
            remove(self._path(step))
        self._steps.remove(step)

    def wait(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def _path(self, step: int) -> epath.Path:
        return self._folder / f"{step}{SUFFIX}"


def _named(state: TrainState) -> dict[str, Any]:
    """The state's arrays by their path."""
    leaves = jax.tree_util.tree_leaves_with_path(state._asdict())
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _whole(value: jax.Array) -> np.ndarray:
    """A copy on the host. All processes must ask for it where the array is cut over them."""
    if value.is_fully_addressable or value.is_fully_replicated:
        return np.array(value)  # a mere view of a CPU's memory would keep it from the next step, which wants it donated
    return np.asarray(multihost_utils.process_allgather(value, tiled=True))


def _placed(arrays: dict[str, np.ndarray], like: TrainState) -> TrainState:
    """`arrays` as a state, each placed as it is in `like`. Raises ValueError where one is missing or does not fit."""
    wanted = _named(like)
    if arrays.keys() != wanted.keys():
        raise ValueError(f"holds not the same arrays as the run: {sorted(arrays.keys() ^ wanted.keys())[0]}")
    leaves = []
    for name, leaf in wanted.items():
        value = arrays[name]
        if (value.shape, value.dtype) != (leaf.shape, leaf.dtype):
            raise ValueError(f"{name}: {value.dtype}{list(value.shape)}, not {leaf.dtype}{list(leaf.shape)}")
        leaves.append(jax.make_array_from_callback(value.shape, leaf.sharding, value.__getitem__))
    return TrainState(**jax.tree.unflatten(jax.tree.structure(like._asdict()), leaves))
