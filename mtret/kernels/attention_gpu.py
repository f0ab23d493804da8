"""Attention of packed rows on an NVIDIA GPU, without the matrix of scores in memory.

FlashAttention-2 (Dao, 2307.08691). The kernel knows segments, skips the blocks of a row in which no text of its own
lies, and draws the dropout masks of `masks.dropout`. JAX calls the way in which it reaches the GPU (Triton) deprecated
since 0.12; cuDNN is what would remain.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int, Int32, UInt32

from mtret.kernels.masks import dropout_mask, visible

NARROWEST = 16  # of a product on tensor cores, in every dimension
FLOOR = -1e30  # below every score: minus infinity itself would be subtracted from itself
LOG2_E = 1.4426950408889634


@dataclass(frozen=True)
class Blocks:
    """How the kernel cuts a row: tokens of a block, and how many warps and pipeline stages Triton may use for one.

    Compiled for an H100 (sm_90), the default keeps everything in registers at 32 and 64 features a head; blocks of 128
    do so from 8 warps on. Which is fastest is to be measured (experiments/002_training_speed/gpu.py --attention).
    """

    forward: int = 64
    backward: int = 64
    warps: int = 4
    stages: int = 2


@dataclass(frozen=True)
class _Kernel:
    """What is known when the kernel is built. `length` and `scale` are those of the rows before padding."""

    window: int | None
    rate: float
    length: int
    scale: float
    blocks: Blocks
    interpret: bool


def flash(
    q: Float[Array, "rows L heads features"],
    k: Float[Array, "rows L heads features"],
    v: Float[Array, "rows L heads features"],
    segment: Int[Array, "rows L"],
    words: UInt32[Array, "rows 2"],
    window: int | None,
    rate: float,
    blocks: Blocks | None = None,
    interpret: bool = False,
) -> Float[Array, "rows L heads features"]:
    """As `attention.attend`, in the operands' own type. `words`: what each row's dropout masks are drawn from."""
    _, length, _, features = q.shape
    # Products are of powers of two, at least 16. What is added is a segment of its own, and features of zeros.
    more_tokens = -length % NARROWEST
    more_features = max(NARROWEST, 1 << (features - 1).bit_length()) - features
    if more_tokens or more_features:
        q, k, v = (jnp.pad(x, ((0, 0), (0, more_tokens), (0, 0), (0, more_features))) for x in (q, k, v))
        segment = jnp.pad(segment, ((0, 0), (0, more_tokens)), constant_values=-1)
    kernel = _Kernel(window, rate, length, features**-0.5, blocks or Blocks(), interpret)
    found: Any = _flash(q, k, v, segment.astype(jnp.int32), words, kernel)
    return found[:, :length, :, :features]


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _flash(q: Array, k: Array, v: Array, segment: Array, words: Array, kernel: _Kernel) -> Array:
    return _flash_forward(q, k, v, segment, words, kernel)[0]


def _flash_forward(
    q: Array, k: Array, v: Array, segment: Array, words: Array, kernel: _Kernel
) -> tuple[Array, tuple[Array, ...]]:
    rows, length, heads, _ = q.shape
    size = _block(length, kernel.blocks.forward)
    outputs = jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct((rows, heads, length), jnp.float32)
    relation = _relation(segment, words, kernel, size)
    mixed, log_total = _call(_forward_kernel, kernel, size, (q,), (k, v), relation, outputs)
    return mixed, (q, k, v, segment, words, mixed, log_total)


def _flash_backward(kernel: _Kernel, saved: tuple[Array, ...], cotangent: Array) -> tuple[Any, ...]:
    q, k, v, segment, words, mixed, log_total = saved
    size = _block(q.shape[1], kernel.blocks.backward)
    share = (cotangent.astype(jnp.float32) * mixed.astype(jnp.float32)).sum(axis=3).transpose(0, 2, 1)
    relation = _relation(segment, words, kernel, size)
    of_queries, of_keys = (q, cotangent, log_total, share), (k, v)
    like = jax.ShapeDtypeStruct(q.shape, q.dtype)
    (to_q,) = _call(_to_queries, kernel, size, of_queries, of_keys, relation, (like,))
    to_k, to_v = _call(_to_keys, kernel, size, of_keys, of_queries, relation, (like, like))
    return to_q, to_k, to_v, None, None


_flash.defvjp(_flash_forward, _flash_backward)


def _block(length: int, wanted: int) -> int:
    """The largest power of two that divides a row, at most as wanted."""
    return min(length & -length, wanted)


def _call(body: Any, kernel: _Kernel, size: int, own: Any, others: Any, relation: Any, outputs: Any) -> Any:
    """`body` for each block of each row and head: it gets its block of `own` arrays and of the outputs, all tokens of
    `others`, and who sees whom."""
    (rows, length, heads, _), (arrays, specs) = own[0].shape, relation
    blocks = partial(_of_head, size=size)
    call = pl.pallas_call(
        partial(body, kernel=kernel, size=size),
        grid=(length // size, rows, heads),
        in_specs=(tuple(map(blocks, own)), tuple(map(_of_head, others)), specs),
        out_specs=tuple(map(blocks, outputs)),
        out_shape=outputs,
        compiler_params=triton.CompilerParams(num_warps=kernel.blocks.warps, num_stages=kernel.blocks.stages),
        interpret=kernel.interpret,
    )
    return call(own, others, arrays)


def _of_head(x: Any, size: int | None = None) -> Any:
    """One head's row, of [rows, L, heads, features] or of [rows, heads, L]: its blocks of `size`; or (None) all of it,
    of which the kernel reads a block at a time."""

    def at(block: Any) -> Any:
        return 0 if size is None else block

    if x.ndim == 3:
        return pl.BlockSpec((None, None, size or x.shape[2]), lambda i, row, head: (row, head, at(i)))
    return pl.BlockSpec((None, size or x.shape[1], None, x.shape[3]), lambda i, row, head: (row, at(i), head, 0))


def _relation(segment: Array, words: Array, kernel: _Kernel, size: int) -> tuple[tuple[Array, ...], tuple[Any, ...]]:
    """Who sees whom: each token's segment, for each block the first and the last of those it can see, and what a row's
    dropout masks are drawn from; and how each is cut."""
    rows, length = segment.shape
    place = jnp.arange(length, dtype=jnp.int32)[None, None]
    seen = visible(segment, kernel.window)
    first = jnp.where(seen, place, length).min(axis=2).reshape(rows, -1, size).min(axis=2) // size
    last = jnp.where(seen, place, 0).max(axis=2).reshape(rows, -1, size).max(axis=2) // size
    bounds: Int32[Array, "rows blocks 2"] = jnp.stack([first, last + 1], axis=2)
    return (segment, bounds, words), (
        pl.BlockSpec((None, length), lambda i, row, head: (row, 0)),
        pl.BlockSpec((None, None, 2), lambda i, row, head: (row, i, 0)),
        pl.BlockSpec((None, 2), lambda i, row, head: (row, 0)),
    )


def _forward_kernel(
    own: Any, others: Any, relation: Any, mixed_ref: Any, log_total_ref: Any, *, kernel: _Kernel, size: int
) -> None:
    """A block of queries. `log_total`: of each softmax's sum, to base 2, as all exponentials here."""
    (q_ref,), (k_ref, v_ref), (segment_ref, bounds_ref, words_ref) = own, others, relation
    block, mask_of = pl.program_id(0), (pl.program_id(2), words_ref[0], words_ref[1])
    q = q_ref[...]

    def add(other: Array, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        mixed, highest, total = sums
        at = pl.ds(other * size, size)
        seen = _seen(block, other, size, segment_ref, kernel)
        scores = jnp.where(seen, _dot(q, k_ref[at, :].T) * (kernel.scale * LOG2_E), -jnp.inf)
        higher = jnp.maximum(highest, scores.max(axis=1))
        weights = jnp.exp2(scores - higher[:, None])
        shrink = jnp.exp2(highest - higher)
        dropped = _drop(weights, _places(other, size)[None, :], _places(block, size)[:, None], mask_of, kernel)
        v = v_ref[at, :]
        mixed = mixed * shrink[:, None] + _dot(dropped.astype(v.dtype), v)
        return mixed, higher, total * shrink + weights.sum(axis=1)

    nothing = jnp.zeros(q.shape, jnp.float32), jnp.full((size,), FLOOR), jnp.zeros((size,), jnp.float32)
    mixed, highest, total = jax.lax.fori_loop(bounds_ref[0], bounds_ref[1], add, nothing)
    mixed_ref[...] = (mixed / total[:, None]).astype(mixed_ref.dtype)
    log_total_ref[...] = highest + jnp.log2(total)


def _to_queries(own: Any, others: Any, relation: Any, to_q_ref: Any, *, kernel: _Kernel, size: int) -> None:
    """The gradient of a block of queries."""
    (k_ref, v_ref), (segment_ref, bounds_ref, words_ref) = others, relation
    block, mask_of = pl.program_id(0), (pl.program_id(2), words_ref[0], words_ref[1])
    q, cotangent, log_total, share = (ref[...] for ref in own)

    def add(other: Array, to_q: Array) -> Array:
        at = pl.ds(other * size, size)
        k = k_ref[at, :]
        seen = _seen(block, other, size, segment_ref, kernel)
        scores = jnp.where(seen, _dot(q, k.T) * (kernel.scale * LOG2_E), -jnp.inf)
        weights = jnp.exp2(scores - log_total[:, None])
        keys, queries = _places(other, size)[None, :], _places(block, size)[:, None]
        to_weights = _drop(_dot(cotangent, v_ref[at, :].T), keys, queries, mask_of, kernel)
        to_scores = weights * (to_weights - share[:, None])
        return to_q + _dot(to_scores.astype(k.dtype), k)

    to_q = jax.lax.fori_loop(bounds_ref[0], bounds_ref[1], add, jnp.zeros(q.shape, jnp.float32))
    to_q_ref[...] = (to_q * kernel.scale).astype(to_q_ref.dtype)


def _to_keys(own: Any, others: Any, relation: Any, to_k_ref: Any, to_v_ref: Any, *, kernel: _Kernel, size: int) -> None:
    """The gradients of a block of keys and values. Scores stand as [key, query], so no weight is transposed."""
    (q_ref, cotangent_ref, log_total_ref, share_ref), (segment_ref, bounds_ref, words_ref) = others, relation
    block, mask_of = pl.program_id(0), (pl.program_id(2), words_ref[0], words_ref[1])
    k, v = (ref[...] for ref in own)

    def add(other: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        to_k, to_v = sums
        at = pl.ds(other * size, size)
        q, cotangent = q_ref[at, :], cotangent_ref[at, :]
        seen = _seen(block, other, size, segment_ref, kernel)
        scores = jnp.where(seen, _dot(k, q.T) * (kernel.scale * LOG2_E), -jnp.inf)
        weights = jnp.exp2(scores - log_total_ref[at][None, :])
        keys, queries = _places(block, size)[:, None], _places(other, size)[None, :]
        to_v += _dot(_drop(weights, keys, queries, mask_of, kernel).astype(v.dtype), cotangent)
        to_weights = _drop(_dot(v, cotangent.T), keys, queries, mask_of, kernel)
        to_scores = weights * (to_weights - share_ref[at][None, :])
        return to_k + _dot(to_scores.astype(q.dtype), q), to_v

    nothing = jnp.zeros(k.shape, jnp.float32)
    to_k, to_v = jax.lax.fori_loop(bounds_ref[0], bounds_ref[1], add, (nothing, nothing))
    to_k_ref[...] = (to_k * kernel.scale).astype(to_k_ref.dtype)
    to_v_ref[...] = to_v.astype(to_v_ref.dtype)


def _dot(x: Array, y: Array) -> Array:
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return jax.lax.dot(x, y, precision=precision, preferred_element_type=jnp.float32)


def _places(block: Array, size: int) -> Array:
    """Of a block's tokens in the row."""
    return block * size + jnp.arange(size, dtype=jnp.int32)


def _seen(own: Array, other: Array, size: int, segment_ref: Any, kernel: _Kernel) -> Array:
    """[own, other]: the same seen from key and from query."""
    seen = segment_ref[pl.ds(own * size, size)][:, None] == segment_ref[pl.ds(other * size, size)][None, :]
    if kernel.window is None:
        return seen
    return seen & (jnp.abs(_places(own, size)[:, None] - _places(other, size)[None, :]) <= kernel.window)


def _drop(x: Array, keys: Array, queries: Array, mask_of: tuple[Array, Array, Array], kernel: _Kernel) -> Array:
    """`masks.dropout` of weights [rows, heads, key, query], for a tile of keys and queries. `mask_of`: the head, and
    its row's words."""
    if kernel.rate == 0.0:
        return x
    head, first, second = mask_of
    number = ((head * kernel.length + keys) * kernel.length + queries).astype(jnp.uint32)
    return jnp.where(dropout_mask(number, first, second, kernel.rate), x / (1.0 - kernel.rate), 0.0)
