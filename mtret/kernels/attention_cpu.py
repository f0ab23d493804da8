"""Attention of packed rows on a CPU: `attention_cpu.cc`, compiled for this machine's processor when it is first needed.

XLA's products of attention are small and narrow, run at a quarter of the processor's rate and pass their scores through
memory; they also multiply every text of a row with every other. Here one segment and head stays in a core's cache.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from mtret.devices import local_cache, processor
from mtret.errors import UserError
from mtret.kernels.masks import dropout_threshold

SOURCE = Path(__file__).with_name("attention_cpu.cc")
COMPILERS = ("c++", "g++", "clang++")
PATIENCE = 300  # seconds for a compiler that takes four


def attend(
    q: Float[Array, "rows L heads features"],
    k: Float[Array, "rows L heads features"],
    v: Float[Array, "rows L heads features"],
    segment: Int[Array, "rows L"],
    words: UInt32[Array, "rows 2"] | None,
    window: int | None,
    rate: float,
) -> Float[Array, "rows L heads features"]:
    """As `attention.attend`, in float32 throughout. `words`: what each row's dropout masks are drawn from; None: there
    is no dropout. Raises UserError as `require` does."""
    require()
    if words is None:
        words, rate = jnp.zeros((0, 2), jnp.uint32), 0.0
    return _attend(q, k, v, segment.astype(jnp.int32), words, window, rate)


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attend(q: Array, k: Array, v: Array, segment: Array, words: Array, window: int | None, rate: float) -> Array:
    return _forward(q, k, v, segment, words, window, rate)[0]


def _forward(
    q: Array, k: Array, v: Array, segment: Array, words: Array, window: int | None, rate: float
) -> tuple[Array, Any]:
    rows, length, heads, _ = q.shape
    kinds = _like(q), jax.ShapeDtypeStruct((rows, heads, length), jnp.float32)
    call = jax.ffi.ffi_call("mtret_attention_forward", kinds)
    mixed, log_total = call(q, k, v, segment, words, **_typed(window, rate))
    return mixed, (q, k, v, segment, words, mixed, log_total)


def _backward(window: int | None, rate: float, saved: Any, cotangent: Array) -> tuple[Any, ...]:
    call = jax.ffi.ffi_call("mtret_attention_backward", (_like(cotangent),) * 3)
    return *call(*saved, cotangent, **_typed(window, rate)), None, None


_attend.defvjp(_forward, _backward)


def _like(x: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, jnp.float32)


def _typed(window: int | None, rate: float) -> dict[str, Any]:
    threshold = np.int64(dropout_threshold(rate))
    return {"window": np.int64(-1 if window is None else window), "threshold": threshold, "rate": np.float32(rate)}


def require() -> None:
    """Compiles and loads it once. Raises UserError where that cannot be done."""
    reason = why_not()
    if reason is not None:
        raise UserError(f"model.attention: 'cpu' cannot be had here: {reason}; 'xla' needs nothing")


@functools.cache
def why_not() -> str | None:
    """Why it cannot be compiled or loaded here, or None: then it is loaded."""
    try:
        library = _loaded()
        for name in ("mtret_attention_forward", "mtret_attention_backward"):
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    except _NotHere as error:
        return str(error)
    except (OSError, AttributeError) as error:
        return f"what was compiled cannot be loaded ({error})"
    return None


def _loaded() -> ctypes.CDLL:
    path = _compiled()
    try:
        return ctypes.CDLL(str(path))
    except OSError:  # damaged in the cache
        path.unlink()
        return ctypes.CDLL(str(_compiled()))


class _NotHere(Exception):
    """With the reason."""


def _compiled() -> Path:
    """The library, in the cache under all that it depends on."""
    compiler = _compiler()
    native = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
    flags = ["-std=c++17", "-O3", native, "-fno-math-errno", "-DNDEBUG", "-shared", "-fPIC"]
    command = [*compiler, *flags, "-isystem", jax.ffi.include_dir(), str(SOURCE)]
    # Not for the source alone: a cache may be shared by machines that differ.
    depends = [SOURCE.read_text(encoding="utf-8"), jax.__version__, _run([*compiler, "--version"]), processor()]
    key = hashlib.sha256("\n".join([*flags, *depends]).encode()).hexdigest()[:16]
    library = local_cache() / "native" / f"attention-{key}.so"
    if not library.exists():
        try:
            library.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=library.parent) as folder:
                made = Path(folder) / library.name
                _run([*command, "-o", str(made)])
                os.replace(made, library)
        except OSError as error:
            raise _NotHere(f"{library.parent} cannot be written ({error.strerror or error})") from error
    return library


def _compiler() -> list[str]:
    named = shlex.split(os.environ.get("CXX", ""))
    found = named or [name for name in COMPILERS if shutil.which(name)][:1]
    if not found:
        raise _NotHere(f"there is no C++ compiler on the path ({', '.join(COMPILERS)})")
    return found


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _NotHere(f"{command[0]} does not run ({error})") from error
    if done.returncode:
        lines = (
            [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["no reason"]
        )
        raise _NotHere(f"{command[0]} fails ({lines[0].strip()})")
    return done.stdout
