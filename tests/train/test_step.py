"""The step against single texts and nested sets, on meshes of every size, and what a run of steps must keep."""

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from mtret.data.mixture import MixtureConfig
from mtret.data.pipeline import batches
from mtret.data.planning import Plan, Planner
from mtret.data.tokenize import Tokens, offsets_of
from mtret.data.training_tasks import BatchConfig, Relation, TrainingTask
from mtret.encoder_folder.modules import DenseLayer, Head, Normalize
from mtret.losses import LossConfig
from mtret.models.bert import BertConfig, BertTower
from mtret.pytrees import Tree, flatten, unflatten
from mtret.train.optim import OptimConfig, optimizer
from mtret.train.programs import compile_steps
from mtret.train.sharding import AXES, MeshConfig, batch_sharding, make_mesh, named, param_specs
from mtret.train.step import (
    METRICS,
    StepConfig,
    TrainState,
    batch_loss,
    create_state,
    gradients,
    initial_params,
    train_step,
)

BERT = BertConfig(
    vocab_size=60,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=16,
    type_vocab_size=2,
    layer_norm_eps=1e-12,
)
STEPS = 60
MATRYOSHKA = (8, 3)
# Compiles in half the time what runs once.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class Bag(nn.Module):
    """Word vectors alone: compiles at once, where the tower makes no difference."""

    @nn.compact
    def __call__(self, ids, position, segment, row_keys=None):
        return self.param("embedding", nn.initializers.normal(1.0), (60, 16))[ids]


@dataclass(frozen=True)
class Headed:
    head: Head


class HeadedBag(Bag):
    """With another way from states to vectors."""

    config: Headed | None = None


def start(tower: nn.Module) -> Tree:
    """Weights large enough to tell texts apart."""
    shapes = jax.eval_shape(tower.init, jax.random.key(0), *[jnp.zeros((1, 4), jnp.int32)] * 3)["params"]
    random = np.random.default_rng(0)
    draw = {"scale": lambda shape: np.ones(shape), "bias": np.zeros}
    leaves = {
        path: draw.get(path.split("/")[-1], lambda shape: random.normal(0, 0.3, shape))(x.shape).astype(np.float32)
        for path, x in flatten(shapes).items()
    }
    return unflatten(leaves)


def make_tokens(random: np.random.Generator, texts: int, longest: int) -> Tokens:
    lengths = random.integers(longest // 2, longest + 1, texts)
    return Tokens(random.integers(3, 60, lengths.sum()).astype(np.int32), offsets_of(lengths), 1)


def relation(sets: list[set[int]]) -> Relation:
    documents = [document for each in sets for document in sorted(each)]
    return Relation(offsets_of(np.array([len(each) for each in sets])), np.array(documents, np.int32))


def tangled_planner(chunk_tokens: int | None = None, pooling: str = "mean") -> Planner:
    """Few documents for many queries: shared positives, several targets, hard negatives that are others' positives."""
    random = np.random.default_rng(1)
    batch = BatchConfig(
        queries=21,
        positives=2,
        negatives=1,
        query_length=6,
        document_length=12,
        row_length=16,
        shards=8,
        chunk_tokens=chunk_tokens,
    )
    shuffled = [random.permutation(18).tolist() for _ in range(25)]
    sizes = random.integers(1, 5, 25).tolist()
    positives = [set(order[:size]) for order, size in zip(shuffled, sizes, strict=True)]
    negatives = [set(order[size : size + 2]) for order, size in zip(shuffled, sizes, strict=True)]
    task = TrainingTask(
        "tangled",
        make_tokens(random, 25, 8),
        make_tokens(random, 18, 14),
        relation(positives),
        relation(positives),
        relation(negatives),
        batch,
    )
    return Planner([task], MixtureConfig(), batch, pooling, 0, 3)


def paired_planner(queries: int = 64, longest: int = 8) -> Planner:
    """Query i asks for document i, whose words are others than its own."""
    random = np.random.default_rng(2)
    batch = BatchConfig(queries=queries, query_length=8, document_length=8, row_length=16, shards=8)
    own = relation([{i} for i in range(64)])
    texts = make_tokens(random, 64, longest), make_tokens(random, 64, longest)
    task = TrainingTask("pairs", *texts, own, own, None, batch)
    return Planner([task], MixtureConfig(), batch, "mean", 0, STEPS)


def make_config(planner: Planner, tower: nn.Module, loss: LossConfig, rate: float = 0.01) -> StepConfig:
    rules = ((r".*(kernel|embedding)", False), *OptimConfig().decay_mask)
    optim = OptimConfig(learning_rate=rate, warmup_steps=1, schedule="constant", decay_mask=rules)
    rule = optimizer(optim, initial_params(start(tower), loss), STEPS)
    chunked = planner.batch.chunk_tokens is not None
    return StepConfig(tower, rule, loss, planner.shard_queries, planner.shard_texts, chunked, dropout=False, seed=0)


def mesh_of(devices: int, state_shards: int = 1) -> Mesh:
    return make_mesh(8, state_shards, jax.devices()[:devices])


def distance(ours: Tree, theirs: Tree) -> float:
    """Norm of the difference over the norm."""
    a, b = (np.concatenate([np.ravel(x) for x in flatten(tree).values()]).astype(np.float64) for tree in (ours, theirs))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


# The loss and its gradient.


def plain_loss(
    params: Tree,
    planner: Planner,
    plan: Plan,
    tower: nn.Module,
    symmetric: bool,
    cut: tuple[int, ...] = (),
    head: Callable[[Tree, jax.Array, np.ndarray], jax.Array] | None = None,
) -> jax.Array:
    """Each text in a row of its own; the relation as sets; the definition, query by query and target by target. The
    mean over whole vectors and those cut to so many features."""
    task = planner.tasks[plan.task]
    queries = [q for q in plan.queries.reshape(-1).tolist() if q >= 0]
    documents = [d for d in plan.documents.reshape(-1).tolist() if d >= 0]
    columns = plan.documents.reshape(-1).tolist()
    rows = plan.queries.reshape(-1).tolist()
    texts = [task.queries.take(np.array([q]), task.config.query_length) for q in queries]
    texts += [task.document_tokens.take(np.array([d]), task.config.document_length) for d in documents]
    ids, position, segment = (np.zeros((len(texts), 16), np.int32) for _ in range(3))
    for i, text in enumerate(texts):
        ids[i, : len(text)], position[i, : len(text)], segment[i, len(text) :] = text, np.arange(len(text)), 1
    states = tower.apply({"params": params["tower"]}, *map(jnp.asarray, (ids, position, segment)))
    assert isinstance(states, jax.Array)
    inside = (segment == 0).astype(np.float32)
    pooled = (states * inside[..., None]).sum(axis=1) / inside.sum(axis=1)[:, None]
    if head is not None:
        pooled = head(params["tower"]["dense"], states, inside)
    offsets, of_query = task.positives.offsets, task.positives.documents
    masked = [set(of_query[offsets[q] : offsets[q + 1]].tolist()) for q in queries]
    target = [{columns[c] for c in plan.target[rows.index(q)].tolist() if c < len(columns)} for q in queries]
    asked = [d for d in documents if any(d in each for each in target)]
    losses = []
    for features in (pooled.shape[1], *cut):
        vectors = pooled[:, :features] / jnp.linalg.norm(pooled[:, :features], axis=1, keepdims=True)
        scores = jnp.exp(params["log_scale"]) * vectors[: len(queries)] @ vectors[len(queries) :].T
        loss = one_way(scores, target, masked, documents)
        if symmetric:
            by_document = jnp.stack([scores[:, documents.index(d)] for d in asked])
            back = one_way(by_document, inverse(target, asked, queries), inverse(masked, asked, queries), queries)
            loss = 0.5 * (loss + back)
        losses.append(loss)
    return jnp.stack(losses).mean()


def inverse(sets: list[set[int]], asked: list[int], queries: list[int]) -> list[set[int]]:
    return [{q for q, each in zip(queries, sets, strict=True) if d in each} for d in asked]


def one_way(scores: jax.Array, target: list[set[int]], masked: list[set[int]], columns: list[int]) -> jax.Array:
    rows, wanted, among, weights = [], [], [], []
    for row in range(len(target)):
        for one in target[row]:
            rows.append(row)
            wanted.append(columns.index(one))
            among.append([column == one or column not in masked[row] | target[row] for column in columns])
            weights.append(1 / len(target[row]))
    chosen = scores[np.array(rows)]
    nats = jax.nn.logsumexp(jnp.where(np.array(among), chosen, -jnp.inf), axis=1)
    return ((nats - chosen[np.arange(len(rows)), np.array(wanted)]) * np.array(weights)).sum() / len(target)


@pytest.mark.slow
def test_loss_and_gradient_equal_those_of_single_texts_and_sets():
    planner, tower = tangled_planner(), Bag()
    config = make_config(planner, tower, LossConfig(learn_temperature=True))
    params = initial_params(start(tower), config.loss)
    plan = planner.plan(1)
    assert plan.masked.shape[1] > 2 and (plan.queries < 0).any() and (plan.documents < 0).any()
    batch = jax.tree.map(jnp.asarray, planner.fill(plan))
    ours = jax.value_and_grad(lambda p: batch_loss(p, batch, jnp.int32(0), config)[0])
    plain = jax.value_and_grad(lambda p: plain_loss(p, planner, plan, tower, False))
    value, gradient = jax.jit(ours, compiler_options=QUICK)(params)
    wanted, reference = jax.jit(plain, compiler_options=QUICK)(params)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    assert distance(gradient, reference) < 1e-5
    np.testing.assert_allclose(gradient["log_scale"], reference["log_scale"], rtol=1e-4)


HEAD = Head("cls+max+mean", (DenseLayer(48, 12), DenseLayer(12, 20, "GELU", residual=True)))


def by_hand(dense: Tree, states: jax.Array, inside: np.ndarray) -> jax.Array:
    """HEAD, without a Normalize, as its definition has it."""
    most = jnp.where(inside[..., None] > 0, states, -jnp.inf).max(axis=1)
    mean = (states * inside[..., None]).sum(axis=1) / inside.sum(axis=1)[:, None]
    pooled = jnp.concatenate([states[:, 0], most, mean], axis=1)
    first, second = (dense[name]["linear"] for name in "01")
    x = jnp.tanh(pooled @ first["kernel"] + first["bias"])
    y = x @ second["kernel"] + second["bias"]
    return 0.5 * y * (1 + jax.lax.erf(y / 2**0.5)) + x @ dense["1"]["residual"]["kernel"]


@pytest.mark.slow
@pytest.mark.parametrize("truncate_dim", [None, 7])
@pytest.mark.parametrize("chunk_tokens", [None, 16])
def test_a_head_of_several_poolings_and_dense_layers_is_trained(chunk_tokens: int | None, truncate_dim: int | None):
    head = replace(HEAD, layers=(*HEAD.layers, Normalize()), truncate_dim=truncate_dim)
    planner, tower = tangled_planner(chunk_tokens, HEAD.pooling), HeadedBag(Headed(head))
    config = make_config(planner, tower, LossConfig(learn_temperature=True))
    shapes = {"0/linear": (48, 12), "1/linear": (12, 20), "1/residual": (12, 20)}
    random = np.random.default_rng(4)
    dense = {f"{name}/kernel": random.normal(0, 0.4, shape) for name, shape in shapes.items()}
    dense |= {f"{number}/linear/bias": random.normal(0, 0.4, size) for number, size in ((0, 12), (1, 20))}
    leaves = {path: x.astype(np.float32) for path, x in dense.items()}
    params = initial_params({**start(tower), "dense": unflatten(leaves)}, config.loss)
    plan = planner.plan(1)
    batch = jax.tree.map(jnp.asarray, planner.fill(plan))
    assert planner.abstract(plan.shape).texts.pool.shape == batch.texts.pool.shape
    cut = () if truncate_dim is None else (truncate_dim,)
    ours = jax.value_and_grad(lambda p: batch_loss(p, batch, jnp.int32(0), config)[0])

    def plain(p: Tree) -> jax.Array:
        whole = partial(plain_loss, p, planner, plan, tower, False, head=by_hand)
        return whole() if truncate_dim is None else 2 * whole(cut) - whole()  # plain_loss gives the mean of the two

    value, gradient = jax.jit(ours, compiler_options=QUICK)(params)
    wanted, reference = jax.jit(jax.value_and_grad(plain), compiler_options=QUICK)(params)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    assert distance(gradient, reference) < 2e-5


Gradients = Callable[..., tuple[float, Tree]]


@pytest.fixture(scope="module")
def bert_gradients() -> Gradients:
    """Loss and gradient of the tangled batch on so many devices, cut and chunked as told."""
    found: dict[tuple, tuple[float, Tree]] = {}

    def on(
        devices: int, state_shards: int = 1, chunk_tokens: int | None = None, rate: float = 0.0
    ) -> tuple[float, Tree]:
        key = (devices, state_shards, chunk_tokens, rate)
        if key not in found:
            planner = tangled_planner(chunk_tokens)
            tower = BertTower(replace(BERT, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate))
            loss_config = LossConfig(learn_temperature=True, symmetric=True, dimensions=MATRYOSHKA)
            config = make_config(planner, tower, loss_config)
            config = replace(config, dropout=rate > 0)
            params = initial_params(start(tower), config.loss)
            mesh = mesh_of(devices, state_shards)
            specs = param_specs(params, MeshConfig(state_shards))
            batch = next(batches(planner, batch_sharding(mesh), 0)).batch
            fn = jax.jit(
                lambda p, b: gradients(p, b, jnp.int32(3), config, mesh, specs),
                in_shardings=(named(mesh, specs), batch_sharding(mesh)),
                compiler_options=QUICK,
            )
            loss, _, gradient = jax.device_get(fn(params, batch))
            found[key] = float(loss), gradient
        return found[key]

    return on


def check_equal(ours: tuple[float, Tree], theirs: tuple[float, Tree]) -> None:
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6)
    assert distance(ours[1], theirs[1]) < 1e-5


@pytest.mark.slow
def test_berts_gradient_equals_that_of_single_texts_and_sets(bert_gradients: Gradients):
    planner, tower = tangled_planner(), BertTower(BERT)
    params = initial_params(start(tower), LossConfig())
    plain = jax.value_and_grad(lambda p: plain_loss(p, planner, planner.plan(0), tower, True, MATRYOSHKA))
    value, gradient = jax.jit(plain, compiler_options=QUICK)(params)
    check_equal(bert_gradients(1), (float(value), gradient))


# `make test` has the mesh that is cut both ways, and the chunks of one that is not cut; `make test-system` the others.


@pytest.mark.parametrize(
    ("devices", "state_shards"),
    [(4, 2), *(pytest.param(*mesh, marks=pytest.mark.system) for mesh in ((2, 1), (8, 1), (8, 8)))],
)
def test_gradients_are_the_same_on_every_mesh(bert_gradients: Gradients, devices: int, state_shards: int):
    check_equal(bert_gradients(devices, state_shards), bert_gradients(1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "state_shards"), [(8, 1), *(pytest.param(*mesh, marks=pytest.mark.system) for mesh in ((1, 1), (4, 4)))]
)
def test_chunked_gradients_equal_plain_ones_with_the_same_masks(
    bert_gradients: Gradients, devices: int, state_shards: int
):
    """Of one row each: a row draws its masks by its place in the batch, however that is cut."""
    plain = bert_gradients(1, rate=0.2)
    assert distance(plain[1], bert_gradients(1)[1]) > 0.1
    check_equal(bert_gradients(devices, state_shards, 16, 0.2), plain)


def exchanges(program: str) -> tuple[int, int]:
    """How often a compiled program makes devices exchange something, and how often within a loop."""
    computations = {
        block.split(" (", 1)[0].removeprefix("ENTRY ").lstrip("%"): block
        for block in program.split("\n\n")
        if " (" in block
    }
    kinds = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
    counts = {name: sum(block.count(f" {kind}(") for kind in kinds) for name, block in computations.items()}
    inside = set(re.findall(r"(?:body|condition)=%([\w.-]+)", program))
    for _ in computations:  # what is called from within is within
        inside |= {
            called
            for name in inside & set(computations)
            for called in re.findall(r"(?:calls|to_apply|body|condition)=%([\w.-]+)", computations[name])
        }
    return sum(counts.values()), sum(counts.get(name, 0) for name in inside)


@pytest.mark.slow
def test_no_device_talks_to_another_within_a_loop():
    """Of the chunked step: all that is exchanged, is so before or after."""
    planner, tower = tangled_planner(16), BertTower(BERT)
    config = make_config(planner, tower, LossConfig(learn_temperature=True, symmetric=True))
    params, mesh = initial_params(start(tower), config.loss), mesh_of(8, 2)
    specs = param_specs(params, MeshConfig(2))
    batch = next(batches(planner, batch_sharding(mesh), 0)).batch
    places = (named(mesh, specs), batch_sharding(mesh))
    fn = jax.jit(lambda p, b: gradients(p, b, jnp.int32(0), config, mesh, specs), in_shardings=places)
    program = fn.lower(params, batch).compile().as_text() or ""
    everywhere, in_loops = exchanges(program)
    assert program.count(" while(") >= 2  # over chunks, forward and backward
    assert everywhere > 3 and in_loops == 0  # parameters and embeddings are gathered, losses and gradients summed

    def talkative(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 9, lambda _, x: jax.lax.psum(jnp.sin(x), AXES), x)

    control = jax.jit(jax.shard_map(talkative, mesh=mesh, in_specs=P(AXES), out_specs=P(AXES), check_vma=False))
    assert exchanges(control.lower(jnp.ones(8)).compile().as_text() or "") == (1, 1)


# A run of steps.


class Run:
    """A compiled step over pairs, to be started as often as a test likes."""

    def __init__(self, planner: Planner, tower: nn.Module, loss: LossConfig, rate: float):
        self.planner, self.mesh = planner, make_mesh(planner.batch.shards)
        self.config = make_config(planner, tower, loss, rate)
        self.params = jax.tree.map(jnp.asarray, initial_params(start(tower), loss))
        self.specs = param_specs(self.params, MeshConfig())
        self.steps, self.seconds = compile_steps(self.config, self.fresh(), planner, self.mesh, self.specs)

    def fresh(self) -> TrainState:
        return create_state(self.params, self.config.optimizer, self.mesh, self.specs)

    def go(self, state: TrainState, first: int, last: int) -> tuple[TrainState, np.ndarray]:
        seen = []
        for plan, batch in itertools.islice(batches(self.planner, batch_sharding(self.mesh), first), last - first):
            state, metrics = self.steps[plan.shape](state, batch)
            seen.append(np.asarray(metrics))
        return state, np.array(seen)


def distances_in_float64() -> dict[str, float]:
    """From the gradient on one device to that on others, over its norm; called by test_processes under float64."""

    def gradient(devices: int, state_shards: int = 1, chunk_tokens: int | None = None) -> Tree:
        planner, tower = tangled_planner(chunk_tokens), BertTower(BERT)
        config = make_config(planner, tower, LossConfig(learn_temperature=True, symmetric=True))
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), initial_params(start(tower), config.loss))
        mesh = mesh_of(devices, state_shards)
        specs = param_specs(params, MeshConfig(state_shards))
        batch = next(batches(planner, batch_sharding(mesh), 0)).batch
        fn = jax.jit(lambda p, b: gradients(p, b, jnp.int32(3), config, mesh, specs)[2], compiler_options=QUICK)
        return jax.device_get(fn(jax.device_put(params, named(mesh, specs)), batch))

    one = gradient(1)
    others = {"2": (2,), "8": (8,), "8 cut in 4": (8, 4), "8 in chunks": (8, 1, 16)}
    return {name: distance(gradient(*how), one) for name, how in others.items()}


def losses_of_a_run(state_shards: int) -> list[list[float]]:
    """Loss and gradient norm of four steps over all devices; called by test_processes in processes of their own."""
    planner = tangled_planner(16)
    planner = Planner(planner.tasks, MixtureConfig(), planner.batch, "mean", 0, 4)
    tower = BertTower(replace(BERT, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1))
    config = replace(make_config(planner, tower, LossConfig(symmetric=True)), dropout=True)
    params = initial_params(start(tower), config.loss)
    mesh, specs = make_mesh(8, state_shards), param_specs(params, MeshConfig(state_shards))
    state = create_state(params, config.optimizer, mesh, specs)
    steps, _ = compile_steps(config, state, planner, mesh, specs)
    seen = []
    for plan, batch in batches(planner, batch_sharding(mesh), 0):
        state, metrics = steps[plan.shape](state, batch)
        values = np.asarray(metrics)
        seen.append([float(values[METRICS.index(name)]) for name in ("loss", "gradient_norm")])
    return seen


@pytest.fixture(scope="module")
def overfit() -> Run:
    return Run(paired_planner(), BertTower(BERT), LossConfig(learn_temperature=True), rate=0.01)


@pytest.fixture(scope="module")
def overfitted(overfit: Run) -> tuple[TrainState, np.ndarray]:
    return overfit.go(overfit.fresh(), 0, STEPS)


def test_64_pairs_are_learned_by_heart(overfitted: tuple[TrainState, np.ndarray]):
    state, metrics = overfitted
    loss, accuracy = metrics[:, METRICS.index("loss")], metrics[:, METRICS.index("accuracy")]
    assert loss[0] > 4 and accuracy[0] < 0.2  # log 64 = 4.2
    assert loss[-1] < 0.1 and accuracy[-1] == 1.0
    assert int(state.step) == STEPS
    assert np.isfinite(metrics).all()


def test_a_learned_temperature_moves_within_its_range(overfitted: tuple[TrainState, np.ndarray]):
    temperature = overfitted[1][:, METRICS.index("temperature")]
    np.testing.assert_allclose(temperature[0], 0.05, rtol=1e-6)
    assert len(np.unique(temperature)) > 10
    assert (temperature >= 0.005).all() and (temperature <= 0.2).all()


@pytest.mark.slow
def test_two_runs_are_bit_equal_and_so_is_one_that_goes_on(overfit: Run, overfitted: tuple[TrainState, np.ndarray]):
    state, first = overfit.go(overfit.fresh(), 0, 6)
    state, rest = overfit.go(state, 6, STEPS)
    np.testing.assert_array_equal(np.concatenate([first, rest]), overfitted[1])
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(overfitted[0]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_nothing_is_compiled_after_the_first_step(overfit: Run):
    state, _ = overfit.go(overfit.fresh(), 0, 1)
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        overfit.go(state, 1, 8)
        assert compiled == []
        jax.jit(lambda x: x * 3 + 1)(1.0)  # the listener does hear a compilation
        assert len(compiled) == 1
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_a_shape_that_was_not_declared_is_an_error(overfit: Run):
    loaded = next(batches(overfit.planner, batch_sharding(overfit.mesh), 0))
    taller = jax.tree.map(lambda x: jnp.concatenate([x, x], axis=2), loaded.batch.texts)
    with pytest.raises(TypeError, match="compiled"):
        overfit.steps[loaded.plan.shape](overfit.fresh(), loaded.batch._replace(texts=taller))
    assert set(overfit.steps) == set(overfit.planner.shapes)
    assert overfit.seconds > 0


def test_the_parameters_a_run_starts_from_outlive_it(overfit: Run, overfitted: tuple[TrainState, np.ndarray]):
    """The state is donated step by step; what it was made of is not."""
    for leaf in jax.tree.leaves(overfit.params):
        assert np.isfinite(np.asarray(leaf)).all()


# One step, with the smallest tower.


@pytest.fixture(scope="module")
def bag() -> Iterator[Run]:
    yield Run(paired_planner(32, longest=3), Bag(), LossConfig(learn_temperature=True), rate=0.1)


def scaled(run: Run, log_scale: float) -> TrainState:
    state = run.fresh()
    return state._replace(
        params={**state.params, "log_scale": jax.device_put(jnp.float32(log_scale), state.step.sharding)}
    )


@pytest.mark.slow
@pytest.mark.parametrize(("log_scale", "wanted"), [(7.0, np.log(200)), (0.0, np.log(5))])
def test_a_temperature_that_left_its_range_is_brought_back(bag: Run, log_scale: float, wanted: float):
    state, metrics = bag.go(scaled(bag, log_scale), 0, 1)
    np.testing.assert_allclose(metrics[0, METRICS.index("temperature")], np.exp(-log_scale), rtol=1e-6)
    np.testing.assert_allclose(state.params["log_scale"], wanted, rtol=1e-6)


@pytest.mark.slow
def test_a_temperature_at_the_border_is_not_stuck_there(bag: Run):
    """Once the pairs are learned, colder is better, and the hottest temperature allowed is left again."""
    learned, _ = bag.go(bag.fresh(), 0, STEPS)
    params = {**learned.params, "log_scale": jax.device_put(jnp.float32(np.log(5)), learned.step.sharding)}
    fresh = create_state(params, bag.config.optimizer, bag.mesh, bag.specs)
    state, _ = bag.go(fresh, 0, 3)
    assert float(state.params["log_scale"]) > np.log(5) + 0.05


def test_metrics_by_another_way(bag: Run):
    batch = jax.tree.map(jnp.asarray, bag.planner.fill(bag.planner.plan(0)))
    state, metrics = bag.go(bag.fresh(), 0, 1)
    fn = lambda p: batch_loss(p, batch, jnp.int32(0), bag.config)  # noqa: E731
    (loss, accuracy), gradient = jax.jit(jax.value_and_grad(fn, has_aux=True))(bag.params)
    norm = np.sqrt(sum(float((np.asarray(x, np.float64) ** 2).sum()) for x in jax.tree.leaves(gradient)))
    np.testing.assert_allclose(metrics[0], [loss, accuracy, norm, 0.05, 0], rtol=1e-5)
    # Adam's first step has the sign of the gradient and the size of the rate.
    moved = np.asarray(bag.params["tower"]["embedding"]) - np.asarray(state.params["tower"]["embedding"])
    slope = np.asarray(gradient["tower"]["embedding"])
    clear = np.abs(slope) > 1e-5
    np.testing.assert_allclose(moved[clear], 0.1 * np.sign(slope[clear]), rtol=2e-2)
    assert not moved[slope == 0].any()
    assert int(state.step) == 1


def test_a_step_that_is_not_finite_changes_nothing_but_the_counts(bag: Run):
    state = bag.fresh()
    table = np.array(state.params["tower"]["embedding"])
    table[bag.planner.tasks[0].queries.ids[3]] = np.nan
    poisoned = {**state.params, "tower": {"embedding": jax.device_put(table, state.step.sharding)}}
    before = jax.device_get((poisoned, state.opt_state))
    after, metrics = bag.go(state._replace(params=poisoned), 0, 2)
    assert int(after.step) == 2 and int(after.skipped) == 2
    np.testing.assert_array_equal(metrics[:, METRICS.index("skipped")], [1, 2])
    assert not np.isfinite(metrics[:, METRICS.index("gradient_norm")]).any()
    for ours, theirs in zip(jax.tree.leaves((after.params, after.opt_state)), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_fixed_temperature_stays_whatever_it_is(bag: Run):
    config = replace(bag.config, loss=LossConfig(temperature=0.5))
    params = initial_params(bag.params["tower"], config.loss)
    batch = next(batches(bag.planner, batch_sharding(bag.mesh), 0)).batch
    step = jax.jit(lambda s, b: train_step(s, b, config, bag.mesh, bag.specs), compiler_options=QUICK)
    state, metrics = step(create_state(params, config.optimizer, bag.mesh, bag.specs), batch)
    np.testing.assert_array_equal(state.params["log_scale"], params["log_scale"])
    np.testing.assert_allclose(metrics[METRICS.index("temperature")], 0.5, rtol=1e-6)


class NoisyBag(nn.Module):
    """A bag whose rows are each drowned in noise of their own."""

    @nn.compact
    def __call__(self, ids, position, segment, row_keys=None):
        states = self.param("embedding", nn.initializers.normal(1.0), (60, 16))[ids]
        if row_keys is None:
            return states
        return states + jax.vmap(lambda key: jax.random.uniform(key, states.shape[1:]))(row_keys)


@pytest.mark.slow
def test_dropout_is_drawn_anew_by_seed_and_step_only(bag: Run):
    batch = jax.tree.map(jnp.asarray, bag.planner.fill(bag.planner.plan(0)))
    still = replace(bag.config, tower=NoisyBag())
    noisy = replace(still, dropout=True)
    loss = jax.jit(lambda p, step, c: batch_loss(p, batch, step, c)[0], static_argnums=2, compiler_options=QUICK)
    values = [
        float(loss(bag.params, jnp.int32(step), config))
        for config, step in [(noisy, 0), (noisy, 1), (replace(noisy, seed=1), 0), (noisy, 0), (still, 0), (still, 1)]
    ]
    assert values[3] == values[0] and values[4] == values[5]
    assert len(set(values)) == 4
