import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtret.errors import UserError
from mtret.models.bert import BertConfig, BertTower, places
from mtret.pytrees import flatten, unflatten

CONFIG = BertConfig(
    vocab_size=30,
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=20,
    max_position_embeddings=16,
    type_vocab_size=2,
    layer_norm_eps=1e-12,
)
DROPPING = dataclasses.replace(CONFIG, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2)
PADDING = 99
TEXTS = [[2, 7, 8, 3], [2, 9, 3], [2, 10, 11, 12, 13, 3], [2, 7, 3]]


@pytest.fixture(scope="module")
def params() -> dict[str, Any]:
    """Every parameter away from its initial value, so that a bias or a norm that is left out is seen; norms around 1,
    so that what goes in still shows in what comes out."""
    row = jnp.zeros((1, 4), jnp.int32)
    shapes = flatten(jax.eval_shape(BertTower(CONFIG).init, jax.random.key(0), row, row, row)["params"])
    random = np.random.default_rng(11)
    drawn = {path: random.normal(float(path.endswith("scale")), 0.3, x.shape) for path, x in shapes.items()}
    return unflatten({path: jnp.asarray(value, jnp.float32) for path, value in drawn.items()})


def rows(layout: list[list[int]], length: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Ids, positions and segments of rows that hold the texts of `layout` (indices of TEXTS) one after the other."""
    ids, position, segment = (np.full((len(layout), length), fill, np.int32) for fill in (0, 0, PADDING))
    for row, texts in enumerate(layout):
        at = 0
        for text in texts:
            end = at + len(TEXTS[text])
            ids[row, at:end], position[row, at:end], segment[row, at:end] = TEXTS[text], range(end - at), text
            at = end
    return jnp.asarray(ids), jnp.asarray(position), jnp.asarray(segment)


@partial(jax.jit, static_argnums=0)
def apply(config: BertConfig, params: dict[str, Any], *arguments: jax.Array | None) -> jax.Array:
    return BertTower(config).apply({"params": params}, *arguments)  # type: ignore[return-value]


def states(
    params: dict[str, Any], batch: tuple[jax.Array, jax.Array, jax.Array], keys: jax.Array | None = None
) -> np.ndarray:
    return np.asarray(apply(CONFIG if keys is None else DROPPING, params, *batch, keys))


def alone(params: dict[str, Any], text: int) -> np.ndarray:
    return states(params, rows([[text]], len(TEXTS[text])))[0]


def test_packed_padded_and_alone_are_the_same(params: dict[str, Any]) -> None:
    for layout, length in (([[0, 1, 2], [3]], 16), ([[2, 3], [1, 0]], 10), ([[0], [1], [2], [3]], 8)):
        batch = rows(layout, length)
        found, segment = states(params, batch), np.asarray(batch[2])
        for text in range(len(TEXTS)):
            np.testing.assert_allclose(found[segment == text], alone(params, text), atol=2e-6)


def test_neighbours_and_padding_do_not_matter(params: dict[str, Any]) -> None:
    ids, position, segment = rows([[0, 1], [2]], 9)
    before = states(params, (ids, position, segment))
    outside = np.asarray(segment) != 1
    changed = jnp.where(outside, (ids + 5) % 30, ids)
    after = states(params, (changed, position, segment))
    np.testing.assert_allclose(after[~outside], before[~outside], atol=1e-6)
    assert np.abs(after - before)[outside].max() > 0.1


def test_order_within_a_text_matters(params: dict[str, Any]) -> None:
    ids, position, segment = rows([[0]], 4)
    order = np.array([0, 2, 1, 3])
    swapped = states(params, (ids[:, order], position, segment))
    # Without positions the same states would come out, in the swapped order.
    assert np.abs(swapped[:, order] - states(params, (ids, position, segment))).max() > 0.1


@pytest.mark.slow
def test_gradients_of_a_text_do_not_depend_on_its_row(params: dict[str, Any]) -> None:
    @jax.jit
    def gradient(params: dict[str, Any], batch: tuple[jax.Array, jax.Array, jax.Array]) -> dict[str, Any]:
        return jax.grad(total)(params, batch)

    def total(params: dict[str, Any], batch: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        weight = jnp.cos(jnp.arange(12, dtype=jnp.float32))[None, None] * (batch[2] == 1)[..., None].astype(jnp.float32)
        return (apply(CONFIG, params, *batch) * weight).sum()

    ours, theirs = (flatten(gradient(params, rows(layout, 13))) for layout in ([[0, 1, 2]], [[1]]))
    norm = np.sqrt(sum(float((g**2).sum()) for g in theirs.values()))
    for path, found in ours.items():
        assert np.linalg.norm(found - theirs[path]) < 1e-6 * norm, path


@pytest.mark.slow
def test_dropout_is_a_function_of_the_rows_key_whatever_the_chunk(params: dict[str, Any]) -> None:
    batch = rows([[0, 1], [2], [3], [1, 3]], 9)
    keys = jax.random.split(jax.random.key(5), 4)
    whole = states(params, batch, keys)
    np.testing.assert_array_equal(whole, states(params, batch, keys))
    for chunk in (slice(0, 2), slice(2, 4)):
        part = states(params, tuple(x[chunk] for x in batch), keys[chunk])  # type: ignore[arg-type]
        np.testing.assert_allclose(part, whole[chunk], atol=2e-6)
    assert np.abs(whole - states(params, batch, keys[::-1])).max() > 0.1
    assert np.abs(whole - states(params, batch)).max() > 0.1


def test_narrow_operands_stay_close(params: dict[str, Any]) -> None:
    batch = rows([[0, 1, 2], [3]], 16)
    wide = states(params, batch)
    narrow = apply(dataclasses.replace(CONFIG, matmul_dtype="bfloat16"), params, *batch)
    error = np.linalg.norm(np.asarray(narrow) - wide) / np.linalg.norm(wide)
    assert 1e-4 < error < 2e-2
    assert narrow.dtype == jnp.float32


def test_config_takes_the_geometry_and_names_what_is_missing() -> None:
    published = {name: value for name, value in dataclasses.asdict(DROPPING).items() if name != "matmul_dtype"}
    assert BertConfig.from_json({**published, "architectures": ["BertModel"], "matmul_dtype": "x"}, "there") == DROPPING
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        del published[name]
    assert BertConfig.from_json(published, "there") == CONFIG
    del published["type_vocab_size"]
    with pytest.raises(UserError, match=r"^there: no 'type_vocab_size'; is this the config\.json of a BERT encoder\?$"):
        BertConfig.from_json(published, "there")


def test_written_padding_has_a_place_of_its_own_and_is_not_counted():
    """By the rule of fairseq, text by text: the padding's id is 1, and so is its place; the first other place is 2."""
    texts = [[0, 9, 1, 1, 8, 2], [1, 5, 2], [0, 6, 1, 2]]
    expected = [[2, 3, 1, 1, 4, 5], [1, 2, 3], [2, 3, 1, 4]]
    ids = jnp.array([[*texts[0], *texts[1]], [*texts[2], 0, 0, 0, 0, 0]])
    position = jnp.array([[*range(6), *range(3)], [*range(4), 0, 0, 0, 0, 0]])
    found = places(ids, position, 2)
    assert found[0].tolist() == expected[0] + expected[1]
    assert found[1, :4].tolist() == expected[2]
