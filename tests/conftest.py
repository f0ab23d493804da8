"""What holds for every test: the machine that JAX sees, checked array signatures, strict promotion, a cache of its own.

A variable of the environment that is set already wins: `JAX_PLATFORMS=cuda make test` runs on an accelerator.

What XLA has compiled outlives the tests, in `$JAX_COMPILATION_CACHE_DIR` or below `.pytest_cache`. JAX writes its files
in place, so another process could read half of one, and a kill leaves half of one for good. So every process of pytest,
with what it starts, has a folder of its own, and whole files are shared through the kept folder after every module.
"""

import hashlib
import os
import platform
import shutil
import signal
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

KEPT_PROGRAMS = "MTRET_TESTS_PROGRAMS"
LEFT_OUT = pytest.StashKey[dict[str, int]]()  # how many tests of each lane were collected and not run
MESH_DEVICES = "--xla_force_host_platform_device_count"

# Where our own arithmetic is tested, no dtype is promoted silently. Not where an optimiser takes a step: optax raises a
# float to the int32 step count.
STRICT_DTYPES = ("models", "index", "evaluation", "test_losses.py", "test_pytrees.py")
# Nor does a vector spread over the rows of a matrix; in a tower's biases and norms it does, and is meant to.
STRICT_RANKS = ("index", "evaluation", "test_losses.py", "test_pytrees.py")


def pytest_configure(config: pytest.Config) -> None:
    """Set the environment before JAX is imported, and the import hook before mtret is."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # A job in a shell's background ignores Ctrl-C, and so would the runs that these tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    flags = os.environ.get("XLA_FLAGS", "")
    if MESH_DEVICES not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {MESH_DEVICES}=8".strip()
    if not hasattr(config, "workerinput"):  # a worker of xdist inherits the environment
        os.environ["MTRET_CACHE"] = tempfile.mkdtemp(prefix="mtret-tests-")
        kept = os.environ.get("JAX_COMPILATION_CACHE_DIR") or config.rootpath / ".pytest_cache" / f"xla-{machine()}"
        os.environ[KEPT_PROGRAMS] = str(kept)
    own = Path(os.environ["MTRET_CACHE"], "programs", os.environ.get("PYTEST_XDIST_WORKER", "main"))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(own)
    os.environ["JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES"] = "none"  # or the folder's name is a part of every key
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    share_programs()

    from jaxtyping import install_import_hook  # reads the environment

    install_import_hook("mtret", "beartype.beartype")


def machine() -> str:
    """A name for all that a compiled program depends on, and JAX does not ask for itself in every version."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = [platform.processor()]
    processor = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    depends = [sys.version, platform.machine(), *processor, *(version(name) for name in ("jax", "jaxlib"))]
    return hashlib.sha256("\n".join(depends).encode()).hexdigest()[:16]


def share_programs() -> None:
    """Puts what this process has compiled into the kept folder, and fetches what others have put there."""
    kept, own = Path(os.environ[KEPT_PROGRAMS]), Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    for folder in (kept, own):
        folder.mkdir(parents=True, exist_ok=True)
    ours, theirs = ({path.name for path in folder.glob("*-cache")} for folder in (own, kept))
    for name in ours - theirs:
        if is_whole(own / name):
            place(own / name, kept / name)
    for name in theirs - ours:
        place(kept / name, own / name)


def is_whole(program: Path) -> bool:
    """A file that was cut off lacks the checksum at its end."""
    try:
        zlib.decompress(program.read_bytes())
    except zlib.error:
        return False
    return True


def place(source: Path, target: Path) -> None:
    """The same file under another name, in one step; a copy where the two are on different disks."""
    draft = target.with_name(f"{target.name}.{os.getpid()}")
    with suppress(FileExistsError):
        try:
            draft.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, draft)
        os.replace(draft, target)


@pytest.fixture(scope="module", autouse=True)
def shared_programs() -> Iterator[None]:
    yield
    share_programs()


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["MTRET_CACHE"], ignore_errors=True)


def lane_of(item: pytest.Item) -> str:
    """The target of the Makefile that runs this test."""
    lanes = {"parity": "make parity", "system": "make test-system"}
    return next((lane for marker, lane in lanes.items() if item.get_closest_marker(marker)), "make test")


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    for item in items if items and items[0].config.option.markexpr else ():
        left_out = item.config.stash.setdefault(LEFT_OUT, {})
        left_out[lane_of(item)] = left_out.get(lane_of(item), 0) + 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # a worker of xdist: only they collect tests
        session.config.workeroutput["left out"] = session.config.stash.get(LEFT_OUT, {})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left out", {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Names what this lane has not run."""
    left_out = config.stash.get(LEFT_OUT, {})
    if left_out:
        said = ", ".join(f"{count} of `{lane}`" for lane, count in sorted(left_out.items()))
        terminalreporter.write_line(f"not run here: the tests of other lanes, {said}")


@pytest.fixture(autouse=True)
def strict_promotion(request: pytest.FixtureRequest) -> Iterator[None]:
    """Raise where arithmetic mixes dtypes or ranks (`STRICT_DTYPES` and `STRICT_RANKS` say where)."""
    place = request.path.relative_to(Path(__file__).parent).parts[0]
    if place not in STRICT_DTYPES + STRICT_RANKS:
        yield
        return
    import jax

    dtypes = "strict" if place in STRICT_DTYPES else "standard"
    ranks = "raise" if place in STRICT_RANKS else "allow"
    with jax.numpy_dtype_promotion(dtypes), jax.numpy_rank_promotion(ranks):
        yield


@pytest.fixture(scope="session")
def store() -> Iterator[str]:
    """`s3://BUCKET` of a server on this machine, which the environment points to for the rest of the session."""
    import logging

    from fsspec import filesystem
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    place = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= place | {"AWS_ACCESS_KEY_ID": "anybody", "AWS_SECRET_ACCESS_KEY": "anything"}
    filesystem("s3").mkdir("bucket")
    yield "s3://bucket"
    server.stop()
