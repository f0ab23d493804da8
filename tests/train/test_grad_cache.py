"""A batch encoded chunk by chunk: vectors and gradient of the whole, with the same dropout, of filled chunks alone."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from mtret.kernels.masks import dropout
from mtret.models.dual_encoder import encode
from mtret.train.grad_cache import encode_in_chunks
from mtret.types import TokenBatch

CHUNKS, SHARDS, ROWS, LENGTH, TEXTS = 3, 2, 2, 4, 5


class Tower(nn.Module):
    """A table of words and a product, with dropout by row."""

    @nn.compact
    def __call__(self, ids: Array, position: Array, segment: Array, keys: Array | None = None) -> Array:
        states = nn.Dense(6)(nn.Embed(20, 3)(ids))
        return states if keys is None else dropout(states, keys, 0.4, 0)


def batch(filled: int) -> TokenBatch:
    """Texts that reach over the chunks that are filled; what lies in the others must not matter."""
    random = np.random.default_rng(1)
    shape = (CHUNKS, SHARDS, ROWS, LENGTH)
    segment = random.integers(0, TEXTS, shape).astype(np.int32)
    weights = random.random(shape).astype(np.float32)
    segment[filled:], weights[filled:] = TEXTS, 0
    ids = random.integers(0, 20, shape).astype(np.int32)
    return TokenBatch(*map(jnp.asarray, (ids, np.zeros(shape, np.int32), segment, weights)))


@pytest.mark.slow
@pytest.mark.parametrize("key", [None, jax.random.key(3)], ids=["", "dropout"])
def test_vectors_and_gradient_are_those_of_the_whole_batch(key: Array | None) -> None:
    tower = Tower()
    row = jnp.zeros((1, LENGTH), jnp.int32)
    params = tower.init(jax.random.key(0), row, row, row)["params"]
    towards = jnp.asarray(np.random.default_rng(2).normal(size=(SHARDS, TEXTS, 6)), jnp.float32)

    def whole(params: dict[str, Array], tokens: TokenBatch, filled: Array) -> tuple[Array, Array]:
        vectors = encode(tower, params, tokens, TEXTS, key)
        return (vectors * towards).sum(), vectors

    def chunked(params: dict[str, Array], tokens: TokenBatch, filled: Array) -> tuple[Array, Array]:
        vectors = encode_in_chunks(tower, params, tokens, TEXTS, key, 0, filled)
        return (vectors * towards).sum(), vectors

    both = [jax.jit(jax.grad(function, has_aux=True)) for function in (whole, chunked)]
    for filled in range(1, CHUNKS + 1):
        (wanted_grad, wanted), (grad, found) = (of(params, batch(filled), jnp.int32(filled)) for of in both)
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), grad, wanted_grad)
