"""One tower for queries and documents: packed tokens in, unit vectors out."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mtret.models.pooling import normalise, pool
from mtret.pytrees import Tree
from mtret.types import TokenBatch


@dataclass(frozen=True)
class ModelConfig:
    """Which encoder to start from, and how to run it."""

    source: str = "minilm"  # "minilm" (the installed package), a sentence-transformers folder, or a hub id
    dropout: float | None = 0.0  # None: as published (0.1 in BERT); drawn per row, so batches of any split agree
    operands: str = "float32"  # operand type of matrix products, "float32" or "bfloat16"; sums are always float32


def encode(
    tower: nn.Module, params: Tree, tokens: TokenBatch, n_texts: int, dropout_key: Key[Array, ""] | None = None
) -> Float[Array, "G n_texts D"]:
    """Unit embeddings of a batch's texts, by group. Slots without a text hold zeros.

    `params` are the tower's. With a dropout key every row draws masks from its own place in the batch.
    """
    chunks, groups, rows, length = tokens.ids.shape
    keys = None if dropout_key is None else row_keys(dropout_key, chunks, groups, rows).reshape(-1)
    ids, position, segment = (x.reshape(-1, length) for x in (tokens.ids, tokens.position, tokens.segment))
    states = tower.apply({"params": params}, ids, position, segment, keys)
    assert isinstance(states, jax.Array)
    states = states.reshape(chunks, groups, rows, length, -1)
    return normalise(pool(states, tokens.pool, tokens.segment, n_texts))


def row_keys(key: Key[Array, ""], chunks: int, groups: int, rows: int) -> Key[Array, "chunks groups rows"]:
    """One key per row, a function of its place in the batch only."""

    def fold(chunk: Array, group: Array, row: Array) -> Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, group), chunk), row)

    grid = jnp.meshgrid(jnp.arange(chunks), jnp.arange(groups), jnp.arange(rows), indexing="ij")
    flat = jax.vmap(fold)(*(axis.reshape(-1) for axis in grid))
    return flat.reshape(chunks, groups, rows)
