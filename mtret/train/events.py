"""Numbers over time for TensorBoard."""

import secrets
import tempfile
import time
from pathlib import Path

from mtret.devices import not_importing
from mtret.files import AnyPath, replace_bytes


class EventWriter:
    """Scalars, in a new file of `folder`. Where that is in an object store, `flush` writes the file as a whole.

    On tensorboardX's file format, not its `SummaryWriter`: that one's flush does not wait for its own queue.
    """

    def __init__(self, folder: AnyPath, purge_step: int = 0):
        """`purge_step`: TensorBoard forgets what files of earlier writers say from this step on."""
        with not_importing("torch"):
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore[attr-defined]
            from tensorboardX.proto.summary_pb2 import Summary  # type: ignore[attr-defined]

        self._event, self._summary = Event, Summary
        self._folder = folder
        self._room = None if isinstance(folder, Path) else tempfile.TemporaryDirectory(prefix="mtret-events-")
        place = Path(self._room.name) if self._room else Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        # The name ends in a second and the host: two runs within one would write over each other.
        self._writer = EventsWriter(str(place / "events"), filename_suffix=f".{secrets.token_hex(4)}")
        if purge_step:
            start = SessionLog(status=SessionLog.START)
            self._writer.write_event(Event(wall_time=time.time(), step=purge_step, session_log=start))

    def add_scalar(self, name: str, value: float, step: int) -> None:
        summary = self._summary(value=[self._summary.Value(tag=name, simple_value=value)])
        self._writer.write_event(self._event(wall_time=time.time(), step=step, summary=summary))

    def flush(self) -> None:
        """Nothing that was added before is lost to a kill."""
        self._writer.flush()
        self._copy()

    def close(self) -> None:
        self._writer.close()
        self._copy()
        if self._room:
            self._room.cleanup()

    def _copy(self) -> None:
        if self._room:
            for path in Path(self._room.name).iterdir():
                replace_bytes(self._folder / path.name, path.read_bytes())
