"""What a subprocess sees, since memory settings hold for a whole process and cannot be taken back."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtret import devices
from mtret.errors import UserError

FAULTS = """
import ctypes, resource, sys
from mtret.devices import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
size = 64 * 2**20

def use():
    block = library.malloc(size)
    ctypes.memset(block, 1, size)
    library.free(block)

use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="page faults of glibc's allocator")
def test_memory_that_is_freed_is_kept_for_the_next_step():
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("kept") < 100
    assert faults("left") > 10 * 64 * 2**20 // 2**21  # at least once a large page, each of ten times


@pytest.fixture
def jax_settings() -> Iterator[None]:
    """Back as they were in the end."""
    import jax

    names = [
        "jax_compilation_cache_dir",
        *(f"jax_persistent_cache_min_{name}" for name in ("compile_time_secs", "entry_size_bytes")),
    ]
    before = {name: jax.config.values[name] for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.usefixtures("jax_settings")
def test_every_program_is_kept_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import jax

    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    for cache, wanted in ((tmp_path / "own", tmp_path / "own" / "xla"), ("s3://bucket/x", tmp_path / "user/mtret/xla")):
        monkeypatch.setenv("MTRET_CACHE", str(cache))
        assert devices.keep_compilations() == jax.config.values["jax_compilation_cache_dir"] == str(wanted)
    assert jax.config.values["jax_persistent_cache_min_compile_time_secs"] == 0
    assert jax.config.values["jax_persistent_cache_min_entry_size_bytes"] == -1
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "named"))
    assert devices.keep_compilations() == jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "named")


def test_xla_gets_flags_where_there_is_a_gpu_and_keeps_those_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    flag = "--xla_gpu_enable_latency_hiding_scheduler"
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    monkeypatch.setattr(devices, "_has_nvidia_gpu", lambda: False)
    devices.prepare_gpu()
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=x"
    monkeypatch.setattr(devices, "_has_nvidia_gpu", lambda: True)
    devices.prepare_gpu()
    devices.prepare_gpu()
    assert os.environ["XLA_FLAGS"] == f"--xla_dump_to=x {flag}=true"
    monkeypatch.setenv("XLA_FLAGS", f"{flag}=false")
    devices.prepare_gpu()
    assert os.environ["XLA_FLAGS"] == f"{flag}=false"


def test_xla_knows_every_flag() -> None:
    """At one that it does not know, the whole process ends."""
    source = "import jax; print(jax.numpy.zeros(3).sum())"
    environment = os.environ | {"XLA_FLAGS": " ".join(devices.GPU_FLAGS), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("given", ["", "relative/place", None])
def test_a_cache_folder_that_is_no_whole_path_counts_as_not_set(monkeypatch: pytest.MonkeyPatch, given: str | None):
    monkeypatch.delenv("MTRET_CACHE")
    monkeypatch.setenv("HOME", "/home/somebody")
    if given is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", given)
    assert str(devices.cache_folder()) == "/home/somebody/.cache/mtret"


def test_a_cache_without_a_home(monkeypatch: pytest.MonkeyPatch):
    def nobody(number: int) -> None:
        raise KeyError(number)

    for name in ("MTRET_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(UserError, match=r"there is no home folder to keep a cache in; set MTRET_CACHE to a folder"):
        devices.cache_folder()
    monkeypatch.setenv("MTRET_CACHE", "/somewhere/else")
    assert str(devices.cache_folder()) == "/somewhere/else"
    monkeypatch.delenv("MTRET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/whole")
    assert str(devices.cache_folder()) == "/whole/mtret"


GIVEN_BACK = """
import ctypes
from pathlib import Path
from mtret.devices import give_back_memory, keep_memory
keep_memory()
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) >> 10

block, _ = library.malloc(256 * 2**20), library.malloc(64)  # what stands behind it keeps the heap from shrinking
ctypes.memset(block, 1, 256 * 2**20)
library.free(block)
used = resident()
give_back_memory()
print(used - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_free_memory_is_given_back_when_asked():
    line = [sys.executable, "-c", GIVEN_BACK]
    found = subprocess.run(line, capture_output=True, text=True, check=True)
    assert int(found.stdout) > 200  # MiB
