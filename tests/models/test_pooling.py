import jax
import jax.numpy as jnp
import numpy as np

from mtret.models.pooling import normalise, pool

N_TEXTS = 3


def batch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two chunks of two shards of one row of four tokens: states, weights, segments (3: padding)."""
    states = np.random.default_rng(3).normal(size=(2, 2, 1, 4, 5)).astype(np.float32)
    weights = np.array([[[[0.5, 0.5, 1, 0]], [[1, 0, 0.25, 0.25]]], [[[0.25] * 4], [[0.25, 0.25, 0, 0]]]], np.float32)
    segment = np.array([[[[1, 1, 0, 3]], [[2, 2, 0, 0]]], [[[2] * 4], [[0, 0, 3, 3]]]], np.int32)
    return states, weights, segment


def test_each_text_is_the_weighted_sum_of_its_tokens_in_its_group() -> None:
    states, weights, segment = batch()
    expected = np.zeros((2, N_TEXTS, 5))
    for chunk, shard, row, token in np.ndindex(segment.shape):
        text = segment[chunk, shard, row, token]
        if text < N_TEXTS:
            expected[shard, text] += weights[chunk, shard, row, token] * states[chunk, shard, row, token]
    found = pool(jnp.asarray(states), jnp.asarray(weights), jnp.asarray(segment), N_TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(found[1, 1], np.zeros(5))  # the second shard has no text 1


def test_padding_has_no_part_in_any_text_or_gradient() -> None:
    states, weights, segment = batch()
    weights = np.where(segment == N_TEXTS, 1, weights).astype(np.float32)  # its segment alone must keep it out

    def total(states: jax.Array) -> jax.Array:
        return pool(states, jnp.asarray(weights), jnp.asarray(segment), N_TEXTS).sum()

    gradient = jax.grad(total)(jnp.asarray(states))
    np.testing.assert_array_equal(np.asarray(gradient)[segment == N_TEXTS], 0)
    np.testing.assert_allclose(gradient, np.where(segment == N_TEXTS, 0, weights)[..., None].repeat(5, -1), atol=1e-7)


def test_unit_norm_and_zero_for_a_text_that_is_not_there() -> None:
    found = normalise(jnp.array([[3.0, 4.0], [0.0, 0.0], [0.0, -1e-6]]))
    np.testing.assert_allclose(found, [[0.6, 0.8], [0.0, 0.0], [0.0, -1.0]], atol=1e-6)


def test_the_gradient_of_a_unit_vector_is_orthogonal_to_it_and_finite_at_zero() -> None:
    weight = jnp.array([[1.0, 2.0], [1.0, 2.0]])
    gradient = jax.grad(lambda x: (normalise(x) * weight).sum())(jnp.array([[3.0, 4.0], [0.0, 0.0]]))
    # (w - (w.u) u) / |x| with u = (.6, .8), |x| = 5, w.u = 2.2
    np.testing.assert_allclose(gradient[0], [-0.064, 0.048], atol=1e-6)
    assert np.isfinite(gradient).all()
