"""A step's loss and gradient by a program for each kind of layer, on one device.

Compiled as one program, a tower's layers are compiled as often as there are, and again for every shape of a batch: most
of the minutes before a first step. Here a kind of layer is two programs, forward and backward, however deep the tower;
they work on a chunk at a time, and all chunks of a run have one shape for every length of a row. Activations of all
chunks are kept, in arrays of their own between the programs, where one program wants a single block for all.
"""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from mtret.data.shapes import Chunks
from mtret.models.dual_encoder import chunks_of, head_of, in_rows, pooled
from mtret.models.layers import Rows, TextTower
from mtret.models.lora import LoraConfig, adapted
from mtret.models.pooling import DENSE, finish, pool
from mtret.pytrees import Tree, flatten, unflatten
from mtret.train.step import Reading, Seed, StepConfig, dropout_key, loss_of, readings, sides
from mtret.types import PairBatch

Leaves = dict[str, Any]  # parameters or their gradient, by path
Relation = tuple[Any, Any, Any, Any, Any]  # a batch's target, masked, query_ok, doc_ok and guide


class Inputs(NamedTuple):
    """What the first and the last stage of a tower see of a batch, beside x."""

    every: Any  # TokenBatch or images, in chunks
    first: Int[Array, ""] | np.integer  # the number of the first chunk that is read
    step: Int[Array, ""]
    seed: Seed = None


class Stage(NamedTuple):
    """A part of a tower: (parameters, x, given) -> (x, what the layers are given). The first is called without x."""

    path: str | None  # of its parameters in the tower; "": all but those of its head; None: it has none
    kind: Hashable  # stages of one kind are one function
    apply: Callable[[Tree, Any, Any], tuple[Any, Any]]
    given: Callable[[Inputs, Any], Any]  # of the inputs and what the first gives the layers
    is_layer: bool = False


def stages(reading: Reading, config: StepConfig, count: int) -> list[Stage]:
    """Of the tower that reads so many chunks at once; one where it is not made of layers."""
    tower, part, slots = reading.tower, reading.part, reading.slots
    if not isinstance(tower, TextTower):

        def whole(params: Tree, _: None, given: Inputs) -> tuple[Array, None]:
            read, key = chunks_of(given.every, given.first, count), dropout_key(reading, given.step, config, given.seed)
            return pooled(tower, params, read, slots, key, first_chunk=given.first), None

        return [Stage("", (part, count), whole, lambda inputs, _: inputs)]

    def begin(params: Tree, _: None, given: Inputs) -> tuple[Array, Rows]:
        key = dropout_key(reading, given.step, config, given.seed)
        ids, position, segment, keys = in_rows(chunks_of(given.every, given.first, count), key, 0, given.first)
        found: Any = tower.apply({"params": {"embeddings": params}}, ids, position, Rows(segment, keys), method="begin")
        return found

    def layer(number: int) -> Stage:
        module = tower.layer(tower.config, number)

        def apply(params: Tree, x: Array, rows: Rows) -> tuple[Array, None]:
            found: Any = module.apply({"params": params}, x, rows)
            return found, None

        def given(_: Inputs, rows: Rows) -> Rows:
            return rows._replace(layer=np.int32(number))

        return Stage(f"{tower.LAYERS}/{number}", module, apply, given, is_layer=True)

    def end(params: Tree, x: Array, given: Inputs) -> tuple[Array, None]:
        states: Any = tower.apply({"params": {tower.END: params} if tower.END else {}}, x, method="end")
        read = chunks_of(given.every, given.first, count)
        states = states.reshape(*read.ids.shape, -1)
        return pool(states, read.pool, read.segment, slots, head_of(tower).poolings), None

    return [
        Stage("embeddings", (part, count, "begin"), begin, lambda inputs, _: inputs),
        *(layer(number) for number in range(tower.config.num_hidden_layers)),
        Stage(tower.END, (part, count, "end"), end, lambda inputs, _: inputs),
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
        self, sofar: Leaves, trained: Leaves, held: Leaves, x: Any, given: Any, out: Any, kept: list[Array], like: Any
    ) -> tuple[Leaves, Any]:
        """Gradients of `trained`, added to those of chunks `sofar`, and of `x` (None where it has none). `like`: that
        of `out`."""
        if self.again:
            back = self._derive(trained, held, x, given)[1]
        else:
            structure, places = self._back
            leaves = [*jax.tree.leaves((trained, held, x, given, out)), *kept]
            back = jax.tree.unflatten(structure, [leaves[place] for place in places])
        found, *of_x = back(like)
        return {name: sofar[name] + leaf for name, leaf in found.items()}, of_x[0] if self.of_x else None

    def _derive(self, trained: Leaves, held: Leaves, x: Any, given: Any) -> tuple[Any, Any, Any]:
        def of(trained: Leaves, x: Any = x) -> tuple[Any, Any]:
            return self.apply(unflatten({**held, **trained}), x, given)

        return jax.vjp(of, *((trained, x) if self.of_x else (trained,)), has_aux=True)


class Link(NamedTuple):
    """A stage with its programs, for chunks of one shape. They may be compiling still: the first call waits."""

    stage: Stage
    trained: Mapping[str, str]  # the path of each of its parameters, by its path within the stage
    held: Mapping[str, str]
    forward: "Future[Any]"
    backward: "Future[Any] | None"  # None: nothing is trained there or before
    kept_bytes: int  # of what it leaves of a chunk for its backward pass

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

    def back(self, gradient: Leaves, cotangent: Any) -> Any:
        """Adds to the gradient, by path; returns that of x. The memory of what `gradient` held is used again."""
        assert self.link.backward is not None
        paths = self.link.trained
        sofar = {name: gradient.pop(path) for name, path in paths.items()}
        found, of_x = self.link.backward.result()(sofar, *self.inputs, self.out, self.kept, cotangent)
        gradient.update({paths[name]: leaf for name, leaf in found.items()})
        return of_x


class Chain(NamedTuple):
    """What a tower does, as links by how many chunks they read at once."""

    links: Mapping[int, tuple[Link, ...]]
    cut: Chunks
    most: int  # chunks that a batch has room for
    add: "Future[Any]"  # two sums of pooled states

    def read(self, inputs: Any, chunks: int, leaves: Leaves, step: Any, seed: Seed) -> tuple[list[list[Done]], Any]:
        """Reads the first `chunks`: what the backward pass of each reading goes through, and the sum of their pooled
        states."""
        total: Any = None
        done = []
        for first, count in self.cut.reads(chunks):
            one, pooled = _read(self.links[count], Inputs(inputs, np.int32(first), step, seed), leaves)
            total = pooled if total is None else self.add.result()(total, pooled)
            done.append(one)
        return done, total

    @property
    def kept_bytes(self) -> int:
        """What is kept of the largest batch for the backward pass."""
        return sum(link.kept_bytes for _, count in self.cut.reads(self.most) for link in self.links[count])


def _read(links: Sequence[Link], inputs: Inputs, leaves: Leaves) -> tuple[list[Done], Any]:
    x: Any = None
    rows: Any = None
    done = []
    for link in links:
        one, later = link.run(leaves, x, link.stage.given(inputs, rows))
        x, rows = one.out, rows or later
        if link.backward is not None:
            done.append(one)
    return done, x


@dataclass(frozen=True)
class LayerwiseGradients:
    """(params, batch, step) -> loss, accuracy, gradient of what is trained by path: as `step.gradients`, for batches of
    one shape."""

    config: StepConfig
    chains: tuple[Chain, ...]  # a tower's, of each reading
    adapters: Link | None
    loss: "Future[Any]"
    head: tuple[Mapping[str, str], Mapping[str, str]]  # the parameters of the loss, trained and not
    zeros: "Future[Any]"  # what the gradient begins as

    def __call__(
        self, params: Tree, batch: PairBatch, step: Int[Array, ""], seed: Seed = None
    ) -> tuple[Array, Array, Leaves]:
        leaves = flatten(params)
        adaption = self.adapters.run(leaves, None, None)[0] if self.adapters else None
        if adaption is not None:
            leaves |= adaption.out
        counts = np.asarray(batch.chunks).tolist()  # an input: no work is waited for
        read = [
            chain.read(reading.inputs, counts[reading.number], leaves, step, seed)
            for chain, reading in zip(self.chains, readings(params, batch, self.config), strict=True)
        ]
        inputs = *_parameters(leaves, *self.head), [x for _, x in read], _relation(batch)
        nats, accuracy, of_head, cotangents = self.loss.result()(*inputs)
        gradient: Leaves = {**self.zeros.result()(), **of_head}
        for (done, _), cotangent in zip(read, cotangents, strict=True):
            while done:
                chunk, of_x = done.pop(), cotangent
                while chunk:  # what was kept is free as soon as it was used
                    of_x = chunk.pop().back(gradient, of_x)
        if adaption is not None:
            adaption.back(gradient, {path: gradient.pop(path) for path in adaption.out})
        return nats, accuracy, gradient

    @property
    def links(self) -> list[Link]:
        """All of them."""
        of_towers = [link for chain in self.chains for links in chain.links.values() for link in links]
        return of_towers + ([self.adapters] if self.adapters else [])

    @property
    def kept_bytes(self) -> int:
        """What is kept of the largest batch for the backward pass; known before anything is compiled."""
        return sum(chain.kept_bytes for chain in self.chains) + (self.adapters.kept_bytes if self.adapters else 0)

    @cached_property  # XLA takes milliseconds to tell
    def temporary_bytes(self) -> int:
        """What the largest batch needs beside parameters, batch and gradient: what is kept, and the most that a program
        takes by itself."""
        programs = {program for link in self.links for program in (link.forward, link.backward) if program}
        most = max(program.result().memory_analysis().temp_size_in_bytes for program in {*programs, self.loss})
        return self.kept_bytes + most


@dataclass
class Compiler:
    """Compiles functions in the threads of a pool, each once for inputs of the same shapes."""

    threads: Executor
    sharding: Any
    options: Mapping[str, Any] = field(default_factory=dict)  # of XLA
    known: dict[Hashable, tuple["Future[Any]", Any]] = field(default_factory=dict)

    def __call__(
        self, kind: Hashable, function: Callable[..., Any], *like: Any, donate: tuple[int, ...] = ()
    ) -> tuple["Future[Any]", Any]:
        """(program to come, shapes of what it returns). `donate`: the arguments whose memory is used again."""
        leaves, structure = jax.tree.flatten(like)
        key = kind, structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        if key not in self.known:
            places = {"in_shardings": self.sharding, "out_shardings": self.sharding}
            options = {"donate_argnums": donate, "compiler_options": dict(self.options)}
            lowered = jax.jit(function, **places, **options).lower(*like)
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
            arguments = inputs[0], *inputs, out, kept, out  # the gradients so far are as the parameters
            backward = self((kind, "backward"), both.backward, *arguments, donate=(0,))[0]
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((out, kept)))
        return Link(stage, trained, held, forward, backward, size if backward else 0), out, later


def compile_gradients(
    config: StepConfig,
    params: Tree,
    batch: PairBatch,
    step: Any,
    compiler: Compiler,
    cuts: Sequence[Chunks],
    seed: Any = None,
) -> LayerwiseGradients:
    """For batches of one shape; `params`, `batch`, `step` and `seed` are shapes. `cuts`: of its texts, and its separate
    documents. A tower with `remat` keeps nothing of its layers for the backward pass, which runs them a second time."""
    leaves = flatten(params)
    trained = leaves.keys() - config.frozen
    adapters = None
    of_lora = [path for path in leaves if path.startswith("lora/")]
    if of_lora:
        kernels = [path for path in leaves if f"lora/{path.removeprefix('tower/')}/a" in leaves]
        stage = Stage(None, "adapters", partial(_adapt, config.lora), lambda *_: None)
        names = _by_name(of_lora), _by_name(kernels)
        adapters, changed, _ = compiler.link(stage, *names, leaves, None, None, derived=False, again=False)
        leaves, trained = leaves | changed, (trained - set(of_lora)) | changed.keys()
    chains, sums = [], []
    towers = readings(params, batch, config)
    for reading in towers:
        cut, most = cuts[reading.number], len(jax.tree.leaves(reading.inputs)[0])
        links: dict[int, tuple[Link, ...]] = {}
        like: Any = None
        for count in sorted({1, cut.together}):
            links[count], like = _links(reading, config, count, leaves, trained, (step, seed), compiler)
        add, _ = compiler("add", jnp.add, like, like, donate=(0,))
        chains.append(Chain(links, cut, most, add))
        sums.append(like)
    heads = [path for reading in towers for path in _within(leaves, reading.part, DENSE).values()]
    head = _split(_by_name(["log_scale", *heads]), trained)
    nats = partial(_loss, config, [(reading.part, reading.tower) for reading in towers])
    kind = "loss", *(reading.part for reading in towers)
    loss, _ = compiler(kind, nats, *_parameters(leaves, *head), sums, _relation(batch))
    begun = {path: leaf for path, leaf in leaves.items() if path in trained or path in of_lora}
    zeros, _ = compiler("zeros", partial(_zeros, begun))
    return LayerwiseGradients(config, tuple(chains), adapters, loss, head, zeros)


def _links(
    reading: Reading,
    config: StepConfig,
    count: int,
    leaves: Leaves,
    trained: Collection[str],
    drawn: tuple[Any, Any],
    compiler: Compiler,
) -> tuple[tuple[Link, ...], Any]:
    """Of a tower that reads so many chunks at once; and the shape of their pooled states. `drawn`: step and seed."""
    x: Any = None
    rows: Any = None
    has_derivative, links = False, []
    first: Any = jax.ShapeDtypeStruct((), jnp.int32)
    inputs = Inputs(reading.inputs, first, *drawn)
    for stage in stages(reading, config, count):
        names = _split(_within(leaves, reading.part, stage.path), trained)
        again = stage.is_layer and reading.tower.config.remat  # type: ignore[attr-defined]
        link, x, later = compiler.link(stage, *names, leaves, x, stage.given(inputs, rows), has_derivative, again)
        links.append(link)
        has_derivative, rows = has_derivative or bool(names[0]), rows or later
    return tuple(links), x


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
    return batch.target, batch.masked, batch.query_ok, batch.doc_ok, batch.guide


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
