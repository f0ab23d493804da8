"""One tower for queries and documents: packed tokens in, unit vectors out."""

from dataclasses import dataclass, field

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from mtret.models.lora import LoraConfig
from mtret.models.pooling import normalise, pool
from mtret.pytrees import Tree
from mtret.types import TokenBatch


@dataclass(frozen=True)
class ModelConfig:
    """Which encoder to start from, and how to run it."""

    source: str = "minilm"  # "minilm" (the installed package), a sentence-transformers folder, or a hub id
    dropout: float | None = 0.0  # None: as published (0.1 in BERT); drawn per row, so batches of any split agree
    operands: str = "float32"  # operand type of matrix products, "float32" or "bfloat16"; sums are always float32
    attention: str | None = None  # one of attention.IMPLEMENTATIONS; None: "cpu" or "xla", the faster here
    remat: bool = False  # keep a layer's input alone and run it again in the backward pass
    lora: LoraConfig = field(default_factory=LoraConfig)


def encode(
    tower: nn.Module,
    params: Tree,
    tokens: TokenBatch,
    n_texts: int,
    dropout_key: Key[Array, ""] | None = None,
    first_group: Int[Array, ""] | int = 0,
) -> Float[Array, "G n_texts D"]:
    """Unit embeddings of a batch's texts, by group. Slots without a text hold zeros.

    `params` are the tower's. With a dropout key every row draws masks from its own place in the batch, in which these
    groups are those from `first_group` on.
    """
    return normalise(pooled(tower, params, tokens, n_texts, dropout_key, first_group))


def pooled(
    tower: nn.Module,
    params: Tree,
    tokens: TokenBatch,
    n_texts: int,
    dropout_key: Key[Array, ""] | None,
    first_group: Int[Array, ""] | int = 0,
    first_chunk: Int[Array, ""] | int = 0,
) -> Float[Array, "G n_texts D"]:
    """What `encode` normalises: sums over tokens, so those of several chunks add up."""
    chunks, groups, rows, length = tokens.ids.shape
    keys = None
    if dropout_key is not None:
        keys = row_keys(dropout_key, (chunks, groups, rows), first_group, first_chunk).reshape(-1)
    ids, position, segment = (x.reshape(-1, length) for x in (tokens.ids, tokens.position, tokens.segment))
    states = tower.apply({"params": params}, ids, position, segment, keys)
    assert isinstance(states, jax.Array)
    return pool(states.reshape(chunks, groups, rows, length, -1), tokens.pool, tokens.segment, n_texts)


def row_keys(
    key: Key[Array, ""],
    shape: tuple[int, int, int],
    first_group: Int[Array, ""] | int = 0,
    first_chunk: Int[Array, ""] | int = 0,
) -> Key[Array, "chunks groups rows"]:
    """One key per row of (chunks, groups, rows): a function of its group and its number there, however it is cut."""

    def fold(group: Array, row: Array) -> Array:
        return jax.random.fold_in(jax.random.fold_in(key, group), row)

    chunk, group, row = jnp.meshgrid(*(jnp.arange(size) for size in shape), indexing="ij")
    number = (first_chunk + chunk) * shape[2] + row
    return jax.vmap(fold)((first_group + group).reshape(-1), number.reshape(-1)).reshape(shape)
