"""(state, batch) -> (state, metrics): pure, jitted over the mesh, compiled ahead for every declared shape."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from mtret.data.planning import Planner
from mtret.losses import LEARNED_TEMPERATURES, LossConfig, contrastive
from mtret.models.dual_encoder import encode
from mtret.pytrees import Tree
from mtret.train.sharding import batch_sharding, replicated
from mtret.types import PairBatch

METRICS = ("loss", "accuracy", "gradient_norm", "temperature")
LOG_SCALE_RANGE = tuple(-math.log(temperature) for temperature in reversed(LEARNED_TEMPERATURES))


class TrainState(NamedTuple):
    """All that changes in training. `params`: {"tower": ..., "log_scale": ...}."""

    step: Int[Array, ""]
    params: Tree
    opt_state: Any


@dataclass(frozen=True)
class StepConfig:
    """What a step needs to know beside its state and batch."""

    tower: nn.Module
    optimizer: optax.GradientTransformation
    loss: LossConfig
    group_queries: int
    group_texts: int
    dropout: bool
    seed: int


def initial_params(tower_params: Tree, loss: LossConfig) -> Tree:
    """The tower's parameters and the logarithm of 1/temperature."""
    return {"tower": tower_params, "log_scale": jnp.log(jnp.float32(1 / loss.temperature))}


def batch_loss(
    params: Tree, batch: PairBatch, step: Int[Array, ""], config: StepConfig
) -> tuple[Float[Array, ""], tuple[Float[Array, ""], Float[Array, ""]]]:
    """Mean nats per query; with it the accuracy in the batch and 1/temperature."""
    key = jax.random.fold_in(jax.random.key(config.seed), step) if config.dropout else None
    vectors = encode(config.tower, params["tower"], batch.texts, config.group_texts, key)
    features = vectors.shape[-1]
    queries = vectors[:, : config.group_queries].reshape(-1, features)
    documents = vectors[:, config.group_queries :].reshape(-1, features)
    log_scale = params["log_scale"] if config.loss.learn_temperature else jax.lax.stop_gradient(params["log_scale"])
    scale = jnp.exp(log_scale)
    loss, accuracy = contrastive(
        queries, documents, scale, batch.target, batch.known, batch.query_ok, batch.doc_ok, config.loss.symmetric
    )
    return loss, (accuracy, scale)


def train_step(state: TrainState, batch: PairBatch, config: StepConfig) -> tuple[TrainState, Float[Array, "metrics"]]:
    """One update. The metrics are one vector, in the order of METRICS: one small fetch for the host."""
    (loss, (accuracy, scale)), gradients = jax.value_and_grad(batch_loss, has_aux=True)(
        state.params, batch, state.step, config
    )
    updates, opt_state = config.optimizer.update(gradients, state.opt_state, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    if config.loss.learn_temperature:  # the parameter, not its use: a clipped use has no gradient that could lead back
        params = {**params, "log_scale": jnp.clip(params["log_scale"], *LOG_SCALE_RANGE)}
    metrics = jnp.stack([loss, accuracy, optax.tree.norm(gradients), 1 / scale])
    return TrainState(state.step + 1, params, opt_state), metrics


def create_state(params: Tree, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Step 0, on every device of the mesh."""

    def start(params: Tree) -> TrainState:
        return TrainState(jnp.int32(0), params, optimizer.init(params))

    return jax.jit(start, out_shardings=replicated(mesh))(params)


Step = Callable[[TrainState, PairBatch], tuple[TrainState, Float[Array, "metrics"]]]


def compile_steps(
    config: StepConfig, state: TrainState, planner: Planner, row_counts: Iterable[int], mesh: Mesh
) -> tuple[Mapping[int, Step], float]:
    """An executable for every row count, and the seconds it took. The state is donated: its memory is used again.

    Executables, unlike jitted functions, cannot compile behind one's back: a shape that was not declared is an error.
    """
    began = time.monotonic()
    shardings = batch_sharding(mesh)
    everywhere = replicated(mesh)
    jitted = jax.jit(
        lambda state, batch: train_step(state, batch, config),
        donate_argnums=0,
        in_shardings=(everywhere, shardings),
        out_shardings=everywhere,
    )
    abstract_state = jax.eval_shape(lambda: state)
    example = jax.eval_shape(lambda: planner.fill(planner.plan(0)))

    def compile_one(rows: int) -> Step:
        texts = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*x.shape[:2], rows, x.shape[3]), x.dtype), example.texts)
        return jitted.lower(abstract_state, example._replace(texts=texts)).compile()

    counts = sorted(row_counts, reverse=True)  # the longest compilation first
    with ThreadPoolExecutor(max_workers=4) as pool:
        compiled = dict(zip(counts, pool.map(compile_one, counts), strict=True))
    return compiled, time.monotonic() - began
