"""A base finetuned on the public mixture in many ways, evaluated on every task.

    python experiments/gpu/pack.py --suite=FOLDER_OF_TASKS                                    # elsewhere, once
    python experiments/gpu/sweep.py --data=.gpu-data --out=rates.jsonl --limit-s=390          # on the GPU
    python experiments/gpu/sweep.py --data=.gpu-data --out=batches.jsonl --runs=batches --limit-s=215
    python experiments/gpu/sweep.py --data=.gpu-e5 --out=e5.jsonl --runs=e5 --limit-s=470
    python experiments/gpu/sweep.py --table=rates.jsonl                                       # what it says
    python experiments/gpu/sweep.py --data=.gpu-data --out=sweep.jsonl --tiny                 # on a CPU: does it work

One process. Training is mtret's: its mixture, planner, packing, compiled step, AdamW and schedule. So is evaluation:
exact search over a task's whole corpus, nDCG@10 on the dev and the test split, of the model alone and fused with BM25
(`fused.py`: that is not in mtret yet). What differs from `mtret train` is for the sake of few compilations: rows have
256 tokens and batches are encoded in chunks (GradCache), so that one program serves a batch size; the learning rate of
every step stands in a table within the optimizer's state, so that rates, seeds and lengths of runs share that program;
and tasks that are left out of the mixture have a share of nothing. The last step is evaluated, means of its parameters
and the base's, and, once there are three seeds of a setting, the mean of theirs.

The first line of the output is what all runs have in common, then a line per evaluated model is written as soon as it
is known; OUT.scores holds the nDCG@10 of every test query, a row of float32 per line, and OUT.fused, in float16, as
many for each weight of the fusion. No run is begun that would not end within the limit. Sums on a GPU are not in a
fixed order: a run repeated differs in the last digits.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from fused import WEIGHTS, fused

from mtret.train.vocabulary import is_table

START = time.monotonic()
PLAIN, HALF_WAY, SOUP, BM25 = "last step", "half-way to the base", "mean of seeds 0 to 2", "BM25"
QUARTER, THREE_QUARTERS = "a quarter of the way to the base", "three quarters of the way to the base"
SHARES = {QUARTER: 0.25, HALF_WAY: 0.5, THREE_QUARTERS: 0.75}  # of the base in the mean
SUFFIX = {PLAIN: "", QUARTER: ", a quarter", HALF_WAY: ", half-way", THREE_QUARTERS: ", three quarters"}
SUFFIX[SOUP] = ", mean of seeds"
ROLES = ("in_domain", "cross_domain", "zero_shot")
ROW_LENGTH = 256
DEPTH = 100  # of the model's hits, as of BM25's
MOST_STEPS = 1024  # that a table of rates has room for
EMBED_TOKENS = 131_072  # embedded at a time on a GPU
CHUNK_TOKENS = {64: 8192, 256: 32_768, 1024: 131_072}  # by batch size; a third to a half of its largest batch


@dataclass(frozen=True)
class Run:
    """One training. `rate`: the highest, after the warm-up."""

    rate: float
    batch: int = 64
    seed: int = 0
    steps: int = 150
    temperature: float | None = None  # None: as configured
    alpha: float | None = None  # of the mixture, likewise
    words: float = 1.0  # times the rate, of the word embeddings
    without: tuple[str, ...] = ()  # tasks that are left out of the mixture
    means: tuple[str, ...] = (HALF_WAY,)  # with the base, that are evaluated too


def rates() -> list[Run]:
    """The most valuable first: what the minutes allow is a prefix of this."""
    five = (1e-4, 3e-5, 5e-5, 2e-5, 1e-5)
    runs = [Run(rate) for rate in five]
    runs += [Run(rate, seed=seed) for seed in (1, 2) for rate in five]
    runs += [Run(rate, batch=256) for rate in (5e-5, 3e-5, 2e-5, 1e-4)]
    runs += [Run(rate, batch=1024) for rate in (5e-5, 3e-5, 1e-4)]
    runs += [Run(rate, steps=600) for rate in (3e-5, 1e-5, 2e-5)]
    runs += [Run(rate, batch=256, steps=600) for rate in (3e-5, 1e-5)]
    runs += [Run(rate, seed=seed) for seed in (3, 4) for rate in (1e-4, 3e-5)]
    runs += [Run(rate, batch=256, seed=seed) for seed in (1, 2) for rate in (3e-5, 5e-5)]
    return [*runs, Run(2e-4), Run(5e-6), Run(1e-4, steps=600)]


def batches() -> list[Run]:
    """Asked after `rates`: more seeds of the large batches, and a rate that is too high for the last step."""
    runs = [Run(rate, batch=1024, seed=seed) for rate in (1e-4, 5e-5) for seed in (0, 1, 2)]
    return [*runs, *(Run(2e-4, batch=batch) for batch in (1024, 256)), *(Run(1e-4, 256, seed) for seed in (1, 2))]


# Three families of the mixture: does what is best for tasks left out of it show what is best for tasks never seen?
FAMILIES = ("banking77", "clinc150", "nl2bash", "policyqa", "tatqa")


def another_base() -> list[Run]:
    """For a base that is not MiniLM: each setting with the whole mixture and without three families of it, then seeds,
    then one lever at a time."""
    settings = [
        Run(rate, batch, temperature=temperature, means=tuple(SHARES))
        for temperature, batch, rate in (
            (0.05, 64, 1e-4), (0.05, 1024, 2e-4), (0.02, 1024, 2e-4), (0.05, 1024, 1e-4),
            (0.02, 64, 1e-4), (0.05, 64, 3e-5), (0.05, 64, 2e-4), (0.02, 1024, 1e-4),
        )
    ]  # fmt: skip
    runs = [each for run in settings for each in (run, replace(run, without=FAMILIES))]
    plain, large = replace(settings[0], means=(HALF_WAY,)), replace(settings[1], means=(HALF_WAY,))
    runs += [replace(each, seed=seed) for seed in (1, 2) for each in (plain, large)]
    runs += [replace(each, words=0.0) for each in (large, plain)]
    runs += [replace(large, alpha=alpha) for alpha in (0.0, 1.0)]
    runs += [replace(large, rate=4e-4), replace(plain, temperature=0.01), replace(large, temperature=0.01)]
    return [*runs, replace(large, batch=256), replace(large, rate=1e-4, steps=450), replace(plain, steps=450)]


QUEUES = {"rates": rates(), "batches": batches(), "e5": another_base()}


class RateState(NamedTuple):
    """Of `by_table`."""

    count: Any  # of steps that changed something
    rates: Any  # [MOST_STEPS]
    words: Any  # times the rate, of the word embeddings


def by_table() -> Any:
    """Multiplies the updates of a rule whose rate is 1 by the rate of the step, which is data and not program."""
    import jax.numpy as jnp
    import optax
    from jax import tree_util

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, RateState]:
        rate = state.rates[state.count]

        def scaled(path: Any, each: Any) -> Any:
            name = "/".join(key.key for key in path)
            return rate * state.words * each if is_table(name) else rate * each

        return tree_util.tree_map_with_path(scaled, updates), state._replace(count=state.count + 1)

    return optax.GradientTransformation(
        lambda params: RateState(jnp.zeros((), jnp.int32), jnp.zeros(MOST_STEPS, jnp.float32), jnp.float32(1)), update
    )


def rates_of(run: Run, config: Any) -> np.ndarray:
    """mtret's own schedule, step by step."""
    from mtret.train.optim import learning_rate

    schedule = learning_rate(replace(config, learning_rate=run.rate), run.steps)
    table = np.zeros(MOST_STEPS, np.float32)
    table[: run.steps] = [np.asarray(schedule(step)) for step in range(run.steps)]
    return table


class Trainer:
    """Trains runs on the packed mixture; a program is compiled once per batch size, in the background."""

    def __init__(self, packed: Any, encoder: Any, runs: Sequence[Run]):
        import jax
        import optax

        from mtret.train.optim import OptimConfig, optimizer
        from mtret.train.sharding import batch_sharding, make_mesh, param_specs
        from mtret.train.step import create_state, initial_params

        self.packed, self.encoder, self.config = packed, encoder, packed.config
        params = initial_params(encoder.params, self.config.loss)
        unit = replace(self.config.optim, learning_rate=1.0, warmup_steps=0, schedule="constant")
        assert isinstance(unit, OptimConfig)
        adam = optimizer(unit, params, MOST_STEPS)
        self.rule = optax.chain(optax.GradientTransformation(adam.init, adam.update), by_table())
        self.mesh = make_mesh(1, devices=jax.devices()[:1])
        self.specs = param_specs(params, self.config.mesh)
        self.fresh = create_state(params, self.rule, self.mesh, self.specs)
        self.place = batch_sharding(self.mesh)
        self.pool = ThreadPoolExecutor(3)
        self.programs: dict[Any, Future[Any]] = {}
        for batch in dict.fromkeys(run.batch for run in runs):
            self._program(next(run for run in runs if run.batch == batch))

    def planner(self, run: Run) -> Any:
        from mtret.data.planning import Planner

        batch = replace(
            self.config.batch, queries=run.batch, row_length=ROW_LENGTH, chunk_tokens=CHUNK_TOKENS.get(run.batch, 8192)
        )
        tasks = [replace(task, config=batch.of(task.name)) for task in self.packed.training]
        mixture = replace(self.config.mixture, weights=dict.fromkeys(run.without, 1e-9))
        if run.alpha is not None:
            mixture = replace(mixture, alpha=run.alpha)
        return Planner(tasks, mixture, batch, self.encoder.pooling, run.seed, run.steps)

    def _program(self, run: Run) -> tuple[Any, Future[Any]]:
        """The planner of a run, and what compiles for it: the same for all that differ in values alone."""
        planner = self.planner(run)
        key = frozenset(planner.abstract(shape) for shape in planner.shapes)
        if key not in self.programs:
            self.programs[key] = self.pool.submit(self._compile, planner)
        return planner, self.programs[key]

    def _compile(self, planner: Any) -> Any:
        from mtret.train.programs import compile_steps
        from mtret.train.step import StepConfig

        config = StepConfig(
            self.encoder.tower,
            self.rule,
            self.config.loss,
            planner.shard_queries,
            planner.shard_texts,
            chunked=True,
            dropout=False,
            seed=0,  # of dropout alone
        )
        steps, seconds = compile_steps(config, self.fresh, planner, self.mesh, self.specs)
        (step,) = set(steps.values())
        print(f"compiled a step for {planner.shard_queries} queries in {seconds:.1f} s", flush=True)
        return step

    def train(self, run: Run) -> tuple[Any, dict[str, Any]]:
        """The parameters after the last step, and what there is to say of the steps."""
        import jax

        planner, program = self._program(run)
        step, began = program.result(), time.monotonic()
        state = self._start(run)
        metrics = []
        for batch in self._batches(planner):
            state, found = step(state, batch)
            metrics.append(found)
        losses = [float(each[0]) for each in jax.device_get(metrics)]
        if skipped := int(state.skipped):
            print(f"{run}: {skipped} steps were not finite", flush=True)
        return state.params["tower"], {
            "seconds": time.monotonic() - began,
            "loss": statistics.mean(losses[-20:]),
            "skipped": skipped,
        }

    def _start(self, run: Run) -> Any:
        """A fresh state, copied because a step takes its state's memory, with the run's rates and temperature."""
        import jax
        import jax.numpy as jnp

        copied, rates = jax.tree.map(jnp.copy, self.fresh), rates_of(run, self.config.optim)
        if run.temperature is not None:
            old = copied.params["log_scale"]
            placed = jax.device_put(np.float32(-np.log(run.temperature)), old.sharding)
            copied = copied._replace(params=copied.params | {"log_scale": placed})

        def with_rates(each: Any) -> Any:
            if not isinstance(each, RateState):
                return each
            words = jax.device_put(np.float32(run.words), each.words.sharding)
            return RateState(each.count, jax.device_put(rates, each.rates.sharding), words)

        opt_state = jax.tree.map(with_rates, copied.opt_state, is_leaf=lambda each: isinstance(each, RateState))
        return copied._replace(opt_state=opt_state)

    def _batches(self, planner: Any, ahead: int = 8) -> Iterator[Any]:
        """In order, planned and filled ahead in threads."""
        import jax

        with ThreadPoolExecutor(4) as threads:
            made = (threads.submit(lambda n: planner.fill(planner.plan(n)), number) for number in range(planner.steps))
            waiting = [each for each, _ in zip(made, range(ahead), strict=False)]
            while waiting:
                filled = waiting.pop(0).result()
                waiting += [each for each, _ in zip(made, range(1), strict=False)]
                yield jax.device_put(filled, self.place)


class Laid:
    """Texts laid out in rows once, on the device, to be embedded by many parameters: as `Embedder` does it anew."""

    def __init__(self, parts: Sequence[Any], pooling: str, limit: int):
        import jax

        from mtret.data.tokenize import concatenate
        from mtret.index import encode

        whole = concatenate(parts)
        rows, self.identity = whole.distinct(limit)
        distinct = whole.subset(rows)
        self.count, self.tokens = len(distinct), len(distinct.ids)
        self.ends = np.cumsum([len(part) for part in parts])
        laid = encode._batches(distinct, pooling, 1)
        self.batches = [(where, slots, jax.device_put(batch), n) for where, slots, batch, n, _ in laid]

    def shapes(self) -> dict[Any, tuple[Any, int]]:
        """One batch of each, and its number of slots."""
        return {(batch.ids.shape, n): (batch, n) for _, _, batch, n in self.batches}

    def embed(self, tower: Any, params: Any, features: int) -> list[np.ndarray]:
        """Vectors of each part's texts."""
        from mtret.index import encode

        vectors = np.zeros((self.count, features), np.float32)
        found = []
        for number, (where, slots, batch, n) in enumerate(self.batches):
            found.append((where, slots, encode._embed(tower)(params, batch, n)))
            if number >= 2:  # fetched late, so that the device never waits for the host
                self._fetch(vectors, *found[number - 2])
                found[number - 2] = ()
        for each in found[-2:]:
            self._fetch(vectors, *each)
        starts = self.ends - np.diff(self.ends, prepend=0)
        return [vectors[self.identity[start:end]] for start, end in zip(starts, self.ends, strict=True)]

    def _fetch(self, vectors: np.ndarray, where: Any, slots: Any, found: Any) -> None:
        vectors[where] = np.asarray(found).reshape(-1, vectors.shape[1])[slots]


Scores = Mapping[tuple[str, str], "Future[np.ndarray]"]


class Evaluator:
    """nDCG@10 of parameters on every task and split, by exact search, which is the CPU's work."""

    def __init__(self, packed: Any, encoder: Any):
        self.tasks, self.encoder = packed.tasks, encoder
        self.threads = ThreadPoolExecutor(os.cpu_count())
        self.parts = [(name, split) for name, one in self.tasks.items() for split in one.rows]
        documents = [one.documents for one in self.tasks.values()]
        self.documents = self._laid(documents)
        self.instructed = self._laid([self.tasks[name].instructed[split] for name, split in self.parts])
        self.bare = self._laid([self.tasks[name].bare[split] for name, split in self.parts])
        shapes = self.documents.shapes() | self.instructed.shapes() | self.bare.shapes()
        self.ready = [self.threads.submit(self._embed_one, *each) for each in shapes.values()]  # compiles, side by side
        self.place = where_to_search()

    def _laid(self, parts: Sequence[Any]) -> Laid:
        return Laid(parts, self.encoder.pooling, self.encoder.max_length)

    def _embed_one(self, batch: Any, slots: int) -> None:
        import jax

        from mtret.index import encode

        jax.block_until_ready(encode._embed(self.encoder.tower)(self.encoder.params, batch, slots))

    def scores(self, params: Any, queries: Laid) -> Scores:
        """By task and split: the model alone and fused by each weight [1 + weights, queries], in the making."""
        import jax

        for each in self.ready:
            each.result()
        params = jax.device_put(params, jax.devices()[0])  # wherever they come from, the same program
        embed = lambda laid: laid.embed(self.encoder.tower, params, self.encoder.dimension)  # noqa: E731
        documents = dict(zip(self.tasks, embed(self.documents), strict=True))
        vectors = dict(zip(self.parts, embed(queries), strict=True))
        return {part: self.threads.submit(self._search, part, vectors[part], documents[part[0]]) for part in self.parts}

    def lexical(self) -> Scores:
        """BM25's, which nothing is fused with."""
        return {part: self.threads.submit(self._lexical, part) for part in self.parts}

    def _lexical(self, part: tuple[str, str]) -> np.ndarray:
        one, split = self.tasks[part[0]], part[1]
        scores = ndcg_of(one.lexical[split], one, split)
        return np.tile(scores, (1 + len(WEIGHTS), 1))

    def _search(self, part: tuple[str, str], queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        import jax

        from mtret.index.exact import Rules, excluded_pairs, search

        one, split = self.tasks[part[0]], part[1]
        rows = one.rows[split]
        with jax.default_device(self.place):
            excluded = excluded_pairs(one.task.exclude, rows)
            run = search(queries, documents, DEPTH, Rules(one.order, excluded))
        both = fused(run, one.lexical[split], queries, documents)
        return np.stack([ndcg_of(each, one, split) for each in (run, *both)])


def ndcg_of(run: Any, one: Any, split: str) -> np.ndarray:
    """nDCG@10 of each query."""
    from mtret.evaluation.metrics import hits, ndcg
    from mtret.index.exact import Run as Found

    first = Found(run.documents[:, :10].astype(np.int32), run.scores[:, :10].astype(np.float32))
    return ndcg(hits(first, one.task.splits[split], one.rows[split]), 10)


def where_to_search() -> Any:
    """On the CPU where JAX has it as well: scores are float32 there, and few programs are compiled for the GPU."""
    import jax

    try:
        return jax.devices("cpu")[0]
    except RuntimeError:
        return jax.devices()[0]


@dataclass
class Output:
    """The lines, and beside them the scores of every test query."""

    path: Path
    roles: Mapping[str, str]
    writer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    last: "Future[None] | None" = None

    def begin(self, head: Mapping[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(head) + "\n", encoding="utf-8")
        for suffix in (".scores", ".fused"):
            self.path.with_suffix(suffix).write_bytes(b"")

    def add(self, about: Mapping[str, Any], scores: Scores) -> None:
        """Is written as soon as the scores are known, while the device goes on."""
        self.last = self.writer.submit(self._write, about, scores)

    def _write(self, about: Mapping[str, Any], found: Scores) -> None:
        scores = {part: each.result() for part, each in found.items()}
        alone = self._means({part: each[0] for part, each in scores.items()})
        both = {
            str(weight): self._means({part: each[n] for part, each in scores.items()})
            for n, weight in enumerate(WEIGHTS, start=1)
        }
        means = {"means": alone.pop("means")}
        line = {**about, **means, **alone, "fused": both, "at_s": round(time.monotonic() - START, 1)}
        whole = np.concatenate([each for (_, split), each in scores.items() if split == "test"], axis=1)
        for suffix, values in ((".scores", whole[0].astype(np.float32)), (".fused", whole[1:].astype(np.float16))):
            with self.path.with_suffix(suffix).open("ab") as file:
                file.write(values.tobytes())
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        best = {role: max(each["means"]["test"][role] for each in both.values()) for role in means["means"]["test"]}
        known = {key: value for key, value in about.items() if key not in ("seconds", "means", "without")}
        print(known, means["means"]["test"], "fused at best", best, flush=True)

    def _means(self, scores: Mapping[tuple[str, str], np.ndarray]) -> dict[str, Any]:
        by_split: dict[str, dict[str, float]] = {"dev": {}, "test": {}}
        for (name, split), each in scores.items():
            by_split[split][name] = round(float(each.mean()), 6)
        return {"means": {split: means_by_role(each, self.roles) for split, each in by_split.items()}, **by_split}


def means_by_role(scores: Mapping[str, float], roles: Mapping[str, str]) -> dict[str, float]:
    """Every task counts the same."""
    found = {role: [score for name, score in scores.items() if roles[name] == role] for role in ROLES}
    return {role: round(statistics.mean(each), 6) for role, each in found.items() if each}


def sweep(arguments: argparse.Namespace) -> None:
    """Until the runs or the seconds are used up."""
    from mtret.devices import keep_compilations, prepare_gpu

    prepare_gpu()
    keep_compilations()
    import jax
    from pack import unpack

    from mtret.index import encode
    from mtret.models import hf
    from mtret.models.dual_encoder import ModelConfig

    on_gpu = jax.default_backend() == "gpu"
    if on_gpu:
        encode.BATCH_TOKENS = EMBED_TOKENS
    with TemporaryDirectory() as place:
        packed, folder = unpack(arguments.data, Path(place))
        how = ModelConfig(str(folder), matmul_dtype="bfloat16", attention="pallas" if on_gpu else None)
        encoder = hf.load(str(folder), how).to_train()
    encoder = replace(encoder, params=jax.device_put(encoder.params, jax.devices()[0]))
    packed, runs = (cut_short(packed), TINY) if arguments.tiny else (packed, QUEUES[arguments.runs])
    print(f"read after {time.monotonic() - START:.1f} s", flush=True)
    trainer = Trainer(packed, encoder, runs)
    evaluator = Evaluator(packed, encoder)
    output = Output(arguments.out, {name: one.role for name, one in packed.tasks.items()})
    output.begin(head_of(packed, evaluator, jax))
    print(f"laid out after {time.monotonic() - START:.1f} s", flush=True)
    output.add({"name": BM25}, evaluator.lexical())
    for name, queries in (("base, bare", evaluator.bare), ("base, instructed", evaluator.instructed)):
        output.add({"name": name}, evaluator.scores(encoder.params, queries))
    took: dict[tuple[int, int], float] = {}
    finished: dict[Run, list[Any]] = {}
    for run in runs:
        began = time.monotonic()
        if began - START + took.get((run.batch, run.steps), guessed(run, took)) > arguments.limit_s:
            continue
        params = one_run(run, trainer, evaluator, output)
        alike = finished.setdefault(replace(run, seed=0, means=()), [])
        alike.append(params)
        if [run.seed, len(alike)] == [2, 3]:
            mean = jax.tree.map(lambda *each: sum(each) / 3, *alike)
            output.add({**about_run(run), "name": SOUP, "seed": None}, evaluator.scores(mean, evaluator.instructed))
            alike.clear()
        took[run.batch, run.steps] = time.monotonic() - began
    if output.last is not None:
        output.last.result()
    print(f"ended after {time.monotonic() - START:.1f} s", flush=True)
    os._exit(0)  # what still compiles is not waited for


def guessed(run: Run, took: Mapping[tuple[int, int], float]) -> float:
    """Seconds of a run of a new kind: as the longest so far, and a step's seconds of an H200 beside that."""
    return max(took.values(), default=20.0) + run.steps * run.batch * 1.5e-4


def about_run(run: Run) -> dict[str, Any]:
    """What a line says of it: what is as configured is not mentioned."""
    usual = Run(run.rate)
    always = ("rate", "batch", "seed", "steps")
    return {
        key: value
        for key, value in asdict(run).items()
        if key != "means" and (key in always or value != getattr(usual, key))
    }


def one_run(run: Run, trainer: Trainer, evaluator: Evaluator, output: Output) -> Any:
    """Trains and evaluates; returns the last step's parameters."""
    import jax

    params, about = trainer.train(run)
    for name in (PLAIN, *run.means):
        share, began = SHARES.get(name, 0.0), time.monotonic()
        each = jax.tree.map(lambda a, b, s=share: (1 - s) * a + s * b, params, trainer.encoder.params)
        scores = evaluator.scores(each, evaluator.instructed)
        seconds = {"train": round(about["seconds"], 2), "embed": round(time.monotonic() - began, 2)}
        known = {"name": name, **about_run(run), "loss": about["loss"], "skipped": about["skipped"], "seconds": seconds}
        output.add(known, scores)
    return params


def head_of(packed: Any, evaluator: Evaluator, jax: Any) -> dict[str, Any]:
    """What holds for all lines."""
    return {
        "device": jax.devices()[0].device_kind,
        "versions": {"jax": jax.__version__, "numpy": np.__version__},
        "base": packed.config.model.source,
        "weights": packed.precision,
        "operands": "bfloat16",
        "mixture": list(packed.config.mixture.tasks),
        "warmup_steps": packed.config.optim.warmup_steps,
        "schedule": packed.config.optim.schedule,
        "temperature": packed.config.loss.temperature,
        "metric": "nDCG@10, exact search in a task's own corpus, the model alone, queries that are trained on left out",
        "roles": {name: one.role for name, one in packed.tasks.items()},
        "documents": {name: len(one.documents) for name, one in packed.tasks.items()},
        "queries": {split: {name: len(one.rows[split]) for name, one in packed.tasks.items() if split in one.rows}
                    for split in ("dev", "test")},
        "tokens": {"documents": evaluator.documents.tokens, "queries": evaluator.instructed.tokens},
    }  # fmt: skip


TINY = [Run(1e-4, batch=8, steps=2, seed=seed) for seed in range(3)]
TINY += [Run(1e-4, batch=8, steps=2, temperature=0.02, words=0.0, without=FAMILIES, means=tuple(SHARES))]
TINY_TASKS = ("banking77", "hwu64", "argument_keypoint")


def cut_short(packed: Any) -> Any:
    """A few tasks with few queries over small corpora: `--tiny`."""
    tasks = {}
    for name in TINY_TASKS:
        one = packed.tasks[name]
        keep = {split: np.arange(min(len(rows), 20)) for split, rows in one.rows.items()}
        tasks[name] = replace(
            one,
            rows={split: rows[keep[split]] for split, rows in one.rows.items()},
            bare={split: each.subset(keep[split]) for split, each in one.bare.items()},
            instructed={split: each.subset(keep[split]) for split, each in one.instructed.items()},
            lexical={split: type(each)(*(part[keep[split]] for part in each)) for split, each in one.lexical.items()},
        )
    return replace(packed, tasks=tasks)


Line = Mapping[str, Any]
UNUSUAL = {
    "temperature": "temperature {}",
    "alpha": "alpha {}",
    "words": "words {}",
    "without": "without three families",
}


def read(paths: Sequence[Path]) -> tuple[Line, list[Line]]:
    """What the runs have in common, and the lines of the models: of one that stands in several files, the last."""
    head, models = {}, dict[tuple[Any, ...], Line]()
    for path in paths:
        head, *lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        models.update({model_of(line): line for line in lines})
    return head, list(models.values())


def model_of(line: Line) -> tuple[Any, ...]:
    """Name, rate, batch, steps and seed; and what is not as configured."""
    settings = tuple(line.get(key) for key in ("name", "rate", "batch", "steps", "seed"))
    unusual = tuple((key, str(line[key])) for key in UNUSUAL if key in line)
    return (*settings, unusual) if unusual else settings


def grouped(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """The seeds of one setting together, under its name."""
    found: dict[str, list[Line]] = {}
    for line in lines:
        name = line["name"]
        if "rate" in line:
            unusual = "".join(f", {UNUSUAL[key].format(line[key])}" for key in UNUSUAL if key in line)
            name = f"{line['rate']:.0e}, {line['batch']} x {line['steps']}{unusual}{SUFFIX[name]}"
        found.setdefault(name, []).append(line)
    return found


def table(*paths: Path) -> str:
    """Means by role for every setting, over its seeds, with their spread; then the test split of every task, a column
    a task."""
    head, lines = read(paths)
    groups = grouped(lines)
    columns = [(split, role) for split in ("test", "dev") for role in ROLES]
    rows = [["rate, batch x steps", "seeds", *(f"{split} {role.replace('_', '-')}" for split, role in columns)]]
    for name, group in groups.items():
        rows.append(
            [name, str(len(group)), *(over_seeds(group, lambda x, c=c: x["means"][c[0]].get(c[1])) for c in columns)]
        )
    names = sorted(head["roles"], key=lambda task: (ROLES.index(head["roles"][task]), task))
    tasks = [["test split of", *names], ["role", *(head["roles"][task].replace("_", "-") for task in names)]]
    for name, group in groups.items():
        tasks.append([name, *(f"{statistics.mean(line['test'][task] for line in group):.3f}" for task in names)])
    about = f"{head['device']}, {head['base']} ({head['weights']}), {head['operands']}. {head['metric']}."
    return f"{about}\n\n{markdown(rows)}\n\n{markdown(tasks)}\n"


def over_seeds(group: Sequence[Line], value: Callable[[Line], float | None]) -> str:
    """Mean, and the standard deviation over seeds where there are several."""
    values = [found for line in group if (found := value(line)) is not None]
    if not values:
        return ""
    mean = f"{statistics.mean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def markdown(rows: Sequence[Sequence[str]]) -> str:
    first, *rest = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([first, f"| --- |{' ---: |' * (len(rows[0]) - 1)}", *rest])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(".gpu-data"), help="what pack.py wrote")
    parser.add_argument("--out", type=Path, default=Path("sweep.jsonl"))
    parser.add_argument("--limit-s", type=float, default=390, help="seconds after which no run may be going on")
    parser.add_argument("--runs", choices=QUEUES, default="rates")
    parser.add_argument("--tiny", action="store_true", help="three runs of two steps, three tasks")
    parser.add_argument("--table", type=Path, nargs="+", help="print what results say instead")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(*arguments.table))
        return
    sweep(arguments)


if __name__ == "__main__":
    main()
