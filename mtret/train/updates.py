"""A step's update: one program, or on one device a program for each kind of part of the parameters.

AdamW of a hundred arrays takes XLA as long as the gradient does. Layers are alike, so their updates are one program,
once the gradient's norm is known.
"""

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from mtret.pytrees import flatten, unflatten
from mtret.train.layerwise import Compiler
from mtret.train.optim import Hyperparameters, Optimizer
from mtret.train.sharding import replicated
from mtret.train.step import LOG_SCALE_RANGE, StepConfig, TrainState, metrics_of, update

Leaves = dict[str, Any]  # by path


@dataclass(frozen=True)
class WholeUpdate:
    """(state, loss, accuracy, gradient of what is trained by path) -> (state, metrics); the state's memory is used
    again."""

    program: "Future[Any]"
    hyperparameters: Hyperparameters | None  # on the devices; None: the optimizer takes none

    def __call__(self, state: TrainState, loss: Array, accuracy: Array, gradient: Leaves) -> tuple[TrainState, Array]:
        return self.program.result()(state, loss, accuracy, gradient, self.hyperparameters)

    @property
    def temporary_bytes(self) -> int:
        """What a device needs for it beside state and gradient."""
        return self.program.result().memory_analysis().temp_size_in_bytes


class Part(NamedTuple):
    """Parameters that are updated together."""

    paths: tuple[str, ...]
    kept: tuple[int, ...]  # places of what the optimizer keeps for them, among the leaves of its state
    squares: tuple["Future[Any]", ...]  # of each the sum of squares of its gradient; one program a shape
    rule: "Future[Any]"  # a RuleOfPart


@dataclass(frozen=True)
class PartwiseUpdate:
    """As `WholeUpdate`; it empties the gradient that it is given."""

    metrics: "Future[Any]"
    parts: Sequence[Part]
    counts: tuple[int, ...]  # places of what the optimizer keeps for all parameters together
    hyperparameters: Hyperparameters  # on the device

    def __call__(self, state: TrainState, loss: Array, accuracy: Array, gradient: Leaves) -> tuple[TrainState, Array]:
        params = flatten(state.params)
        kept, structure = jax.tree.flatten(state.opt_state)
        squares: Leaves = {}
        for part in self.parts:
            for path, squared in zip(part.paths, part.squares, strict=True):
                squares[path] = squared.result()(gradient[path])
        of_state = state.step, state.skipped, params["log_scale"]
        (step, skipped), metrics, norm, finite = self.metrics.result()(*of_state, loss, accuracy, squares)
        counts = [kept[place] for place in self.counts]
        for part in self.parts:
            own = [params[path] for path in part.paths], [kept[place] for place in part.kept]
            changes = [gradient.pop(path) for path in part.paths]
            new, new_kept, new_counts = part.rule.result()(*own, counts, changes, norm, finite, self.hyperparameters)
            params.update(zip(part.paths, new, strict=True))
            for place, leaf in zip((*part.kept, *self.counts), (*new_kept, *new_counts), strict=True):
                kept[place] = leaf
        return TrainState(step, unflatten(params), structure.unflatten(kept), skipped), metrics

    @cached_property  # XLA takes milliseconds to tell
    def temporary_bytes(self) -> int:
        """As of `WholeUpdate`."""
        programs = {self.metrics, *(program for part in self.parts for program in (part.rule, *part.squares))}
        return max(program.result().memory_analysis().temp_size_in_bytes for program in programs)


Update = WholeUpdate | PartwiseUpdate


def compile_update(
    config: StepConfig, state: TrainState, mesh: Mesh, threads: Executor, options: Mapping[str, str], by_part: bool
) -> Update:
    """In the threads of a pool. `by_part`: on one device, where the optimizer's rule is known to allow it."""
    if by_part and isinstance(config.optimizer, Optimizer):
        return _by_part(config, config.optimizer, jax.eval_shape(lambda: state), mesh, threads, options)
    told = config.optimizer.hyperparameters if isinstance(config.optimizer, Optimizer) else None
    return WholeUpdate(threads.submit(_whole, config, state, told, mesh, options), placed(told, mesh))


def placed(told: Any, mesh: Mesh) -> Any:
    """Arrays of the host on every device of the mesh."""
    everywhere = replicated(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, everywhere, lambda _: x), told)


def _whole(
    config: StepConfig, state: TrainState, told: Hyperparameters | None, mesh: Mesh, options: Mapping[str, str]
) -> Any:
    places, everywhere = jax.tree.map(lambda x: x.sharding, state), replicated(mesh)
    like = jax.eval_shape(lambda: state)

    def apply(state: TrainState, loss: Array, accuracy: Array, gradient: Leaves, hyperparameters: Any) -> Any:
        zeros = {path: jnp.zeros_like(leaf) for path, leaf in flatten(state.params).items() if path in config.frozen}
        every = unflatten({path: gradient.get(path, zeros.get(path)) for path in flatten(state.params)})
        return update(state, loss, accuracy, every, config, hyperparameters)

    jitted = jax.jit(
        apply,
        donate_argnums=0,
        in_shardings=(places, everywhere, everywhere, trained(places.params, config), everywhere),
        out_shardings=(places, everywhere),
        compiler_options=dict(options),
    )
    number: Any = like.params["log_scale"]
    return jitted.lower(like, number, number, trained(like.params, config), told).compile()


def _by_part(
    config: StepConfig, rule: Optimizer, like: TrainState, mesh: Mesh, threads: Executor, options: Mapping[str, str]
) -> PartwiseUpdate:
    leaves = trained(like.params, config)
    owners = _owners(rule, like)
    counts = tuple(place for place, owner in enumerate(owners) if owner is None)
    kept, structure = jax.tree.flatten(like.opt_state)
    compiler = Compiler(threads, replicated(mesh), options)
    number: Any = like.params["log_scale"]
    flag = jax.ShapeDtypeStruct((), jnp.bool_)
    parts = []
    for paths in _parts(leaves):
        places = tuple(place for place, owner in enumerate(owners) if owner in paths)
        own, held = [leaves[path] for path in paths], [kept[place] for place in places]
        squares = tuple(compiler("squares", _squares, leaf)[0] for leaf in own)
        rules = tuple((rule.kind(path), path == "log_scale") for path in paths)
        order = tuple(paths.index(cast(str, owners[place])) for place in places)
        apply = RuleOfPart(config, rule, structure, flatten(like.params).keys(), paths, places, counts)
        arguments = own, held, [kept[place] for place in counts], own, number, flag, rule.hyperparameters
        program, _ = compiler((rules, order), apply, *arguments, donate=(0, 1))
        parts.append(Part(paths, places, squares, program))
    of_state = like.step, like.skipped, number, number, number
    metrics, _ = compiler("metrics", _metrics, *of_state, dict.fromkeys(leaves, number), donate=(0, 1))
    return PartwiseUpdate(metrics, parts, counts, cast(Hyperparameters, placed(rule.hyperparameters, mesh)))


def _owners(rule: Optimizer, like: TrainState) -> list[str | None]:
    """For each leaf of the optimizer's state the path of the parameter that it is kept for, or None."""
    paths = unflatten({path: path for path in flatten(like.params)})
    tree = optax.tree.map_params(
        rule,
        lambda leaf, path: leaf if isinstance(leaf, optax.MaskedNode) else path,
        like.opt_state,
        paths,
        transform_non_params=lambda _: "",
        is_leaf=lambda x: isinstance(x, optax.MaskedNode),
    )
    return [owner or None for owner in jax.tree.leaves(tree)]


def _parts(leaves: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Paths by layer, and those of no layer."""
    found: dict[tuple[str, ...], list[str]] = {}
    for path in leaves:
        names = path.split("/")
        before = tuple(takewhile(lambda name: not name.isdigit(), names))
        found.setdefault((*before, names[len(before)]) if len(before) < len(names) else (), []).append(path)
    return [tuple(sorted(paths)) for paths in found.values()]


def _squares(gradient: Array) -> Array:
    return jnp.sum(jnp.square(gradient))


def _metrics(
    step: Array, skipped: Array, log_scale: Array, loss: Array, accuracy: Array, squares: Leaves
) -> tuple[tuple[Array, Array], Float[Array, "metrics"], Float[Array, ""], Bool[Array, ""]]:
    """(step, skipped) of the next state, the metrics, the gradient's norm, and whether all is finite."""
    norm = jnp.sqrt(sum(jax.tree.leaves(unflatten(squares))))  # in the order of optax.tree.norm
    metrics, skipped, finite = metrics_of(skipped, log_scale, loss, accuracy, norm)
    return (step + 1, skipped), metrics, norm, finite


@dataclass(frozen=True, eq=False)
class RuleOfPart:
    """The optimizer's rule for these paths alone: to it the others are masked out."""

    config: StepConfig
    optimizer: Optimizer
    structure: Any  # of the optimizer's state
    every: Collection[str]  # path
    paths: Sequence[str]
    kept: Sequence[int]  # see Part
    counts: Sequence[int]

    def __call__(
        self,
        params: list[Array],
        kept: list[Array],
        counts: list[Array],
        gradient: list[Array],
        norm: Array,
        finite: Array,
        hyperparameters: Hyperparameters,
    ) -> tuple[list[Array], list[Array], list[Array]]:
        """The first three after the update."""
        places = [*self.kept, *self.counts]
        held = [optax.MaskedNode()] * self.structure.num_leaves
        for place, leaf in zip(places, (*kept, *counts), strict=True):
            held[place] = leaf
        own, changes = self._tree(params), self._tree([self._clipped(leaf, norm) for leaf in gradient])
        state = self.structure.unflatten(held)
        updates, state = self.optimizer.clipped.update(changes, state, own, hyperparameters=hyperparameters)
        new: Any = flatten(cast(Any, optax.apply_updates(own, updates)))
        if self.config.loss.learn_temperature and "log_scale" in self.paths:
            new["log_scale"] = jnp.clip(new["log_scale"], *LOG_SCALE_RANGE)
        found = dict(zip(sorted(places), jax.tree.leaves(state), strict=True))

        def chosen(new: list[Array], old: list[Array]) -> list[Array]:
            return [jnp.where(finite, *both) for both in zip(new, old, strict=True)]

        return (
            chosen([new[path] for path in self.paths], params),
            chosen([found[place] for place in self.kept], kept),
            chosen([found[place] for place in self.counts], counts),
        )

    def _tree(self, values: list[Array]) -> Any:
        masked = dict.fromkeys(self.every, optax.MaskedNode())
        return unflatten({**masked, **dict(zip(self.paths, values, strict=True))})

    def _clipped(self, leaf: Array, norm: Array) -> Array:
        """As optax.clip_by_global_norm."""
        most = self.optimizer.clip_norm
        return jnp.where(norm < most, leaf, leaf / norm * most) if most else leaf


def trained(params: Any, config: StepConfig) -> Leaves:
    """Of the parameters, or what stands in their places, those that are not frozen, by path."""
    return {path: leaf for path, leaf in flatten(params).items() if path not in config.frozen}
