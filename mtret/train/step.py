"""(state, batch) -> (state, metrics): pure functions; `programs.py` compiles them."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, Key

from mtret.losses import LEARNED_TEMPERATURES, Hidden, LossConfig, contrastive
from mtret.models.dual_encoder import encode, head_of
from mtret.models.lora import LoraConfig, adapted, initial_adapters
from mtret.models.pooling import normalise
from mtret.pytrees import Tree, flatten, unflatten
from mtret.train.grad_cache import encode_in_chunks
from mtret.train.optim import Hyperparameters, Optimizer, averaged
from mtret.train.sharding import AXES, batch_specs, gathered, named, replicated, summed, whole
from mtret.types import Guide, PairBatch, TokenBatch

METRICS = ("loss", "accuracy", "gradient_norm", "temperature", "skipped")
OF_DOCUMENTS = 2**31 - 1  # folded into the key of separate documents; no shard has this number
LOG_SCALE_RANGE = tuple(-math.log(temperature) for temperature in reversed(LEARNED_TEMPERATURES))


class TrainState(NamedTuple):
    """All that changes in training. `params`: see `initial_params`."""

    step: Int[Array, ""]
    params: Tree
    opt_state: Any
    skipped: Int[Array, ""]  # steps that changed nothing, since their loss or gradient was not finite


# Of dropout, as data of a compiled program; None: that of the configuration, compiled in.
Seed = Int[Array | np.ndarray, ""] | None


@dataclass(frozen=True)
class StepConfig:
    """What a step needs to know beside its state and batch."""

    tower: nn.Module
    optimizer: optax.GradientTransformation | Optimizer
    loss: LossConfig
    shard_queries: int
    shard_texts: int
    chunked: bool
    dropout: bool
    seed: int
    lora: LoraConfig = field(default_factory=LoraConfig)
    frozen: frozenset[str] = frozenset()  # paths of parameters that are not trained
    vision: nn.Module | None = None  # the tower of images


def initial_params(
    tower: Tree,
    loss: LossConfig,
    lora: LoraConfig | None = None,
    seed: int = 0,
    documents: Tree | None = None,
    vision: Tree | None = None,
) -> Tree:
    """{"tower": ..., "log_scale": ...}: the tower's parameters and the logarithm of 1/temperature. Where there are any,
    also "lora", the tower's adapters; "documents", those of a tower of its own; "vision", those of the image tower.
    """
    params: dict[str, Any] = {"tower": tower, "log_scale": jnp.log(jnp.float32(1 / loss.temperature))}
    if lora and lora.rank:
        params["lora"] = initial_adapters(tower, lora, seed)
    others = {"documents": documents, "vision": vision}
    return params | {name: tree for name, tree in others.items() if tree is not None}


def deployed(params: Tree, lora: LoraConfig) -> Tree:
    """As `initial_params` without adapters: they are added to the tower."""
    if "lora" not in params:
        return params
    rest = {name: tree for name, tree in params.items() if name != "lora"}
    return {**rest, "tower": adapted(params["tower"], params["lora"], lora)}


def deployed_of(state: TrainState, lora: LoraConfig) -> Tree:
    """What is evaluated, kept and exported of a state, on this host: moving averages and adapters worked in."""
    return deployed(whole(averaged(state.params, state.opt_state)), lora)


def interpolated(params: Tree, start: Tree, share: float) -> Tree:
    """`share` of the text towers that a training started from, the rest of what it made of them (Wortsman et al.,
    2109.01903). Both as `deployed`."""
    if not share:
        return params

    def mixed(name: str) -> Tree:
        return jax.tree.map(lambda one, other: (1 - share) * one + share * other, params[name], start[name])

    return {**params, **{name: mixed(name) for name in ("tower", "documents") if name in params}}


def batch_loss(
    params: Tree,
    batch: PairBatch,
    step: Int[Array, ""],
    config: StepConfig,
    axes: tuple[str, ...] = (),
    seed: Seed = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean nats per query, and the accuracy in the batch.

    `axes`: inside `shard_map`, the mesh axes that share out the batch; both are then the part of this device.
    """
    params = deployed(params, config.lora)
    first_shard = jax.lax.axis_index(axes) * batch.texts.ids.shape[1]

    def read(reading: Reading) -> Array:
        key = dropout_key(reading, step, config, seed)
        arguments = reading.tower, params[reading.part], reading.inputs, reading.slots, key, first_shard
        vectors = encode_in_chunks(*arguments, batch.chunks[reading.number]) if config.chunked else encode(*arguments)
        return jax.lax.stop_gradient(vectors) if reading.frozen else vectors

    queries, documents = sides([read(each) for each in readings(params, batch, config)], config)
    relation = batch.target, batch.masked, batch.query_ok, batch.doc_ok, batch.guide
    return loss_of(queries, documents, params["log_scale"], relation, config, axes)


class Reading(NamedTuple):
    """What one tower reads of a batch."""

    part: str  # of the parameters
    tower: nn.Module
    inputs: Any  # TokenBatch or images
    slots: int
    number: int  # among the batch's readings
    frozen: bool  # an index that stands already: no dropout, and nothing to derive


def readings(params: Tree, batch: PairBatch, config: StepConfig) -> list[Reading]:
    """One, of queries and documents; or two, where documents have a tower of their own."""
    if batch.documents is None:
        return [Reading("tower", config.tower, batch.texts, config.shard_texts, 0, False)]
    tower, part = (config.tower, "documents") if isinstance(batch.documents, TokenBatch) else (config.vision, "vision")
    assert tower is not None
    frozen = config.frozen.issuperset(f"{part}/{path}" for path in flatten(params[part]))
    slots = config.shard_texts - config.shard_queries
    return [
        Reading("tower", config.tower, batch.texts, config.shard_queries, 0, False),
        Reading(part, tower, batch.documents, slots, 1, frozen),
    ]


def dropout_key(reading: Reading, step: Int[Array, ""], config: StepConfig, seed: Seed = None) -> Key[Array, ""] | None:
    """What a tower's dropout draws from in this step."""
    if not config.dropout or reading.frozen:
        return None
    key = jax.random.fold_in(jax.random.key(config.seed if seed is None else seed), step)
    return key if reading.part == "tower" else jax.random.fold_in(key, OF_DOCUMENTS)


def sides(
    vectors: Sequence[Float[Array, "S _ D"]], config: StepConfig
) -> tuple[Float[Array, "S Nq D"], Float[Array, "S Nd D"]]:
    """Of queries and documents: the vectors of each reading, or the only one's in two."""
    if len(vectors) == 2:
        return vectors[0], vectors[1]
    return vectors[0][:, : config.shard_queries], vectors[0][:, config.shard_queries :]


def loss_of(
    queries: Float[Array, "S Nq D"],
    documents: Float[Array, "S Nd D"],
    log_scale: Float[Array, ""],
    relation: tuple[Array, Array, Array, Array, Guide | None],
    config: StepConfig,
    axes: tuple[str, ...] = (),
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """As `batch_loss`, of vectors. `relation`: target, masked, query_ok, doc_ok and guide of the batch."""
    log_scale = log_scale if config.loss.learn_temperature else jax.lax.stop_gradient(log_scale)
    related, guide, margin = relation[:4], relation[4], config.loss.guide_margin or 0.0

    def of_features(count: int | None) -> tuple[Array, Array]:
        # Kusupati et al., 2205.13147 (Matryoshka): what is cut off a vector is not there when it is searched.
        def kept(side: Float[Array, "S n D"]) -> Float[Array, "Gn d"]:
            if count is not None or head_of(config.tower).truncate_dim is not None:
                side = normalise(side[..., :count])
            return side.reshape(-1, side.shape[-1])

        scale = jnp.exp(log_scale)
        hidden = None if guide is None else Hidden(*guide, margin)
        return contrastive(
            kept(queries), kept(documents), scale, *related, config.loss.symmetric, hidden=hidden, axes=axes
        )

    whole, accuracy = of_features(None)
    cut = [of_features(count)[0] for count in config.loss.dimensions]
    return (whole + sum(cut)) / (1 + len(cut)), accuracy


def gradients(
    params: Tree,
    batch: PairBatch,
    step: Int[Array, ""],
    config: StepConfig,
    mesh: Mesh,
    specs: Tree,
    seed: Seed = None,
) -> tuple[Float[Array, ""], Float[Array, ""], Tree]:
    """Loss, accuracy, and the loss's gradient, which lies as the parameters do."""

    def of_own(params: Tree, batch: PairBatch, step: Array, seed: Seed) -> tuple[Array, Array, Tree]:
        def part(params: Tree) -> tuple[Array, Array]:
            return batch_loss(gathered(_held(params, config.frozen), specs), batch, step, config, AXES, seed)

        (nats, accuracy), gradient = jax.value_and_grad(part, has_aux=True)(params)
        return *jax.lax.psum((nats, accuracy), AXES), summed(gradient, specs, config.frozen)

    # What is summed is written out, so JAX need not track what differs from device to device (nor can it: its error
    # function fails the check in some versions).
    shared = jax.shard_map(
        of_own, mesh=mesh, in_specs=(specs, batch_specs(), P(), P()), out_specs=(P(), P(), specs), check_vma=False
    )
    return shared(params, batch, step, seed)


def _held(params: Tree, frozen: Collection[str]) -> Tree:
    """Frozen parameters as constants: what only their gradients need is not computed."""
    return unflatten({p: jax.lax.stop_gradient(x) if p in frozen else x for p, x in flatten(params).items()})


def update(
    state: TrainState,
    loss: Float[Array, ""],
    accuracy: Float[Array, ""],
    gradient: Tree,
    config: StepConfig,
    hyperparameters: Hyperparameters | None = None,
) -> tuple[TrainState, Float[Array, "metrics"]]:
    """The optimizer's, or none where loss or gradient is not finite: then only the counts move on.

    The metrics are one vector, in the order of METRICS: one small fetch for the host.
    """
    told = {} if hyperparameters is None else {"hyperparameters": hyperparameters}
    updates, opt_state = config.optimizer.update(gradient, state.opt_state, state.params, **told)
    params: Any = optax.apply_updates(state.params, updates)
    if config.loss.learn_temperature:  # the parameter, not its use: a clipped use has no gradient that could lead back
        params = {**params, "log_scale": jnp.clip(params["log_scale"], *LOG_SCALE_RANGE)}
    norm = optax.tree.norm(gradient)
    metrics, skipped, finite = metrics_of(state.skipped, state.params["log_scale"], loss, accuracy, norm)
    params, opt_state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old), (params, opt_state), (state.params, state.opt_state)
    )
    return TrainState(state.step + 1, params, opt_state, skipped), metrics


def metrics_of(
    skipped: Int[Array, ""],
    log_scale: Float[Array, ""],
    loss: Float[Array, ""],
    accuracy: Float[Array, ""],
    norm: Float[Array, ""],
) -> tuple[Float[Array, "metrics"], Int[Array, ""], Bool[Array, ""]]:
    """A step's metrics, the steps skipped so far, and whether loss and gradient, of this norm, are finite."""
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    skipped = skipped + jnp.where(finite, 0, 1)
    return jnp.stack([loss, accuracy, norm, jnp.exp(-log_scale), skipped.astype(loss.dtype)]), skipped, finite


def train_step(
    state: TrainState, batch: PairBatch, config: StepConfig, mesh: Mesh, specs: Tree
) -> tuple[TrainState, Float[Array, "metrics"]]:
    """One step as a single function."""
    return update(state, *gradients(state.params, batch, state.step, config, mesh, specs), config)


def state_sharding(
    params: Tree, optimizer: optax.GradientTransformation | Optimizer, mesh: Mesh, specs: Tree
) -> TrainState:
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


def create_state(
    params: Tree, optimizer: optax.GradientTransformation | Optimizer, mesh: Mesh, specs: Tree
) -> TrainState:
    """Step 0, on the devices of the mesh."""

    def start(params: Tree) -> TrainState:
        return TrainState(jnp.int32(0), params, optimizer.init(params), jnp.int32(0))

    return jax.jit(start, out_shardings=state_sharding(params, optimizer, mesh, specs))(params)


Step = Callable[[TrainState, PairBatch], tuple[TrainState, Float[Array, "metrics"]]]
