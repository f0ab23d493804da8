"""Who does what, where several workers share one folder: a lease for each run, which ends by itself where its worker
does.

Leases of a run are numbered files, and the newest counts. A lease is taken by creating the file of the next number,
which the file system grants to one worker alone; nothing is ever taken back or overwritten by another, so there is no
moment at which two hold one. (An object store grants it where it can create an object on condition that there is none.)
A worker writes the time until which it holds its lease into its own file, again and
again; once that is over, the next number may be taken. Clocks of machines may differ by less than `SECONDS`.
"""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtret.errors import UserError
from mtret.files import PROBE, AnyPath, inside, reaching, remove, replace_text

SECONDS = 120.0  # that a lease lasts without a sign of life
RENEWALS = 4  # in that time


class LeaseLost(UserError):
    """Another worker has the run: this one was without a sign of life for too long, and must write no more."""


@dataclass(frozen=True)
class Lease:
    """Of one run, held by this process."""

    folder: AnyPath
    number: int
    owner: str

    @property
    def path(self) -> AnyPath:
        return self.folder / f"{self.number}.json"

    def check(self) -> None:
        """Raises LeaseLost where it is no longer ours."""
        if newest(self.folder) != self.number:
            raise LeaseLost(
                f"{self.folder.name}: another worker took this run over, since nothing was heard of this one for "
                f"{SECONDS:.0f} s; it writes no more"
            )

    def renew(self, seconds: float) -> None:
        """Says that we are still there. Raises LeaseLost."""
        self.check()
        replace_text(self.path, _text(self.owner, time.time() + seconds))

    def release(self) -> None:
        """Lets others take the run at once."""
        with suppress(OSError, LeaseLost):
            self.renew(0.0)


def newest(folder: AnyPath) -> int:
    """The number of the lease that counts; 0 where there is none yet."""
    names = [path.stem for path in inside(folder) if path.suffix == ".json"]
    return max((int(name) for name in names if name.isdigit()), default=0)


def take(folder: AnyPath) -> Lease | None:
    """The lease of the run whose leases lie in this folder; None where another worker has it."""
    number = newest(folder)
    if number and not _over(folder / f"{number}.json"):
        return None
    lease = Lease(folder, number + 1, f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(4)}")
    return lease if created(lease.path, _text(lease.owner, time.time() + SECONDS)) else None


def created(path: AnyPath, text: str) -> bool:
    """Creates a file, whole or not at all; False where there is one already. No other writes the same text."""
    if isinstance(path, Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.stem}.{secrets.token_hex(4)}")
        draft.write_text(text, encoding="utf-8")
        try:
            os.link(draft, path)
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        return True
    from fsspec.core import url_to_fs

    store, key = url_to_fs(str(path))
    try:
        store.pipe_file(key, text.encode(), mode="create")
    except Exception:  # each client says it in its own way, and may have tried twice: what is there decides
        with suppress(FileNotFoundError):
            return store.cat_file(key) == text.encode()
        raise
    return True


def check_exclusive(folder: AnyPath) -> None:
    """Raises UserError where a store would let two workers create one file: then nothing can be shared out there."""
    if isinstance(folder, Path):
        return
    probe = folder / f"{PROBE}{secrets.token_hex(4)}"
    with reaching(folder):
        try:
            if created(probe, "first") and not created(probe, "second"):
                return
        finally:
            remove(probe)
    raise UserError(
        f"--out={folder}: this store overwrites where it is asked to create, so workers cannot share a folder of it; "
        "give one that is mounted"
    )


@contextmanager
def held(lease: Lease) -> Iterator[Lease]:
    """Renews it from a thread, and gives it up in the end."""
    done = threading.Event()

    def renew() -> None:
        while not done.wait(SECONDS / RENEWALS):
            try:
                lease.renew(SECONDS)
            except LeaseLost:
                return  # whoever writes next finds out by `check`
            except OSError:
                continue  # a network's folder may be away for a moment

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        done.set()
        thread.join()
        lease.release()


def _text(owner: str, until: float) -> str:
    return json.dumps({"owner": owner, "until": until, "process": _process(os.getpid())}) + "\n"


def _over(path: AnyPath) -> bool:
    """Whether a lease has ended: by time, or with its process, where that was one of this machine."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        until, process = float(found["until"]), found["process"]
    except (OSError, ValueError, KeyError, TypeError):
        return time.time() > _modified(path) + SECONDS  # damaged: as if it had just been written
    return time.time() > until or (process is not None and _is_gone(process))


def _modified(path: AnyPath) -> float:
    try:
        return path.stat().st_mtime if isinstance(path, Path) else float(path.stat().mtime)
    except OSError:
        return 0.0


def _process(number: int) -> list[str] | None:
    """What tells a process of this machine from all others: boot, namespace of process numbers, number, and when it
    began. None where that is not known, or there is no such process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        state = Path(f"/proc/{number}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return [boot, os.readlink("/proc/self/ns/pid"), str(number), state[19]] if state[0] not in "ZX" else None
    except (OSError, IndexError):
        return None


def _is_gone(process: list[str]) -> bool:
    """Whether it was one of this machine, and is no more."""
    here = _process(os.getpid())
    return here is not None and here[:2] == process[:2] and _process(int(process[2])) != process
