"""What every text tower keeps: a text's vector is its own, however it is packed."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtret.data.packing import Packing, fill, pack, stack, token_weights
from mtret.errors import UserError
from mtret.kernels.masks import dropout_words
from mtret.models.bert import BertConfig, BertTower
from mtret.models.dual_encoder import encode
from mtret.models.gte import GteConfig, GteTower
from mtret.models.modernbert import GLOBAL, LOCAL, ModernBertConfig, ModernBertTower
from mtret.models.rotary import Rotation
from mtret.models.tower_config import TowerConfig
from mtret.models.xlmr import XlmrConfig
from mtret.pytrees import flatten, unflatten

GEOMETRY: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 24,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 32,
}
TOWERS: dict[str, Any] = {
    "bert": BertTower(BertConfig(num_hidden_layers=2, type_vocab_size=2, layer_norm_eps=1e-12, **GEOMETRY)),
    "xlmr": BertTower(
        XlmrConfig(num_hidden_layers=2, type_vocab_size=1, layer_norm_eps=1e-5, first_position=2, **GEOMETRY)
    ),
    "gte": GteTower(
        GteConfig(
            num_hidden_layers=2, type_vocab_size=1, layer_norm_eps=1e-12, rotation=Rotation(100.0, 1.1), **GEOMETRY
        )
    ),
    "modernbert": ModernBertTower(
        ModernBertConfig(
            num_hidden_layers=3,
            norm_eps=1e-5,
            local_attention=4,
            layer_types=(GLOBAL, LOCAL, LOCAL),
            rotations=(Rotation(1000.0), Rotation(10.0)),
            **GEOMETRY,
        )
    ),
}
# Their layers call the compiled attention as BERT's do; ModernBERT's have windows.
ELSEWHERE = (("xlmr", "cpu"), ("gte", "cpu"))
LENGTHS = np.array([9, 3, 14, 3, 1, 14])


@pytest.fixture(params=TOWERS)
def tower(request: pytest.FixtureRequest) -> Any:
    return TOWERS[request.param]


def params_of(tower: Any) -> Any:
    """Away from their initial values, norms around 1."""
    row = jnp.zeros((1, 4), jnp.int32)
    shapes = flatten(jax.eval_shape(tower.init, jax.random.key(0), row, row, row)["params"])
    random = np.random.default_rng(11)
    drawn = {path: random.normal(float(path.endswith("scale")), 0.3, x.shape) for path, x in shapes.items()}
    return unflatten({path: jnp.asarray(value, jnp.float32) for path, value in drawn.items()})


def texts() -> list[np.ndarray]:
    random = np.random.default_rng(3)
    return [random.integers(2, 40, length).astype(np.int32) for length in LENGTHS]


embed = jax.jit(encode, static_argnums=(0, 3))


def vectors(tower: Any, given: list[np.ndarray], packing: Packing, row_length: int) -> np.ndarray:
    lengths = np.array([len(text) for text in given])
    every, shape = np.arange(len(given)), (packing.rows, row_length)
    rows = fill(np.concatenate(given), token_weights(lengths, "mean"), lengths, every, packing, shape, len(given))
    batch = jax.tree.map(jnp.asarray, stack([rows]))
    return np.asarray(embed(tower, params_of(tower), batch, len(given)))[0]


ATTENTIONS = [
    pytest.param(
        name,
        attention,
        marks=[pytest.mark.system] * ((name, attention) in ELSEWHERE)
        + [pytest.mark.slow] * (attention == "cpu" or name == "xlmr"),
    )
    for name in TOWERS
    for attention in ("xla", "cpu")
]


@pytest.mark.parametrize(("tower", "attention"), ATTENTIONS, indirect=["tower"])
def test_packed_or_alone_a_text_has_the_same_vector(tower: Any, attention: str) -> None:
    tower = tower.clone(config=replace(tower.config, attention=attention))
    packed = vectors(tower, texts(), pack(LENGTHS, 30), 30)
    one_each = Packing(np.arange(len(LENGTHS)), np.zeros(len(LENGTHS), np.int64), len(LENGTHS))
    padded = vectors(tower, texts(), one_each, 16)
    np.testing.assert_allclose(packed, padded, atol=1e-5)
    alone = vectors(tower, texts()[:1], Packing(np.zeros(1, np.int64), np.zeros(1, np.int64), 1), len(texts()[0]))
    np.testing.assert_allclose(packed[0], alone[0], atol=1e-5)  # without any padding
    others = [texts()[0], *(text[::-1] for text in texts()[1:])]
    np.testing.assert_allclose(vectors(tower, others, pack(LENGTHS, 30), 30)[0], packed[0], atol=1e-5)
    assert np.linalg.norm(vectors(tower, others, pack(LENGTHS, 30), 30)[2] - packed[2]) > 0.01  # order matters


@pytest.mark.system  # every length is a program of its own
@pytest.mark.unoptimised
@pytest.mark.parametrize("attention", ["xla", "cpu"])
def test_every_text_alone_has_the_vector_that_it_has_packed(tower: Any, attention: str) -> None:
    tower = tower.clone(config=replace(tower.config, attention=attention))
    packed = vectors(tower, texts(), pack(LENGTHS, 30), 30)
    for text, vector in zip(texts(), packed, strict=True):
        alone = vectors(tower, [text], Packing(np.zeros(1, np.int64), np.zeros(1, np.int64), 1), len(text))
        np.testing.assert_allclose(vector, alone[0], atol=1e-5)


# XLM-R's tower is BERT's. Of the others one stands for all in `make test`: what runs again is said once, in Layers.
REMATERIALISED = ["bert", *(pytest.param(name, marks=pytest.mark.system) for name in ("gte", "modernbert"))]


@pytest.mark.slow
@pytest.mark.unoptimised
@pytest.mark.parametrize("tower", REMATERIALISED, indirect=True)
def test_rematerialised_the_gradients_are_the_same(tower: Any) -> None:
    """Nor does dropout change: a layer that is run again draws the same masks."""
    lengths, packing = LENGTHS, pack(LENGTHS, 30)
    rows = fill(
        np.concatenate(texts()), token_weights(lengths, "mean"), lengths, np.arange(6), packing, (packing.rows, 30), 6
    )
    batch = jax.tree.map(jnp.asarray, stack([rows]))

    def gradient(remat: bool) -> np.ndarray:
        rates = dict.fromkeys(tower.config.DROPOUTS, 0.2)
        own = tower.clone(config=replace(tower.config, remat=remat, **rates))

        def loss(params: Any) -> jax.Array:
            found = encode(own, params, batch, 6, jax.random.key(3))
            return (found * jnp.arange(found.size, dtype=jnp.float32).reshape(found.shape)).sum()

        traced = jax.jit(jax.grad(loss)).trace(params_of(tower))
        assert ("remat" in str(traced.jaxpr)) == remat
        grads = traced.lower().compile()(params_of(tower))
        return np.concatenate([np.ravel(leaf) for leaf in flatten(grads).values()])

    plain, again = gradient(False), gradient(True)
    assert np.linalg.norm(plain) > 1
    assert np.linalg.norm(again - plain) < 1e-5 * np.linalg.norm(plain)


def test_every_place_that_drops_has_a_mask_of_its_own(tower: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import mtret.kernels.attention
    import mtret.models.bert
    import mtret.models.gte
    import mtret.models.layers
    import mtret.models.modernbert

    sites, params = [], params_of(tower)

    def note(x: jax.Array, keys: jax.Array | None, rate: float, site: int) -> jax.Array:
        sites.append(site)
        return x

    def noted_words(keys: jax.Array, site: int) -> jax.Array:
        sites.append(site)
        return dropout_words(keys, site)

    monkeypatch.setattr(mtret.kernels.attention, "dropout_words", noted_words)
    for module in ("bert", "gte", "layers", "modernbert"):
        monkeypatch.setattr(getattr(mtret.models, module), "dropout", note)
    rates = dict.fromkeys(tower.config.DROPOUTS, 0.2)
    own = tower.clone(config=replace(tower.config, **rates))
    row = jnp.zeros((1, 4), jnp.int32)
    keys = jax.random.split(jax.random.key(0), 1)
    jax.eval_shape(lambda: own.apply({"params": params}, row, row, row, keys))
    per_layer = {BertTower: 3, GteTower: 4, ModernBertTower: 3}[type(tower)]
    assert len(sites) == 1 + per_layer * tower.config.num_hidden_layers
    assert len(set(sites)) == len(sites)


def test_dropout_is_the_runs_or_the_published_one(tower: Any) -> None:
    config: TowerConfig = replace(tower.config, **{tower.config.DROPOUTS[0]: 0.25})
    assert config.running("float32", "xla", False, None).attention_dropout_rate == 0.25
    off = config.running("bfloat16", "xla", True, 0.0)
    assert [getattr(off, name) for name in off.DROPOUTS] == [0.0] * len(off.DROPOUTS)
    assert (off.matmul_dtype, off.remat) == ("bfloat16", True)


@pytest.mark.parametrize("padding", [None, -1, "1", 1.0, True])
def test_an_xlmr_without_the_id_of_its_padding_is_refused(padding: Any) -> None:
    published = {"type_vocab_size": 1, "layer_norm_eps": 1e-5, "num_hidden_layers": 2, **GEOMETRY}
    assert XlmrConfig.from_json(published, "config.json").first_position == 2
    with pytest.raises(UserError, match=r"^config\.json: pad_token_id is "):
        XlmrConfig.from_json({**published, "pad_token_id": padding}, "config.json")
