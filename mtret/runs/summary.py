"""What a training cost: speed, waiting, memory, and how near it came to what the device can do."""

import functools
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax

from mtret.console import duration
from mtret.kernels.dense import MATMUL_DTYPES, project
from mtret.pytrees import Tree, flatten
from mtret.train.loop import Totals

LONG_RUN_S = 60.0  # a run of as many seconds is worth the one or two in which the rates are measured


def summary(
    totals: Totals, params: Tree | None, matmul_dtype: str, shapes: int, compile_seconds: float
) -> dict[str, Any]:
    """The numbers of one process's share of a run, since it was last started.

    `params`: the tower's, to tell what it computed; None where others read a part of the batch, which is not counted.
    """
    seconds = max(totals.seconds, 1e-9)
    # Forward and backward are three products of two operations each; attention's own products are left out.
    kernels = sum(leaf.size for path, leaf in flatten(params or {}).items() if path.endswith("/kernel"))
    reached = 6 * kernels * totals.tokens / seconds if params else None
    rates = None
    if seconds >= LONG_RUN_S:
        rates = {name: matrix_rate(name) * jax.device_count() for name in MATMUL_DTYPES}
    return {
        "steps": totals.steps,
        "seconds": round(seconds, 2),
        "pairs_per_s": totals.pairs / seconds,
        "tokens_per_s": totals.tokens / seconds,
        "fill": totals.tokens / max(totals.slots, 1),
        "wait": totals.waited / seconds,
        "shapes": shapes,
        "compile_seconds": round(compile_seconds, 2),
        "peak_memory_bytes": peak_memory(),
        "flops_per_s": reached,
        "matrix_flops_per_s": rates,
        "matmul_dtype": matmul_dtype,
        "utilisation": reached / rates[matmul_dtype] if reached and rates else None,
    }


@functools.cache  # one for the process: listeners stay
def _compilations() -> Counter[str]:
    """What JAX says of every program that this process has compiled, or read from the cache on disk."""
    seen: Counter[str] = Counter()

    def compiled(event: str, duration_secs: float, **_: Any) -> None:
        if event.endswith("/backend_compile_duration"):
            seen["count"] += 1
            seen["seconds"] += duration_secs  # pyright: ignore[reportArgumentType]

    def found(event: str, **_: Any) -> None:
        seen["cached"] += event.endswith("/compilation_cache/cache_hits")

    jax.monitoring.register_event_duration_secs_listener(compiled)
    jax.monitoring.register_event_listener(found)
    return seen


def count_compilations() -> Callable[[], dict[str, Any]]:
    """Returns what tells of the programs compiled since now, everywhere in the process, and the seconds that it took.

    Those that were read from the cache on disk count among them, and apart.
    """
    before = _compilations().copy()
    return lambda: {name: round(_compilations()[name] - before[name], 2) for name in ("count", "cached", "seconds")}


def in_words(numbers: dict[str, Any]) -> str:
    """One line of it."""
    computed = hint = ""
    if rates := numbers["matrix_flops_per_s"]:
        fastest = max(rates, key=lambda name: rates[name])
        ratio = rates[fastest] / rates[numbers["matmul_dtype"]]
        hint = f"; model.matmul_dtype='{fastest}' would multiply {ratio:.1f} times as fast here" if ratio > 1.25 else ""
    if numbers["utilisation"] is not None:
        share = f"{numbers['utilisation']:.0%} of a large matrix product here"
        computed = f"; {numbers['flops_per_s'] / 1e12:.2f} TFLOP/s, {share}"
    return (
        f"{numbers['steps']} steps in {duration(numbers['seconds'])}: {numbers['pairs_per_s']:,.0f} pairs/s, "
        f"{numbers['tokens_per_s']:,.0f} tokens/s, fill {numbers['fill']:.0%}, waiting for data {numbers['wait']:.1%}; "
        f"peak memory {numbers['peak_memory_bytes'] / 2**30:.1f} GiB{computed}{hint}"
    )


def matrix_rate(matmul_dtype: str) -> float:
    """Operations a second of one device in a large product of `matmul_dtype`, measured now."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    x = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(lambda x: project(x, x, matmul_dtype))
    product(x).block_until_ready()
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        product(x).block_until_ready()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def peak_memory() -> int:
    """Most bytes in use so far: of an accelerator where there is one, else of the process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
