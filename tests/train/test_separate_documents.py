"""Batches of two parts: documents that another tower reads, be they texts or images."""

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtret.data.images import Images
from mtret.data.mixture import MixtureConfig
from mtret.data.planning import Planner
from mtret.data.tokenize import Tokens, offsets_of
from mtret.data.training_tasks import BatchConfig, Relation, TrainingTask
from mtret.losses import LossConfig, contrastive
from mtret.models.bert import BertConfig, BertTower
from mtret.models.dual_encoder import encode
from mtret.models.lora import LoraConfig
from mtret.models.vision import ImageTower, VisionConfig
from mtret.pytrees import Tree, flatten, unflatten
from mtret.train.optim import OptimConfig, frozen_paths, optimizer
from mtret.train.programs import compile_steps
from mtret.train.sharding import MeshConfig, batch_sharding, make_mesh, param_specs
from mtret.train.step import StepConfig, TrainState, create_state, gradients, initial_params

# Several steps are compiled; what XLA makes of one is looked at by test_step and test_layerwise.
pytestmark = [pytest.mark.slow, pytest.mark.unoptimised]

TEXTS = BertTower(
    BertConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        type_vocab_size=2,
        layer_norm_eps=1e-12,
        hidden_dropout_prob=0.2,
        attention_probs_dropout_prob=0.2,
    )
)
PICTURES = ImageTower(VisionConfig(image_size=8, patch_size=4, width=12, layers=1, heads=2).siglip(), 16)
OPTIM = OptimConfig(learning_rate=0.01, warmup_steps=1, schedule="constant")
FROZEN = replace(OPTIM, trainable=(("documents/.*", False), *OPTIM.trainable))
COUNT = 20  # queries and documents of each task


def system(*values: Any) -> Any:
    """A case that is left to `make test-system`."""
    return pytest.param(*values, marks=pytest.mark.system)


def drawn(tower: Any, seed: int, *inputs: Any) -> Tree:
    shapes = flatten(jax.eval_shape(tower.init, jax.random.key(0), *inputs)["params"])
    random = np.random.default_rng(seed)
    return unflatten({p: random.normal(float(p.endswith("scale")), 0.3, x.shape) for p, x in shapes.items()})


def planner(chunk_tokens: int | None, separate: bool, images: bool) -> Planner:
    random = np.random.default_rng(2)

    def texts() -> Tokens:
        lengths = random.integers(4, 9, COUNT)
        return Tokens(random.integers(3, 60, lengths.sum()).astype(np.int32), offsets_of(lengths), 1)

    batch = BatchConfig(
        queries=18, query_length=8, document_length=8, row_length=16, shards=8, positives=2, chunk_tokens=chunk_tokens
    )
    sets = [sorted({i, (i + 1) % COUNT}) for i in range(COUNT)]
    own = Relation(offsets_of(np.array([len(each) for each in sets])), np.concatenate(sets).astype(np.int32))
    pixels = random.integers(0, 256, (COUNT, 8, 8, 3)).astype(np.uint8)
    documents = [texts(), Images(pixels, np.arange(COUNT))][: 1 + images]
    tasks = [TrainingTask(f"task {i}", texts(), each, own, own, None, batch) for i, each in enumerate(documents)]
    return Planner(tasks, MixtureConfig(generic_share=0.0), batch, "mean", 0, 9, separate=separate, patches=4)


def params_of(plans: Planner) -> Tree:
    row = jnp.zeros((1, 4), jnp.int32)
    return initial_params(
        drawn(TEXTS, 0, row, row, row),
        LossConfig(),
        documents=drawn(TEXTS, 1, row, row, row) if plans.separate else None,
        vision=drawn(PICTURES, 2, jnp.zeros((1, 8, 8, 3), jnp.uint8)) if len(plans.tasks) > 1 else None,
    )


def narrow(params: Tree) -> Tree:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)


def wide(params: Tree) -> Tree:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)


def config_of(plans: Planner, params: Tree, optim: OptimConfig, dropout: bool = False) -> StepConfig:
    return StepConfig(
        tower=TEXTS,
        optimizer=optimizer(optim, params, 9),
        loss=LossConfig(),
        shard_queries=plans.shard_queries,
        shard_texts=plans.shard_texts,
        chunked=plans.batch.chunk_tokens is not None,
        dropout=dropout,
        seed=0,
        frozen=frozen_paths(params, optim),
        vision=PICTURES,
    )


def step_of(plans: Planner, task: int) -> int:
    return next(step for step in range(plans.steps) if plans.plan(step).task == task)


def gradient(
    plans: Planner, params: Tree, config: StepConfig, task: int, devices: int = 1, state_shards: int = 1
) -> tuple[float, dict[str, np.ndarray]]:
    rules = MeshConfig(state_shards, ((r".*/fc1/kernel", -1), (r".*", None)))
    mesh = make_mesh(8, state_shards, jax.devices()[:devices])
    specs = param_specs(params, rules)
    batch = jax.device_put(plans.fill(plans.plan(step_of(plans, task))), batch_sharding(mesh))
    found = jax.jit(lambda p, b: gradients(p, b, jnp.int32(3), config, mesh, specs))(params, batch)
    return float(found[0]), flatten(jax.device_get(found[2]))


@cache
def defined(task: int) -> tuple[float, dict[str, np.ndarray]]:
    """Texts or images one by one through their own tower, and a plain cross entropy: loss and gradient."""
    plans = planner(None, separate=True, images=True)
    plan = plans.plan(step_of(plans, task))
    batch = jax.tree.map(jnp.asarray, plans.fill(plan))

    def loss(params: Tree) -> Any:
        queries = encode(TEXTS, params["tower"], batch.texts, plans.shard_queries).reshape(-1, 16)
        if task:
            pixels = plans.tasks[1].documents.take(np.maximum(plan.documents.reshape(-1), 0))  # type: ignore[union-attr]
            seen = PICTURES.apply({"params": params["vision"]}, jnp.asarray(pixels))
            documents = seen / jnp.linalg.norm(seen, axis=-1, keepdims=True)  # type: ignore[operator]
        else:
            documents = encode(TEXTS, params["documents"], batch.documents, plans.shard_documents).reshape(-1, 16)  # type: ignore[arg-type]
        scale = jax.lax.stop_gradient(jnp.exp(params["log_scale"]))
        return contrastive(queries, documents, scale, batch.target, batch.masked, batch.query_ok, batch.doc_ok, False)[
            0
        ]

    found = jax.jit(jax.value_and_grad(loss))(wide(params_of(plans)))
    return float(found[0]), flatten(jax.device_get(found[1]))


@pytest.mark.parametrize(("task", "chunk_tokens"), [(0, None), (1, 16), system(0, 16), system(1, None)])
def test_loss_and_gradient_are_those_of_the_definition(task: int, chunk_tokens: int | None) -> None:
    """In float64."""
    with jax.enable_x64(True):
        plans = planner(chunk_tokens, separate=True, images=True)
        params = wide(params_of(plans))
        loss, found = gradient(plans, params, config_of(plans, params, OPTIM), task)
        wanted_loss, wanted = defined(task)
    # Pixels become float32 first, and how that is rounded depends on what it is compiled with.
    exact = 1e-6 if task else 1e-9
    assert loss == pytest.approx(wanted_loss, rel=exact)
    for path, value in wanted.items():
        np.testing.assert_allclose(found[path], value, atol=exact, err_msg=path)
    moved = {path.split("/")[0] for path, value in found.items() if np.abs(value).max() > 1e-6}
    assert moved == {"tower", "vision" if task else "documents"}


ONE_DEVICE = (1, 1, None)


@cache
def with_dropout(task: int, mesh: tuple[int, int, int | None]) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradient on so many devices, cut in so many parts, in chunks of so many tokens."""
    devices, state_shards, chunk_tokens = mesh
    plans = planner(chunk_tokens, separate=True, images=True)
    params = narrow(params_of(plans))
    return gradient(plans, params, config_of(plans, params, OPTIM, dropout=True), task, devices, state_shards)


EVERY_MESH = [(task, mesh) for mesh in ((8, 4, 16), (8, 1, None), (4, 2, None), (1, 1, 16)) for task in (0, 1)]


@pytest.mark.parametrize(("task", "mesh"), [EVERY_MESH[0], *(system(*each) for each in EVERY_MESH[1:])])
def test_every_mesh_and_chunk_draws_the_same_dropout(task: int, mesh: tuple[int, int, int | None]) -> None:
    (loss, wanted), (other, theirs) = with_dropout(task, ONE_DEVICE), with_dropout(task, mesh)
    norm = np.sqrt(sum(np.square(x).sum() for x in wanted.values()))
    assert other == pytest.approx(loss, rel=1e-5)
    assert np.sqrt(sum(np.square(theirs[path] - x).sum() for path, x in wanted.items())) < 1e-5 * norm


@pytest.mark.parametrize("task", [0, system(1)])
def test_dropout_changes_the_loss(task: int) -> None:
    plans = planner(None, separate=True, images=True)
    params = narrow(params_of(plans))
    without = gradient(plans, params, config_of(plans, params, OPTIM), task)[0]
    assert abs(without - with_dropout(task, ONE_DEVICE)[0]) > 1e-3


def run(plans: Planner, params: Tree, config: StepConfig, steps: int) -> TrainState:
    mesh = make_mesh(8, 1, jax.devices()[:1])
    specs = param_specs(params, MeshConfig())
    state = create_state(params, config.optimizer, mesh, specs)
    compiled, _ = compile_steps(config, state, plans, mesh, specs)
    assert set(compiled) == set(plans.shapes)
    for step in range(steps):
        plan = plans.plan(step)
        state, _ = compiled[plan.shape](state, jax.device_put(plans.fill(plan), batch_sharding(mesh)))
    return state


@pytest.mark.parametrize("chunk_tokens", [None, system(16)])
def test_frozen_documents_stay_bit_equal_and_the_queries_learn(chunk_tokens: int | None) -> None:
    plans = planner(chunk_tokens, separate=True, images=False)
    params = narrow(params_of(plans))
    config = config_of(plans, params, FROZEN, dropout=True)
    after = run(plans, params, config, 6).params
    before, now = flatten(params), flatten(jax.device_get(after))
    same = {path for path in before if np.array_equal(before[path], now[path])}
    assert {path.split("/")[0] for path in same} >= {"documents"}
    assert not {path for path in before if path.startswith("documents/")} - same
    assert not {path for path in same if path.startswith("tower/") and path.endswith("kernel")}
    batch = jax.tree.map(jnp.asarray, plans.fill(plans.plan(0)))
    vectors = [encode(TEXTS, p["documents"], batch.documents, plans.shard_documents) for p in (params, after)]  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.asarray(vectors[0]), np.asarray(vectors[1]))


def test_frozen_documents_have_no_dropout_and_no_gradient() -> None:
    plans = planner(None, separate=True, images=False)
    params = narrow(params_of(plans))
    loss, found = gradient(plans, params, config_of(plans, params, FROZEN, dropout=True), 0)
    trained, others = gradient(plans, params, config_of(plans, params, OPTIM, dropout=True), 0)
    assert abs(loss - trained) > 1e-4  # the documents' dropout
    assert not any(value.any() for path, value in found.items() if path.startswith("documents/"))
    assert any(value.any() for path, value in others.items() if path.startswith("documents/"))


def test_texts_and_images_train_in_turns_with_adapters_and_rates() -> None:
    """Adapters change the text tower alone; a rate of zero changes nothing."""
    plans = planner(None, separate=False, images=True)
    row = jnp.zeros((1, 4), jnp.int32)
    lora = LoraConfig(rank=2, targets=r".*/(query|value)/kernel")
    vision = drawn(PICTURES, 2, jnp.zeros((1, 8, 8, 3), jnp.uint8))
    params = initial_params(narrow(drawn(TEXTS, 0, row, row, row)), LossConfig(), lora, vision=narrow(vision))
    optim = replace(OPTIM, learning_rate_scales=((r"vision/projection/.*", 0.0), (r".*", 1.0)))
    config = replace(config_of(plans, params, optim), lora=lora)
    after = run(plans, params, config, 6).params
    before, now = flatten(params), flatten(jax.device_get(after))
    moved = {path for path in before if not np.array_equal(before[path], now[path])}
    assert {path.split("/")[0] for path in moved} == {"lora", "vision"}
    assert not {path for path in moved if path.startswith("vision/projection")}
