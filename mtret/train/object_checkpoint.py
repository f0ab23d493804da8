"""Checkpoints in an object store: one object each, which is there whole or not at all.

Orbax writes to local folders and to gs:// alone, and marks what is complete by renaming or by a further file. An object
needs neither, and reads the same in every store and on every mesh.
"""

import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from safetensors import SafetensorError

from mtret.errors import UserError, first_line
from mtret.files import inside, load_arrays, read_metadata, remove, replace_arrays
from mtret.train.step import TrainState

SUFFIX = ".safetensors"
RECORD = "record"


class ObjectCheckpoints:
    """As `Checkpoints`, in `gs://` or `s3://`. The whole state passes through the memory of the machine."""

    def __init__(self, folder: epath.Path, keep: int = 2):
        self._folder, self._keep = folder, keep
        names = [path.name for path in inside(folder)]
        self._steps = sorted(
            int(stem) for name in names if (stem := name.removesuffix(SUFFIX)) != name and stem.isdigit()
        )
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def save(self, state: TrainState, record: dict[str, Any]) -> None:
        """Copies the state off the devices and returns; the writing goes on behind. `record` must be JSON."""
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
        """Steps that have a checkpoint, in order."""
        return sorted(self._steps)

    def restore(self, like: TrainState, complain: Callable[[str], None]) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest state that can be read, with its record; None where there is no checkpoint at all.

        Damaged ones are named through `complain` and removed, so that their steps can be saved again. Raises UserError
        where there are checkpoints and none can be read, and what the store raises where it cannot be reached.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                found = _placed(load_arrays(self._path(step)), like)
                record = json.loads(read_metadata(self._path(step))[RECORD])
            except (SafetensorError, ValueError, KeyError, FileNotFoundError) as error:
                complain(f"checkpoint {step} is damaged ({first_line(error)[:160]}); falling back to the one before")
                continue
            for damaged in (later for later in steps if later > step):
                if jax.process_index() == 0:
                    remove(self._path(damaged))
                self._steps.remove(damaged)
            return found, record
        if steps:
            raise UserError(f"{self._folder}: none of the checkpoints {steps} can be read; use a new workdir")
        return None

    def wait(self) -> None:
        """Until everything is in the store. Raises what the writing raised."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def close(self) -> None:
        """Waits, and stops the writer."""
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
