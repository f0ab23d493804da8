"""Processes that meet and tell each other, in real JAX on loopback. How runs end of which one is lost:
runs/test_several_processes.py."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mtret.errors import UserError
from mtret.processes import LOST, Address, broadcast, gather, is_first, join, stop_together


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def test_alone_there_is_nobody_to_ask() -> None:
    assert is_first()
    assert broadcast("x", [1]) == [1] and gather("x", 2) == [2]
    assert stop_together(3, None) is None and stop_together(3, signal.SIGTERM) == signal.SIGTERM


@pytest.mark.parametrize("coordinator", ["localhost", "localhost:", ":80", "localhost:http", "localhost:99999"])
def test_an_address_is_host_and_port(coordinator: str) -> None:
    with pytest.raises(UserError, match=f"--coordinator={coordinator}: is not of the form HOST:PORT"):
        join(Address(coordinator, 2, 1))


PROGRAM = """
import sys
from mtret.errors import UserError
from mtret.processes import Address, broadcast, end, gather, is_first, join, leave
where, process, then = sys.argv[1], int(sys.argv[2]), sys.argv[3]
try:
    join(Address(where, 2, process) if where else None, 6)
    long = "ä" * 1000 if process else "b"
    print(is_first(), broadcast("x", process), [len(each) for each in gather("y", long)], flush=True)
    if then == "fails":
        raise UserError("its disk is full")
    leave()
except UserError as error:
    end(error, 2)
except Exception as error:
    end(error, 1)
"""


def pair(*then: str, timeout: float = 120) -> list[tuple[int, str, str]]:
    """Exit code, standard output and standard error of two that meet."""
    where = f"localhost:{free_port()}"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, where, str(process), each],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for process, each in enumerate(then)
    ]  # fmt: skip
    said = [process.communicate(timeout=timeout) for process in both]
    return [(process.returncode, *each) for process, each in zip(both, said, strict=True)]


def test_two_processes_tell_each_other_and_end_together() -> None:
    assert pair("ends", "ends") == [(0, "True 0 [1, 1000]\n", ""), (0, "False 0 [1, 1000]\n", "")]


@pytest.mark.system
@pytest.mark.parametrize("failing", [0, 1])
def test_a_process_that_ends_by_an_error_takes_the_other_with_it(failing: int) -> None:
    both = pair(*("fails" if process == failing else "ends" for process in (0, 1)))
    code, _, own = both[failing]
    assert (code, own) == (2, "mtret: its disk is full\n")
    code, _, other = both[1 - failing]
    assert code != 0, other


def test_an_error_of_jax_says_that_another_may_be_lost(capfd: pytest.CaptureFixture[str]) -> None:
    import jax

    from mtret import processes

    errors = {
        LOST: jax.errors.JaxRuntimeError("Gloo: connection closed\nat 0x1"),
        130: KeyboardInterrupt(),
    }
    for code, error in errors.items():
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit, match=f"^{code}$"):
            patch.setattr("mtret.processes.os._exit", sys.exit)
            processes.end(error, code if code != LOST else 1)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(
        "mtret: process 0 cannot go on with the others: Gloo: connection closed. Where one is lost, "
    )


def test_who_is_in_no_cluster_is_told_what_to_give() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, "", "0", "ends"],
        capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert ran.returncode == 2
    (line,) = ran.stderr.splitlines()
    assert line.startswith("mtret: --distributed: no cluster that JAX knows") and line.endswith("--process=I")


def test_a_port_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"localhost:{taken.getsockname()[1]}"
        ran = subprocess.run(
            [sys.executable, "-c", PROGRAM, where, "0", "ends"], capture_output=True, text=True, timeout=120,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        )  # fmt: skip
    assert ran.returncode == 2
    line = ran.stderr.splitlines()[-1]
    assert line.startswith("mtret: process 0 cannot start with the others: ")
    assert line.endswith(f"see that the port of --coordinator={where} is free, and that all 2 were started with it")
