"""Checkpoints by Orbax: atomic, written in the background, and a damaged one gives way to the one before."""

import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from mtret.errors import UserError, first_line
from mtret.train.step import TrainState


class Checkpoints:
    """The checkpoints of a run, `keep` of them at most."""

    def __init__(self, folder: Path, keep: int = 2):
        import orbax.checkpoint as ocp

        logging.getLogger("absl").addFilter(_worth_saying)
        self._ocp = ocp
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
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
        where there are checkpoints and none can be read.
        """
        steps = self.steps()
        if not steps:
            return None
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like._asdict())
        args, unhush = self._ocp.args, _hush_failing_reads()
        for step in reversed(steps):
            try:
                found = self._manager.restore(
                    step, args=args.Composite(state=args.StandardRestore(target), record=args.JsonRestore())
                )
            except Exception as error:  # damage shows itself in many kinds of exception
                warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
                complain(f"checkpoint {step} is damaged ({first_line(error)[:160]}); falling back to the one before")
                continue
            if step == steps[-1]:
                unhush()
            for damaged in (later for later in steps if later > step):
                self._manager.delete(damaged)
            return TrainState(**found["state"]), found["record"]
        raise UserError(f"{self._manager.directory}: none of the checkpoints {steps} can be read; use a new workdir")

    def wait(self) -> None:
        """Until everything is on disk. Raises what the writing raised."""
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
