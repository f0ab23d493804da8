"""Training steps of mtret and of sentence-transformers on a GPU, for encoders of several sizes with random weights.

    python experiments/002_training_speed/gpu.py --geometry=minilm --out=gpu_minilm.json      # then bert-base, gte-base
    python experiments/002_training_speed/gpu.py --geometry=minilm --attention                # which block sizes pay
    python experiments/002_training_speed/gpu.py --geometry=tiny --batch=64 --rounds=1        # on a CPU: does it work

No process is started that would not end within `--limit-s` (nine minutes), so that a call fits into ten; the rounds
that were done are listed. `--only=pallas,sdpa` runs part of the contenders. `--compile=pallas` makes one's programs for
the cache and times nothing, `--unchecked` leaves out the check below, where another geometry of the same heads had it.
Needs JAX, Flax, Optax and what mtret's data and models import; without PyTorch and sentence-transformers their part
says `not installed`.

Pairs of random tokens, their lengths drawn from lengths.json: of the sixteen tasks of configs/public_suite.py, with
MiniLM's tokenizer, cut at 256. `--measure --suite=FOLDER` makes that file. Every contender gets the same pairs, batch,
dropout and number of steps, and bfloat16: mtret rounds the operands of products, the peer runs under autocast.

First each attention is compared, forward and backward, with the float32 reference on the device at hand; one that
differs is not timed, and the script fails at its end. Then the contenders take turns, each in a process of its own that
has the device for itself, a round at a time. Reported are medians over rounds.

Model FLOPs of a step, on real tokens only, with nothing for what is computed twice (chunks) or on padding:
6 * (kernel parameters) * tokens + 12 * layers * hidden size * sum over texts of (tokens of the text)^2. Utilisation is
that by time, over the rate of a large bfloat16 product measured in the same run, and over the card's nominal rate.
"""

# pyright: reportMissingImports=false

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

START = time.monotonic()
HERE = Path(__file__).parent
LENGTHS = HERE / "lengths.json"
LIMIT = 256
SEED = 0
NOMINAL = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bfloat16 FLOP/s, from the data sheets (SXM)
TOLERANCE = 2e-2  # of the norm: operands rounded to bfloat16


@dataclass(frozen=True)
class Geometry:
    """A BERT of this size; what it is not, `note` says. `chunk_tokens`, `mini_batch`: what either side encodes at once
    where a batch's activations do not fit."""

    hidden: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    chunk_tokens: int
    mini_batch: int
    note: str = ""

    @property
    def kernels(self) -> int:
        """Parameters of the encoder's matrix products."""
        return self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.inner)


GEOMETRIES = {
    "tiny": Geometry(64, 2, 2, 128, 1000, 4096, 32, "for tests"),
    "minilm": Geometry(384, 6, 12, 1536, 30522, 131072, 1024),
    "e5-small": Geometry(384, 12, 12, 1536, 250037, 131072, 1024, "all its words, as without a working vocabulary"),
    "bert-base": Geometry(768, 12, 12, 3072, 30522, 32768, 256),
    "gte-base": Geometry(
        768, 12, 12, 3072, 250048, 32768, 256, "a BERT of its width, depth and vocabulary: no GLU, no rotary positions"
    ),
}
PEERS = {
    "peer sdpa": {"attention": "sdpa", "grouped": False},
    "peer sdpa grouped": {"attention": "sdpa", "grouped": True},
    "peer flash": {"attention": "flash_attention_2", "grouped": False},  # without padding
}


def attentions(platform: str) -> list[str]:
    """Of mtret: the plain one, and those that only this kind of device has."""
    return ["xla", "pallas", "cudnn"] if platform == "gpu" else ["xla", "cpu", "pallas_interpreted"]


def measure(suite: Path) -> dict[str, Any]:
    """Histograms of each mixture task's train split: of its queries, and of the first positive of each."""
    from mtret.data.formats import read_task
    from mtret.data.templates import Templates
    from mtret.data.tokenize import Tokenizer
    from mtret.data.training_tasks import BatchConfig, training_task
    from mtret.devices import cache_folder
    from mtret.models import hf
    from mtret.run_config import read_config

    tokenizer = Tokenizer(hf.resolve("minilm"), cache_folder())
    batch = BatchConfig(query_length=LIMIT, document_length=LIMIT)
    tasks: dict[str, Any] = {}
    for name in read_config(str(HERE.parents[1] / "configs" / "public_suite.py")).mixture.tasks:
        task = training_task(read_task(suite / name), tokenizer, Templates(), batch)
        first = task.positives.documents[task.positives.offsets[:-1]]
        tasks[name] = {
            "query": np.bincount(task.queries.lengths(LIMIT)).tolist(),
            "document": np.bincount(task.document_tokens.lengths(LIMIT)[first]).tolist(),
        }
    return {"tokenizer": "minilm", "limit": LIMIT, "counts by length, from 0": tasks}


Pair = tuple[np.ndarray, np.ndarray]  # token ids of a query and of its document


def draw_pairs(count: int, vocabulary: int) -> list[Pair]:
    """Lengths of a pair are those of one task, which is drawn as in training: in proportion to the root of its size."""
    histograms = json.loads(LENGTHS.read_text(encoding="utf-8"))["counts by length, from 0"]
    random = np.random.default_rng(SEED)
    sizes = np.array([sum(each["query"]) for each in histograms.values()])
    chosen = random.choice(len(sizes), count, p=np.sqrt(sizes) / np.sqrt(sizes).sum())
    lengths = np.zeros((2, count), np.int64)
    for number, task in enumerate(histograms.values()):
        mine = np.flatnonzero(chosen == number)
        for side, name in enumerate(("query", "document")):
            counts = np.array(task[name])
            lengths[side, mine] = random.choice(len(counts), len(mine), p=counts / counts.sum())
    ids = [np.split(random.integers(5, vocabulary, int(n.sum())), np.cumsum(n)[:-1]) for n in lengths]
    return list(zip(*ids, strict=True))


def model_flops(geometry: Geometry, lengths: np.ndarray) -> float:
    """Of training on texts of these lengths once; the module's docstring has the formula."""
    attention = 12 * geometry.layers * geometry.hidden * float(np.square(lengths).sum())
    return 6 * geometry.kernels * float(lengths.sum()) + attention


class Ours:
    """mtret's compiled steps on a tower with random weights. `attention`: one of `attentions`."""

    def __init__(self, geometry: Geometry, arguments: argparse.Namespace, attention: str):
        from mtret.devices import keep_compilations, keep_memory, prepare_gpu

        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
        keep_memory()
        prepare_gpu()
        keep_compilations()
        import jax
        import jax.numpy as jnp

        from mtret.kernels.attention import choose
        from mtret.losses import LossConfig
        from mtret.models import bert
        from mtret.train.optim import OptimConfig, optimizer
        from mtret.train.programs import compile_steps
        from mtret.train.sharding import MeshConfig, batch_sharding, make_mesh, param_specs
        from mtret.train.step import StepConfig, create_state, initial_params

        tower = bert.BertTower(
            bert.BertConfig(
                vocab_size=geometry.vocabulary,
                hidden_size=geometry.hidden,
                num_hidden_layers=geometry.layers,
                num_attention_heads=geometry.heads,
                intermediate_size=geometry.inner,
                max_position_embeddings=512,
                type_vocab_size=2,
                layer_norm_eps=1e-12,
                hidden_dropout_prob=arguments.dropout,
                attention_probs_dropout_prob=arguments.dropout,
                matmul_dtype="bfloat16",
                attention=choose(attention),
            )
        )
        row = jnp.zeros((1, 32), jnp.int32)
        weights = jax.jit(tower.init)(jax.random.key(SEED), row, row, row)["params"]
        params = initial_params(weights, LossConfig())
        rule = optimizer(OptimConfig(learning_rate=1e-5), params, 1000)
        mesh = make_mesh(1, devices=jax.devices()[:1])
        specs = param_specs(params, MeshConfig())
        self.state = create_state(params, rule, mesh, specs)
        planner = plan(geometry, arguments)
        self.plans = [planner.plan(step) for step in range(arguments.steps)]
        config = StepConfig(
            tower,
            rule,
            LossConfig(),
            planner.shard_queries,
            planner.shard_texts,
            chunked=planner.batch.chunk_tokens is not None,
            dropout=arguments.dropout > 0,
            seed=SEED,
        )
        steps, self.compile_seconds = compile_steps(config, self.state, planner, mesh, specs)
        self.ready = [
            (steps[each.shape], jax.device_put(planner.fill(each), batch_sharding(mesh))) for each in self.plans
        ]

    def step(self, number: int) -> float:
        compiled, batch = self.ready[number]
        self.state, metrics = compiled(self.state, batch)
        return float(np.asarray(metrics)[0])

    def facts(self) -> dict[str, Any]:
        import jax

        from mtret.runs.summary import peak_memory

        device = jax.devices()[0]
        return {
            "device": device.device_kind,
            "platform": device.platform,
            "matrix_flops_per_s": matrix_rate(),
            "peak_memory_bytes": peak_memory(),
            "compile_seconds": self.compile_seconds,
            "fill": sum(each.tokens for each in self.plans) / sum(each.slots for each in self.plans),
            "shapes": sorted({each.shape for each in self.plans}),
            "versions": {"jax": jax.__version__},
        }


def plan(geometry: Geometry, arguments: argparse.Namespace) -> Any:
    """A planner whose one epoch is all pairs, in chunks where the batch is larger than one."""
    from mtret.data.mixture import MixtureConfig
    from mtret.data.planning import Planner
    from mtret.data.tokenize import Tokens, offsets_of
    from mtret.data.training_tasks import BatchConfig, Relation, TrainingTask

    pairs = draw_pairs(arguments.batch * arguments.steps, geometry.vocabulary)

    def tokens_of(texts: list[np.ndarray]) -> Tokens:
        lengths = np.array([len(text) for text in texts])
        return Tokens(np.concatenate(texts).astype(np.int32), offsets_of(lengths), 1)

    queries, documents = (tokens_of([pair[side] for pair in pairs]) for side in range(2))
    tokens = sum(len(query) + len(document) for query, document in pairs) / arguments.steps
    limit = geometry.chunk_tokens if arguments.chunk_tokens is None else arguments.chunk_tokens
    config = BatchConfig(
        queries=arguments.batch,
        query_length=LIMIT,
        document_length=LIMIT,
        chunk_tokens=limit if limit and tokens > limit else None,
    )
    own = Relation(np.arange(len(pairs) + 1), np.arange(len(pairs), dtype=np.int32))
    task = TrainingTask("pairs", queries, documents, own, own, None, config)
    return Planner([task], MixtureConfig(), config, "mean", SEED, arguments.steps)


def matrix_rate() -> float:
    """FLOP/s of a large bfloat16 product of random numbers: constants switch fewer transistors and run faster."""
    import jax
    import jax.numpy as jnp

    size = 8192 if jax.default_backend() == "gpu" else 1024
    x, y = (jax.random.normal(jax.random.key(i), (size, size), jnp.bfloat16) for i in range(2))
    product = jax.jit(lambda x, y: jnp.matmul(x, y, preferred_element_type=jnp.bfloat16))
    return 2 * size**3 / median_seconds(partial(product, x, y))


def median_seconds(run: Any, repeats: int = 10) -> float:
    """Of a call that returns JAX arrays, after two to warm up."""
    import jax

    seconds = []
    for _ in range(2 + repeats):
        began = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[2:])


class Peer:
    """sentence-transformers: its model with random weights, its loss, AdamW and clipping as its trainer has them.

    Its plain loss where that fits, else the cached one. Grouped: the pairs of all batches sorted by length and dealt
    anew.
    """

    def __init__(self, geometry: Geometry, arguments: argparse.Namespace, attention: str, grouped: bool):
        import torch
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

        torch.manual_seed(SEED)
        torch.set_float32_matmul_precision("high")
        self.torch, self.device = torch, "cuda" if torch.cuda.is_available() else "cpu"
        with tempfile.TemporaryDirectory() as folder:
            write_peer(Path(folder), geometry, arguments.dropout)
            self.encoder = Transformer(folder, model_kwargs={"attn_implementation": attention})
        if attention != "sdpa" and not self.encoder.can_flatten_inputs:
            raise ImportError("flash attention for texts of several lengths")
        self.model = SentenceTransformer(modules=[self.encoder, Pooling(geometry.hidden)], device=self.device).train()
        self.loss: Any = MultipleNegativesRankingLoss(self.model, scale=20.0)
        self.mini_batch = arguments.mini_batch or geometry.mini_batch
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-5, weight_decay=0.01, fused=self.device == "cuda"
        )
        pairs = draw_pairs(arguments.batch * arguments.steps, geometry.vocabulary)
        if grouped:
            pairs.sort(key=lambda pair: (len(pair[1]), len(pair[0])))
        batches = [pairs[start : start + arguments.batch] for start in range(0, len(pairs), arguments.batch)]
        self.batches = [[self._features(side) for side in zip(*batch, strict=True)] for batch in batches]

    def _features(self, texts: tuple[np.ndarray, ...]) -> dict[str, Any]:
        if self.encoder.can_flatten_inputs:
            features = dict(self.encoder.data_collator([{"input_ids": text.tolist()} for text in texts]))
        else:
            longest = max(len(text) for text in texts)
            ids, mask = (np.zeros((len(texts), longest), np.int64) for _ in range(2))
            for row, text in enumerate(texts):
                ids[row, : len(text)], mask[row, : len(text)] = text, 1
            features = {"input_ids": self.torch.from_numpy(ids), "attention_mask": self.torch.from_numpy(mask)}
        return {key: x.to(self.device) if hasattr(x, "to") else x for key, x in features.items()}

    def step(self, number: int) -> float:
        try:
            return self._step(number)
        except self.torch.OutOfMemoryError:
            from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss as Cached

            if isinstance(self.loss, Cached):
                raise
            self.loss = Cached(self.model, scale=20.0, mini_batch_size=self.mini_batch)
        self.optimizer.zero_grad()
        self.torch.cuda.empty_cache()
        self.torch.cuda.reset_peak_memory_stats()
        return self._step(number)

    def _step(self, number: int) -> float:
        torch = self.torch
        self.optimizer.zero_grad()
        sides = [dict(side) for side in self.batches[number]]
        with torch.autocast(self.device, dtype=torch.bfloat16):
            loss = self.loss(sides, None)
            loss.backward()  # in here, because the cached loss encodes anew on its way back
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return float(loss.detach())

    def facts(self) -> dict[str, Any]:
        import sentence_transformers

        peak = self.torch.cuda.max_memory_allocated() if self.device == "cuda" else 0
        versions = {"torch": self.torch.__version__, "sentence-transformers": sentence_transformers.__version__}
        return {"loss": type(self.loss).__name__, "peak_memory_bytes": peak, "versions": versions}


def write_peer(folder: Path, geometry: Geometry, dropout: float) -> None:
    """A model folder with random weights, and a tokenizer that nobody asks."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    config = BertConfig(
        vocab_size=geometry.vocabulary,
        hidden_size=geometry.hidden,
        num_hidden_layers=geometry.layers,
        num_attention_heads=geometry.heads,
        intermediate_size=geometry.inner,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    BertModel(config).save_pretrained(folder)
    words = Tokenizer(WordLevel({"[UNK]": 0, "[PAD]": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)


def attention_inputs(geometry: Geometry, rows: int) -> tuple[Any, Any]:
    """q, k, v, a cotangent, and segments of rows of 256 tokens: texts of every length, padding at the end."""
    import jax
    import jax.numpy as jnp

    shape = (rows, LIMIT, geometry.heads, geometry.hidden // geometry.heads)
    arrays = [jax.random.normal(jax.random.key(i), shape, jnp.float32) for i in range(4)]
    starts = np.random.default_rng(SEED).random((rows, LIMIT)) < 1 / 40
    return arrays, jnp.asarray(np.cumsum(starts, axis=1), jnp.int32)


def attention_of(name: str, segment: Any, blocks: Any = None, matmul_dtype: str = "bfloat16") -> Any:
    """(q, k, v, cotangent) -> (mixed, three gradients), compiled. `name`: of `attentions`."""
    import jax
    import jax.numpy as jnp

    from mtret.kernels.attention import attend
    from mtret.kernels.attention_gpu import flash

    def attention(q: Any, k: Any, v: Any) -> Any:
        if blocks is None:
            return attend(q, k, v, segment, implementation=name, matmul_dtype=matmul_dtype)
        q, k, v = (x.astype(jnp.bfloat16) for x in (q, k, v))
        return flash(q, k, v, segment, jnp.zeros((len(q), 2), jnp.uint32), None, 0.0, blocks).astype(jnp.float32)

    def run(q: Any, k: Any, v: Any, cotangent: Any) -> Any:
        mixed, back = jax.vjp(attention, q, k, v)
        return mixed, *back(cotangent)

    return jax.jit(run)


def check(geometry: Geometry) -> dict[str, float]:
    """The largest error of each attention, forward or of a gradient, by the norm of the float32 reference."""
    import jax
    import jax.numpy as jnp

    arrays, segment = attention_inputs(geometry, rows=8)
    exact = attention_of("xla", segment, matmul_dtype="float32")(*arrays)
    errors = {}
    for name in attentions(jax.default_backend()):
        found = attention_of(name, segment)(*arrays)
        pairs = zip(found, exact, strict=True)
        errors[name] = max(float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)) for a, b in pairs)
    return errors


def sweep(geometry: Geometry, rows: int) -> list[dict[str, Any]]:
    """Seconds of one layer's attention, forward and backward, over `rows` rows of 256; of the kernel by block sizes."""
    import jax

    from mtret.kernels.attention_gpu import Blocks

    arrays, segment = attention_inputs(geometry, rows)
    on_gpu = jax.default_backend() == "gpu"
    choices: list[tuple[str, Any]] = [(name, None) for name in attentions(jax.default_backend())]
    if on_gpu:
        choices += [("pallas", Blocks(forward, backward, warps, stages))
                    for forward, backward, warps in ((32, 32, 2), (64, 32, 4), (64, 64, 8), (128, 64, 4), (128, 128, 8))
                    for stages in (1, 2, 3)]  # fmt: skip
    timed = []
    for name, blocks in choices:
        row: dict[str, Any] = {"attention": name, "blocks": blocks and vars(blocks)}
        try:
            row["seconds"] = median_seconds(partial(attention_of(name, segment, blocks), *arrays), 10 if on_gpu else 1)
        except Exception as error:  # one that does not fit the card must not end the others
            row["error"] = str(error).splitlines()[0]
        timed.append(row)
        print(json.dumps(row), flush=True)
    return timed


def work(arguments: argparse.Namespace) -> None:
    """A contender's round, or the check: one line of JSON."""
    geometry = GEOMETRIES[arguments.geometry]
    if arguments.contender in ("check", "device"):
        import jax

        errors = check(geometry) if arguments.contender == "check" else {}
        print(json.dumps({"errors": errors, "platform": jax.default_backend()}))
        return
    engine: Any
    try:
        if arguments.contender in PEERS:
            engine = Peer(geometry, arguments, **PEERS[arguments.contender])
        else:
            engine = Ours(geometry, arguments, arguments.contender.removeprefix("mtret "))
    except ImportError as error:
        print(json.dumps({"not installed": str(error).splitlines()[0]}))
        return
    for number in range(arguments.steps):  # every shape once
        engine.step(number)
    seconds, losses = [], []
    for number in range(arguments.steps):
        began = time.perf_counter()
        losses.append(engine.step(number))
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"seconds": seconds, "losses": losses, **engine.facts()}))


def in_process(arguments: argparse.Namespace, contender: str) -> dict[str, Any]:
    """What a contender's process answered; where it failed, its last line."""
    keys = ("geometry", "batch", "steps", "dropout", "chunk_tokens", "mini_batch")
    given = {key: getattr(arguments, key) for key in keys}
    passed = [f"--{key.replace('_', '-')}={value}" for key, value in given.items() if value is not None]
    command = [sys.executable, __file__, *passed, f"--contender={contender}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr.strip() or f"ended with {done.returncode}").splitlines()
        return {"failed": [line for line in lines if "Error" in line][-1:] or lines[-1:]}
    return json.loads(done.stdout.splitlines()[-1])


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Checks, then rounds."""
    checked = in_process(arguments, "device" if arguments.unchecked else "check")
    print(json.dumps(checked), flush=True)
    if "failed" in checked:
        raise SystemExit(f"the check of the attentions failed: {checked['failed']}")
    wrong = [name for name, error in checked["errors"].items() if not error < TOLERANCE]
    names = [f"mtret {name}" for name in attentions(checked["platform"]) if name not in wrong] + list(PEERS)
    names = [name for name in names if any(part in name for part in arguments.only.split(","))]
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    took: dict[str, float] = {}
    for number in range(arguments.rounds):
        for name in names:
            began = time.monotonic()
            failed = rounds[name] and "seconds" not in rounds[name][0]
            if failed or began - START + took.get(name, 0.0) > arguments.limit_s:
                continue
            rounds[name].append(in_process(arguments, name))
            took[name] = time.monotonic() - began
            said = rounds[name][-1]
            short = f"{sum(said['seconds']):.3f} s" if "seconds" in said else said
            print(f"round {number}: {name}: {short}", flush=True)
            keep(arguments, {"attention errors": checked["errors"], "wrong": wrong, **report(arguments, rounds)})
    return {"attention errors": checked["errors"], "wrong": wrong, **report(arguments, rounds)}


def keep(arguments: argparse.Namespace, results: dict[str, Any]) -> None:
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def report(arguments: argparse.Namespace, rounds: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians over rounds of each contender, and what was run on what."""
    geometry = GEOMETRIES[arguments.geometry]
    pairs = draw_pairs(arguments.batch * arguments.steps, geometry.vocabulary)
    lengths = np.array([[len(text) for text in pair] for pair in pairs])
    rounds = {name: each or [{"not run": f"not within {arguments.limit_s} s"}] for name, each in rounds.items()}
    ran = {name: each for name, each in rounds.items() if "seconds" in each[0]}
    ours = [said for name, each in ran.items() if name not in PEERS for said in each]
    device = ours[0]["device"] if ours else None
    measured = statistics.median(said["matrix_flops_per_s"] for said in ours) if ours else None
    nominal = next((rate for name, rate in NOMINAL.items() if device and name in device), None)
    flops = model_flops(geometry, lengths.reshape(-1))
    table: dict[str, Any] = {name: each[0] for name, each in rounds.items() if name not in ran}
    for name, each in ran.items():
        seconds = statistics.median(sum(said["seconds"]) for said in each)
        table[name] = {
            "pairs_per_s": len(pairs) / seconds,
            "tokens_per_s": int(lengths.sum()) / seconds,
            "model_flops_per_s": flops / seconds,
            "utilisation of the measured rate": measured and flops / seconds / measured,
            "utilisation of the nominal rate": nominal and flops / seconds / nominal,
            "last loss": each[-1]["losses"][-1],
            **{key: each[-1][key] for key in ("peak_memory_bytes", "loss", "fill", "shapes", "compile_seconds")
               if key in each[-1]},
            "seconds by round": [sum(said["seconds"]) for said in each],
        }  # fmt: skip
    versions = {"python": platform.python_version()}
    for each in ran.values():
        versions |= each[0]["versions"]
    return {
        "geometry": {"name": arguments.geometry, **vars(geometry)},
        "device": device,
        "matrix_flops_per_s": {"measured": measured, "nominal": nominal},
        "batch": arguments.batch,
        "steps": arguments.steps,
        "dropout": arguments.dropout,
        "tokens of a step": int(lengths.sum()) / arguments.steps,
        "tokens of a query and of a document": lengths.mean(axis=0).round(1).tolist(),
        "model_flops of a step": flops / arguments.steps,
        "contenders": table,
        "versions": versions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", choices=list(GEOMETRIES), default="minilm")
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=4, help="distinct batches, each once a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit-s", type=float, default=540)
    parser.add_argument("--dropout", type=float, default=0.0, help="cuDNN's attention through JAX has none")
    parser.add_argument("--chunk-tokens", type=int, help="what mtret encodes at once; 0: the whole batch")
    parser.add_argument("--mini-batch", type=int, help="texts that the peer's cached loss encodes at once")
    parser.add_argument("--only", default="", help="parts of contenders' names, with commas between")
    parser.add_argument("--unchecked", action="store_true", help="do not check the attentions first")
    parser.add_argument("--compile", default="", help="compile mtret's step with this attention instead, for the cache")
    parser.add_argument("--attention", action="store_true", help="time one layer's attention instead")
    parser.add_argument("--measure", action="store_true", help="write lengths.json instead; needs --suite")
    parser.add_argument("--suite", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--contender", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        work(arguments)
        return
    if arguments.compile:
        seconds = Ours(GEOMETRIES[arguments.geometry], arguments, arguments.compile).compile_seconds
        print(f"compiled in {seconds:.1f} s")
        return
    if arguments.measure:
        LENGTHS.write_text(json.dumps(measure(arguments.suite)) + "\n", encoding="utf-8")
        return
    if arguments.attention:
        rows = max(arguments.batch // 16, 1)  # of 256 tokens: 65,536 in all by default
        results: dict[str, Any] = {"rows": rows, "geometry": arguments.geometry}
        results |= {
            "errors": check(GEOMETRIES[arguments.geometry]),
            "seconds": sweep(GEOMETRIES[arguments.geometry], rows),
        }
    else:
        results = compare(arguments)
        print(json.dumps(results, indent=1))
    keep(arguments, results)
    if results.get("wrong"):
        raise SystemExit(f"differs from the reference, and was not timed: {', '.join(results['wrong'])}")


if __name__ == "__main__":
    main()
