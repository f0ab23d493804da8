"""The XLA attention against its definition, and the one that is compiled here against XLA's."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtret.errors import UserError
from mtret.kernels import attention_cpu
from mtret.kernels.attention import attend, choose, in_words
from mtret.kernels.masks import dropout

ROWS, LENGTH, HEADS, FEATURES = 2, 7, 3, 4
SEGMENT = np.array([[0, 0, 0, 1, 1, 9, 9], [2, 3, 3, 3, 3, 2, 9]], np.int32)  # a segment need not lie in one piece


def random_arrays(*shapes: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng((seed, 7))
    return [random.normal(size=shape).astype(np.float32) for shape in shapes]


def softmax_attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, segment: np.ndarray, window: int | None
) -> np.ndarray:
    """Token by token, in float64."""
    out = np.zeros(q.shape)
    for row in range(q.shape[0]):
        for i in range(q.shape[1]):
            seen = [
                j
                for j in range(q.shape[1])
                if segment[row, j] == segment[row, i] and (window is None or abs(i - j) <= window)
            ]
            for head in range(q.shape[2]):
                scores = k[row, seen, head].astype(np.float64) @ q[row, i, head] / np.sqrt(q.shape[3])
                weights = np.exp(scores - scores.max())
                out[row, i, head] = weights / weights.sum() @ v[row, seen, head]
    return out


@pytest.mark.parametrize("window", [None, 0, 1, 3])
@pytest.mark.parametrize(("matmul_dtype", "tolerance"), [("float32", 2e-6), ("bfloat16", 2e-2)])
def test_attention_is_softmax_within_segment_and_window(
    window: int | None, matmul_dtype: str, tolerance: float
) -> None:
    q, k, v = random_arrays(*[(ROWS, LENGTH, HEADS, FEATURES)] * 3)
    found = attend(
        jnp.asarray(q), jnp.asarray(k), jnp.asarray(v), jnp.asarray(SEGMENT), window=window, matmul_dtype=matmul_dtype
    )
    np.testing.assert_allclose(found, softmax_attention(q, k, v, SEGMENT, window), atol=tolerance)
    assert found.dtype == jnp.float32


def test_attention_survives_scores_that_overflow_an_exponential() -> None:
    q, k, v = random_arrays(*[(ROWS, LENGTH, HEADS, FEATURES)] * 3)
    found = attend(jnp.asarray(q * 100), jnp.asarray(k * 100), jnp.asarray(v), jnp.asarray(SEGMENT))
    np.testing.assert_allclose(found, softmax_attention(q * 100, k * 100, v, SEGMENT, None), atol=1e-4)


def textbook(q: jax.Array, k: jax.Array, v: jax.Array, window: int | None, keep: jax.Array | float = 1.0) -> jax.Array:
    """`keep`: by row, head, query and key, what a weight is multiplied with after the softmax."""
    place = np.arange(LENGTH)
    visible = SEGMENT[:, :, None] == SEGMENT[:, None, :]
    if window is not None:
        visible = visible & (np.abs(place[:, None] - place[None]) <= window)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(jnp.float32(FEATURES))
    weights = jax.nn.softmax(jnp.where(jnp.asarray(visible)[:, None], scores, -jnp.inf))
    return jnp.einsum("bhqk,bkhd->bqhd", weights * keep, v)


def gradients(attention: Callable[..., jax.Array], weight: jax.Array, *inputs: jax.Array) -> tuple[jax.Array, ...]:
    return jax.grad(lambda *x: (attention(*x) * weight).sum(), argnums=(0, 1, 2))(*inputs)


@pytest.mark.slow
@pytest.mark.parametrize("window", [None, 1])
@pytest.mark.parametrize(("matmul_dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 1e-2)])
def test_attention_has_the_gradients_of_softmax(window: int | None, matmul_dtype: str, tolerance: float) -> None:
    q, k, v, weight = map(jnp.asarray, random_arrays(*[(ROWS, LENGTH, HEADS, FEATURES)] * 4))

    def ours(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return attend(q, k, v, jnp.asarray(SEGMENT), window=window, matmul_dtype=matmul_dtype)

    theirs = gradients(partial(textbook, window=window), weight, q, k, v)
    for a, b in zip(gradients(ours, weight, q, k, v), theirs, strict=True):
        assert np.linalg.norm(a - b) < tolerance * np.linalg.norm(b)


def test_attention_with_dropout_has_the_gradients_of_the_mask_it_drew() -> None:
    q, k, v, weight = map(jnp.asarray, random_arrays(*[(ROWS, LENGTH, HEADS, FEATURES)] * 4))
    keys = jax.random.split(jax.random.key(5), ROWS)

    def ours(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        segment = jnp.asarray(SEGMENT)
        return attend(q, k, v, segment, row_keys=keys, dropout_rate=0.4, dropout_site=2)

    mask = dropout(jnp.ones((ROWS, HEADS, LENGTH, LENGTH)), keys, 0.4, 2).transpose(0, 1, 3, 2)  # drawn as key, query
    np.testing.assert_allclose(ours(q, k, v), textbook(q, k, v, None, mask), atol=1e-6)
    theirs = gradients(partial(textbook, window=None, keep=mask), weight, q, k, v)
    for a, b in zip(gradients(ours, weight, q, k, v), theirs, strict=True):
        assert np.linalg.norm(a - b) < 1e-6 * np.linalg.norm(b)


@pytest.mark.slow
def test_dropped_attention_weights_are_not_summed_anew() -> None:
    """Dropout scales what is left by 1 / (1 - rate); the softmax's own sum is that before dropout, as in BERT."""
    q, k, _ = random_arrays(*[(64, LENGTH, 1, FEATURES)] * 3)
    ones = jnp.ones((64, LENGTH, 1, FEATURES))
    segment = jnp.zeros((64, LENGTH), jnp.int32)
    keys = jax.random.split(jax.random.key(0), 64)
    found = attend(jnp.asarray(q), jnp.asarray(k), ones, segment, row_keys=keys, dropout_rate=0.5, dropout_site=3)
    assert float(jnp.abs(found - 1).max()) > 0.5  # a sum over the kept ones would give exactly 1 everywhere
    assert float(found.mean()) == pytest.approx(1.0, abs=0.05)


def packed(rows: int, length: int) -> jax.Array:
    """Texts of any length end to end, one that does not lie in one piece, and padding after them."""
    random = np.random.default_rng((rows, length))
    segment = np.sort(random.integers(0, max(length // 12, 2), (rows, length)))
    segment[0, :3], segment[0, length // 2] = 90, 90
    segment[-1, length // 2 :] = 99
    return jnp.asarray(segment, jnp.int32)


def value_and_gradients(attention: Any, *inputs: Any) -> list[jax.Array]:
    found, back = jax.vjp(attention, *inputs[:3])
    return [found, *back(inputs[3])]


# One vector of queries, several, and one over; features that fill a vector, and that do not.
@pytest.mark.parametrize(("length", "features"), [(1, 4), (7, 32), (48, 16), (67, 24), (256, 64)])
@pytest.mark.parametrize(("window", "rate"), [(None, 0.0), (0, 0.0), (9, 0.3), (None, 0.3)])
def test_the_compiled_attention_is_xlas(length: int, features: int, window: int | None, rate: float) -> None:
    inputs = [jnp.asarray(x) for x in random_arrays(*[(3, length, HEADS, features)] * 4)]
    keys = jax.random.split(jax.random.key(5), 3)
    segment = packed(3, length) if length > 3 else jnp.zeros((3, length), jnp.int32)
    options: dict[str, Any] = {"window": window, "row_keys": keys, "dropout_rate": rate, "dropout_site": 2}

    def by(implementation: str) -> list[jax.Array]:
        def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            return attend(q, k, v, segment, implementation=implementation, **options)

        return jax.jit(lambda *x: value_and_gradients(attention, *x))(*inputs)

    for a, b in zip(by("cpu"), by("xla"), strict=True):
        assert a.dtype == jnp.float32
        # Who sees himself alone has gradients of zero, but for what rounding leaves.
        assert np.linalg.norm(a - b) < 2e-6 * max(np.linalg.norm(b), 0.1 * np.linalg.norm(inputs[3]))


def test_compiled_a_text_is_the_same_to_the_last_bit_whatever_its_neighbours() -> None:
    q, k, v, weight = (jnp.asarray(x) for x in random_arrays(*[(1, 96, HEADS, 32)] * 4))
    of = partial(value_and_gradients, lambda q, k, v: attend(q, k, v, segment, implementation="cpu"))
    own, segment = slice(10, 50), jnp.asarray(np.repeat([0, 1, 2], [10, 40, 46])[None], jnp.int32)
    together = of(q, k, v, weight)
    spoiled = [x.at[:, 50:].set(jnp.nan) for x in (q, k, v, weight)]
    beside_nonsense = of(*spoiled)
    segment = jnp.zeros((1, 40), jnp.int32)
    alone = of(*(x[:, own] for x in (q, k, v, weight)))
    for a, b, c in zip(together, beside_nonsense, alone, strict=True):
        np.testing.assert_array_equal(a[:, own], c)
        np.testing.assert_array_equal(b[:, own], c)
        assert np.isnan(b[:, 50:]).all() and np.isfinite(b[:, :50]).all()


@pytest.mark.parametrize("spoiled", [0, 1, 2])
def test_compiled_what_is_no_number_stays_none(spoiled: int) -> None:
    """A step with such a loss is skipped; it must not become a number on the way."""
    inputs = random_arrays(*[(1, 20, 1, 4)] * 3)
    inputs[spoiled][0, 3, 0, 1] = np.nan
    q, k, v = map(jnp.asarray, inputs)
    found = attend(q, k, v, jnp.zeros((1, 20), jnp.int32), implementation="cpu")
    assert np.isnan(found[0, 3]).any()


def test_compiled_scores_may_overflow_an_exponential() -> None:
    q, k, v = random_arrays(*[(ROWS, LENGTH, HEADS, FEATURES)] * 3)
    arrays = jnp.asarray(q * 100), jnp.asarray(k * 100), jnp.asarray(v)
    found = attend(*arrays, jnp.asarray(SEGMENT), implementation="cpu")
    np.testing.assert_allclose(found, softmax_attention(q * 100, k * 100, v, SEGMENT, None), atol=1e-4)


def test_compiled_the_bits_do_not_depend_on_how_many_share_the_work() -> None:
    arrays = [jnp.asarray(x) for x in random_arrays(*[(16, 64, 4, 32)] * 4)]
    of = jax.jit(
        lambda *x: value_and_gradients(lambda q, k, v: attend(q, k, v, packed(16, 64), implementation="cpu"), *x)
    )
    first = of(*arrays)
    for _ in range(5):
        for a, b in zip(of(*arrays), first, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """As in a process, and with a cache, that have compiled nothing yet."""
    monkeypatch.setattr(attention_cpu, "why_not", attention_cpu.why_not.__wrapped__)
    monkeypatch.setenv("MTRET_CACHE", str(tmp_path / "cache"))
    return monkeypatch


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("PATH", "/nowhere", r"there is no C\+\+ compiler on the path \(c\+\+, g\+\+, clang\+\+\)"),
        ("CXX", "/nowhere/c++ -O1", r"/nowhere/c\+\+ does not run \(.*\)"),
        ("CXX", "false", r"false fails \(no reason\)"),
        ("MTRET_CACHE", "/proc/nowhere", r"/proc/nowhere/native cannot be written \(.*\)"),
    ],
)
def test_without_a_compiler_xla_serves(again: pytest.MonkeyPatch, variable: str, value: str, reason: str) -> None:
    again.delenv("CXX", raising=False)
    again.setenv(variable, value)
    assert choose(None) == "xla"
    words = re.fullmatch(r"attention: xla \(a kernel for this processor would be faster: (.*)\)", in_words("xla"))
    assert words and re.fullmatch(reason, words[1])
    with pytest.raises(UserError, match=rf"model\.attention: 'cpu' cannot be had here: {reason}; 'xla' needs nothing"):
        choose("cpu")


@pytest.mark.system
def test_what_was_compiled_is_used_again(tmp_path: Path) -> None:
    """And made again where it is damaged. In processes of their own: JAX takes each name once."""

    def of_a_process() -> tuple[Path, int]:
        command = [sys.executable, "-c", "from mtret.kernels.attention import choose; print(choose('cpu'))"]
        environment = os.environ | {"MTRET_CACHE": str(tmp_path / "cache")}
        assert subprocess.run(command, env=environment, capture_output=True, check=True).stdout == b"cpu\n"
        (library,) = (tmp_path / "cache" / "native").iterdir()
        return library, library.stat().st_mtime_ns

    library, made = of_a_process()
    size = library.stat().st_size
    assert of_a_process() == (library, made)
    os.truncate(library, 100)
    assert of_a_process()[1] > made and library.stat().st_size == size


def test_the_cpus_attention_is_refused_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(UserError, match="'cpu' is for JAX on a CPU, and here it uses another device"):
        choose("cpu")
    assert choose(None) == "xla"
