"""Towers for queries and documents: packed tokens or images in, vectors out."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from mtret.encoder_folder.modules import Head
from mtret.kernels.dense import MATMUL_DTYPES
from mtret.models.lora import LoraConfig
from mtret.models.pooling import finish, pool
from mtret.models.vision import VisionConfig
from mtret.pytrees import Tree
from mtret.schema import BELOW_1_OR_NONE, one_of, setting
from mtret.types import TokenBatch

DOCUMENTS = ("shared", "frozen", "separate")


@dataclass(frozen=True)
class ModelConfig:
    """Which encoders to start from, and how to run them."""

    source: str = setting("minilm", '"minilm" (the installed package), a sentence-transformers folder, or a hub id')
    query_prompt: str | None = setting(None, "before a query, of a source that mtret did not train; None: as published")
    document_prompt: str | None = setting(None, "before a document")
    dropout: float | None = setting(
        0.0, "None: as published (0.1 in BERT); drawn per row, so batches of any split agree", BELOW_1_OR_NONE
    )
    matmul_dtype: str = setting(
        "float32", 'of matrix products: "float32" or "bfloat16"; sums are always float32', one_of(MATMUL_DTYPES)
    )
    attention: str | None = setting(
        None, '"xla", "cpu", "pallas", "cudnn"; None: the faster of the first two (docs/cpu.md)'
    )
    lora: LoraConfig = setting(LoraConfig, "low-rank adapters; the tower itself is frozen then")
    documents: str = setting(
        "shared",
        'who reads document texts: "shared", the queries\' tower; "frozen", the encoder as it came, so that an index '
        'made with it stays valid; "separate", a second tower, trained as well',
        one_of(DOCUMENTS),
    )
    vision: VisionConfig = setting(VisionConfig, "the tower of images; without one, tasks of images are left out")
    remat: bool = setting(
        False, "keep a layer's input alone and run it again in the backward pass (not measured; see LOG)"
    )


def encode(
    tower: nn.Module,
    params: Tree,
    inputs: TokenBatch | UInt8[Array, "C S R H H 3"],
    slots: int,
    dropout_key: Key[Array, ""] | None = None,
    first_shard: Int[Array, ""] | int = 0,
) -> Float[Array, "S slots D"]:
    """Embeddings of a batch's texts or images, by shard: of length 1, unless the tower's head is another. Slots without
    a text hold zeros.

    `params` are the tower's, with those of its head. With a dropout key every row, or image, draws masks from its own
    place in the batch, in which these shards are those from `first_shard` on.
    """
    return finish(pooled(tower, params, inputs, slots, dropout_key, first_shard), params, head_of(tower))


def head_of(tower: nn.Module) -> Head:
    """What makes vectors of a tower's states; by default the mean, normalised."""
    config = getattr(tower, "config", None)
    return config.head if config else Head()


def matmul_dtype_of(tower: nn.Module) -> str:
    """The type of its products' operands, by default float32."""
    return getattr(getattr(tower, "config", None), "matmul_dtype", "float32")


def pooled(
    tower: nn.Module,
    params: Tree,
    inputs: TokenBatch | UInt8[Array, "C S R H H 3"],
    slots: int,
    dropout_key: Key[Array, ""] | None,
    first_shard: Int[Array, ""] | int = 0,
    first_chunk: Int[Array, ""] | np.integer | int = 0,
) -> Float[Array, "S slots D"]:
    """What `encode` finishes: sums over tokens, and zeros for images of other chunks, so that chunks add up."""
    *read, keys = in_rows(inputs, dropout_key, first_shard, first_chunk)
    found = tower.apply({"params": params}, *read, keys)
    assert isinstance(found, jax.Array)
    if not isinstance(inputs, TokenBatch):
        return _placed(found.reshape(*inputs.shape[:3], -1), slots, first_chunk)
    states = found.reshape(*inputs.ids.shape, -1)
    return pool(states, inputs.pool, inputs.segment, slots, head_of(tower).poolings)


def chunks_of(inputs: Any, first: Int[Array, ""] | np.integer, count: int = 1) -> Any:
    """These chunks of a batch's texts or images, as a batch."""
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, count), inputs)


def in_rows(
    inputs: TokenBatch | UInt8[Array, "C S R H H 3"],
    dropout_key: Key[Array, ""] | None,
    first_shard: Int[Array, ""] | int = 0,
    first_chunk: Int[Array, ""] | np.integer | int = 0,
) -> tuple[Any, ...]:
    """What a tower reads: ids, position and segment, or images, of all rows; and the rows' keys, if there are any."""
    shape = jax.tree.leaves(inputs)[0].shape[:3]
    keys = None
    if dropout_key is not None:
        keys = row_keys(dropout_key, shape, first_shard, first_chunk).reshape(-1)
    parts = (inputs.ids, inputs.position, inputs.segment) if isinstance(inputs, TokenBatch) else (inputs,)
    return *(part.reshape(-1, *part.shape[3:]) for part in parts), keys


def _placed(
    vectors: Float[Array, "C S R D"], slots: int, first_chunk: Int[Array, ""] | np.integer | int
) -> Float[Array, "S n D"]:
    """An image's slot is its place in its shard, counted over all chunks."""
    chunks, shards, rows, features = vectors.shape
    ours = vectors.swapaxes(0, 1).reshape(shards, chunks * rows, features)
    # The last chunk may reach beyond the slots, and a slice is moved rather than cut where it does not fit.
    room = jnp.zeros((shards, slots + chunks * rows, features), vectors.dtype)
    return jax.lax.dynamic_update_slice_in_dim(room, ours, first_chunk * rows, axis=1)[:, :slots]


def row_keys(
    key: Key[Array, ""],
    shape: tuple[int, int, int],
    first_shard: Int[Array, ""] | int = 0,
    first_chunk: Int[Array, ""] | np.integer | int = 0,
) -> Key[Array, "chunks shards rows"]:
    """One key per row of (chunks, shards, rows): a function of its shard and its number there, however it is cut."""

    def fold(shard: Array, row: Array) -> Array:
        return jax.random.fold_in(jax.random.fold_in(key, shard), row)

    chunk, shard, row = jnp.meshgrid(*(jnp.arange(size) for size in shape), indexing="ij")
    number = (first_chunk + chunk) * shape[2] + row
    return jax.vmap(fold)((first_shard + shard).reshape(-1), number.reshape(-1)).reshape(shape)
