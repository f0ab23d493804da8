import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtret.models.layers import Dense, Embedding, LayerNorm, attend, contract, dropout

ROWS, LENGTH, HEADS, FEATURES = 2, 7, 3, 4
SEGMENT = np.array([[0, 0, 0, 1, 1, 9, 9], [2, 3, 3, 3, 3, 2, 9]], np.int32)  # a segment need not lie in one piece
SPEC = "bqd,bkd->bqk"


def random_arrays(*shapes: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng((seed, 7))
    return [random.normal(size=shape).astype(np.float32) for shape in shapes]


def softmax_attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, segment: np.ndarray, window: int | None
) -> np.ndarray:
    """Token by token, in float64."""
    out = np.zeros(q.shape)
    for row in range(q.shape[0]):
        for i in range(q.shape[1]):
            seen = [
                j
                for j in range(q.shape[1])
                if segment[row, j] == segment[row, i] and (window is None or abs(i - j) <= window)
            ]
            for head in range(q.shape[2]):
                scores = k[row, seen, head].astype(np.float64) @ q[row, i, head] / np.sqrt(q.shape[3])
                weights = np.exp(scores - scores.max())
                out[row, i, head] = weights / weights.sum() @ v[row, seen, head]
    return out


@pytest.mark.parametrize("window", [None, 0, 1, 3])
@pytest.mark.parametrize(("operands", "tolerance"), [("float32", 2e-6), ("bfloat16", 2e-2)])
def test_attention_is_softmax_within_segment_and_window(window: int | None, operands: str, tolerance: float) -> None:
    q, k, v = random_arrays(*[(ROWS, LENGTH, HEADS, FEATURES)] * 3)
    found = attend(
        jnp.asarray(q), jnp.asarray(k), jnp.asarray(v), jnp.asarray(SEGMENT), window=window, implementation=operands
    )
    np.testing.assert_allclose(found, softmax_attention(q, k, v, SEGMENT, window), atol=tolerance)
    assert found.dtype == jnp.float32


def test_attention_survives_scores_that_overflow_an_exponential() -> None:
    q, k, v = random_arrays(*[(ROWS, LENGTH, HEADS, FEATURES)] * 3)
    found = attend(jnp.asarray(q * 100), jnp.asarray(k * 100), jnp.asarray(v), jnp.asarray(SEGMENT))
    np.testing.assert_allclose(found, softmax_attention(q * 100, k * 100, v, SEGMENT, None), atol=1e-4)


def test_attention_has_the_gradients_of_softmax() -> None:
    """The subtracted maximum is left out of differentiation; it must not matter."""
    q, k, v, weight = map(jnp.asarray, random_arrays(*[(ROWS, LENGTH, HEADS, FEATURES)] * 4))
    visible = jnp.asarray(SEGMENT[:, :, None] == SEGMENT[:, None, :])

    def textbook(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(jnp.float32(FEATURES))
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(jnp.where(visible[:, None], scores, -jnp.inf)), v)

    def ours(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return (attend(q, k, v, jnp.asarray(SEGMENT)) * weight).sum()

    def theirs(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return (textbook(q, k, v) * weight).sum()

    for a, b in zip(*(jax.grad(loss, argnums=(0, 1, 2))(q, k, v) for loss in (ours, theirs)), strict=True):
        assert np.linalg.norm(a - b) < 1e-6 * np.linalg.norm(b)


def test_dropped_attention_weights_are_not_summed_anew() -> None:
    """Dropout scales what is left by 1 / (1 - rate); the softmax's own sum is that before dropout, as in BERT."""
    q, k, _ = random_arrays(*[(64, LENGTH, 1, FEATURES)] * 3)
    ones = jnp.ones((64, LENGTH, 1, FEATURES))
    segment = jnp.zeros((64, LENGTH), jnp.int32)
    keys = jax.random.split(jax.random.key(0), 64)
    found = attend(jnp.asarray(q), jnp.asarray(k), ones, segment, row_keys=keys, dropout_rate=0.5, dropout_site=3)
    assert float(jnp.abs(found - 1).max()) > 0.5  # a sum over the kept ones would give exactly 1 everywhere
    assert float(found.mean()) == pytest.approx(1.0, abs=0.05)


def test_contract_is_einsum_forward_and_backward() -> None:
    x, y, weight = map(jnp.asarray, random_arrays((3, 5, 4), (3, 6, 4), (3, 5, 6)))

    def ours(x: jax.Array, y: jax.Array) -> jax.Array:
        return (contract(SPEC, x, y, "float32") * weight).sum()

    def plain(x: jax.Array, y: jax.Array) -> jax.Array:
        return (jnp.einsum(SPEC, x, y) * weight).sum()

    np.testing.assert_allclose(contract(SPEC, x, y, "float32"), jnp.einsum(SPEC, x, y), rtol=1e-6, atol=1e-6)
    for a, b in zip(jax.grad(ours, (0, 1))(x, y), jax.grad(plain, (0, 1))(x, y), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("spec", ["ti,io->to", "bqk,bkd->bqd"])
def test_contract_has_einsums_gradients_in_every_product_that_a_tower_takes(spec: str) -> None:
    sizes = dict(zip("tiobqkd", (3, 4, 5, 2, 6, 7, 8), strict=True))
    left, right, out = spec.replace("->", ",").split(",")
    x, y, weight = map(
        jnp.asarray, random_arrays(*(tuple(sizes[axis] for axis in term) for term in (left, right, out)))
    )
    ours = jax.grad(lambda x, y: (contract(spec, x, y, "float32") * weight).sum(), (0, 1))(x, y)
    plain = jax.grad(lambda x, y: (jnp.einsum(spec, x, y) * weight).sum(), (0, 1))(x, y)
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_narrow_operands_are_rounded_and_sums_are_not() -> None:
    # 257 terms of 1: a sum kept in bfloat16 stops at 256.
    ones = jnp.ones((1, 257))
    assert contract("ti,io->to", ones, ones.T, "bfloat16").item() == 257.0
    # 1 + 2^-9 is no bfloat16: the operand becomes 1.
    assert contract("ti,io->to", jnp.full((1, 1), 1 + 2**-9), jnp.ones((1, 1)), "bfloat16").item() == 1.0
    x, y, weight = map(jnp.asarray, random_arrays((3, 50, 40), (3, 60, 40), (3, 50, 60)))
    ours = jax.grad(lambda x, y: (contract(SPEC, x, y, "bfloat16") * weight).sum(), (0, 1))(x, y)
    exact = jax.grad(lambda x, y: (contract(SPEC, x, y, "float32") * weight).sum(), (0, 1))(x, y)
    for a, b in zip(ours, exact, strict=True):
        assert a.dtype == jnp.float32
        assert 1e-4 < np.linalg.norm(a - b) / np.linalg.norm(b) < 5e-3  # an operand is off by 2^-9 at most


def test_contract_keeps_float64_for_gradient_checks() -> None:
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        x, y = jnp.full((1, 1), 1 + 1e-12, jnp.float64), jnp.ones((1, 1), jnp.float64)
        assert contract("ti,io->to", x, y, "float32").item() == 1 + 1e-12


def test_dropout_masks_follow_the_rows_key_and_the_site() -> None:
    x = jnp.ones((4, 50, 20))
    keys = jax.random.split(jax.random.key(1), 4)
    dropped = dropout(x, keys, 0.25, 2)
    np.testing.assert_allclose(np.unique(dropped), [0, 1 / 0.75], rtol=1e-6)
    assert float((dropped == 0).mean()) == pytest.approx(0.25, abs=0.03)
    np.testing.assert_array_equal(dropped[2:], dropout(x[2:], keys[2:], 0.25, 2))
    np.testing.assert_array_equal(dropped[::-1], dropout(x, keys[::-1], 0.25, 2))
    assert not np.array_equal(dropped[0], dropped[1])
    assert not np.array_equal(dropped, dropout(x, keys, 0.25, 3))
    np.testing.assert_array_equal(dropout(x, None, 0.25, 2), x)
    np.testing.assert_array_equal(dropout(x, keys, 0.0, 2), x)


def test_layer_norm_by_hand() -> None:
    params = {"scale": jnp.array([1.0, 2.0, 3.0, 4.0]), "bias": jnp.array([0.0, 0.0, 1.0, 0.0])}
    x = jnp.array([[1.0, 1.0, 3.0, 3.0], [5.0, 5.0, 5.0, 5.0]])
    found = LayerNorm(epsilon=3.0).apply({"params": params}, x)  # variance 1, and 1 + 3 has the root 2
    np.testing.assert_allclose(np.asarray(found), [[-0.5, -1.0, 2.5, 2.0], [0.0, 0.0, 1.0, 0.0]], rtol=1e-6)


def test_dense_and_embedding_by_hand() -> None:
    dense = {"kernel": jnp.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]), "bias": jnp.array([0.5, 0.0, -0.5])}
    found = Dense(3, "float32").apply({"params": dense}, jnp.array([[1.0, 1.0], [0.0, 2.0]]))
    np.testing.assert_allclose(np.asarray(found), [[11.5, 22.0, 32.5], [20.5, 40.0, 59.5]])
    table = {"embedding": jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])}
    found = Embedding(3, 2).apply({"params": table}, jnp.array([2, 0, 2]))
    np.testing.assert_array_equal(np.asarray(found), [[5.0, 6.0], [1.0, 2.0], [5.0, 6.0]])
