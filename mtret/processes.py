"""Several processes that train as one: how they meet, agree, stop at the same step, and learn that one of them is lost.

What they tell each other goes through the key-value store of JAX's coordination service, which process 0 runs. Each
process writes there that it is alive; process 0 looks for those that no longer do, and says so to the others. Whoever
learns of a loss says which process it was and ends at once: a collective that the lost one was to take part in may hang
for ever, so this is done from a thread.
"""

import itertools
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from mtret.errors import UserError
from mtret.relay import Relay
from mtret.rollcall import call_roll, host_and_port, is_loopback

LOST = 75  # exit code where another process was lost: EX_TEMPFAIL of sysexits.h, "try again"
START_TIMEOUT_S = 300.0  # until all processes must have come
FOR_EVER_MS = 30 * 24 * 3600 * 1000  # how long to wait for a process that is alive
NEWS, ALIVE = "mtret/news", "mtret/alive"


@dataclass(frozen=True)
class Address:
    """Where the processes meet, how many there are, and which is this one."""

    coordinator: str  # HOST:PORT of process 0
    processes: int
    process: int
    devices: Sequence[int] | None = None  # of this machine, that this process is to use; None: all


class Peers:
    """The processes of a run, seen from one of them. This class: one alone, with nobody to ask."""

    index, count = 0, 1

    @property
    def first(self) -> bool:
        """Whether this is process 0, the only one that prints and writes."""
        return self.index == 0

    def share(self, name: str, value: Any) -> Any:
        """What process 0 gave as `value`, which must be JSON. All processes must ask, with a `name` used once."""
        return value

    def gather(self, name: str, value: Any) -> list[Any]:
        """What each process gave, by process. All must ask, with a `name` used once."""
        return [value]

    def stop(self, done: int, asked: int | None) -> int | None:
        """To be asked after each step: the signal to stop for now, or None.

        `done`: steps begun so far; `asked`: the signal that this process got. All processes get the answer after the
        same step, without waiting for a device.
        """
        return asked

    def finish(self) -> None:
        """Waits until all have come to the end."""

    def abandon(self, error: BaseException, code: int) -> NoReturn:
        """Tells the others why this process ends early, and ends it at once; alone it raises the error."""
        raise error


ALONE = Peers()


class _Joined(Peers):
    """One of several processes."""

    def __init__(self, client: Any, address: Address, names: Mapping[int, str], timeout_s: float):
        self.index, self.count, self._names = address.process, address.processes, names
        self._client, self._timeout_s = client, timeout_s
        self._beat_s = min(2.0, timeout_s / 10)
        self._threads: list[threading.Thread] = []
        self._leaving = threading.Event()
        self._ending = threading.Lock()
        self._heard = time.monotonic()  # when the coordination service last answered
        # Of stopping: how many steps are begun, whether the next must wait, and after which one and why to stop.
        self._progress = threading.Condition()
        self._done: int | None = None
        self._frozen = self._told = False
        self._stop_at: tuple[int, int] | None = None

    def start(self) -> None:
        """Begins to show that this process is alive, and to watch the others."""
        for work in (self._converse, self._listen):
            self._threads.append(threading.Thread(target=work, name=f"mtret{work.__name__}", daemon=True))
            self._threads[-1].start()

    def share(self, name: str, value: Any) -> Any:
        key = f"mtret/share/{name}"
        if self.first:
            self._client.key_value_set(key, json.dumps(value))
        return json.loads(self._client.blocking_key_value_get(key, FOR_EVER_MS))

    def gather(self, name: str, value: Any) -> list[Any]:
        key = f"mtret/gather/{name}"
        self._client.key_value_set(f"{key}/{self.index}", json.dumps(value))
        self._client.wait_at_barrier(key, FOR_EVER_MS)
        found = {int(path.rpartition("/")[2]): text for path, text in self._client.key_value_dir_get(key)}
        return [json.loads(found[process]) for process in range(self.count)]

    def stop(self, done: int, asked: int | None) -> int | None:
        if asked is not None and not self._told:
            self._told = True
            self._client.key_value_set(f"{NEWS}/asked/{self.index}", str(asked))
        with self._progress:
            self._done = done
            while self._frozen:
                self._progress.wait()
            if self._stop_at is not None and done >= self._stop_at[0]:
                return self._stop_at[1]
        return None

    def finish(self) -> None:
        import jax

        self._client.wait_at_barrier("mtret/end", FOR_EVER_MS)
        self._leaving.set()
        for thread in self._threads:  # one that is within JAX when the interpreter ends would end it by a crash
            thread.join(self._timeout_s)
        jax.distributed.shutdown()

    def abandon(self, error: BaseException, code: int) -> NoReturn:
        """As described there. An error of JAX may only mean that another process is lost: who it was comes first."""
        if _of_jax(error):
            time.sleep(self._timeout_s + 3 * self._beat_s)  # the thread that watches says so and ends the process
        words = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {words[0] if words else ''}".removeprefix("UserError: ").rstrip(": ")
        with self._ending:
            self._leaving.set()
            with suppress(RuntimeError):
                self._client.key_value_set(f"{NEWS}/left/{self.index}", json.dumps([own_name(), reason, code]))
            if isinstance(error, UserError):
                print(f"mtret: {' '.join(str(error).split())}", file=sys.stderr)
            elif not isinstance(error, KeyboardInterrupt):
                traceback.print_exception(error)
            self._end(code)

    def broken(self) -> None:
        """The connection to process 0 is."""
        self._lose(0, self._names[0], "its connection broke")

    def _converse(self) -> None:
        """Shows that this process is alive, and hears what there is to hear, until the end."""
        seen: dict[int, tuple[str, float]] = {i: ("", time.monotonic()) for i in range(self.count)}
        for beat in itertools.count():
            if self._leaving.is_set():
                return
            try:
                self._client.key_value_set(f"{ALIVE}/{self.index}", str(beat), allow_overwrite=True)
                news = dict(self._client.key_value_dir_get(NEWS))
                alive = dict(self._client.key_value_dir_get(ALIVE)) if self.first else {}
                self._heard = time.monotonic()
                self._hear({key.removeprefix(f"{NEWS}/"): value for key, value in news.items()})
            except RuntimeError:  # the thread that listens for silence will say so
                self._leaving.wait(self._beat_s)
                continue
            for process in range(1, self.count) if self.first else ():
                sign = alive.get(f"{ALIVE}/{process}", "")
                if sign != seen[process][0]:
                    seen[process] = (sign, self._heard)
                elif self._heard - seen[process][1] > self._timeout_s:
                    self._lose(process, self._names[process], f"no sign of life for {self._timeout_s:g} s")
            self._leaving.wait(0.02 if self._frozen else self._beat_s)

    def _listen(self) -> None:
        """Ends this process where process 0 has fallen silent: its connection may still seem to stand."""
        while not self._leaving.wait(self._beat_s):
            if time.monotonic() - self._heard > self._timeout_s:
                self._lose(0, self._names[0], f"no answer for {self._timeout_s:g} s")

    def _hear(self, news: Mapping[str, str]) -> None:
        for key, value in sorted(news.items()):
            if key == "lost":
                self._lose(*json.loads(value))
            elif key.startswith("left/") and key != f"left/{self.index}":
                name, reason, code = json.loads(value)
                process = f"process {key.removeprefix('left/')} of {self.count} ({name})"
                self._part(f"{process} has ended: {reason.rstrip('.')}. So does process {self.index}", code)
        asked = [value for key, value in sorted(news.items()) if key.startswith("asked/")]
        if asked and self._stop_at is None and self._done is not None:
            self._agree(int(asked[0]), [value for key, value in news.items() if key.startswith("stop_at/")])

    def _agree(self, signal_number: int, reports: Sequence[str]) -> None:
        """All stop after the step that is the furthest that any of them has begun. None begins another meanwhile."""
        with self._progress:
            if not self._frozen:
                assert self._done is not None
                # In this order: where the report is not taken, the next round sends it again.
                self._client.key_value_set(f"{NEWS}/stop_at/{self.index}", str(self._done + 1), allow_overwrite=True)
                self._frozen = True
            elif len(reports) == self.count:
                self._stop_at = max(map(int, reports)), signal_number
                self._frozen = False
                self._progress.notify_all()

    def _lose(self, process: int, name: str, why: str) -> None:
        self._part(
            f"process {process} of {self.count} ({name}) is lost: {why}. Process {self.index} ends; the same command "
            "in all of them goes on from the last checkpoint",
            LOST,
            [process, name, why],
        )

    def _part(self, line: str, code: int, lost: Sequence[Any] | None = None) -> None:
        """Says one line and ends, unless this process is ending already; process 0 tells the others who is lost."""
        if self._leaving.is_set() or not self._ending.acquire(blocking=False):
            return
        self._leaving.set()
        if self.first and lost:
            with suppress(RuntimeError):
                self._client.key_value_set(f"{NEWS}/lost", json.dumps(lost))
        show_cursor = "\x1b[?25h" if sys.stdout.isatty() else ""
        os.write(2, f"{show_cursor}mtret: {line}\n".encode())
        self._end(code)

    def _end(self, code: int) -> NoReturn:
        """Not by an exception nor through the interpreter's own end: both may wait for ever for the lost process."""
        if self.first:
            time.sleep(3 * self._beat_s)  # with this process the others lose the place where they read what happened
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def join(address: Address, timeout_s: float = 60.0, start_timeout_s: float = START_TIMEOUT_S) -> Peers:
    """Meets the other processes. Must come before JAX is asked for its devices.

    `timeout_s`: without a sign of life for so long, a process counts as lost. Raises UserError where the address cannot
    be used or reached, where another process has the same number, or where not all come in `start_timeout_s`.
    """
    import jax
    from jax._src import distributed

    host, port = host_and_port(address.coordinator)
    names = call_roll(address.coordinator, address.processes, address.process, own_name(), start_timeout_s)
    relay = Relay(host, port) if address.process else None
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would catch SIGTERM before the loop does, and know nothing of SIGINT.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        _connect(address, relay, start_timeout_s, timeout_s)
    except RuntimeError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"process {address.process} ({own_name()}): JAX cannot start with the others: {reason}"
        ) from error
    peers = _Joined(distributed.global_state.client, address, names, timeout_s)
    if relay is not None:
        relay.on_broken = peers.broken
    peers.start()
    return peers


def _connect(address: Address, relay: Relay | None, start_timeout_s: float, timeout_s: float) -> None:
    import jax

    host, port = host_and_port(address.coordinator)
    jax.distributed.initialize(
        relay.address if relay else address.coordinator,
        address.processes,
        address.process,
        local_device_ids=address.devices,
        cluster_detection_method="deactivate",
        initialization_timeout=round(start_timeout_s),
        heartbeat_timeout_seconds=round(max(100.0, 3 * timeout_s)),  # ours is to speak first
        coordinator_bind_address=f"{'127.0.0.1' if is_loopback(host) else '[::]'}:{port}",
    )
    if jax.default_backend() == "cpu":
        _hush_gloo()


def own_name() -> str:
    """Where to look for this process."""
    return f"{socket.gethostname()}, process id {os.getpid()}"


def detect() -> Address:
    """The address by what the cluster has put into the environment (SLURM, Open MPI, Cloud TPU, Kubernetes).

    Raises UserError where there is no cluster that JAX knows.
    """
    from jax._src.clusters import ClusterEnv

    try:
        coordinator, count, index, devices = ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, round(START_TIMEOUT_S)
        )
    except Exception as error:  # each kind of cluster fails in its own way
        raise UserError(f"--distributed: {error}; give --coordinator=HOST:PORT --processes=N --process=I") from error
    if coordinator is None or count is None or index is None:
        raise UserError(
            "--distributed: no cluster that JAX knows (SLURM, Open MPI, Cloud TPU, Kubernetes) has started this "
            "process; give --coordinator=HOST:PORT --processes=N --process=I"
        )
    return Address(coordinator, count, index, devices)


def _hush_gloo() -> None:
    """It tells standard output of each connection it makes, and has no switch for that. Python's own lines stay."""
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _of_jax(error: BaseException | None) -> bool:
    import jax

    while error is not None and not isinstance(error, jax.errors.JaxRuntimeError):
        error = error.__cause__ or error.__context__
    return error is not None
