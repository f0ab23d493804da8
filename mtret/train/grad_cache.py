"""Gradients of batches whose activations do not fit: encoded in chunks, each a second time for its gradient.

Gao et al., 2101.06983 (GradCache), as a hand-written derivative of the encoder: losses on top of it notice nothing. The
number of chunks is traced, so one executable serves batches of every size; a loop of traced length has no derivative of
its own.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt8

from mtret.models.dual_encoder import chunks_of, head_of, pooled
from mtret.models.pooling import finish
from mtret.pytrees import Tree
from mtret.types import TokenBatch


def encode_in_chunks(
    tower: nn.Module,
    params: Tree,
    inputs: TokenBatch | UInt8[Array, "C S R H H 3"],
    slots: int,
    dropout_key: Key[Array, ""] | None,
    first_shard: Int[Array, ""] | int,
    chunks: Int[Array, ""],
) -> Float[Array, "S slots D"]:
    """As `encode`, of the first `chunks` chunks, with the activations of one chunk at a time."""
    sums: Any = _pooled(tower, slots, params, inputs, dropout_key, jnp.asarray(first_shard), chunks)
    return finish(sums, params, head_of(tower))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _pooled(
    tower: nn.Module, slots: int, params: Tree, inputs: Any, key: Any, first_shard: Array, chunks: Array
) -> Array:
    def add(chunk: Array, sums: Array) -> Array:
        return sums + _one(tower, slots, params, inputs, key, first_shard, chunk)

    like = jax.eval_shape(lambda: _one(tower, slots, params, inputs, key, first_shard, chunks))
    return jax.lax.fori_loop(0, chunks, add, jnp.zeros_like(like))


def _one(tower: nn.Module, slots: int, params: Tree, inputs: Any, key: Any, first_shard: Array, chunk: Array) -> Array:
    return pooled(tower, params, chunks_of(inputs, chunk), slots, key, first_shard, chunk)


def _forward(tower: nn.Module, slots: int, *given: Any) -> tuple[Array, Any]:
    return _pooled(tower, slots, *given), given


def _backward(tower: nn.Module, slots: int, saved: Any, cotangent: Array) -> tuple[Any, ...]:
    params, inputs, key, first_shard, chunks = saved

    def add(chunk: Array, gradients: Tree) -> Tree:
        _, back = jax.vjp(lambda p: _one(tower, slots, p, inputs, key, first_shard, chunk), params)
        return jax.tree.map(jnp.add, gradients, back(cotangent)[0])

    nothing = jax.tree.map(jnp.zeros_like, params)
    return jax.lax.fori_loop(0, chunks, add, nothing), None, None, None, None


_pooled.defvjp(_forward, _backward)
