"""Attention within the segments of packed rows: one interface over several ways to compute it.

"xla": written out in JAX, for any device. "cpu": `attention_cpu.cc`, compiled for this machine's processor. For an
NVIDIA GPU (docs/gpu.md): "pallas", the kernel of `attention_gpu.py`; "cudnn", NVIDIA's, through JAX's public interface,
which has no dropout and knows segments only as a mask that lies in memory, once for all heads.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt32

from mtret.errors import UserError, nearest
from mtret.kernels import attention_cpu
from mtret.kernels.dense import cast_operand, materialised_transpose, product, recompute_barrier
from mtret.kernels.masks import dropout_words, dropped, visible

# "pallas_interpreted": the same kernel as "pallas" on any device, slowly; for tests.
IMPLEMENTATIONS = ("xla", "cpu", "pallas", "cudnn", "pallas_interpreted")


def choose(wanted: str | None, dropout_rate: float = 0.0) -> str:
    """`wanted`, or for None the fastest that runs here unasked: "cpu" on a CPU with a C++ compiler, else "xla".

    Raises UserError where there is no such implementation, this machine cannot run it, or it has no dropout and some is
    wanted.
    """
    if wanted is None:
        return "cpu" if jax.default_backend() == "cpu" and attention_cpu.why_not() is None else "xla"
    if wanted not in IMPLEMENTATIONS:
        names = ", ".join(name for name in IMPLEMENTATIONS if name != "pallas_interpreted")
        raise UserError(f"model.attention: '{wanted}' is not one of {names}.{nearest(wanted, IMPLEMENTATIONS)}")
    if wanted == "cpu":
        if jax.default_backend() != "cpu":
            raise UserError("model.attention: 'cpu' is for JAX on a CPU, and here it uses another device")
        attention_cpu.require()
    if wanted in ("pallas", "cudnn") and jax.default_backend() != "gpu":
        raise UserError(f"model.attention: '{wanted}' needs an NVIDIA GPU, and JAX sees none here")
    _check_dropout(wanted, dropout_rate)
    return wanted


def _check_dropout(implementation: str, rate: float) -> None:
    if implementation == "cudnn" and rate > 0.0:
        raise UserError("model.attention: 'cudnn' has no dropout: choose 'pallas', or set model.dropout=0.0")


def in_words(implementation: str) -> str:
    """What a run says of it; on a CPU without a compiler, what one would bring."""
    reason = attention_cpu.why_not() if jax.default_backend() == "cpu" else None
    lost = f" (a kernel for this processor would be faster: {reason})" if implementation == "xla" and reason else ""
    return f"attention: {implementation}{lost}"


def attend(
    q: Float[Array, "rows L heads features"],
    k: Float[Array, "rows L heads features"],
    v: Float[Array, "rows L heads features"],
    segment: Int[Array, "rows L"],
    *,
    window: int | None = None,
    matmul_dtype: str = "float32",
    implementation: str = "xla",
    row_keys: Key[Array, "rows"] | None = None,
    dropout_rate: float = 0.0,
    dropout_site: Int[Array, ""] | int = 0,
) -> Float[Array, "rows L heads features"]:
    """Softmax attention among the tokens of one segment; the one interface that every tower calls.

    `window`: attend to tokens at most that many positions away (None: the whole segment). `matmul_dtype`: the type of
    the products' operands, "float32" or "bfloat16"; `implementation`: one of IMPLEMENTATIONS, of which "cpu" rounds no
    operand and those of a GPU round all to bfloat16 and sum in float32. Every token sees itself at least, so no softmax
    is empty.

    Raises UserError where the implementation has no dropout and some is wanted.
    """
    rate = 0.0 if row_keys is None else dropout_rate
    _check_dropout(implementation, rate)
    words = jnp.zeros((len(q), 2), jnp.uint32)
    if row_keys is not None and rate > 0.0:
        words = dropout_words(row_keys, dropout_site)
    if implementation == "xla" or (implementation == "cpu" and q.dtype != jnp.float32):  # as in gradient checks
        return _xla(q, k, v, segment, words, _Attention(window, matmul_dtype, rate))
    if implementation == "cpu":
        return attention_cpu.attend(q, k, v, segment, words, window, rate)
    kind, (q, k, v) = q.dtype, (x.astype(jnp.bfloat16) for x in (q, k, v))
    if implementation == "cudnn":
        mask = visible(segment, window)[:, None]
        return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="cudnn").astype(kind)
    from mtret.kernels.attention_gpu import flash

    interpret = implementation == "pallas_interpreted"
    return flash(q, k, v, segment, words, window, rate, interpret=interpret).astype(kind)


@dataclass(frozen=True)
class _Attention:
    window: int | None
    matmul_dtype: str
    rate: float

    def scores(self, k: Array, q: Array, segment: Array) -> Float[Array, "rows heads key query"]:
        """-inf where one does not see the other. `q` and `k` are [rows * heads, L, features]."""
        rows, length = segment.shape
        found = product("bkd,bqd->bkq", k, q, _wide(k)).reshape(rows, -1, length, length)
        return jnp.where(visible(segment, self.window)[:, None], found, -jnp.inf)

    def drop(self, weights: Float[Array, "rows heads key query"], words: UInt32[Array, "rows 2"]) -> Array:
        return dropped(weights, words, self.rate) if self.rate else weights

    def by_head(self, x: Float[Array, "rows L heads features"]) -> Float[Array, "rows_heads L features"]:
        """As an operand."""
        rows, length, heads, features = x.shape
        return cast_operand(x.transpose(0, 2, 1, 3), self.matmul_dtype).reshape(rows * heads, length, features)


def _wide(x: Array) -> Any:
    return jnp.float32 if x.dtype == jnp.bfloat16 else x.dtype


# Scores are not kept for the backward pass but made again. They stand as [key, query]: all reductions then run down
# columns and all seven products are of forms that XLA's CPU library has.
@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _xla(q: Array, k: Array, v: Array, segment: Array, words: Array, config: _Attention) -> Array:
    return _xla_forward(q, k, v, segment, words, config)[0]


def _xla_forward(q: Array, k: Array, v: Array, segment: Array, words: Array, config: _Attention) -> tuple[Array, Any]:
    rows, length, heads, features = q.shape
    q, k, v = config.by_head(q * features**-0.5), config.by_head(k), config.by_head(v)
    scores = config.scores(k, q, segment)
    highest = scores.max(axis=2)
    weights = jnp.exp(scores - highest[:, :, None])
    total = weights.sum(axis=2)
    weights = _flat(cast_operand(config.drop(weights, words), config.matmul_dtype))
    mixed = product("bdk,bkq->bdq", materialised_transpose(v), weights, _wide(v)).reshape(rows, heads, features, length)
    # The division comes after the product with the values: it then touches [L, features], not [L, L].
    mixed = (mixed / total[:, :, None]).transpose(0, 3, 1, 2)
    return mixed, (q, k, v, segment, words, mixed, highest + jnp.log(total))


def _xla_backward(config: _Attention, saved: Any, cotangent: Array) -> tuple[Any, ...]:
    q, k, v, segment, words, mixed, log_total = saved
    rows, length, heads, features = mixed.shape
    k = recompute_barrier(k, cotangent)
    weights = jnp.exp(config.scores(k, q, segment) - log_total[:, :, None])
    share = (cotangent * mixed).sum(axis=3).transpose(0, 2, 1)
    cotangent = config.by_head(cotangent)
    to_weights = product("bkd,bqd->bkq", v, cotangent, _wide(v)).reshape(weights.shape)
    to_scores = weights * (config.drop(to_weights, words) - share[:, :, None])
    to_scores = _flat(cast_operand(to_scores, config.matmul_dtype))
    dropped = _flat(cast_operand(config.drop(weights, words), config.matmul_dtype))

    def back(x: Float[Array, "rows_heads L features"]) -> Float[Array, "rows L heads features"]:
        return x.reshape(rows, heads, length, features).transpose(0, 2, 1, 3)

    to_q = product("bdk,bkq->bdq", materialised_transpose(k), to_scores, _wide(k)).reshape(
        rows, heads, features, length
    )
    to_q = to_q.transpose(0, 3, 1, 2) * features**-0.5
    to_k = back(product("bkq,bqd->bkd", to_scores, q, _wide(q)))
    to_v = back(product("bkq,bqd->bkd", dropped, cotangent, _wide(q)))
    return to_q, to_k, to_v, None, None


_xla.defvjp(_xla_forward, _xla_backward)


def _flat(x: Float[Array, "rows heads key query"]) -> Float[Array, "rows_heads key query"]:
    return x.reshape(-1, *x.shape[2:])
