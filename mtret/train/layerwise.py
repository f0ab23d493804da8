"""A step's loss and gradient by a program for each kind of layer, on one device.

Compiled as one program, a tower's layers are compiled as often as there are, and again for every shape of a batch: most
of the minutes before a first step. Here a kind of layer is two programs of a shape, forward and backward, however deep
the tower. Activations lie in arrays of their own between the programs, where one program wants a single block for all.
"""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from mtret.models.dual_encoder import head_of, in_rows, pooled
from mtret.models.layers import Rows, TextTower
from mtret.models.lora import LoraConfig, adapted
from mtret.models.pooling import DENSE, finish, pool
from mtret.pytrees import Tree, flatten, unflatten
from mtret.train.step import Reading, StepConfig, dropout_key, loss_of, readings, sides
from mtret.types import PairBatch, TokenBatch

Leaves = dict[str, Any]  # parameters or their gradient, by path
Relation = tuple[Any, Any, Any, Any]  # a batch's target, masked, query_ok and doc_ok


class Stage(NamedTuple):
    """A part of a tower: (parameters, x, given) -> (x, what the layers are given). The first is called without x."""

    path: str | None  # of its parameters in the tower; "": all but those of its head; None: it has none
    kind: Hashable  # stages of one kind are one function
    apply: Callable[[Tree, Any, Any], tuple[Any, Any]]
    given: Callable[[Any, Any, Any], Any]  # of inputs, step, and what the first gives the layers
    is_layer: bool = False


def stages(reading: Reading, config: StepConfig) -> list[Stage]:
    """Of the tower that reads; one where it is not made of layers."""
    tower, part, slots = reading.tower, reading.part, reading.slots
    if not isinstance(tower, TextTower):

        def whole(params: Tree, _: None, given: tuple[Any, Array]) -> tuple[Array, None]:
            inputs, step = given
            return pooled(tower, params, inputs, slots, dropout_key(reading, step, config)), None

        return [Stage("", part, whole, lambda inputs, step, _: (inputs, step))]

    def begin(params: Tree, _: None, given: tuple[TokenBatch, Array]) -> tuple[Array, Rows]:
        inputs, step = given
        ids, position, segment, keys = in_rows(inputs, dropout_key(reading, step, config))
        found: Any = tower.apply({"params": {"embeddings": params}}, ids, position, Rows(segment, keys), method="begin")
        return found

    def layer(number: int) -> Stage:
        module = tower.layer(tower.config, number)

        def apply(params: Tree, x: Array, rows: Rows) -> tuple[Array, None]:
            found: Any = module.apply({"params": params}, x, rows)
            return found, None

        def given(inputs: TokenBatch, step: Any, rows: Rows) -> Rows:
            return rows._replace(layer=np.int32(number))

        return Stage(f"{tower.LAYERS}/{number}", module, apply, given, is_layer=True)

    def end(params: Tree, x: Array, inputs: TokenBatch) -> tuple[Array, None]:
        states: Any = tower.apply({"params": {tower.END: params} if tower.END else {}}, x, method="end")
        states = states.reshape(*inputs.ids.shape, -1)
        return pool(states, inputs.pool, inputs.segment, slots, head_of(tower).poolings), None

    return [
        Stage("embeddings", (part, "begin"), begin, lambda inputs, step, _: (inputs, step)),
        *(layer(number) for number in range(tower.config.num_hidden_layers)),
        Stage(tower.END, (part, "end"), end, lambda inputs, step, _: inputs),
    ]


@dataclass
class Differentiated:
    """A stage's function and its derivative, as two functions that can be compiled.

    `forward` returns what the derivative needs beside inputs and output. With `again` that is nothing: `backward` runs
    the function a second time.
    """

    apply: Callable[[Tree, Any, Any], tuple[Any, Any]]
    of_x: bool  # whether x has a derivative too
    again: bool
    _back: Any = None  # the structure of JAX's own derivative, and where each of its arrays comes from

    def forward(self, trained: Leaves, held: Leaves, x: Any, given: Any) -> tuple[Any, Any, list[Array]]:
        """(out, what later stages are given, kept)."""
        if self.again or not (trained or self.of_x):
            return *self.apply(unflatten({**held, **trained}), x, given), []
        out, back, later = self._derive(trained, held, x, given)
        leaves, structure = jax.tree.flatten(back)
        at_hand = jax.tree.leaves((trained, held, x, given, out))  # handed out a second time, they would be copies
        places = {id(leaf): place for place, leaf in enumerate(at_hand)}
        kept: list[Any] = []
        for leaf in leaves:
            if id(leaf) not in places:
                places[id(leaf)] = len(at_hand) + len(kept)
                kept.append(leaf)
        self._back = structure, [places[id(leaf)] for leaf in leaves]
        return out, later, kept

    def backward(
        self, trained: Leaves, held: Leaves, x: Any, given: Any, out: Any, kept: list[Array], cotangent: Any
    ) -> tuple[Leaves, Any]:
        """Gradients of `trained`, and of `x` (None where it has none)."""
        if self.again:
            back = self._derive(trained, held, x, given)[1]
        else:
            structure, places = self._back
            leaves = [*jax.tree.leaves((trained, held, x, given, out)), *kept]
            back = jax.tree.unflatten(structure, [leaves[place] for place in places])
        found = back(cotangent)
        return found if self.of_x else (*found, None)

    def _derive(self, trained: Leaves, held: Leaves, x: Any, given: Any) -> tuple[Any, Any, Any]:
        def of(trained: Leaves, x: Any = x) -> tuple[Any, Any]:
            return self.apply(unflatten({**held, **trained}), x, given)

        return jax.vjp(of, *((trained, x) if self.of_x else (trained,)), has_aux=True)


class Link(NamedTuple):
    """A stage with its programs, for batches of one shape. They may be compiling still: the first call waits."""

    stage: Stage
    trained: Mapping[str, str]  # the path of each of its parameters, by its path within the stage
    held: Mapping[str, str]
    forward: "Future[Any]"
    backward: "Future[Any] | None"  # None: nothing is trained there or before
    kept_bytes: int  # of what it leaves for its backward pass

    def run(self, leaves: Leaves, x: Any, given: Any) -> tuple["Done", Any]:
        """Forward, with the parameters by path; and what it gives the layers."""
        inputs = *_parameters(leaves, self.trained, self.held), x, given
        out, later, kept = self.forward.result()(*inputs)
        return Done(self, inputs, out, kept), later


class Done(NamedTuple):
    """What a link did, as its derivative needs it."""

    link: Link
    inputs: tuple[Leaves, Leaves, Any, Any]
    out: Any
    kept: list[Array]

    def back(self, cotangent: Any) -> tuple[Leaves, Any]:
        """The gradient by path, and that of x."""
        assert self.link.backward is not None
        found, of_x = self.link.backward.result()(*self.inputs, self.out, self.kept, cotangent)
        return {self.link.trained[name]: leaf for name, leaf in found.items()}, of_x


@dataclass(frozen=True)
class LayerwiseGradients:
    """(params, batch, step) -> loss, accuracy, gradient of what is trained by path: as `step.gradients`, for batches of
    one shape."""

    config: StepConfig
    chains: tuple[tuple[Link, ...], ...]  # a tower's, of each reading
    adapters: Link | None
    loss: "Future[Any]"
    head: tuple[Mapping[str, str], Mapping[str, str]]  # the parameters of the loss, trained and not
    zeros: "Future[Any] | None"  # the gradient of towers that do not read such batches

    def __call__(self, params: Tree, batch: PairBatch, step: Int[Array, ""]) -> tuple[Array, Array, Leaves]:
        leaves = flatten(params)
        adaption = self.adapters.run(leaves, None, None)[0] if self.adapters else None
        if adaption is not None:
            leaves |= adaption.out
        read = [
            _read(chain, reading.inputs, leaves, step)
            for chain, reading in zip(self.chains, readings(params, batch, self.config), strict=True)
        ]
        inputs = *_parameters(leaves, *self.head), [x for _, x in read], _relation(batch)
        nats, accuracy, gradient, cotangents = self.loss.result()(*inputs)
        for (done, _), cotangent in zip(read, cotangents, strict=True):
            while done:  # what was kept is free as soon as it was used
                found, cotangent = done.pop().back(cotangent)
                gradient |= found
        if adaption is not None:
            gradient |= adaption.back({path: gradient.pop(path) for path in adaption.out})[0]
        if self.zeros is not None:
            gradient |= self.zeros.result()()
        return nats, accuracy, gradient

    @property
    def links(self) -> list[Link]:
        """All of them."""
        return [link for chain in self.chains for link in chain] + ([self.adapters] if self.adapters else [])

    @property
    def kept_bytes(self) -> int:
        """What is kept for the backward pass; known before anything is compiled."""
        return sum(link.kept_bytes for link in self.links)

    @property
    def temporary_bytes(self) -> int:
        """What it needs beside parameters, batch and gradient: what is kept, and the most that a program takes by
        itself."""
        links = self.links
        programs = [program for link in links for program in (link.forward, link.backward) if program]
        most = max(program.result().memory_analysis().temp_size_in_bytes for program in [*programs, self.loss])
        return self.kept_bytes + most


def _read(chain: Sequence[Link], inputs: Any, leaves: Leaves, step: Any) -> tuple[list[Done], Any]:
    """A tower's forward pass: what its backward pass goes through, and its pooled states."""
    x: Any = None
    rows: Any = None
    done = []
    for link in chain:
        one, later = link.run(leaves, x, link.stage.given(inputs, step, rows))
        x, rows = one.out, rows or later
        if link.backward is not None:
            done.append(one)
    return done, x


@dataclass
class Compiler:
    """Compiles functions in the threads of a pool, each once for inputs of the same shapes."""

    threads: Executor
    sharding: Any
    options: Mapping[str, str] = field(default_factory=dict)  # of XLA
    known: dict[Hashable, tuple["Future[Any]", Any]] = field(default_factory=dict)

    def __call__(self, kind: Hashable, function: Callable[..., Any], *like: Any) -> tuple["Future[Any]", Any]:
        """(program to come, shapes of what it returns)."""
        leaves, structure = jax.tree.flatten(like)
        key = kind, structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        if key not in self.known:
            places = {"in_shardings": self.sharding, "out_shardings": self.sharding}
            lowered = jax.jit(function, **places, compiler_options=dict(self.options)).lower(*like)
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), lowered.out_info)
            self.known[key] = self.threads.submit(lowered.compile), shapes
        return self.known[key]

    def link(
        self,
        stage: Stage,
        trained: Mapping[str, str],
        held: Mapping[str, str],
        leaves: Leaves,
        x: Any,
        given: Any,
        derived: bool,
        again: bool,
    ) -> tuple[Link, Any, Any]:
        """A stage's programs, and the shapes of its output and of what it gives the layers. `derived`: whether x has a
        derivative; `again`: see Differentiated."""
        inputs = *_parameters(leaves, trained, held), x, given
        both = Differentiated(stage.apply, derived, again)
        kind = stage.kind, derived, again
        forward, (out, later, kept) = self((kind, "forward"), both.forward, *inputs)
        backward = None
        if trained or derived:
            backward = self((kind, "backward"), both.backward, *inputs, out, kept, out)[0]
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((out, kept)))
        return Link(stage, trained, held, forward, backward, size if backward else 0), out, later


def compile_gradients(
    config: StepConfig, params: Tree, batch: PairBatch, step: Any, compiler: Compiler
) -> LayerwiseGradients:
    """For batches of one shape; `params`, `batch` and `step` are shapes. A tower with `remat` keeps nothing of its
    layers for the backward pass, which runs them a second time."""
    leaves = flatten(params)
    trained = leaves.keys() - config.frozen
    adapters = None
    if "lora" in params:
        kernels = [path for path in leaves if f"lora/{path.removeprefix('tower/')}/a" in leaves]
        of_lora = [path for path in leaves if path.startswith("lora/")]
        stage = Stage(None, "adapters", partial(_adapt, config.lora), lambda *_: None)
        names = _by_name(of_lora), _by_name(kernels)
        adapters, changed, _ = compiler.link(stage, *names, leaves, None, None, derived=False, again=False)
        leaves, trained = leaves | changed, (trained - set(of_lora)) | changed.keys()
    chains, sums = [], []
    towers = readings(params, batch, config)
    for reading in towers:
        x: Any = None
        rows: Any = None
        has_derivative, chain = False, []
        for stage in stages(reading, config):
            names = _split(_within(leaves, reading.part, stage.path), trained)
            given = stage.given(reading.inputs, step, rows)
            again = stage.is_layer and reading.tower.config.remat  # type: ignore[attr-defined]
            link, x, later = compiler.link(stage, *names, leaves, x, given, has_derivative, again)
            chain.append(link)
            has_derivative, rows = has_derivative or bool(names[0]), rows or later
        chains.append(tuple(chain))
        sums.append(x)
    heads = [path for reading in towers for path in _within(leaves, reading.part, DENSE).values()]
    head = _split(_by_name(["log_scale", *heads]), trained)
    nats = partial(_loss, config, [(reading.part, reading.tower) for reading in towers])
    kind = "loss", *(reading.part for reading in towers)
    loss, _ = compiler(kind, nats, *_parameters(leaves, *head), sums, _relation(batch))
    links = [link for chain in chains for link in chain]
    derived = {path for link in links if link.backward for path in link.trained.values()} | {*head[0].values()}
    unread = {path: leaf for path, leaf in leaves.items() if path in trained and path not in derived}
    zeros = compiler(("zeros", *unread), partial(_zeros, unread))[0] if unread else None
    return LayerwiseGradients(config, tuple(chains), adapters, loss, head, zeros)


def _loss(
    config: StepConfig,
    towers: Sequence[tuple[str, nn.Module]],
    trained: Leaves,
    held: Leaves,
    sums: list[Array],
    relation: Relation,
) -> tuple[Array, Array, Leaves, list[Array]]:
    """Loss, accuracy, and the gradients of the parameters behind the pooling and of each tower's pooled states."""

    def of(trained: Leaves, sums: list[Array]) -> tuple[Array, Array]:
        params = unflatten({**held, **trained})
        vectors = [
            finish(pooled, params.get(part, {}), head_of(tower))
            for pooled, (part, tower) in zip(sums, towers, strict=True)
        ]
        return loss_of(*sides(vectors, config), params["log_scale"], relation, config)

    (nats, accuracy), gradients = jax.value_and_grad(of, argnums=(0, 1), has_aux=True)(trained, sums)
    return nats, accuracy, *gradients


def _zeros(like: Leaves) -> Leaves:
    return {path: jnp.zeros(leaf.shape, leaf.dtype) for path, leaf in like.items()}


def _adapt(config: LoraConfig, params: Tree, _: None, given: None) -> tuple[Leaves, None]:
    """The kernels that have adapters, with them, by path."""
    found = flatten(adapted(params["tower"], params["lora"], config))
    return {f"tower/{path}": leaf for path, leaf in found.items()}, None


def _relation(batch: PairBatch) -> Relation:
    return batch.target, batch.masked, batch.query_ok, batch.doc_ok


def _parameters(leaves: Leaves, trained: Mapping[str, str], held: Mapping[str, str]) -> tuple[Leaves, Leaves]:
    return {name: leaves[path] for name, path in trained.items()}, {name: leaves[path] for name, path in held.items()}


def _by_name(paths: Collection[str]) -> dict[str, str]:
    return {path: path for path in paths}


def _within(leaves: Leaves, part: str, path: str | None) -> dict[str, str]:
    """Paths by what they are called within a stage."""
    if path is None:
        return {}
    prefix = f"{part}/{path}/" if path else f"{part}/"
    found = {name.removeprefix(prefix): name for name in leaves if name.startswith(prefix)}
    return found if path else {name: full for name, full in found.items() if not name.startswith(f"{DENSE}/")}


def _split(names: Mapping[str, str], trained: Collection[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Those of what is trained, and the others."""
    on = {name: path for name, path in names.items() if path in trained}
    return on, {name: path for name, path in names.items() if name not in on}
