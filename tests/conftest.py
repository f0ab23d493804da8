"""What holds for every test: the machine that JAX sees, checked array signatures, strict promotion, a cache of its own.

A variable of the environment that is set already wins: `JAX_PLATFORMS=cuda make test` runs on an accelerator.

What XLA has compiled outlives the tests, in `$JAX_COMPILATION_CACHE_DIR` or the user's cache folder. JAX writes files
in place, so another process could read half of one, and a kill leaves half of one for good. So every process of pytest,
with what it starts, has a folder of its own, and whole files are shared through the kept folder after every module.

What tests write lies in memory where there is enough (a run of them writes, flushes and removes some hundred thousand
small files), or else where `$TMPDIR` says; of tests that passed nothing is left.
"""

import functools
import hashlib
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

KEPT_PROGRAMS = "MTRET_TESTS_PROGRAMS"
FAILED = pytest.StashKey[bool]()
LEFT_OUT = pytest.StashKey[dict[str, int]]()  # how many tests of each lane were collected and not run
SCRATCH = "mtret-tests-"
OWNER = "MTRET_TESTS_OWNER"  # the process that made the scratch folder
MESH_DEVICES = "--xla_force_host_platform_device_count"

# XLA optimises where what it computes is itself tested: it was wrong there once. Elsewhere it does not, which halves
# the time of a compilation; nor in processes that tests start, unless they say so.
OPTIMISED = ("kernels", "models", "train", "parity", "test_losses.py")
LONG = ("kernels", "models", "runs", "train")
UNOPTIMISED = "JAX_DISABLE_MOST_OPTIMIZATIONS"
# Nor is it written by XLA's newer emitters, which halves what is left of that time, where XLA still has others. To
# processes that are given XLA_FLAGS of their own this variable tells how.
QUICK = {"xla_cpu_use_fusion_emitters": False} if version("jaxlib").startswith("0.10.") else {}
QUICK_FLAGS = "MTRET_TESTS_QUICK"

# Where our own arithmetic is tested, no dtype is promoted silently. Not where an optimiser takes a step: optax raises a
# float to the int32 step count.
STRICT_DTYPES = ("kernels", "models", "index", "evaluation", "test_losses.py", "test_pytrees.py")
# Nor does a vector spread over the rows of a matrix; in a tower's biases and norms it does, and is meant to.
STRICT_RANKS = ("index", "evaluation", "test_losses.py", "test_pytrees.py")


def prepare() -> None:
    """Sets the environment before JAX is imported, and the import hook before mtret is, which other conftests do."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault(UNOPTIMISED, "1")
    os.environ[QUICK_FLAGS] = " ".join(f"--{name}={str(value).lower()}" for name, value in QUICK.items())
    # A job in a shell's background ignores Ctrl-C, and so would the runs that these tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    flags = os.environ.get("XLA_FLAGS", "")
    if MESH_DEVICES not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {MESH_DEVICES}=8".strip()
    if os.environ.get(OWNER) != str(os.getppid()):  # a worker of xdist inherits the environment
        os.environ["TMPDIR"] = tempfile.tempdir = new_scratch()
        os.environ[OWNER] = str(os.getpid())
        os.environ["MTRET_CACHE"] = str(Path(tempfile.tempdir, "cache"))
        ours = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtret-tests" / f"xla-{machine()}"
        forget_programs(ours)
        os.environ.setdefault(KEPT_PROGRAMS, os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(ours))
    own = Path(os.environ["MTRET_CACHE"], "programs", os.environ.get("PYTEST_XDIST_WORKER", "main"))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(own)
    os.environ["JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES"] = "none"  # or the folder's name is a part of every key
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    share_programs()

    from jaxtyping import install_import_hook  # reads the environment

    install_import_hook("mtret", "beartype.beartype")


def new_scratch() -> str:
    """A folder for all that these tests write: in memory, where that has 4 GiB to spare."""
    memory = Path("/dev/shm")
    room = 0
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        room = min(available - 8 * 2**30, shutil.disk_usage(memory).free) if os.access(memory, os.W_OK) else 0
    # Tests that a test starts write where that one does.
    place = memory if room > 4 * 2**30 and OWNER not in os.environ else Path(tempfile.gettempdir())
    for left in place.glob(f"{SCRATCH}*"):  # by tests that were killed
        try:
            os.kill(int(left.name.removeprefix(SCRATCH).split("-")[0]), 0)
        except ProcessLookupError:
            shutil.rmtree(left, ignore_errors=True)
        except (ValueError, PermissionError):
            continue
    return tempfile.mkdtemp(prefix=f"{SCRATCH}{os.getpid()}-", dir=place)


def machine() -> str:
    """A name for all that a compiled program depends on, and JAX does not ask for itself in every version. Which Python
    asked for it does not matter."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = [platform.processor()]
    processor = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    depends = [platform.machine(), *processor, *(version(name) for name in ("jax", "jaxlib"))]
    return hashlib.sha256("\n".join(depends).encode()).hexdigest()[:16]


def forget_programs(folder: Path) -> None:
    """Removes what is a month old: with every change of the sources some programs are never asked for again."""
    for path in folder.glob("*-cache"):
        if path.stat().st_mtime < time.time() - 30 * 86400:
            path.unlink(missing_ok=True)


def share_programs() -> None:
    """Puts what this process has compiled into the kept folder, and links what others have put there."""
    kept, own = Path(os.environ[KEPT_PROGRAMS]), Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    for folder in (kept, own):
        folder.mkdir(parents=True, exist_ok=True)
    ours, theirs = ({path.name for path in folder.glob("*-cache")} for folder in (own, kept))
    for name in ours - theirs:
        if is_whole(own / name):
            draft = kept / f"{name}.{os.getpid()}"
            shutil.copyfile(own / name, draft)
            os.replace(draft, kept / name)
    for name in theirs - ours:
        (own / name).symlink_to(kept / name)


def is_whole(program: Path) -> bool:
    """A file that was cut off lacks the checksum at its end; a link may lead to what was forgotten."""
    try:
        zlib.decompress(program.read_bytes())
    except (FileNotFoundError, zlib.error):
        return False
    return True


@pytest.fixture(scope="module", autouse=True)
def shared_programs() -> Iterator[None]:
    yield
    share_programs()


def pytest_unconfigure(config: pytest.Config) -> None:
    """What a failed test has written stays until the next run."""
    if os.environ[OWNER] == str(os.getpid()) and not config.stash.get(FAILED, True):
        shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first, so that the workers end at about the same time."""
    items.sort(key=lambda item: (item.path.stem != "test_notebooks", item.path.parent.name not in LONG))


def lane_of(item: pytest.Item) -> str:
    """The target of the Makefile that runs this test."""
    lanes = {"parity": "make parity", "system": "make test-system"}
    return next((lane for marker, lane in lanes.items() if item.get_closest_marker(marker)), "make test")


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    for item in items if items and items[0].config.option.markexpr else ():
        left_out = item.config.stash.setdefault(LEFT_OUT, {})
        left_out[lane_of(item)] = left_out.get(lane_of(item), 0) + 1


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[FAILED] = exitstatus != pytest.ExitCode.OK
    told = getattr(session.config, "workeroutput", None)
    if told is not None:  # a worker of xdist: only they collect tests
        told["left out"] = session.config.stash.get(LEFT_OUT, {})


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


def compile_quickly() -> None:
    """Adds these options to those of every program that is not optimised. XLA reads its environment once, and a program
    of ours may name options itself, so they are added where JAX collects them."""
    import jax
    from jax._src import compiler

    collect = compiler.get_compile_options

    @functools.wraps(collect)
    def with_ours(*arguments: Any, env_options_overrides: dict[str, Any] | None = None, **named: Any) -> Any:
        options: dict[str, Any] = dict(QUICK) if jax.config.values[UNOPTIMISED.lower()] else {}
        return collect(*arguments, env_options_overrides=options | (env_options_overrides or {}), **named)

    if not hasattr(collect, "__wrapped__"):
        compiler.get_compile_options = with_ours


@pytest.hookimpl(tryfirst=True)  # before the fixtures of a session, which compile too
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Lets XLA optimise where towers, steps and gradients are tested, and nowhere else; with the flags of the start,
    which a test may have changed, and which are a part of a program's key."""
    os.environ["XLA_FLAGS"] = FLAGS
    place = item.path.relative_to(Path(__file__).parent).parts[0]
    optimise = place in OPTIMISED and item.get_closest_marker("unoptimised") is None
    if not optimise and "jax" not in sys.modules:
        return
    import jax

    compile_quickly()
    if jax.config.values[UNOPTIMISED.lower()] == optimise:
        jax.clear_caches()  # what is compiled is not looked up by this setting
        jax.config.update(UNOPTIMISED.lower(), not optimise)


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


prepare()
FLAGS = os.environ["XLA_FLAGS"]
