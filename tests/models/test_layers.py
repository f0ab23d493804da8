import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtret.kernels.attention import attend
from mtret.kernels.dense import gated_project, gelu_project, project
from mtret.kernels.masks import dropout
from mtret.models.layers import Dense, Embedding, Gated, LayerNorm
from mtret.models.rotary import Rotation, angles, rotate


def random_arrays(*shapes: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng((seed, 7))
    return [random.normal(size=shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("tokens", [3, 16])  # only a multiple of 8 is turned by hand
def test_a_projection_is_a_product_forward_and_backward(tokens: int) -> None:
    x, kernel, weight = map(jnp.asarray, random_arrays((tokens, 5), (5, 4), (tokens, 4)))
    for matmul_dtype, tolerance in (("float32", 1e-6), ("bfloat16", 1e-2)):
        np.testing.assert_allclose(project(x, kernel, matmul_dtype), x @ kernel, atol=10 * tolerance)
        ours = jax.grad(lambda x, y, o=matmul_dtype: (project(x, y, o) * weight).sum(), (0, 1))(x, kernel)
        plain = jax.grad(lambda x, y: (x @ y * weight).sum(), (0, 1))(x, kernel)
        for a, b in zip(ours, plain, strict=True):
            assert np.linalg.norm(a - b) < tolerance * np.linalg.norm(b)


def test_narrow_operands_are_rounded_and_sums_are_not() -> None:
    # 257 terms of 1: a sum kept in bfloat16 stops at 256.
    ones = jnp.ones((1, 257))
    assert project(ones, ones.T, "bfloat16").item() == 257.0
    # 1 + 2^-9 is not a bfloat16: the operand becomes 1.
    assert project(jnp.full((1, 1), 1 + 2**-9), jnp.ones((1, 1)), "bfloat16").item() == 1.0
    x, kernel, weight = map(jnp.asarray, random_arrays((48, 40), (40, 60), (48, 60)))
    ours = jax.grad(lambda x, y: (project(x, y, "bfloat16") * weight).sum(), (0, 1))(x, kernel)
    exact = jax.grad(lambda x, y: (project(x, y, "float32") * weight).sum(), (0, 1))(x, kernel)
    for a, b in zip(ours, exact, strict=True):
        assert a.dtype == jnp.float32
        assert 1e-4 < np.linalg.norm(a - b) / np.linalg.norm(b) < 5e-3  # an operand is off by 2^-9 at most


def test_narrow_products_stay_narrow_on_a_cpu() -> None:
    """XLA widens a narrow product of a form that its library does not have, and says nothing."""
    x, kernel, q = jnp.ones((64, 32)), jnp.ones((32, 48)), jnp.ones((2, 64, 2, 16))
    segment = jnp.zeros((2, 64), jnp.int32)

    def attention(q: jax.Array) -> jax.Array:
        return attend(q, q, q, segment, matmul_dtype="bfloat16").sum()

    def projection(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.square(project(x, kernel, "bfloat16")).sum()

    for fn, arguments, products in ((projection, (x, kernel), 3), (attention, (q,), 6)):
        grad = jax.grad(fn, argnums=tuple(range(len(arguments))))
        program = jax.jit(grad).lower(*arguments).compile().as_text() or ""
        operands = re.findall(r" dot\((.*?)\), ", program)
        types = {name: kind for kind, name in re.findall(r"(\w+)\[[\d,]*\]\S* (%?[\w.]+)", program)}
        types |= {name: kind for name, kind in re.findall(r"(%[\w.]+) = (\w+)\[", program)}
        assert len(operands) == products
        for pair in operands:
            assert [types[name.split()[-1]] for name in pair.split(", ")] == ["bf16", "bf16"], program


def test_float64_stays_for_gradient_checks() -> None:
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        x, y = jnp.full((1, 1), 1 + 1e-12, jnp.float64), jnp.ones((1, 1), jnp.float64)
        assert project(x, y, "float32").item() == 1 + 1e-12
        q, segment = jnp.ones((1, 3, 2, 4), jnp.float64), jnp.zeros((1, 3), jnp.int32)
        for implementation in ("xla", "cpu"):
            assert attend(q, q, q, segment, implementation=implementation).dtype == jnp.float64


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


def norm_of_autodiff(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    return centred / jnp.sqrt(variance + 1e-12) * scale[None, :] + bias[None, :]


def test_layer_norm_has_autodiffs_gradients() -> None:
    x, scale, bias, cotangent = map(jnp.asarray, random_arrays((5, 8), (8,), (8,), (5, 8)))

    def ours(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        found = LayerNorm(1e-12).apply({"params": {"scale": scale, "bias": bias}}, x)
        assert isinstance(found, jax.Array)
        return found

    for found, wanted in zip(
        jax.vjp(ours, x, scale, bias)[1](cotangent),
        jax.vjp(norm_of_autodiff, x, scale, bias)[1](cotangent),
        strict=True,
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("matmul_dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_gelu_and_projection_have_autodiffs_values_and_gradients(matmul_dtype: str, tolerance: float) -> None:
    x, kernel, cotangent = map(jnp.asarray, random_arrays((16, 8), (8, 6), (16, 6)))
    found, back = jax.vjp(lambda x, kernel: gelu_project(3 * x, kernel, matmul_dtype), x, kernel)
    wanted, plain = jax.vjp(lambda x, kernel: jax.nn.gelu(3 * x, approximate=False) @ kernel, x, kernel)
    for ours, theirs in zip((found, *back(cotangent)), (wanted, *plain(cotangent)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=tolerance * float(jnp.abs(theirs).max()))


def temporary_bytes(layers: int, layer: Callable[[jax.Array], jax.Array], x: jax.Array) -> int:
    """Of a gradient through equal layers, by the compiler's account."""

    def loss(x: jax.Array) -> jax.Array:
        for _ in range(layers):
            x = layer(x)
        return jnp.square(x).sum()

    analysis = jax.jit(jax.grad(loss)).lower(x).compile().memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


def test_neither_scores_nor_activations_are_kept_for_the_backward_pass() -> None:
    """XLA would merge what the backward pass makes again with what the forward pass made, and keep that."""
    rows, length, heads, features, wide = 2, 128, 4, 8, 512
    segment = jnp.zeros((rows, length), jnp.int32)
    (x,) = random_arrays((rows * length, heads * features))
    inner, outer = map(jnp.asarray, random_arrays((heads * features, wide), (wide, heads * features)))

    def attention(x: jax.Array) -> jax.Array:
        split = x.reshape(rows, length, heads, features)
        return attend(split, split, split, segment).reshape(x.shape)

    def network(x: jax.Array) -> jax.Array:
        return gelu_project(project(x, inner, "float32"), outer, "float32")

    scores, activations = 4 * rows * heads * length**2, 4 * rows * length * wide
    a_layer = (temporary_bytes(6, attention, jnp.asarray(x)) - temporary_bytes(2, attention, jnp.asarray(x))) / 4
    assert 0 < a_layer < 0.5 * scores
    # What comes before the activation is kept, the activation is not.
    a_layer = (temporary_bytes(6, network, jnp.asarray(x)) - temporary_bytes(2, network, jnp.asarray(x))) / 4
    assert activations <= a_layer < 1.5 * activations


@pytest.mark.parametrize(("matmul_dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_a_gated_projection_has_autodiffs_values_and_gradients(matmul_dtype: str, tolerance: float) -> None:
    gate, x, kernel, cotangent = map(jnp.asarray, random_arrays((16, 8), (16, 8), (8, 6), (16, 6)))
    found, back = jax.vjp(lambda *y: gated_project(3 * y[0], y[1], y[2], matmul_dtype), gate, x, kernel)
    wanted, plain = jax.vjp(lambda *y: (jax.nn.gelu(3 * y[0], approximate=False) * y[1]) @ y[2], gate, x, kernel)
    for ours, theirs in zip((found, *back(cotangent)), (wanted, *plain(cotangent)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=tolerance * float(jnp.abs(theirs).max()))


@pytest.mark.parametrize("gate_first", [True, False])
def test_a_gated_network_by_hand(gate_first: bool) -> None:
    x, up, gate, down = map(jnp.asarray, random_arrays((5, 4), (4, 6), (4, 6), (6, 4)))
    both = jnp.concatenate([gate, up] if gate_first else [up, gate], axis=1)
    params = {"in": {"kernel": both}, "out": {"kernel": down, "bias": jnp.arange(4.0)}}
    module = Gated(6, "float32", ("in", "out"), gate_first=gate_first, biases=(False, True))
    found = module.apply({"params": params}, x, None, 0.0, 0)
    wanted = (jax.nn.gelu(x @ gate, approximate=False) * (x @ up)) @ down + jnp.arange(4.0)[None]
    np.testing.assert_allclose(np.asarray(found), wanted, atol=1e-5)
    keys = jax.random.split(jax.random.key(0), 5)
    dropped = module.apply({"params": params}, x, keys, 0.5, 3)
    mask = dropout(jnp.ones((5, 6)), keys, 0.5, 3)
    wanted = (jax.nn.gelu(x @ gate, approximate=False) * (x @ up) * mask) @ down + jnp.arange(4.0)[None]
    np.testing.assert_allclose(np.asarray(dropped), wanted, atol=1e-5)


def test_norms_and_projections_without_a_bias_have_no_such_parameter() -> None:
    x = jnp.ones((2, 4))
    for module in (Dense(3, "float32", bias=False), LayerNorm(1e-5, bias=False)):
        shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
        assert len(shapes) == 1 and "bias" not in shapes


def test_masks_by_token_are_those_by_row() -> None:
    keys = jax.random.split(jax.random.key(1), 3)
    by_row = dropout(jnp.ones((3, 5, 4)), keys, 0.5, 2)
    np.testing.assert_array_equal(dropout(jnp.ones((15, 4)), keys, 0.5, 2), by_row.reshape(15, 4))


def test_rotary_positions_turn_pairs_of_features() -> None:
    position, rotation = jnp.array([[0, 1, 5]]), Rotation(100.0, 2.0)
    turn = angles(position, rotation, 4)
    x = jnp.asarray(random_arrays((1, 3, 2, 4))[0])
    found = np.asarray(rotate(x, turn))
    for place, at in enumerate((0, 1, 5)):
        for pair in range(2):
            angle = at * 100.0 ** (-2 * pair / 4) / 2.0
            given = np.asarray(x[0, place])[:, pair] + 1j * np.asarray(x[0, place])[:, pair + 2]
            turned = given * np.exp(1j * angle)
            np.testing.assert_allclose(found[0, place, :, pair], turned.real, atol=1e-6)
            np.testing.assert_allclose(found[0, place, :, pair + 2], turned.imag, atol=1e-6)
