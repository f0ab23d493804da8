"""What this machine computes on, and where it keeps what can be computed again."""

import ctypes
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from mtret.errors import UserError
from mtret.files import AnyPath, at_home, locate


def device_line() -> str:
    """Which devices JAX uses; with the remedy where there is a GPU that it does not see.

    Raises UserError where the environment asks for devices that there are not.
    """
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:
        raise UserError(f"JAX cannot use the devices it is told to ({error}); unset JAX_PLATFORMS") from error
    several = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    if devices[0].platform != "cpu":
        return f"device: {len(devices)} x {devices[0].device_kind}{several}"
    remedy = ""
    if _has_nvidia_gpu():
        remedy = "; this machine has an NVIDIA GPU that JAX does not see: pip install 'mtret[cuda]'"
    return f"device: CPU, {os.cpu_count()} cores, {len(devices)} JAX device(s){several}{remedy}"


# Exchange between devices runs beside computation; in XLA's source that is off by default. XLA ends the process at a
# flag that it does not know: a test tries these.
GPU_FLAGS = ("--xla_gpu_enable_latency_hiding_scheduler=true",)


def prepare_gpu() -> None:
    """Gives XLA the flags that pay on NVIDIA GPUs, where there is one. Call it before JAX first looks for devices.

    A flag that XLA_FLAGS names already stays as it is.
    """
    if not _has_nvidia_gpu():
        return
    given = os.environ.get("XLA_FLAGS", "")
    missing = [flag for flag in GPU_FLAGS if flag.split("=")[0] not in given]
    os.environ["XLA_FLAGS"] = " ".join([*given.split(), *missing])


def _has_nvidia_gpu() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


@contextmanager
def not_importing(name: str) -> Iterator[None]:
    """Makes `name` seem not installed to libraries that import it where they can, at the cost of seconds or a crash."""
    if name in sys.modules:  # somebody else has paid already
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


def cache_folder() -> AnyPath:
    """Tokens, vectors and compiled programs: `$MTRET_CACHE`, or `mtret` in the user's cache folder. Safe to delete."""
    named = os.environ.get("MTRET_CACHE")
    return locate(named) if named else _own_cache()


def local_cache() -> Path:
    """For what is compiled for this machine: `cache_folder`, but on this machine's disk if that is in a store."""
    cache = cache_folder()
    return cache if isinstance(cache, Path) else _own_cache()


def _own_cache() -> Path:
    """As XDG's rules have it: where XDG_CACHE_HOME is empty or no whole path, it counts as not set."""
    named = os.path.expanduser(os.environ.get("XDG_CACHE_HOME", ""))
    if os.path.isabs(named):
        return Path(named) / "mtret"
    try:
        return at_home("~/.cache/mtret")
    except UserError as error:
        raise UserError("there is no home folder to keep a cache in; set MTRET_CACHE to a folder") from error


def processor() -> str:
    """What its instructions are, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() + platform.machine()
    names = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(names)}))


def free_memory() -> int:
    """Bytes that a run may take: of one accelerator where there is one, else of this machine, or of the control group
    that bounds this process."""
    import jax

    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    page = os.sysconf("SC_PAGE_SIZE")
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    found = [os.sysconf(pages) * page]
    try:  # what the kernel can take back from its file cache is free as well
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")] or found
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
        found += [] if limit == "max" else [int(limit) - int(used)]
    except (OSError, ValueError):
        pass  # not Linux, or an older kernel
    return max(min(found), 0)


def device_memory(devices: int) -> int:
    """Bytes that a program may take of one of so many devices of this process: of an accelerator what JAX has set
    aside, of CPU devices an equal share of `memory_limit`."""
    import jax

    stats = jax.local_devices()[0].memory_stats() or {}
    return int(stats["bytes_limit"]) if "bytes_limit" in stats else memory_limit() // devices


def memory_limit() -> int:
    """Bytes of this machine's memory, or what the control group leaves this process of it; the same at every start."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with suppress(OSError, ValueError):  # not Linux, or no limit ("max")
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return min(found)


def compiler_options(matmul_dtype: str) -> dict[str, str]:
    """How XLA is to compile products of operands of this type: on a CPU, float32 without YNNPACK.

    YNNPACK makes a plan of each product and each sum when it is first run, in small pieces that stay where the next
    large arrays would lie: a process that trains would grow by half with every new shape. Eigen's products are as fast
    (experiments/007_large_vocabularies). It has no narrow ones.
    """
    import jax

    name = "xla_cpu_experimental_ynn_fusion_type"
    known = jax.default_backend() == "cpu" and matmul_dtype == "float32" and _is_option(name)
    return {name: ""} if known else {}


@cache
def _is_option(name: str) -> bool:
    """Whether this version of XLA knows it."""
    import jax

    try:
        jax.jit(lambda x: x, compiler_options={name: ""}).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def keep_memory() -> None:
    """Makes the C library keep freed memory for the next step. Where it is not glibc, nothing happens.

    By itself it gives every large block back to the system when it is freed and takes it again, to be cleared page by
    page: half a million times in a training step on a CPU, a third of its time. Call it before the first large array.
    """
    trim_threshold, mmap_max, arena_max = -1, -4, -8  # names in malloc.h
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018
        # Two, not one: XLA's threads that compile would wait for each other's small pieces, a quarter of the time.
        for parameter, value in ((arena_max, 2), (mmap_max, 0), (trim_threshold, -1)):
            library.mallopt(parameter, value)
        _prefer_large_pages(library, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    except (AttributeError, OSError, ValueError):
        return


def give_back_memory() -> None:
    """Gives the system what is free now, in pages within the heap too, as a compilation leaves them behind: a hundred
    MiB a program, which a step cannot use, since it wants one block. Where the C library is not glibc, nothing happens.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _prefer_large_pages(library: ctypes.CDLL, size: int) -> None:
    """Room for `size` bytes at the end of the heap: taken only as it is used, by pages of 2 MiB where there are."""
    large_page, hugepage_advice = 2**21, 14  # MADV_HUGEPAGE
    library.malloc.restype = ctypes.c_void_p
    library.malloc.argtypes = [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    block = library.malloc(size)
    if block:
        start = -(-block // large_page) * large_page
        library.madvise(start, (block + size - start) // large_page * large_page, hugepage_advice)
        library.free(block)


def keep_compilations() -> str:
    """Lets XLA keep every executable on disk, so that the same shapes compile once per machine; returns where.

    In `local_cache`: part of XLA writes to local files only. `$JAX_COMPILATION_CACHE_DIR` overrides it.
    """
    import jax

    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(local_cache() / "xla")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder
