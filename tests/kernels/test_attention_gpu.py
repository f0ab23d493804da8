"""The kernel runs interpreted here, and is lowered for a GPU; cuDNN can only be lowered."""

import re
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtret.errors import UserError
from mtret.kernels import attention_gpu
from mtret.kernels.attention import attend, choose
from mtret.kernels.attention_gpu import Blocks

pytestmark = pytest.mark.unoptimised  # an interpreted kernel; on a GPU another compiler does it

HEADS = 2


def inputs(rows: int, length: int, features: int) -> Any:
    """q, k, v and a weight for the sum that is differentiated."""
    random = np.random.default_rng((length, features))
    return [jnp.asarray(random.normal(size=(rows, length, HEADS, features)), jnp.float32) for _ in range(4)]


def segments(length: int) -> jax.Array:
    """Texts end to end with padding after them, texts that do not lie in one piece, and a row of padding only."""
    random = np.random.default_rng(length)
    packed = np.repeat([0, 1, 2, 9], [length // 2 - 3, 1, length // 4, length])[:length]
    return jnp.asarray(np.stack([packed, random.integers(3, 6, length), np.full(length, 9)]), jnp.int32)


def no_words(rows: int) -> jax.Array:
    """Where nothing is dropped."""
    return jnp.zeros((rows, 2), jnp.uint32)


def value_and_gradients(attention: Callable[..., jax.Array], q: Any, k: Any, v: Any, weight: Any) -> list[jax.Array]:
    def weighed(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = attention(q, k, v)
        return (found * weight).sum(), found

    (_, found), gradients = jax.value_and_grad(weighed, argnums=(0, 1, 2), has_aux=True)(q, k, v)
    return [found, *gradients]


# Several blocks to a row; a length and a width that are no powers of two; a row that is padded to one block.
@pytest.mark.slow
@pytest.mark.parametrize(("length", "features"), [(64, 16), (50, 24), pytest.param(8, 4, marks=pytest.mark.system)])
@pytest.mark.parametrize(("window", "rate"), [(None, 0.0), (7, 0.3)])
def test_the_kernel_is_softmax_attention(length: int, features: int, window: int | None, rate: float) -> None:
    q, k, v, weight = inputs(3, length, features)
    segment = segments(length)
    keys = jax.random.split(jax.random.key(1), 3)
    words = jax.random.key_data(jax.vmap(lambda key: jax.random.fold_in(key, 2))(keys))

    def ours(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return attention_gpu.flash(q, k, v, segment, words, window, rate, Blocks(16, 32), interpret=True)

    def reference(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return attend(q, k, v, segment, window=window, row_keys=keys, dropout_rate=rate, dropout_site=2)

    theirs = value_and_gradients(reference, q, k, v, weight)
    for a, b in zip(value_and_gradients(ours, q, k, v, weight), theirs, strict=True):
        assert np.linalg.norm(a - b) < 1e-6 * np.linalg.norm(b)


@pytest.mark.slow
def test_attend_rounds_operands_and_draws_the_librarys_dropout() -> None:
    q, k, v, weight = inputs(3, 32, 16)
    keys = jax.random.split(jax.random.key(3), 3)
    options: dict[str, Any] = {"row_keys": keys, "dropout_rate": 0.2, "dropout_site": 5}

    def ours(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return attend(q, k, v, segments(32), implementation="pallas_interpreted", **options)

    exact = value_and_gradients(lambda q, k, v: attend(q, k, v, segments(32), **options), q, k, v, weight)
    for a, b in zip(value_and_gradients(ours, q, k, v, weight), exact, strict=True):
        assert a.dtype == jnp.float32
        assert 1e-4 < np.linalg.norm(a - b) / np.linalg.norm(b) < 1e-2


def test_scores_may_overflow_an_exponential() -> None:
    q, k, v, _ = inputs(3, 32, 16)
    q, k = q * 20, k * 20
    assert float(jnp.einsum("blhd,blhd->blh", q, k).max()) / 4 > 200
    found = attention_gpu.flash(q, k, v, segments(32), no_words(3), None, 0.0, Blocks(16, 16), interpret=True)
    np.testing.assert_allclose(found, attend(q, k, v, segments(32)), atol=1e-3)


@pytest.mark.parametrize("window", [None, 5])
def test_blocks_that_a_text_cannot_see_are_not_read(window: int | None) -> None:
    """Forward or backward: there, nothing times not-a-number would be not a number."""
    q, k, v, weight = inputs(1, 64, 16)
    segment = jnp.asarray(np.repeat([0, 1, 1, 2], 16)[None] if window is None else np.zeros((1, 64)), jnp.int32)
    # The last 16 tokens are a text of their own; or out of the window of the first 32, whom alone the first 16 see.
    far, near = slice(48, 64), 32 if window is None else 16
    poisoned: Any = [x.at[:, far].set(jnp.nan) for x in (q, k, v)]

    def ours(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return attention_gpu.flash(q, k, v, segment, no_words(1), window, 0.0, Blocks(16, 16), interpret=True)[:, :32]

    sound = value_and_gradients(ours, q, k, v, weight[:, :32])
    for a, b in zip(value_and_gradients(ours, *poisoned, weight=weight[:, :32]), sound, strict=True):
        np.testing.assert_array_equal(a[:, :near], b[:, :near])


def h100() -> Any:
    """In this context programs are lowered for a GPU that is not there; JAX asks from 0.11 on which one it is."""
    if not hasattr(jax.sharding, "AbstractDevice"):
        return nullcontext()
    device = jax.sharding.AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")
    mesh = jax.sharding.AbstractMesh((1,), ("x",), (jax.sharding.AxisType.Explicit,), abstract_device=device)
    return jax.sharding.use_abstract_mesh(mesh)


def lowered(implementation: str, rate: float, window: int | None, length: int = 256) -> str:
    def loss(q: jax.Array, segment: jax.Array, keys: jax.Array) -> jax.Array:
        found = attend(q, q, q, segment, implementation=implementation, window=window, row_keys=keys, dropout_rate=rate)
        return found.sum()

    q = jax.ShapeDtypeStruct((4, length, HEADS, 32), jnp.float32)
    segment = jax.ShapeDtypeStruct((4, length), jnp.int32)
    keys = jax.ShapeDtypeStruct((4,), jax.random.key(0).dtype)
    with h100() if implementation == "pallas" else nullcontext():
        return jax.jit(jax.grad(loss)).trace(q, segment, keys).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning")
@pytest.mark.parametrize(("rate", "window", "length"), [(0.0, None, 256), (0.1, 64, 384)])
def test_the_kernel_can_be_lowered_for_a_gpu(rate: float, window: int | None, length: int) -> None:
    program = lowered("pallas", rate, window, length)
    assert program.count("custom_call @__gpu$xla.gpu.triton") == 3  # forward, to queries, to keys and values
    matrix = f"{length}x{length}xf32"  # of scores; who sees whom is integers
    assert matrix not in program


def test_cudnn_can_be_lowered_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    program = lowered("cudnn", 0.0, None)
    names = set(re.findall(r"__cudnn\$\w+", program))
    assert names == {"__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward"}


def test_what_cannot_be_served_is_refused() -> None:
    q = jnp.ones((1, 16, HEADS, 16))
    segment, keys = jnp.zeros((1, 16), jnp.int32), jax.random.split(jax.random.key(0), 1)
    cudnn = partial(attend, q, q, q, segment, implementation="cudnn")
    with pytest.raises(UserError, match=r"'cudnn' has no dropout: choose 'pallas', or set model.dropout=0.0"):
        cudnn(row_keys=keys, dropout_rate=0.1)
    with pytest.raises(UserError, match="'pallas' needs an NVIDIA GPU"):
        choose("pallas")
    with pytest.raises(UserError, match="'palas' is not one of xla, cpu, pallas, cudnn"):
        choose("palas")
    assert choose("pallas_interpreted", 0.1) == "pallas_interpreted"


def test_cudnn_with_dropout_is_refused_before_a_run_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert choose("cudnn") == "cudnn"
    with pytest.raises(UserError, match=r"'cudnn' has no dropout: choose 'pallas', or set model.dropout=0.0"):
        choose("cudnn", 0.1)
