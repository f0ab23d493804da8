"""Processes that meet, agree and are lost: the roll call over sockets, the rest over a store in memory or real JAX."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mtret import processes
from mtret.errors import UserError
from mtret.processes import ALONE, LOST, Address, detect
from mtret.relay import Relay
from mtret.rollcall import call_roll


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


class Store:
    """The key-value store of JAX's coordination service, in memory."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        self.values[key] = value

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        return [(path, value) for path, value in dict(self.values).items() if path.startswith(f"{key}/")]


def joined(store: Any, process: int, count: int, timeout_s: float = 1.0) -> Any:
    names = {i: f"host {i}" for i in range(count)}
    return processes._Joined(store, Address("localhost:1", count, process), names, timeout_s)


def test_alone_there_is_nobody_to_ask() -> None:
    assert ALONE.first
    assert ALONE.share("x", [1]) == [1] and ALONE.gather("x", 2) == [2]
    assert ALONE.stop(3, None) is None and ALONE.stop(3, signal.SIGTERM) == signal.SIGTERM
    with pytest.raises(UserError, match="as it was"):
        ALONE.abandon(UserError("as it was"), 2)


def roll(port: int, count: int, process: int, timeout_s: float = 10.0) -> dict[int, str]:
    return call_roll(f"localhost:{port}", count, process, f"host {process}", timeout_s)


def test_the_roll_is_complete_in_whatever_order_they_come() -> None:
    port = free_port()
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(roll, port, 4, process) for process in (3, 1, 2)]
        time.sleep(0.1)
        first = pool.submit(roll, port, 4, 0)
        assert first.result() == {i: f"host {i}" for i in range(4)}
        assert [each.result() for each in others] == [{0: "host 0"}] * 3


def test_who_is_missing_there_twice_or_counts_otherwise_is_said() -> None:
    port = free_port()
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(roll, port, 4, 0, 2.0)
        there = pool.submit(roll, port, 4, 1, 2.0)
        time.sleep(0.5)
        with socket.create_connection(("localhost", port)) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(UserError, match=r"--process=1: there is one already \(host 1\); give each a number of its"):
            roll(port, 4, 1)
        with pytest.raises(UserError, match="--processes=3, but process 0 was started with 4; give all the same"):
            roll(port, 3, 2)
        for each in (first, there):
            with pytest.raises(UserError, match="process 2, 3 of 4 did not come in 2 s"):
                each.result()


def test_a_process_that_went_away_again_is_not_there() -> None:
    port = free_port()
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(roll, port, 3, 0)
        time.sleep(0.2)
        with socket.create_connection(("localhost", port)) as gone:
            gone.sendall(json.dumps({"process": 1, "processes": 3, "name": "gone"}).encode() + b"\n")
            time.sleep(0.5)
        time.sleep(0.5)
        others = [pool.submit(roll, port, 3, process) for process in (2, 1)]
        assert first.result() == {0: "host 0", 1: "host 1", 2: "host 2"}
        assert [each.result() for each in others] == [{0: "host 0"}] * 2


@pytest.mark.parametrize("coordinator", ["localhost", "localhost:", ":80", "localhost:http", "localhost:99999"])
def test_an_address_is_host_and_port(coordinator: str) -> None:
    with pytest.raises(UserError, match=f"--coordinator={coordinator}: is not of the form HOST:PORT"):
        call_roll(coordinator, 2, 1, "", 1.0)


def test_an_address_that_is_taken_or_never_answers_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--coordinator=localhost:{port}: cannot be .* in use.; choose another"):
            roll(port, 2, 0)
    with pytest.raises(UserError, match=r"process 1 of 2: no process 0 at localhost:\d+ in 0.5 s \(Connection refused"):
        roll(free_port(), 2, 1, 0.5)


def test_a_cluster_is_found_by_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--distributed: no cluster that JAX knows"):
        detect()
    slurm = {"JOB_ID": 4096 * 3 + 5, "STEP_NODELIST": "node[07-09]", "NTASKS": 3, "PROCID": 2, "LOCALID": 0}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    assert detect() == Address("node07:61445", 3, 2, [0])


def run_until_stopped(peer: Any, ask_at: int | None, seconds: Callable[[], float]) -> tuple[int, int | None]:
    """Steps that hang together with no other process's: the agreement must do without that."""
    for done in range(1, 2000):
        time.sleep(seconds())
        number = peer.stop(done, signal.SIGTERM if ask_at is not None and done >= ask_at else None)
        if number is not None:
            return done, number
    return 0, None


@pytest.mark.parametrize("askers", [(1,), (0, 2)])
def test_all_stop_after_the_same_step(askers: tuple[int, ...]) -> None:
    store, speed = Store(), random.Random(0)
    peers = [joined(store, process, 3, timeout_s=30.0) for process in range(3)]
    for peer in peers:
        peer._beat_s = 0.05
        peer.start()
    with ThreadPoolExecutor(3) as pool:
        runs = [
            pool.submit(run_until_stopped, peer, 5 if peer.index in askers else None, lambda: speed.random() * 0.01)
            for peer in peers
        ]
        stopped = [each.result() for each in runs]
    for peer in peers:
        peer._leaving.set()
    assert len(set(stopped)) == 1, stopped
    assert stopped[0][0] >= 5 and stopped[0][1] == signal.SIGTERM


def test_who_finishes_leaves_no_thread_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes back from JAX when the interpreter has ended takes the process along (SIGABRT)."""

    class Slow(Store):
        asked = threading.Event()

        def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
            self.asked.set()
            time.sleep(0.3)
            return super().key_value_dir_get(key)

        def wait_at_barrier(self, key: str, timeout_ms: int) -> None:
            assert self.asked.wait(30)

    alive = []
    peer = joined(Slow(), 0, 1, timeout_s=30.0)
    monkeypatch.setattr(
        "jax.distributed.shutdown", lambda: alive.extend(t.name for t in threading.enumerate() if t in peer._threads)
    )
    peer.start()
    peer.finish()
    assert len(peer._threads) == 2 and alive == []


def test_a_relay_passes_everything_on_and_says_when_the_other_side_breaks() -> None:
    broken = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        relay = Relay("127.0.0.1", server.getsockname()[1])
        relay.on_broken = broken.set
        host, port = relay.address.split(":")

        def connect() -> tuple[socket.socket, socket.socket]:
            near = socket.create_connection((host, int(port)))
            return near, server.accept()[0]

        near, far = connect()
        near.sendall(b"there" * 50_000)
        received = b""
        while len(received) < 250_000:
            received += far.recv(1 << 16)
        far.sendall(b"back")
        assert received == b"there" * 50_000 and near.recv(9) == b"back"
        near.close()
        assert far.recv(9) == b""  # closed by this side: passed on, and no break
        near, far = connect()
        assert not broken.wait(0.3)
        far.close()
        assert broken.wait(5)
        near.settimeout(0.3)
        with pytest.raises(TimeoutError):  # this side is left waiting
            near.recv(9)


PROGRAM = """
import sys, time
from mtret.errors import UserError
from mtret.processes import Address, join
port, process, then = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
peers = join(Address(f"localhost:{port}", 2, process), timeout_s=2.0, start_timeout_s=60)
print(peers.share("shared", process), peers.gather("gathered", process * 10), flush=True)
if then == "fails":
    peers.abandon(UserError("its disk is full"), 2)
if then == "hangs":
    time.sleep(60)
peers.finish()
"""


def pair(*then: str) -> list[subprocess.Popen[str]]:
    port = free_port()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "TF_CPP_MIN_LOG_LEVEL": "2"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(port), str(process), each],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for process, each in enumerate(then)
    ]  # fmt: skip


def test_two_processes_tell_each_other_and_end_together() -> None:
    for process in pair("ends", "ends"):
        assert (*process.communicate(timeout=60), process.returncode) == ("0 [0, 10]\n", "", 0)


@pytest.mark.system
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_is_named_by_the_other_though_that_hangs(victim: int) -> None:
    both = pair("hangs", "hangs")
    for process in both:
        assert process.stdout is not None and process.stdout.readline() == "0 [0, 10]\n"
    both[victim].kill()
    began = time.monotonic()
    _, error = both[1 - victim].communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert both[1 - victim].returncode == LOST
    (line,) = error.splitlines()
    name = f"process {victim} of 2 ({socket.gethostname()}, process id {both[victim].pid})"
    assert line.startswith(f"mtret: {name} is lost: ") and f". Process {1 - victim} ends; the same command" in line
    both[victim].communicate()


@pytest.mark.system
@pytest.mark.parametrize("failing", [0, 1])
def test_a_process_that_ends_by_an_error_takes_the_other_with_it(failing: int) -> None:
    both = pair(*("fails" if process == failing else "hangs" for process in (0, 1)))
    (_, own), (_, other) = sorted((p.communicate(timeout=60) for p in both), key=lambda said: "of 2" in said[1])
    assert [process.returncode for process in both] == [2, 2]
    assert own == "mtret: its disk is full\n"
    name = f"process {failing} of 2 ({socket.gethostname()}, process id {both[failing].pid})"
    assert other == f"mtret: {name} has ended: its disk is full. So does process {1 - failing}\n"
