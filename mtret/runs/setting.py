"""What every command needs first: a suite by its name, and the versions that its numbers depend on."""

import hashlib
import importlib.metadata
import os
import platform
import secrets
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from rich.console import Console

from mtret.console import Bar
from mtret.data.formats import Suite, read_suite
from mtret.data.images import read_pixels
from mtret.data.tasks import Task
from mtret.errors import UserError
from mtret.files import AnyPath, locate, reaching, remove, replace_bytes

PROBE = ".mtret-"
VERSIONS = (
    "mtret",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "tokenizers",
    "pillow",
    "bm25s",
    "scann",
)


def load_suite(name: str) -> Suite:
    """A folder of task folders, `tfds:` and a data set, or the embedded `enterprise`.

    Raises UserError for the first mistake in it.
    """
    if not name:
        raise UserError(
            "no suite: give --suite=FOLDER, --suite=tfds:NAME, --suite=enterprise, or `suite` in the configuration"
        )
    if name.startswith("tfds:"):
        from mtret.data.tfds_suites import read_dataset

        return read_dataset(name.removeprefix("tfds:"))
    if name != "enterprise":
        folder = locate(name)
        with reaching(folder):
            return read_suite(folder)
    from mtret.data.enterprise import read_tasks

    tasks = read_tasks()
    hashes = {name: content_sha256(task) for name, task in tasks.items()}
    whole = hashlib.sha256("".join(hashes.values()).encode()).hexdigest()
    return Suite(Path("enterprise"), tasks, whole, hashes)


def read_all_pixels(
    tasks: Sequence[Task], size: int, cache: AnyPath, console: Console
) -> dict[str, UInt8[np.ndarray, "_ S S 3"]]:
    """The images of those tasks that have some, by task."""
    seeing = [task for task in tasks if task.images]
    with Bar(console, "reading images", sum(len(task.document_ids) for task in seeing)) as bar:
        found = {task.name: read_pixels(task.images, size, cache, bar.advance) for task in seeing if task.images}
        bar.finish()
    return found


def check_writable(folder: AnyPath, flag: str) -> None:
    """Raises UserError where `folder` could not be made or written: before the work whose result is to go there."""
    if not isinstance(folder, Path):  # nothing but writing tells what is allowed there
        probe = folder / f"{PROBE}{secrets.token_hex(4)}"
        with reaching(folder):
            replace_bytes(probe, b"")
            remove(probe)
        return
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{flag}={folder}: {place} is no folder that can be written to; choose another place")


def is_probe(path: AnyPath) -> bool:
    """Whether `check_writable` wrote it, here or in another process, perhaps one that was killed."""
    return path.name.startswith(PROBE)


def content_sha256(task: Task) -> str:
    """A fingerprint of everything in a task that is not read from files."""
    sha = hashlib.sha256(repr((task.card, task.query_ids, task.query_texts, task.document_ids)).encode())
    sha.update(repr(task.document_keys).encode())
    if task.parent_ids:
        sha.update(repr(task.parent_ids).encode())
    relations = {f"qrels/{name}": split for name, split in task.splits.items()}
    relations |= {f"negatives/{name}": split for name, split in task.negatives.items()}
    relations |= {"exclude": task.exclude} if task.exclude else {}
    for name, relation in sorted(relations.items()):
        sha.update(name.encode())
        for array in (relation.queries, relation.offsets, relation.documents, relation.scores):
            sha.update(array.tobytes())
    return sha.hexdigest()


def this_start() -> dict[str, Any]:
    """When, how and on what this process computes: what one needs beside data and configuration to repeat a number."""
    devices = jax.devices()
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "git": git_state(),
        "versions": versions(),
        "devices": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
            "processes": jax.process_count(),
            "cpu_cores": os.cpu_count(),
        },
    }


def git_state() -> str | None:
    """The commit of the folder that one works in, and whether files differ from it; None outside a repository."""

    def ask(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        commit, changed = ask("rev-parse", "HEAD"), ask("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit} with changes" if changed else commit


def versions() -> dict[str, str]:
    """Of mtret, Python and the libraries that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
