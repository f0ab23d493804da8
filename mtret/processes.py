"""Several processes that train as one.

JAX's coordination service, which process 0 runs, joins them, notices who is lost, and agrees on the step to stop at.
What one tells the others goes from device to device, as the gradients do.
"""

import itertools
import json
import os
import signal
import socket
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather, reached_preemption_sync_point

from mtret.errors import UserError, first_line

LOST = 75  # exit code where another process may be lost: EX_TEMPFAIL of sysexits.h, "try again"
HEARTBEAT_TIMEOUT_S = 45
START_TIMEOUT_S = 300  # until all processes must have come
WAIT_S = 24 * 3600  # for a process that is alive: it may have much to tokenise
NO_CLUSTER = "no cluster that JAX knows (SLURM, Open MPI, Cloud TPU, Kubernetes) has started this process"


@dataclass(frozen=True)
class Address:
    """Where the processes meet, how many there are, and which is this one."""

    coordinator: str  # HOST:PORT of process 0
    processes: int
    process: int


def join(address: Address | None, heartbeat_timeout_s: int = HEARTBEAT_TIMEOUT_S) -> None:
    """Meets the other processes. Must come before JAX is asked for its devices.

    Args:
      address: None where a cluster has started the processes and JAX finds out by itself.
      heartbeat_timeout_s: without a sign of life for so long, a process is lost, and JAX ends all others.

    Raises UserError where the address cannot be used, or the others do not come.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    given: dict[str, Any] = {}
    if address is not None:
        host, port = _place(address.coordinator)
        loopback = host in ("localhost", "127.0.0.1", "::1")
        given = {
            "coordinator_address": address.coordinator,
            "num_processes": address.processes,
            "process_id": address.process,
            "cluster_detection_method": "deactivate",
            # Nobody else is to reach it where only this machine's processes need to.
            "coordinator_bind_address": f"127.0.0.1:{port}" if loopback else None,
        }
        if address.process == 0:
            _check_free(address, "127.0.0.1" if loopback else "", port)
    try:
        jax.distributed.initialize(
            **given,
            initialization_timeout=START_TIMEOUT_S,
            heartbeat_timeout_seconds=heartbeat_timeout_s,
        )
    except Exception as error:  # each kind of cluster, and of failing network, fails in its own way
        if address is None:
            reason = NO_CLUSTER if isinstance(error, ValueError) else first_line(error)
            raise UserError(
                f"--distributed: {reason}; give --coordinator=HOST:PORT --processes=N --process=I"
            ) from error
        raise _cannot_start(address, error) from error
    if jax.default_backend() == "cpu":
        _hush_gloo()


def is_first() -> bool:
    """Whether this is process 0, the only one that prints and writes."""
    return jax.process_index() == 0


def gather(name: str, value: Any) -> list[Any]:
    """What each process gave as `value`, which must be JSON, by process. All must ask. `name` is for the log of a wait
    that comes to its end."""
    if jax.process_count() == 1:
        return [value]
    _meet(name)
    sent = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = process_allgather(np.int32(len(sent)))
    padded = np.zeros(1 << int(sizes.max()).bit_length(), np.uint8)  # few sizes, so few programs
    padded[: len(sent)] = sent
    return [json.loads(row[:size].tobytes()) for row, size in zip(process_allgather(padded), sizes, strict=True)]


def broadcast(name: str, value: Any) -> Any:
    """What process 0 gave as `value`. As `gather`."""
    return gather(name, value if is_first() else None)[0]


def stop_together(done: int, asked: int | None) -> int | None:
    """To be asked after each step: the signal to stop for now, or None.

    `done`: steps begun so far; `asked`: the signal that this process got. Of several processes all get the answer after
    the same step, without waiting for a device.
    """
    if jax.process_count() == 1:
        return asked
    return signal.SIGTERM if reached_preemption_sync_point(done) else None


def leave() -> None:
    """Waits until all have come to the end."""
    _meet("end")
    jax.distributed.shutdown()


def end(error: BaseException, code: int) -> NoReturn:
    """Says why this process ends, and ends it at once: the interpreter's own end would wait for the others, of which
    one may be lost. They are told by JAX."""
    if isinstance(error, UserError):
        print(f"mtret: {' '.join(str(error).split())}", file=sys.stderr)
    elif _of_jax(error):
        code = LOST
        said = f"process {jax.process_index()} cannot go on with the others: {first_line(error)}"
        print(f"mtret: {said}. Where one is lost, the same command in all of them goes on", file=sys.stderr)
    elif not isinstance(error, KeyboardInterrupt):
        traceback.print_exception(error)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


_MEETINGS = itertools.count()


def _meet(name: str) -> None:
    """Waits for all by the coordination service, which has patience and a deadline. Collectives of CPUs have half a
    minute."""
    from orbax.checkpoint.multihost import get_barrier_sync_fn

    get_barrier_sync_fn()(key=f"mtret/{next(_MEETINGS)}/{name}", timeout_ms=WAIT_S * 1000)


def _place(coordinator: str) -> tuple[str, int]:
    """Host and port. Raises UserError for what is not of the form HOST:PORT."""
    host, colon, port = coordinator.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(
            f"--coordinator={coordinator}: is not of the form HOST:PORT; name process 0's host and a free port there"
        )
    return host.strip("[]"), int(port)


def _check_free(address: Address, host: str, port: int) -> None:
    """Raises UserError where process 0 cannot listen at its port. JAX may end by a segmentation fault then."""
    try:
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((host, port))
    except OSError as error:
        raise _cannot_start(address, error) from error


def _cannot_start(address: Address, error: Exception) -> UserError:
    return UserError(
        f"process {address.process} cannot start with the others: {first_line(error)}; see that the port "
        f"of --coordinator={address.coordinator} is free, and that all {address.processes} were started with it"
    )


def _hush_gloo() -> None:
    """It tells standard output of each connection, and has no switch for that. Python's own lines stay."""
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _of_jax(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, jax.errors.JaxRuntimeError):
        error = error.__cause__ or error.__context__
    return error is not None
