"""What this machine computes on, and where it keeps what can be computed again."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mtret.errors import UserError


def device_line() -> str:
    """Which devices JAX uses; with the remedy where there is a GPU that it does not see.

    Raises UserError where the environment asks for devices that there are not.
    """
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:
        raise UserError(f"JAX cannot use the devices it is told to ({error}); unset JAX_PLATFORMS") from error
    if devices[0].platform != "cpu":
        return f"device: {len(devices)} x {devices[0].device_kind}"
    remedy = ""
    if _has_nvidia_gpu():
        remedy = "; this machine has an NVIDIA GPU that JAX does not see: pip install 'mtret[cuda]'"
    return f"device: CPU, {os.cpu_count()} cores, {len(devices)} JAX device(s){remedy}"


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


def cache_folder() -> Path:
    """Tokens, vectors and compiled programs: `$MTRET_CACHE`, or `mtret` in the user's cache folder. Safe to delete."""
    named = os.environ.get("MTRET_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "mtret"


def keep_compilations(cache: Path) -> None:
    """Lets XLA keep every executable on disk, so that the same shapes compile once per machine."""
    import jax

    jax.config.update("jax_compilation_cache_dir", str(cache / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
