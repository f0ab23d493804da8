"""AdamW with warm-up, decay of the rate, weight decay by parameter name, and clipping.

Rates and weight decay are data to a compiled update: runs that differ in them alone have the same programs.
"""

from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from mtret.errors import UserError
from mtret.pytrees import Tree, flatten, match_rules, unflatten
from mtret.schema import ABOVE_0, AT_LEAST_0, BELOW_1, one_of, setting


@dataclass(frozen=True)
class OptimConfig:
    """AdamW (Loshchilov & Hutter, 1711.05101)."""

    learning_rate: float = setting(1e-4, "the highest, after the warm-up", ABOVE_0)
    warmup_steps: int = setting(10, "over which it rises from 0", AT_LEAST_0)
    schedule: str = setting(
        "cosine",
        'then falls to 0 at the last step: "cosine", "linear"; or stays: "constant"',
        one_of(("cosine", "linear", "constant")),
    )
    beta1: float = setting(0.9, "AdamW's, of the first moment", BELOW_1)
    beta2: float = setting(0.999, "of the second", BELOW_1)
    epsilon: float = setting(1e-8, "AdamW's", ABOVE_0)
    weight_decay: float = setting(0.01, "of the parameters that `decay_mask` names", AT_LEAST_0)
    decay_mask: tuple[tuple[str, bool], ...] = setting(
        (
            (r".*/(kernel|embedding|in_proj_weight|a|b)", True),
            (r".*/(bias|in_proj_bias|scale|probe)", False),
            (r"log_scale", False),
        ),
        "(expression for a parameter's whole path, decayed or not); the first match counts, every parameter needs one",
    )
    trainable: tuple[tuple[str, bool], ...] = setting(
        ((r".*", True),), 'the same of: trained or frozen, e.g. (("tower/embeddings/.*", False), (".*", True))'
    )
    learning_rate_scales: tuple[tuple[str, float], ...] = setting(
        ((r".*", 1.0),), 'the same of: its learning rate, times this, e.g. (("vision/.*", 10.0), (".*", 1.0))'
    )
    base_share: float = setting(
        0.0, "of the encoder as it came, in what is evaluated and kept; the rest is what training made", BELOW_1
    )
    ema_decay: float = setting(
        0.0, "above 0, e.g. 0.999: evaluated and kept is the moving average of the parameters", BELOW_1
    )
    clip_norm: float = setting(1.0, "global gradient norm; 0: no clipping", AT_LEAST_0)


def learning_rate(config: OptimConfig, steps: int) -> optax.Schedule:
    """Rate by step: linear warm-up, then `config.schedule` down to zero at `steps`."""
    rest = max(steps - config.warmup_steps, 1)
    peak = config.learning_rate
    after = {
        "cosine": optax.cosine_decay_schedule(peak, rest),
        "linear": optax.linear_schedule(peak, 0.0, rest),
        "constant": optax.constant_schedule(peak),
    }
    # The first step already moves: a rate of zero would waste it.
    warmup = optax.linear_schedule(peak / max(config.warmup_steps, 1), peak, max(config.warmup_steps - 1, 1))
    return optax.join_schedules([warmup, after[config.schedule]], [config.warmup_steps])


def warmup_remark(config: OptimConfig, steps: int) -> str:
    """What a user should know where the warm-up does not end before the run does; nothing where it does."""
    warmup, peak = config.warmup_steps, config.learning_rate
    if warmup < max(steps, 2):
        return ""
    return (
        f"optim.warmup_steps={warmup} of {steps} steps: the learning rate rises to the end of the run, to "
        f"{peak * min(steps / warmup, 1):.3g} of {peak:.3g}; give fewer, such as --config.optim.warmup_steps="
        f"{steps // 10}, or more steps"
    )


def frozen_paths(params: Tree, config: OptimConfig) -> frozenset[str]:
    """Of the parameters that are not trained: the tower's where it has adapters, and what `optim.trainable` says.

    Raises UserError where a parameter matches no rule, or nothing is left to train.
    """
    trained = flatten(match_rules(params, config.trainable, "optim.trainable"))
    adapters = "lora" in params
    frozen = {
        path for path, is_trained in trained.items() if not is_trained or (adapters and path.startswith("tower/"))
    }
    if frozen >= trained.keys() - {"log_scale"}:
        raise UserError("optim.trainable: freezes every parameter of the encoder; nothing is left to train")
    return frozenset(frozen)


class Hyperparameters(NamedTuple):
    """What an update is told and is not compiled for."""

    rates: Float[Array | np.ndarray, "updates"]  # the learning rate of each; beyond the last of a run zeros
    weight_decay: Float[Array | np.ndarray, ""]


ROUNDED_TO = 1024  # updates that there are rates for: programs know how many


def hyperparameters(config: OptimConfig, steps: int) -> Hyperparameters:
    """Of a run."""
    rates = np.zeros(-(-steps // ROUNDED_TO) * ROUNDED_TO, np.float32)
    rates[:steps] = np.asarray(learning_rate(config, steps)(np.arange(steps)))
    return Hyperparameters(rates, np.asarray(config.weight_decay, np.float32))


@dataclass(frozen=True, eq=False)
class Optimizer:
    """An optax transformation, of AdamW; and what it is for a gradient that is clipped already. In that, what becomes
    of a parameter depends on no other. `update` of both takes hyperparameters; without any they are the run's own.
    """

    init: Any
    update: Any
    clip_norm: float  # 0: no clipping
    clipped: optax.GradientTransformationExtraArgs
    kind: Callable[[str], Hashable]  # of a path: what the rule for that parameter depends on beside its array
    hyperparameters: Hyperparameters  # on the host


def optimizer(config: OptimConfig, params: Tree, steps: int) -> Optimizer:
    """The update rule for `params` (shapes are enough), whose frozen ones have gradients of zero.

    Raises UserError where a parameter matches no rule of `optim.decay_mask`, `optim.trainable` or
    `optim.learning_rate_scales`, or no rate is above 0.
    """
    frozen = frozen_paths(params, config)
    trained = unflatten({path: path not in frozen for path in flatten(params)})
    decayed = flatten(match_rules(params, config.decay_mask, "optim.decay_mask"))
    # The three of optax.adamw, so that their states lie where they lay in checkpoints of before.
    adam = optax.chain(
        optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.epsilon), decay(decayed), descend()
    )
    rates = flatten(match_rules(params, config.learning_rate_scales, "optim.learning_rate_scales"))
    if not any(rate for path, rate in rates.items() if path not in frozen and path != "log_scale"):
        raise UserError(
            "optim.learning_rate_scales: the rate of every parameter that is trained is 0; nothing would be trained"
        )
    parts: list[Any] = [adam]
    if any(rate != 1.0 for rate in rates.values()):
        parts.append(scaled(rates))
    if config.ema_decay:
        parts.append(moving_average(config.ema_decay))
    rule = optax.chain(*parts) if len(parts) > 1 else adam
    rule = optax.masked(rule, trained) if frozen else rule
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    own = hyperparameters(config, steps)
    whole, clipped = (_told(optax.chain(first, rule), own) for first in (clip, optax.identity()))
    kinds = lambda path: (decayed[path], rates[path])  # noqa: E731
    return Optimizer(whole.init, whole.update, config.clip_norm, clipped, kinds, own)


def _told(rule: optax.GradientTransformation, own: Hyperparameters) -> optax.GradientTransformationExtraArgs:
    """With `own` hyperparameters where none are given."""
    known: Any = optax.with_extra_args_support(rule)

    def update(
        updates: Any, state: Any, params: Any = None, hyperparameters: Hyperparameters | None = None, **_: Any
    ) -> tuple[Any, Any]:
        return known.update(updates, state, params, hyperparameters=hyperparameters or own)

    return optax.GradientTransformationExtraArgs(rule.init, update)


def decay(decayed: Mapping[str, bool]) -> optax.GradientTransformationExtraArgs:
    """Adds to each update the weight decay of its parameter, of those whose path is `decayed`."""

    def update(updates: Any, state: Any, params: Any = None, hyperparameters: Any = None, **_: Any) -> tuple[Any, Any]:
        def with_decay(path: Any, update: Any, param: Any) -> Any:
            name = "/".join(key.key for key in path)
            return update + hyperparameters.weight_decay.astype(param.dtype) * param if decayed[name] else update

        return jax.tree_util.tree_map_with_path(with_decay, updates, params), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.MaskedState(optax.EmptyState()), update)


def descend() -> optax.GradientTransformationExtraArgs:
    """Multiplies updates by minus the learning rate; counts them."""

    def update(updates: Any, state: Any, params: Any = None, hyperparameters: Any = None, **_: Any) -> tuple[Any, Any]:
        rate = jnp.asarray(hyperparameters.rates)[state.count]
        updates = jax.tree.map(lambda update: -rate.astype(update.dtype) * update, updates)
        return updates, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(lambda params: optax.ScaleByScheduleState(jnp.int32(0)), update)


def without_gradient(config: OptimConfig, frozen: Collection[str], path: str, steps: int, updates: int) -> float:
    """What so many updates of a run of `steps` have multiplied a parameter by whose gradient was zero at each of them;
    of its moving average where that is kept."""
    rate, decayed = (
        flatten(match_rules({path: None}, rules, what))[path]
        for rules, what in (
            (config.learning_rate_scales, "optim.learning_rate_scales"),
            (config.decay_mask, "optim.decay_mask"),
        )
    )
    if path in frozen or not decayed or not updates:
        return 1.0
    rates = np.asarray(learning_rate(config, steps)(np.arange(updates)), np.float64)
    left = np.cumprod(1 - rate * config.weight_decay * rates)
    average = 1.0
    for each in left if config.ema_decay else ():
        average = config.ema_decay * average + (1 - config.ema_decay) * each
    return float(average if config.ema_decay else left[-1])


def scaled(rates: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiplies each update by the rate of its parameter's path."""

    def scale(path: Any, update: Any) -> Any:
        return rates["/".join(key.key for key in path)] * update

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scale, updates))


class AverageState(NamedTuple):
    """Of `moving_average`."""

    average: Any  # like the parameters


def moving_average(decay: float) -> optax.GradientTransformation:
    """Changes no update; its state is the exponential moving average of the parameters after each."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        after = optax.apply_updates(params, updates)
        return updates, AverageState(jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.average, after))

    return optax.GradientTransformation(lambda params: AverageState(jax.tree.map(jnp.asarray, params)), update)


def averaged(params: Tree, opt_state: Any) -> Tree:
    """The parameters' moving average where the optimizer keeps one; frozen parameters as they are."""

    def is_average(x: Any) -> bool:
        return isinstance(x, AverageState)

    for state in filter(is_average, jax.tree.leaves(opt_state, is_leaf=is_average)):
        kept = {path: x for path, x in flatten(state.average).items() if not isinstance(x, optax.MaskedNode)}
        return unflatten({**flatten(params), **kept})
    return params
