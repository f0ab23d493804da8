"""What TensorBoard reads is complete at every flush."""

from pathlib import Path

import pytest

from mtret.files import AnyPath, inside, locate
from mtret.train.events import EventWriter


def scalars(folder: AnyPath) -> list[tuple[str, int, float]]:
    from tensorboardX.proto.event_pb2 import Event  # type: ignore[attr-defined]

    found = []
    for path in inside(folder):
        raw, start = path.read_bytes(), 0
        while start < len(raw):  # a record: its length, a checksum, the event, a checksum
            size = int.from_bytes(raw[start : start + 8], "little")
            event = Event.FromString(raw[start + 12 : start + 12 + size])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            start += 16 + size
        assert start == len(raw)
    return found


@pytest.fixture(params=["local", pytest.param("store", marks=pytest.mark.system)])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> AnyPath:
    if request.param == "local":
        return tmp_path / "events"
    return locate(f"{request.getfixturevalue('store')}/events")


def test_every_flush_is_complete(folder: AnyPath) -> None:
    writer = EventWriter(folder)
    for step in range(200):
        writer.add_scalar("loss", step / 2, step)
        if step % 20 == 0:
            writer.flush()
            assert scalars(folder)[-1] == ("loss", step, step / 2)
    writer.close()
    assert scalars(folder) == [("loss", step, step / 2) for step in range(200)]
    assert len(inside(folder)) == 1


def test_a_resumed_writer_says_from_where_on_the_others_are_void(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore[attr-defined]

    EventWriter(tmp_path, purge_step=7).close()
    (path,) = tmp_path.iterdir()
    raw = path.read_bytes()
    first = 16 + int.from_bytes(raw[:8], "little")  # says which format it is
    event = Event.FromString(raw[first + 12 : -4])
    assert (event.step, event.session_log.status) == (7, SessionLog.START)
