"""A run that holds the word embeddings that it draws ends with the encoder of one that holds all."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtret.data.mixture import MixtureConfig
from mtret.data.pipeline import batches
from mtret.data.planning import Planner
from mtret.data.tokenize import Tokens, offsets_of
from mtret.data.training_tasks import BatchConfig, Relation, TrainingTask
from mtret.errors import UserError
from mtret.losses import LossConfig
from mtret.models.bert import BertConfig, BertTower
from mtret.models.lora import LoraConfig
from mtret.pytrees import Tree, flatten, unflatten
from mtret.train import vocabulary
from mtret.train.layerwise import Compiler, compile_gradients
from mtret.train.optim import OptimConfig, frozen_paths, optimizer, without_gradient
from mtret.train.programs import compile_steps
from mtret.train.sharding import MeshConfig, batch_sharding, make_mesh, param_specs, replicated
from mtret.train.step import StepConfig, create_state, deployed_of, gradients, initial_params
from mtret.train.vocabulary import Vocabulary, adapts_words, vocabulary_of

pytestmark = pytest.mark.unoptimised

WORDS, STEPS = 90, 5
TOWER = BertTower(
    BertConfig(
        vocab_size=WORDS,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        type_vocab_size=2,
        layer_norm_eps=1e-12,
        first_position=2,  # as XLM-R: token 1 is padding
    )
)
DRAWN = np.array([1, 5, 7, 11, 20, 21, 40, 41, 42, 60, 77, 88])
TABLE = "tower/embeddings/word_embeddings/embedding"
OPTIM = OptimConfig(learning_rate=0.05, warmup_steps=2, weight_decay=0.3)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "ROUNDED_TO", 16)


def start() -> Tree:
    row = jnp.zeros((1, 4), jnp.int32)
    shapes = flatten(jax.eval_shape(TOWER.init, jax.random.key(0), row, row, row)["params"])
    random = np.random.default_rng(0)
    drawn = {p: random.normal(float(p.endswith("scale")), 0.3, x.shape).astype(np.float32) for p, x in shapes.items()}
    return unflatten(drawn)


def task() -> TrainingTask:
    random = np.random.default_rng(2)

    def texts() -> Tokens:
        lengths = random.integers(4, 9, 16)
        return Tokens(random.choice(DRAWN, lengths.sum()).astype(np.int32), offsets_of(lengths), 1)

    batch = BatchConfig(queries=16, query_length=8, document_length=8, row_length=16, shards=2)
    own = Relation(np.arange(17), np.arange(16, dtype=np.int32))
    return TrainingTask("pairs", texts(), texts(), own, own, None, batch)


def trained(
    optim: OptimConfig, held: Vocabulary | None, separate: bool, state_shards: int, updates: int = STEPS
) -> Tree:
    """The whole encoder after so many steps of STEPS."""
    pairs = task() if held is None else task().with_texts(held.renumbered)
    planner = Planner([pairs], MixtureConfig(), pairs.config, "mean", 0, STEPS, separate=separate)
    whole = initial_params(start(), LossConfig(), documents=start() if separate else None)
    params = whole if held is None else held.cut(whole)
    mesh = make_mesh(2, state_shards, jax.devices()[:2])
    specs = param_specs(params, MeshConfig(state_shards))
    frozen = frozen_paths(params, optim)
    rule = optimizer(optim, params, STEPS)
    tower = TOWER if held is None else held.tower(TOWER)
    slots = planner.shard_queries, planner.shard_texts
    config = StepConfig(tower, rule, LossConfig(), *slots, chunked=False, dropout=False, seed=0, frozen=frozen)
    state = create_state(params, rule, mesh, specs)
    steps, _ = compile_steps(config, state, planner, mesh, specs)
    source = batches(planner, batch_sharding(mesh), 0)
    for _ in range(updates):
        plan, batch = next(source)
        state, _ = steps[plan.shape](state, batch)
    found = jax.device_get(deployed_of(state, LoraConfig()))
    if held is None:
        return found
    return held.whole(found, whole, lambda path: without_gradient(optim, frozen, path, STEPS, updates))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optim", "separate", "state_shards", "updates"),
    [
        (OPTIM, False, 1, STEPS),
        pytest.param(replace(OPTIM, ema_decay=0.7, clip_norm=0.1), True, 2, STEPS, marks=pytest.mark.system),
        pytest.param(
            replace(OPTIM, learning_rate_scales=((r"tower/.*", 0.5), (r".*", 1.0)), schedule="linear"),
            True,
            1,
            3,
            marks=pytest.mark.system,
        ),
        (replace(OPTIM, trainable=((r"tower/embeddings/.*", False), (r".*", True))), False, 1, STEPS),
        (replace(OPTIM, decay_mask=((r".*embedding", False), (r".*", True))), False, 1, STEPS),
    ],
)
def test_what_it_ends_with_is_that_of_all_words(optim: OptimConfig, separate: bool, state_shards: int, updates: int):
    held = vocabulary_of(task().texts(), WORDS, 2)
    assert len(held.ids) == 16 and set(held.ids) > {0, 1, *DRAWN}
    ours, theirs = (flatten(trained(optim, each, separate, state_shards, updates)) for each in (held, None))
    first = flatten(start())
    for path, leaf in theirs.items():
        if not path.endswith("key/bias"):  # no softmax notices it: its gradient is rounding, which Adam enlarges
            np.testing.assert_allclose(ours[path], leaf, rtol=1e-5, atol=1e-5, err_msg=path)
    undrawn = np.setdiff1d(np.arange(WORDS), held.ids)
    table = first[TABLE.removeprefix("tower/")]
    moved = np.abs(theirs[TABLE][undrawn] / table[undrawn] - 1)
    still = r"tower/embeddings/.*" in dict(optim.trainable) or r".*embedding" in dict(optim.decay_mask)
    assert (moved == 0).all() if still else (moved > 1e-3).all()


def gradient(held: Vocabulary | None, devices: int, chunk_tokens: int | None, by_layer: bool) -> dict[str, np.ndarray]:
    """By path, of the first batch: ten texts in eight shards, so most slots are empty, and words that stand in several
    texts; position embeddings and half of the layer are frozen."""
    random = np.random.default_rng(3)
    lengths = random.integers(2, 9, 10)
    texts = Tokens(random.choice(DRAWN, lengths.sum()).astype(np.int32), offsets_of(lengths), 1)
    batch = BatchConfig(queries=10, query_length=8, document_length=8, row_length=16, shards=8)
    own = Relation(np.arange(11), np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 8], np.int32))
    pairs = TrainingTask("pairs", texts, texts.subset(np.arange(10)[::-1]), own, own, None, batch)
    batch = replace(batch, chunk_tokens=chunk_tokens)
    pairs = pairs if held is None else pairs.with_texts(held.renumbered)
    planner = Planner([pairs], MixtureConfig(), batch, "mean", 0, 1, even_chunks=by_layer)
    whole = initial_params(start(), LossConfig())
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), whole if held is None else held.cut(whole))
    optim = OptimConfig(trainable=((r".*(position_embeddings|intermediate).*", False), (r".*", True)))
    mesh, specs = make_mesh(8, 1, jax.devices()[:devices]), param_specs(params, MeshConfig())
    config = StepConfig(
        tower=TOWER if held is None else held.tower(TOWER),
        optimizer=optimizer(optim, params, 1),
        loss=LossConfig(),
        shard_queries=planner.shard_queries,
        shard_texts=planner.shard_texts,
        chunked=chunk_tokens is not None,
        dropout=False,
        seed=0,
        frozen=frozen_paths(params, optim),
    )
    first = jax.device_put(planner.fill(planner.plan(0)), batch_sharding(mesh))
    given = jax.device_put(params, replicated(mesh)), first, jnp.int32(0)
    if by_layer:
        like = jax.eval_shape(lambda: given)
        (shape,) = planner.shapes
        with ThreadPoolExecutor(1) as threads:
            compiler = Compiler(threads, replicated(mesh))
            arguments = like[0], like[1], like[2], compiler, planner.chunks(shape)
            return jax.device_get(compile_gradients(config, *arguments)(*given)[2])
    derive = jax.jit(lambda params, batch, step: gradients(params, batch, step, config, mesh, specs)[2])
    return {path: leaf for path, leaf in flatten(jax.device_get(derive(*given))).items() if path not in config.frozen}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "chunk_tokens", "by_layer"),
    [
        (1, None, True),
        (8, 16, False),
        *(
            pytest.param(*case, False, marks=pytest.mark.system)
            for case in ((1, None), (1, 16), (2, None), (2, 16), (8, None))
        ),
    ],
)
def test_its_gradient_is_that_of_all_words(devices: int, chunk_tokens: int | None, by_layer: bool):
    held = vocabulary_of(task().texts(), WORDS, 2)
    with jax.enable_x64(True):
        dense = gradient(None, 1, None, False)
        ours = gradient(held, devices, chunk_tokens, by_layer)
    assert ours.keys() == dense.keys() and ours[TABLE].dtype == np.float64
    undrawn = np.setdiff1d(np.arange(WORDS), held.ids)
    assert not dense[TABLE][undrawn].any() and np.abs(dense[TABLE][DRAWN]).max() > 1e-3
    dense[TABLE] = dense[TABLE][held.ids]
    size = np.sqrt(sum(np.sum(leaf**2) for leaf in dense.values()))
    for path, leaf in dense.items():
        assert np.linalg.norm(ours[path] - leaf) < 1e-10 * size, path


def test_a_token_without_an_embedding_is_refused_and_the_lowest_keep_their_numbers():
    held = vocabulary_of(task().texts(), WORDS, 2)
    assert held.ids[:2].tolist() == [0, 1]
    texts = Tokens(np.array([1, 88, 5], np.int32), offsets_of(np.array([3])), 1)
    assert held.ids[held.renumbered(texts).ids].tolist() == [1, 88, 5]
    missing = int(np.setdiff1d(np.arange(WORDS), held.ids)[0])
    with pytest.raises(UserError, match=f"without an embedding for token {missing}, which its texts hold now"):
        held.renumbered(replace(texts, ids=np.array([1, missing, 5], np.int32)))


def test_a_vocabulary_ends_where_the_encoders_does():
    every = vocabulary_of([Tokens(np.arange(85, dtype=np.int32), offsets_of(np.array([85])), 1)], WORDS)
    assert every.is_whole and every.ids.tolist() == list(range(WORDS))


def test_adapters_of_words_are_seen():
    assert adapts_words(start(), LoraConfig(rank=2, targets=r".*/embedding"))
    assert not adapts_words(start(), LoraConfig(rank=2))
