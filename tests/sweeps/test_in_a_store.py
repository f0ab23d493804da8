"""Workers that share a folder of an object store."""

import threading
import time
from typing import Any

import pytest

from mtret.errors import UserError
from mtret.files import inside, locate
from mtret.sweeps import leases
from mtret.sweeps.leases import LeaseLost, check_exclusive, held, take

pytestmark = [pytest.mark.slow, pytest.mark.system]


def test_one_of_many_gets_a_lease_and_silence_loses_it(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, start, got = locate(f"{store}/leases/run"), threading.Barrier(6), list[Any]()

    def worker() -> None:
        start.wait()
        got.append(take(folder))

    threads = [threading.Thread(target=worker) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (first,) = [lease for lease in got if lease is not None]
    assert [path.name for path in inside(folder)] == ["1.json"] and take(folder) is None
    later = time.time() + leases.SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: later)
    second = take(folder)
    assert second is not None and second.number == 2
    with pytest.raises(LeaseLost):
        first.renew(leases.SECONDS)
    with held(second):
        assert take(folder) is None
    monkeypatch.setattr(time, "time", lambda: later + 1)
    third = take(folder)
    assert third is not None and third.number == 3


def test_a_store_that_overwrites_where_it_is_asked_to_create_is_refused(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.core import url_to_fs

    folder = locate(f"{store}/refused")
    check_exclusive(folder)
    client, _ = url_to_fs(str(folder))
    real = client.pipe_file
    monkeypatch.setattr(client, "pipe_file", lambda path, value, **_: real(path, value))
    with pytest.raises(UserError, match="overwrites where it is asked to create, so workers cannot share a folder"):
        check_exclusive(folder)
    assert inside(folder) == []
