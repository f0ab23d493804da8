from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtret.kernels.masks import dropout
from mtret.models.bert import BertConfig, BertTower
from mtret.models.dual_encoder import encode, row_keys
from mtret.types import TokenBatch

pytestmark = pytest.mark.unoptimised  # of towers that others look at

FEATURES, N_TEXTS = 12, 3
CHUNKS, SHARDS, ROWS, LENGTH = 3, 2, 2, 5
CONFIG = BertConfig(
    vocab_size=30,
    hidden_size=FEATURES,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=16,
    type_vocab_size=2,
    layer_norm_eps=1e-12,
    hidden_dropout_prob=0.3,
    attention_probs_dropout_prob=0.3,
)


def batch() -> TokenBatch:
    """Twelve rows of one text each at most, three texts a shard; the last row of either shard holds none."""
    random = np.random.default_rng(2)
    segment = np.full((CHUNKS, SHARDS, ROWS, LENGTH), N_TEXTS, np.int32)
    ids = random.integers(1, 30, segment.shape).astype(np.int32)
    weights = np.zeros(segment.shape, np.float32)
    for shard in range(SHARDS):
        for text, (chunk, row, length) in enumerate([(2, 0, 4), (0, 1, 5), (1, 0, 2)]):
            segment[chunk, shard, row, :length] = text
            weights[chunk, shard, row, :length] = 1 / length
    position = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), segment.shape)
    return TokenBatch(*map(jnp.asarray, (ids, position, segment, weights)))


@pytest.fixture(scope="module")
def params() -> Any:
    row = jnp.zeros((1, 4), jnp.int32)
    return jax.jit(BertTower(CONFIG).init)(jax.random.key(4), row, row, row)["params"]


embed = jax.jit(encode, static_argnums=(0, 3))
apply = jax.jit(BertTower(CONFIG).apply)


@pytest.mark.slow
def test_embeddings_are_unit_means_of_each_texts_tokens(params: Any) -> None:
    tokens = batch()
    found = np.asarray(embed(BertTower(CONFIG), params, tokens, N_TEXTS))
    for shard in range(SHARDS):
        for text in range(N_TEXTS):
            there = np.asarray(tokens.segment[:, shard] == text)
            ids = jnp.asarray(np.asarray(tokens.ids[:, shard])[there])[None]
            zeros = jnp.zeros_like(ids)
            position = jnp.arange(ids.shape[1], dtype=jnp.int32)[None]
            states = np.asarray(apply({"params": params}, ids, position, zeros))[0]
            mean = states.mean(axis=0)
            np.testing.assert_allclose(found[shard, text], mean / np.linalg.norm(mean), atol=2e-6)


def test_slots_without_a_text_hold_zeros(params: Any) -> None:
    found = np.asarray(embed(BertTower(CONFIG), params, batch(), N_TEXTS))
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-6)
    empty = batch()._replace(segment=jnp.full((CHUNKS, SHARDS, ROWS, LENGTH), N_TEXTS, jnp.int32))
    np.testing.assert_array_equal(embed(BertTower(CONFIG), params, empty, N_TEXTS), 0)


@pytest.mark.slow
def test_keys_follow_the_place_in_the_batch_and_nothing_else() -> None:
    key = jax.random.key(7)
    large, whole = (np.asarray(jax.random.key_data(row_keys(key, shape))) for shape in ((3, 5, 2), (1, 5, 6)))
    np.testing.assert_array_equal(large.transpose(1, 0, 2, 3).reshape(whole[0].shape), whole[0])
    moved = row_keys(key, (2, 3, 2), first_shard=2, first_chunk=1)
    np.testing.assert_array_equal(jax.random.key_data(moved), large[1:3, 2:5])
    small = np.asarray(jax.random.key_data(row_keys(key, (2, 2, 3))))
    assert len(np.unique(whole.reshape(30, -1), axis=0)) == 30
    other = np.asarray(jax.random.key_data(row_keys(jax.random.key(8), (2, 2, 3))))
    assert not np.array_equal(other, small)


class Ones(nn.Module):
    """A tower whose states show the masks and nothing else."""

    @nn.compact
    def __call__(self, ids: jax.Array, position: jax.Array, segment: jax.Array, keys: jax.Array | None) -> jax.Array:
        return dropout(jnp.ones((*ids.shape, FEATURES)), keys, 0.5, 0)


def test_masks_are_those_of_each_rows_key() -> None:
    """Shard, chunk and row must reach the tower in the same order as the tokens do."""
    tokens, key = batch(), jax.random.key(3)
    found = np.asarray(embed(Ones(), {}, tokens, N_TEXTS, key))
    keys = row_keys(key, (CHUNKS, SHARDS, ROWS))
    for shard in range(SHARDS):
        for text, (chunk, row, length) in enumerate([(2, 0, 4), (0, 1, 5), (1, 0, 2)]):
            mask = dropout(jnp.ones((1, LENGTH, FEATURES)), keys[chunk, shard, row][None], 0.5, 0)
            mean = np.asarray(mask)[0, :length].mean(axis=0)
            np.testing.assert_allclose(found[shard, text], mean / np.linalg.norm(mean), atol=1e-6)


def test_no_key_means_no_dropout(params: Any) -> None:
    tower = BertTower(CONFIG)
    plain = embed(tower, params, batch(), N_TEXTS)
    np.testing.assert_array_equal(plain, embed(tower, params, batch(), N_TEXTS))
    dropped = embed(tower, params, batch(), N_TEXTS, jax.random.key(0))
    assert float(jnp.abs(plain - dropped).max()) > 0.01
    np.testing.assert_array_equal(dropped, embed(tower, params, batch(), N_TEXTS, jax.random.key(0)))
