"""(state, batch) -> (state, metrics): pure, jitted over the mesh, compiled ahead for every declared shape."""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from mtret.data.planning import Planner, Shape
from mtret.losses import LEARNED_TEMPERATURES, LossConfig, contrastive
from mtret.models.dual_encoder import encode
from mtret.models.lora import LoraConfig, adapted, initial_adapters
from mtret.models.pooling import normalise
from mtret.pytrees import Tree, flatten, unflatten
from mtret.train.grad_cache import encode_in_chunks
from mtret.train.optim import averaged
from mtret.train.sharding import AXES, batch_sharding, batch_specs, gathered, named, replicated, summed, whole
from mtret.types import PairBatch

METRICS = ("loss", "accuracy", "gradient_norm", "temperature", "skipped")
LOG_SCALE_RANGE = tuple(-math.log(temperature) for temperature in reversed(LEARNED_TEMPERATURES))


class TrainState(NamedTuple):
    """All that changes in training. `params`: {"tower": ..., "log_scale": ...}."""

    step: Int[Array, ""]
    params: Tree
    opt_state: Any
    skipped: Int[Array, ""]  # steps that changed nothing, since their loss or gradient was not finite


@dataclass(frozen=True)
class StepConfig:
    """What a step needs to know beside its state and batch."""

    tower: nn.Module
    optimizer: optax.GradientTransformation
    loss: LossConfig
    group_queries: int
    group_texts: int
    chunked: bool
    dropout: bool
    seed: int
    lora: LoraConfig = field(default_factory=LoraConfig)
    frozen: frozenset[str] = frozenset()  # paths of parameters that are not trained


def initial_params(tower_params: Tree, loss: LossConfig, lora: LoraConfig | None = None, seed: int = 0) -> Tree:
    """The tower's parameters, the logarithm of 1/temperature and, if there are any, the tower's adapters."""
    params = {"tower": tower_params, "log_scale": jnp.log(jnp.float32(1 / loss.temperature))}
    return params | {"lora": initial_adapters(tower_params, lora, seed)} if lora and lora.rank else params


def deployed(params: Tree, lora: LoraConfig) -> Tree:
    """As `initial_params` without adapters: they are added to the tower."""
    if "lora" not in params:
        return params
    return {"tower": adapted(params["tower"], params["lora"], lora), "log_scale": params["log_scale"]}


def deployed_of(state: TrainState, lora: LoraConfig) -> Tree:
    """What is judged, kept and exported of a state, on this host: moving averages and adapters worked in."""
    return deployed(whole(averaged(state.params, state.opt_state)), lora)


def batch_loss(
    params: Tree, batch: PairBatch, step: Int[Array, ""], config: StepConfig, axes: Sequence[str] = ()
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean nats per query, and the accuracy in the batch.

    `axes`: inside `shard_map`, the mesh axes that share out the batch; both are then the part of this device.
    """
    key = jax.random.fold_in(jax.random.key(config.seed), step) if config.dropout else None
    first_group = jax.lax.axis_index(tuple(axes)) * batch.texts.ids.shape[1] if axes else 0
    arguments = config.tower, deployed(params, config.lora)["tower"], batch.texts, config.group_texts, key, first_group
    vectors = encode_in_chunks(*arguments, batch.chunks) if config.chunked else encode(*arguments)
    log_scale = params["log_scale"] if config.loss.learn_temperature else jax.lax.stop_gradient(params["log_scale"])
    relation = batch.target, batch.known, batch.query_ok, batch.doc_ok

    def of_vectors(vectors: Float[Array, "G N D"]) -> tuple[Array, Array]:
        features = vectors.shape[-1]
        queries = vectors[:, : config.group_queries].reshape(-1, features)
        documents = vectors[:, config.group_queries :].reshape(-1, features)
        return contrastive(queries, documents, jnp.exp(log_scale), *relation, config.loss.symmetric, axes=axes)

    whole, accuracy = of_vectors(vectors)
    # Kusupati et al., 2205.13147 (Matryoshka): what is cut off a vector is not there when it is searched.
    cut = [of_vectors(normalise(vectors[..., :dimension]))[0] for dimension in config.loss.dimensions]
    return (whole + sum(cut)) / (1 + len(cut)), accuracy


def gradients(
    params: Tree, batch: PairBatch, step: Int[Array, ""], config: StepConfig, mesh: Mesh, specs: Tree
) -> tuple[Float[Array, ""], Float[Array, ""], Tree]:
    """Loss, accuracy, and the loss's gradient, which lies as the parameters do."""

    def of_own(params: Tree, batch: PairBatch, step: Array) -> tuple[Array, Array, Tree]:
        def part(params: Tree) -> tuple[Array, Array]:
            return batch_loss(gathered(_held(params, config.frozen), specs), batch, step, config, AXES)

        (nats, accuracy), gradient = jax.value_and_grad(part, has_aux=True)(params)
        return *jax.lax.psum((nats, accuracy), AXES), summed(gradient, specs, config.frozen)

    # What is summed is written out, so JAX need not track what differs from device to device (nor can it: its error
    # function fails the check in some versions).
    shared = jax.shard_map(
        of_own, mesh=mesh, in_specs=(specs, batch_specs(), P()), out_specs=(P(), P(), specs), check_vma=False
    )
    return shared(params, batch, step)


def _held(params: Tree, frozen: Collection[str]) -> Tree:
    """Frozen parameters as constants: what only their gradients need is not computed."""
    return unflatten({p: jax.lax.stop_gradient(x) if p in frozen else x for p, x in flatten(params).items()})


def train_step(
    state: TrainState, batch: PairBatch, config: StepConfig, mesh: Mesh, specs: Tree
) -> tuple[TrainState, Float[Array, "metrics"]]:
    """One update, or none where loss or gradient is not finite: then only the counts move on.

    The metrics are one vector, in the order of METRICS: one small fetch for the host.
    """
    loss, accuracy, gradient = gradients(state.params, batch, state.step, config, mesh, specs)
    updates, opt_state = config.optimizer.update(gradient, state.opt_state, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    if config.loss.learn_temperature:  # the parameter, not its use: a clipped use has no gradient that could lead back
        params = {**params, "log_scale": jnp.clip(params["log_scale"], *LOG_SCALE_RANGE)}
    norm = optax.tree.norm(gradient)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    params, opt_state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old), (params, opt_state), (state.params, state.opt_state)
    )
    skipped = state.skipped + jnp.where(finite, 0, 1)
    metrics = jnp.stack([loss, accuracy, norm, jnp.exp(-state.params["log_scale"]), skipped.astype(loss.dtype)])
    return TrainState(state.step + 1, params, opt_state, skipped), metrics


def state_sharding(params: Tree, optimizer: optax.GradientTransformation, mesh: Mesh, specs: Tree) -> TrainState:
    """Where a state lies: what the optimizer keeps for a parameter, with the parameter."""
    everywhere, places = replicated(mesh), named(mesh, specs)
    kept: Any = jax.eval_shape(optimizer.init, params)

    def frozen(x: Any) -> bool:
        return isinstance(x, optax.MaskedNode)

    opt_state = optax.tree.map_params(
        optimizer,
        lambda leaf, place: leaf if frozen(leaf) else place,
        kept,
        places,
        transform_non_params=lambda _: everywhere,
        is_leaf=frozen,
    )
    return TrainState(cast(Any, everywhere), places, opt_state, cast(Any, everywhere))


def create_state(params: Tree, optimizer: optax.GradientTransformation, mesh: Mesh, specs: Tree) -> TrainState:
    """Step 0, on the devices of the mesh."""

    def start(params: Tree) -> TrainState:
        return TrainState(jnp.int32(0), params, optimizer.init(params), jnp.int32(0))

    return jax.jit(start, out_shardings=state_sharding(params, optimizer, mesh, specs))(params)


Step = Callable[[TrainState, PairBatch], tuple[TrainState, Float[Array, "metrics"]]]


def compile_steps(
    config: StepConfig, state: TrainState, planner: Planner, mesh: Mesh, specs: Tree
) -> tuple[Mapping[Shape, Step], float]:
    """By shape an executable, and the seconds they took; chunked, one serves all of a row length. The state is donated:
    its memory is used again.

    Executables, unlike jitted functions, cannot compile behind one's back: a shape that was not declared is an error.
    """
    began = time.monotonic()
    places = jax.tree.map(lambda x: x.sharding, state)
    jitted = jax.jit(
        lambda state, batch: train_step(state, batch, config, mesh, specs),
        donate_argnums=0,
        in_shardings=(places, batch_sharding(mesh)),
        out_shardings=(places, replicated(mesh)),
    )
    abstract_state = jax.eval_shape(lambda: state)
    example = jax.eval_shape(lambda: planner.fill(planner.plan(0)))

    def compile_one(shape: tuple[int, int, int]) -> Step:
        chunks, rows, length = shape

        def resized(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((chunks, x.shape[1], rows, length), x.dtype)

        return jitted.lower(abstract_state, example._replace(texts=jax.tree.map(resized, example.texts))).compile()

    of = {shape: planner.array_shape(shape) for shape in planner.shapes}
    distinct = sorted(set(of.values()), key=math.prod, reverse=True)  # the longest compilation first
    with ThreadPoolExecutor(max_workers=4) as pool:
        executables = dict(zip(distinct, pool.map(compile_one, distinct), strict=True))
    compiled = {shape: executables[array_shape] for shape, array_shape in of.items()}
    return compiled, time.monotonic() - began
