"""Embedding packed texts against embedding one text at a time, unpacked."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtret.data.images import Images
from mtret.data.tokenize import Tokens, offsets_of
from mtret.index import encode as module
from mtret.index.encode import Embedder, ImageEmbedder, Texts, cached, row_length
from mtret.models import hf_images
from mtret.models.bert import BertConfig, BertTower
from mtret.models.vision import VisionConfig

CONFIG = BertConfig(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=160,
    type_vocab_size=2,
    layer_norm_eps=1e-12,
)


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    tower = BertTower(CONFIG)
    shapes = jax.eval_shape(tower.init, jax.random.key(0), *[jnp.zeros((1, 8), jnp.int32)] * 3)["params"]
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda x: random.normal(0, 0.4, x.shape).astype(np.float32), shapes)
    return Embedder(tower, params, "mean", 16)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several batches, the last with devices that have nothing to do."""
    monkeypatch.setattr(module, "BATCH_TOKENS", 256)


def make_tokens(seed: int, lengths: Sequence[int]) -> Tokens:
    ids = np.random.default_rng(seed).integers(3, 50, sum(lengths)).astype(np.int32)
    return Tokens(ids, offsets_of(np.array(lengths, np.int64)), suffix=1)


def mixed_lengths(seed: int, texts: int) -> list[int]:
    return np.clip(np.random.default_rng(seed).lognormal(3, 1, texts), 1, 150).astype(int).tolist()


def one_at_a_time(embedder: Embedder, part: Texts) -> np.ndarray:
    """Each text in a row of its own, padded to one length, pooled and normalised in NumPy."""
    width = 160
    vectors = []
    for text in range(len(part.tokens)):
        ids = part.tokens.take(np.array([text]), part.limit)
        row = np.zeros((1, width), np.int32)
        row[0, : len(ids)] = ids
        inside = (np.arange(width) < len(ids))[None]
        position = np.where(inside, np.arange(width)[None], 0).astype(np.int32)
        states = np.asarray(run(embedder.tower, embedder.params, row, position, 1 - inside.astype(np.int32)))[
            0, : len(ids)
        ]
        pooled = {"mean": states.mean(axis=0), "cls": states[0], "last": states[-1]}[embedder.pooling]
        vectors.append(pooled / np.linalg.norm(pooled))
    return np.array(vectors)


@jax.jit(static_argnums=0)
def run(tower: BertTower, params: dict, ids: np.ndarray, position: np.ndarray, segment: np.ndarray) -> jax.Array:
    states = tower.apply({"params": params}, ids, position, segment)
    assert isinstance(states, jax.Array)
    return states


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_packed_vectors_equal_those_of_texts_alone(embedder: Embedder, pooling: str):
    embedder = replace(embedder, pooling=pooling)
    parts = [Texts(make_tokens(0, mixed_lengths(0, 60)), 150), Texts(make_tokens(1, mixed_lengths(1, 25)), 12)]
    progress: list[int] = []
    found = embedder(parts, progress.append)
    for vectors, part in zip(found, parts, strict=True):
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors, one_at_a_time(embedder, part), atol=2e-6)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    assert sum(progress) == sum(int(part.tokens.lengths(part.limit).sum()) for part in parts)


@pytest.mark.parametrize("lengths", [[1], [150], [64, 64, 64], [1] * 70, [65, 1, 32, 33]])
def test_edges(embedder: Embedder, lengths: list[int]):
    part = Texts(make_tokens(3, lengths), 150)
    np.testing.assert_allclose(embedder([part])[0], one_at_a_time(embedder, part), atol=2e-6)


def test_no_texts(embedder: Embedder):
    empty, some = Texts(make_tokens(0, []), 9), Texts(make_tokens(0, [4, 5]), 9)
    assert embedder([]) == []
    assert [x.shape for x in embedder([empty, empty])] == [(0, 16), (0, 16)]
    assert [x.shape for x in embedder([empty, some, empty])] == [(0, 16), (2, 16), (0, 16)]


def test_equal_texts_are_embedded_once_whatever_part_they_are_in(embedder: Embedder):
    one = make_tokens(5, [9, 20, 30])
    twice = one.subset(np.array([1, 0, 1, 2]))
    progress: list[int] = []
    first, second, cut = embedder([Texts(one, 99), Texts(twice, 99), Texts(one, 20)], progress.append)
    assert sum(progress) == 9 + 20 + 30 + 20  # the last text, cut, is new
    np.testing.assert_array_equal(second, first[[1, 0, 1, 2]])
    np.testing.assert_array_equal(cut[:2], first[:2])
    assert np.abs(cut[2] - first[2]).max() > 1e-3


def test_rows_by_hand():
    lengths = np.array([1, 32, 33, 64, 65, 100])
    assert row_length(lengths).tolist() == [64, 64, 128, 128, 128, 128]
    assert row_length(np.array([5, 40])).tolist() == [64, 64]  # no row longer than the longest text needs
    assert row_length(np.array([129, 5, 70])).tolist() == [256, 64, 256]


def test_shapes_do_not_depend_on_how_many_texts_there_are(embedder: Embedder):
    compiled: Any = module._embed(embedder.tower)
    compiled.clear_cache()
    for seed in range(3):
        embedder([Texts(make_tokens(seed, [2, 40, 150, *mixed_lengths(seed, 20 + 40 * seed)]), 150)])
    assert compiled._cache_size() <= 3  # rows of 64, 128 and 256


@dataclass(frozen=True)
class Counting(Embedder):
    """An embedder that notes how many texts it is given, and is interrupted after so many calls."""

    texts: list[int] = field(default_factory=list)
    calls: int = 99

    def __call__(self, parts: Sequence[Texts], on_progress: module.Progress | None = None) -> list[np.ndarray]:
        if len(self.texts) == self.calls:
            raise KeyboardInterrupt
        self.texts.append(sum(len(part.tokens) for part in parts))
        return super().__call__(parts, on_progress)


def test_a_cache_hit_gives_identical_vectors_and_computes_nothing(embedder: Embedder, tmp_path: Path):
    counting = Counting(**vars(embedder))
    one, two = Texts(make_tokens(0, [5, 9]), 99), Texts(make_tokens(1, [7, 8, 9]), 99)
    first = cached(counting, [one], "w", tmp_path)
    progress: list[int] = []
    both = cached(counting, [two, one], "w", tmp_path, progress.append)
    again = cached(counting, [two, one], "w", tmp_path)
    assert counting.texts == [2, 3]
    np.testing.assert_array_equal(both[1], first[0])
    for ours, theirs in zip(again, both, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert sum(progress) == 5 + 9 + 7 + 8 + 9
    np.testing.assert_allclose(both[0], one_at_a_time(embedder, two), atol=2e-6)


def test_other_weights_limits_or_texts_are_not_read_from_the_cache(embedder: Embedder, tmp_path: Path):
    counting = Counting(**vars(embedder))
    part = Texts(make_tokens(0, [5, 9]), 99)
    moved = replace(part.tokens, offsets=np.array([0, 6, 14]))
    other = replace(part.tokens, ids=part.tokens.ids[::-1].copy())
    cached(counting, [part], "w", tmp_path)
    others = [(part, "v"), (Texts(part.tokens, 6), "w"), (Texts(moved, 99), "w"), (Texts(other, 99), "w")]
    for texts, fingerprint in others:
        before = len(counting.texts)
        (found,) = cached(counting, [texts], fingerprint, tmp_path)
        assert len(counting.texts) == before + 1
        np.testing.assert_allclose(found, one_at_a_time(embedder, texts), atol=2e-6)
    assert len(list(tmp_path.iterdir())) == 5


def test_an_interrupted_call_loses_one_block_at_most(
    embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "BLOCK_TOKENS", 10)
    parts = [Texts(make_tokens(seed, [7, 8]), 99) for seed in range(3)]

    with pytest.raises(KeyboardInterrupt):
        cached(Counting(**vars(embedder), calls=2), parts, "w", tmp_path)
    counting = Counting(**vars(embedder))
    found = cached(counting, parts, "w", tmp_path)
    assert counting.texts == [2]
    for vectors, part in zip(found, parts, strict=True):
        np.testing.assert_allclose(vectors, one_at_a_time(embedder, part), atol=2e-6)


def test_without_a_cache_nothing_is_written(embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    part = Texts(make_tokens(0, [5, 9]), 99)
    np.testing.assert_array_equal(cached(embedder, [part], "w", None)[0], embedder([part])[0])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_images_are_embedded_in_batches_each_as_alone(monkeypatch: pytest.MonkeyPatch):
    """Chosen ones, in their order: two whole batches, and one that is filled up."""
    monkeypatch.setattr(module, "BATCH_IMAGES", 1)
    config = VisionConfig(source="scratch", image_size=13, patch_size=4, width=12, layers=1, heads=3)
    made = hf_images.begin(config, 16, 0)
    pixels = np.random.default_rng(0).integers(0, 256, (25, 13, 13, 3)).astype(np.uint8)
    rows = np.random.default_rng(1).permutation(25)[:19]
    counted: list[int] = []
    vectors = ImageEmbedder(made.tower, made.params)(Images(pixels, rows), counted.append)
    assert vectors.shape == (19, 16) and counted == [8, 8, 3]
    tower = jax.jit(made.tower.apply)
    alone = np.concatenate([tower({"params": made.params}, pixels[[row]]) for row in rows])
    np.testing.assert_allclose(vectors, alone / np.linalg.norm(alone, axis=1, keepdims=True), atol=1e-6)
    assert np.linalg.norm(vectors[1:] - vectors[0], axis=1).min() > 1e-3  # they really differ
