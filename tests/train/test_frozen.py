"""What is trained of a model: all, some by name, adapters only; and what is kept of it: the last or an average."""

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtret.data.mixture import MixtureConfig
from mtret.data.planning import Planner
from mtret.data.tokenize import Tokens, offsets_of
from mtret.data.training_tasks import BatchConfig, Relation, TrainingTask
from mtret.errors import UserError
from mtret.losses import LossConfig
from mtret.models.bert import BertConfig, BertTower
from mtret.models.lora import LoraConfig
from mtret.pytrees import Tree, flatten, unflatten
from mtret.train.optim import OptimConfig, frozen_paths, optimizer
from mtret.train.programs import compile_steps
from mtret.train.sharding import MeshConfig, batch_sharding, layout, make_mesh, param_specs
from mtret.train.step import StepConfig, TrainState, create_state, deployed, deployed_of, gradients, initial_params

# Several steps are compiled; what XLA makes of one is looked at by test_step and test_layerwise.
pytestmark = [pytest.mark.slow, pytest.mark.unoptimised]

TOWER = BertTower(
    BertConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        type_vocab_size=2,
        layer_norm_eps=1e-12,
    )
)
NO_TOP = ((r"tower/encoder/layer/1/.*", False), (r".*", True))
LORA, NO_LORA = LoraConfig(rank=2, alpha=4.0), LoraConfig()


def start() -> Tree:
    row = jnp.zeros((1, 4), jnp.int32)
    shapes = flatten(jax.eval_shape(TOWER.init, jax.random.key(0), row, row, row)["params"])
    random = np.random.default_rng(0)
    drawn = {p: random.normal(float(p.endswith("scale")), 0.3, x.shape).astype(np.float32) for p, x in shapes.items()}
    return unflatten(drawn)


def planner(chunk_tokens: int | None = None) -> Planner:
    random = np.random.default_rng(2)

    def texts() -> Tokens:
        lengths = random.integers(4, 9, 16)
        return Tokens(random.integers(3, 60, lengths.sum()).astype(np.int32), offsets_of(lengths), 1)

    batch = BatchConfig(
        queries=16, query_length=8, document_length=8, row_length=16, shards=8, chunk_tokens=chunk_tokens
    )
    own = Relation(np.arange(17), np.arange(16, dtype=np.int32))
    return Planner(
        [TrainingTask("pairs", texts(), texts(), own, own, None, batch)], MixtureConfig(), batch, "mean", 0, 9
    )


def prepare(optim: OptimConfig, lora: LoraConfig, plans: Planner, tower: Any = TOWER) -> tuple[Tree, StepConfig]:
    params = initial_params(start(), LossConfig(), lora, seed=1)
    config = StepConfig(
        tower=tower,
        optimizer=optimizer(optim, params, 9),
        loss=LossConfig(),
        shard_queries=plans.shard_queries,
        shard_texts=plans.shard_texts,
        chunked=plans.batch.chunk_tokens is not None,
        dropout=False,
        seed=0,
        lora=lora,
        frozen=frozen_paths(params, optim),
    )
    return params, config


@cache
def run(
    optim: OptimConfig,
    lora: LoraConfig = NO_LORA,
    devices: int = 1,
    chunk_tokens: int | None = None,
) -> tuple[Tree, list[TrainState]]:
    """The parameters at the start, and the state after each of three steps."""
    plans = planner(chunk_tokens)
    params, config = prepare(optim, lora, plans)
    mesh, specs = make_mesh(8, 1, jax.devices()[:devices]), param_specs(params, MeshConfig())
    state = create_state(params, config.optimizer, mesh, specs)
    compiled = compile_steps(config, state, plans, mesh, specs)[0]
    states = []
    for step in range(3):
        plan = plans.plan(step)
        state, _ = compiled[plan.shape](state, jax.device_put(plans.fill(plan), batch_sharding(mesh)))
        states.append(jax.tree.map(jnp.copy, state))  # the next step takes its memory
    return params, states


def changed(before: Tree, after: Tree) -> set[str]:
    ours, theirs = flatten(before), flatten(after)
    return {path for path in ours if not np.array_equal(ours[path], theirs[path])}


OPTIM = OptimConfig(learning_rate=0.01, warmup_steps=1, schedule="constant")
AVERAGED = replace(OPTIM, ema_decay=0.6)  # which changes no parameter: its runs serve the other tests too


def test_what_is_frozen_stays_bit_equal_and_the_rest_moves() -> None:
    params, states = run(replace(AVERAGED, trainable=NO_TOP))
    moved = changed(params, states[-1].params)
    frozen = {path for path in flatten(params) if path.startswith("tower/encoder/layer/1/")}
    assert frozen and not moved & frozen
    assert moved >= {p for p in flatten(params) if p.endswith("/kernel") and p not in frozen}


def test_a_frozen_parameter_has_no_optimizer_state() -> None:
    """Nor does what is frozen change what the others learn: the gradient's norm aside, which is that of the trained."""
    kept = {}
    for train in (OPTIM.trainable, NO_TOP):
        params, config = prepare(replace(OPTIM, trainable=train), LoraConfig(), planner())
        mesh = make_mesh(8, 1, jax.devices()[:1])
        state = create_state(params, config.optimizer, mesh, param_specs(params, MeshConfig()))
        kept[train] = sum(row.optimizer_bytes for row in layout(state.params, state.opt_state))
        sizes = {path: 4 * leaf.size for path, leaf in flatten(params).items()}
        trained = sum(size for path, size in sizes.items() if path not in config.frozen)
        assert abs(kept[train] - 2 * trained) < 100  # two moments, and counts
    assert kept[NO_TOP] < kept[OPTIM.trainable]


def test_all_frozen_is_refused() -> None:
    with pytest.raises(UserError, match="freezes every parameter of the encoder"):
        frozen_paths(
            initial_params(start(), LossConfig()), replace(OPTIM, trainable=((r"tower/.*", False), (r".*", True)))
        )
    with pytest.raises(UserError, match=r"optim.trainable: no rule matches the parameter 'log_scale'"):
        frozen_paths(initial_params(start(), LossConfig()), replace(OPTIM, trainable=((r"tower/.*", True),)))


def test_adapters_alone_are_trained_and_merged_they_are_the_same_model() -> None:
    params, states = run(AVERAGED, LORA)
    after = states[-1].params
    assert {path.split("/")[0] for path in changed(params, after)} == {"lora"}
    merged = deployed(after, LORA)
    assert set(merged) == {"tower", "log_scale"}
    targets = {path for path in changed({"tower": params["tower"]}, {"tower": merged["tower"]})}
    assert targets == {f"tower/encoder/layer/{i}/attention/self/{n}/kernel" for i in (0, 1) for n in ("query", "value")}
    plans = planner()
    _, adapting = prepare(OPTIM, LORA, plans)
    _, plain = prepare(OPTIM, LoraConfig(), plans)
    mesh = make_mesh(8, 1, jax.devices()[:1])
    batch = jax.device_put(plans.fill(plans.plan(0)), batch_sharding(mesh))

    def loss(p: Tree, config: StepConfig) -> jax.Array:
        return gradients(p, batch, jnp.int32(0), config, mesh, param_specs(p, MeshConfig()))[0]

    of = jax.jit(loss, static_argnums=1)
    losses = [float(of(p, config)) for p, config in ((after, adapting), (merged, plain))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("lora", [NO_LORA, LORA])
@pytest.mark.parametrize("train", [OPTIM.trainable, NO_TOP])
def test_the_average_is_that_of_the_parameters_after_each_step(lora: LoraConfig, train: Any) -> None:
    params, states = run(replace(AVERAGED, trainable=train), lora)
    average = {path: np.asarray(x, np.float64) for path, x in flatten(params).items()}
    for state in states:
        average = {path: 0.6 * average[path] + 0.4 * x for path, x in flatten(state.params).items()}
    wanted = flatten(deployed(unflatten({p: x.astype(np.float32) for p, x in average.items()}), lora))
    found = flatten(deployed_of(states[-1], lora))
    assert found.keys() == wanted.keys()
    for path, value in found.items():
        np.testing.assert_allclose(value, wanted[path], atol=1e-6)
    assert changed(deployed(states[-1].params, lora), unflatten(found))  # which the last ones are not


@pytest.mark.parametrize("chunk_tokens", [pytest.param(None, marks=pytest.mark.system), 16])
def test_adapters_train_alike_on_every_mesh_whole_or_in_chunks(chunk_tokens: int | None) -> None:
    _, one = run(AVERAGED, LORA)
    _, many = run(OPTIM, LORA, devices=4, chunk_tokens=chunk_tokens)
    ours, theirs = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(s[-1].params["lora"])]) for s in (many, one))
    assert np.linalg.norm(ours - theirs) < 1e-4 * np.linalg.norm(theirs)


@cache
def gradient(attention: str, devices: int, chunk_tokens: int | None, remat: bool) -> tuple[float, np.ndarray]:
    plans = planner(chunk_tokens)
    tower = TOWER.clone(config=replace(TOWER.config, attention=attention, remat=remat))
    params, config = prepare(OPTIM, LoraConfig(), plans, tower)
    mesh, specs = make_mesh(8, 1, jax.devices()[:devices]), param_specs(params, MeshConfig())
    batch = jax.device_put(plans.fill(plans.plan(0)), batch_sharding(mesh))
    loss, _, found = jax.jit(lambda p, b: gradients(p, b, jnp.int32(0), config, mesh, specs))(params, batch)
    return float(loss), np.concatenate([np.ravel(x) for x in flatten(jax.device_get(found)).values()])


ELSEWHERE = [pytest.param(*how, marks=pytest.mark.system) for how in ((1, None, True), (8, None, False))]


@pytest.mark.parametrize(("devices", "chunk_tokens", "remat"), [(4, 16, False), *ELSEWHERE])
def test_the_cpus_attention_trains_alike_on_every_mesh_in_chunks_and_rematerialised(
    devices: int, chunk_tokens: int | None, remat: bool
) -> None:
    (loss, wanted), (ours, found) = gradient("xla", 1, None, False), gradient("cpu", devices, chunk_tokens, remat)
    assert ours == pytest.approx(loss, rel=1e-6)
    assert np.linalg.norm(found - wanted) < 1e-5 * np.linalg.norm(wanted)
