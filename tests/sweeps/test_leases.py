"""A run has one worker at a time, whatever becomes of workers."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mtret.sweeps import leases
from mtret.sweeps.leases import LeaseLost, held, newest, take


def test_one_of_many_gets_it(tmp_path: Path) -> None:
    for round_ in range(20):
        folder, start, got = tmp_path / f"{round_}", threading.Barrier(8), []

        def worker(folder: Path = folder, start: threading.Barrier = start, got: list[object] = got) -> None:
            start.wait()
            got.append(take(folder))

        threads = [threading.Thread(target=worker) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(lease is not None for lease in got) == 1
        assert [path.name for path in folder.iterdir()] == ["1.json"]


def test_what_is_given_up_can_be_taken(tmp_path: Path) -> None:
    first = take(tmp_path / "run")
    assert first is not None and take(tmp_path / "run") is None
    with held(first):
        assert take(tmp_path / "run") is None
    second = take(tmp_path / "run")
    assert second is not None and second.number == 2


def test_silence_loses_it_and_the_loser_finds_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = take(tmp_path / "run")
    assert first is not None
    first.check()
    later = time.time() + leases.SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: later)
    second = take(tmp_path / "run")
    assert second is not None
    with pytest.raises(LeaseLost, match="run: another worker took this run over"):
        first.check()
    with pytest.raises(LeaseLost):
        first.renew(leases.SECONDS)
    first.release()  # changes nothing of the other's
    second.check()
    assert take(tmp_path / "run") is None


def test_it_is_renewed_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "SECONDS", 0.4)
    lease = take(tmp_path / "run")
    assert lease is not None
    first = json.loads(lease.path.read_text(encoding="utf-8"))["until"]
    with held(lease):
        deadline = time.monotonic() + 30
        while json.loads(lease.path.read_text(encoding="utf-8"))["until"] <= first + 0.5:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert take(tmp_path / "run") is not None


def test_a_damaged_one_is_waited_for_as_one_that_was_just_written(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "1.json").write_text("{", encoding="utf-8")
    assert take(folder) is None
    os.utime(folder / "1.json", (1.0, 1.0))
    assert take(folder) is not None and newest(folder) == 2


def test_a_killed_worker_of_this_machine_is_not_waited_for(tmp_path: Path) -> None:
    code = (
        f"import time, pathlib; from mtret.sweeps.leases import take; take(pathlib.Path({str(tmp_path / 'run')!r})); "
    )
    worker = subprocess.Popen([sys.executable, "-c", f"{code}time.sleep(600)"])
    while not newest(tmp_path / "run"):
        assert worker.poll() is None
        time.sleep(0.01)
    assert take(tmp_path / "run") is None
    worker.kill()
    worker.wait()
    lease = take(tmp_path / "run")
    assert lease is not None and lease.number == 2
