"""Checkpoints by Orbax: atomic, written in the background, and a damaged one gives way to the one before."""

import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from mtret.errors import UserError, first_line
from mtret.files import AnyPath
from mtret.train.step import TrainState


class Checkpoints:
    """The checkpoints of a run, `keep` of them at most."""

    damage: tuple[type[Exception], ...] = (Exception,)  # what reading a damaged one raises: here of many kinds

    def __init__(self, folder: Path, keep: int = 2):
        import orbax.checkpoint as ocp

        self._folder: AnyPath = folder.absolute()
        logging.getLogger("absl").addFilter(_worth_saying)
        self._ocp = ocp
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, enable_async_checkpointing=True, cleanup_tmp_directories=True
            ),
            item_names=("state", "record"),
        )

    def save(self, state: TrainState, record: dict[str, Any]) -> None:
        """Copies the state off the devices and returns; the writing goes on behind. `record` must be JSON."""
        args = self._ocp.args
        self._manager.save(
            int(state.step),
            args=args.Composite(state=args.StandardSave(state._asdict()), record=args.JsonSave(record)),
        )

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, in order."""
        return sorted(self._manager.all_steps())

    def restore(self, like: TrainState, complain: Callable[[str], None]) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest state that can be read, with its record; None where there is no checkpoint at all.

        Damaged ones are named through `complain` and removed, so that their steps can be saved again. Raises UserError
        where there are checkpoints and none can be read, and what a store raises where it cannot be reached.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                found = self._read(step, like)
            except self.damage as error:
                complain(f"checkpoint {step} is damaged ({first_line(error)[:160]}); falling back to the one before")
                continue
            for damaged in (later for later in steps if later > step):
                self._remove(damaged)
            return found
        if steps:
            raise UserError(f"{self._folder}: none of the checkpoints {steps} can be read; use a new workdir")
        return None

    def _read(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like._asdict())
        args, unhush = self._ocp.args, _hush_failing_reads()
        try:
            found = self._manager.restore(
                step, args=args.Composite(state=args.StandardRestore(target), record=args.JsonRestore())
            )
        except Exception:
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            raise
        unhush()
        return TrainState(**found["state"]), found["record"]

    def _remove(self, step: int) -> None:
        self._manager.delete(step)

    def wait(self) -> None:
        """Until everything is written. Raises what the writing raised."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and stops the writer."""
        self._manager.close()


def _worth_saying(record: logging.LogRecord) -> bool:
    """Orbax warns of a save that waited a second for the one before, as any does on a busy machine or a slow disk; and
    of a stop that was asked for, which the run itself says."""
    said = record.getMessage()
    return not said.startswith("Waiting for previous save to complete") and "Reached preemption sync point" not in said


def _hush_failing_reads() -> Callable[[], None]:
    """Silences the others where one read of a restore fails, which is said once; returns what undoes the silence.

    They complain to asyncio's log, or to an event loop that is gone, and some of them long after.
    """
    hook, log = sys.unraisablehook, logging.getLogger("asyncio")

    def hushed(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    def worth_saying(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Future exception was never retrieved")

    def unhush() -> None:
        sys.unraisablehook = hook
        log.removeFilter(worth_saying)

    sys.unraisablehook = hushed
    log.addFilter(worth_saying)
    return unhush
