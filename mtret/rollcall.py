"""Before JAX connects several processes, they call the roll: who is not there, or there twice, is named.

JAX itself ends a process that waited in vain, with a page of C++ stack that names nobody.
"""

import json
import os
import select
import socket
import time
from contextlib import suppress
from typing import Any

from mtret.errors import UserError

RETRY_S = 0.2


def call_roll(coordinator: str, processes: int, process: int, name: str, timeout_s: float) -> dict[int, str]:
    """Returns when all are there: the names of those known to this process, all for process 0, the others that of it.

    Raises UserError where the address is no address, cannot be used or not be reached, where another has the same
    number, or where not all come in `timeout_s`.
    """
    host, port = host_and_port(coordinator)
    if process == 0:
        return _ask(coordinator, host, port, processes, name, timeout_s)
    return _answer(coordinator, host, port, {"process": process, "processes": processes, "name": name}, timeout_s)


def host_and_port(coordinator: str) -> tuple[str, int]:
    """Raises UserError for what is not of the form HOST:PORT."""
    host, colon, port = coordinator.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(
            f"--coordinator={coordinator}: is not of the form HOST:PORT; name process 0's host and a free port there"
        )
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether only processes of this machine can reach it."""
    return host in ("localhost", "127.0.0.1", "::1")


def _ask(coordinator: str, host: str, port: int, processes: int, name: str, timeout_s: float) -> dict[int, str]:
    """Process 0: collects the others, who wait until it lets them go."""
    end = time.monotonic() + timeout_s
    there: dict[int, tuple[socket.socket, str]] = {}
    try:
        server = _listen(host, port)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UserError(
            f"--coordinator={coordinator}: cannot be listened to ({reason}); choose another port"
        ) from error
    with server:
        while len(there) < processes - 1:
            left = end - time.monotonic()
            if left < 0:
                missing = [str(i) for i in range(1, processes) if i not in there]
                said = f"process {_some(missing)} of {processes} did not come in {timeout_s:g} s"
                for connection, _ in there.values():
                    _send(connection, {"refused": said})
                raise UserError(f"{said}; start all with --coordinator={coordinator}, or give another --processes")
            if select.select([server], [], [], min(left, RETRY_S))[0]:
                _admit(server.accept()[0], there, processes)
            for process in [i for i, (connection, _) in there.items() if _gone(connection)]:
                there.pop(process)[0].close()
    for connection, _ in there.values():
        _send(connection, {"name": name})
        connection.close()
    return {0: name, **{i: each for i, (_, each) in there.items()}}


def _admit(connection: socket.socket, there: dict[int, tuple[socket.socket, str]], processes: int) -> None:
    connection.settimeout(5)
    said = _receive(connection) or {}
    process, count, name = (said.get(key) for key in ("process", "processes", "name"))
    if not isinstance(process, int) or not isinstance(count, int) or not isinstance(name, str) or process < 1:
        connection.close()  # somebody else's
        return
    refused = None
    if count != processes:
        refused = f"--processes={count}, but process 0 was started with {processes}; give all the same"
    elif process in there and not _gone(there[process][0]):
        refused = f"--process={process}: there is one already ({there[process][1]}); give each a number of its own"
    if refused is None:
        there[process] = connection, name
    else:
        _send(connection, {"refused": refused})
        connection.close()


def _answer(coordinator: str, host: str, port: int, own: dict[str, Any], timeout_s: float) -> dict[int, str]:
    """Another process: process 0 may be started later, or again."""
    end = time.monotonic() + timeout_s
    reason = "no answer"
    while (left := end - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=min(left, 10)) as connection:
                connection.settimeout(left + 10)  # process 0 is the first to lose patience, and says whom it misses
                _send(connection, own)
                said = _receive(connection)
        except OSError as error:
            reason, said = error.strerror or str(error), None
        if said and "refused" in said:
            raise UserError(said["refused"])
        if said and "name" in said:
            return {0: said["name"]}
        time.sleep(RETRY_S)
    raise UserError(
        f"process {own['process']} of {own['processes']}: no process 0 at {coordinator} in {timeout_s:g} s ({reason}); "
        "start it there, or mend --coordinator"
    )


def _listen(host: str, port: int) -> socket.socket:
    if is_loopback(host):
        return socket.create_server(("127.0.0.1", port), backlog=1024)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    return socket.create_server(("", port), backlog=1024)


def _send(connection: socket.socket, value: dict[str, Any]) -> None:
    with suppress(OSError):
        connection.sendall(json.dumps(value).encode() + b"\n")


def _receive(connection: socket.socket) -> dict[str, Any] | None:
    """One line; None where the connection ends first, or what it says is nothing of ours."""
    received = b""
    try:
        while not received.endswith(b"\n") and len(received) < 4096 and (more := connection.recv(4096)):
            received += more
        said = json.loads(received)
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None


def _gone(connection: socket.socket) -> bool:
    """Whether the other end has closed it: they have nothing more to say, so anything to read is the end."""
    return bool(select.select([connection], [], [], 0)[0])


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
