"""Training steps of mtret and of sentence-transformers, side by side: the same pairs, tokens, lengths and dropout.

    python experiments/002_training_speed/run.py --suite=FOLDER [--tasks=a,b] [--out=results.json]

Every contender is a process of its own that holds its batches ready; they take turns, a round at a time, so that a
noisy machine is noisy for all. Reported are medians over rounds, and ratios within the run. Tokenising is not timed.

The contenders: the peer in float32 and under bfloat16 autocast, each with batches as they come (padded to the longest)
and with batches of like length (`grouped`: the pairs of several batches sorted by length and dealt anew, as a sampler
would); mtret in both operand types, and without any attention, as the roof that attention is measured against. (The
peer with the allocator setting that mtret makes for itself is none of them: at batch 128 it took 17.8 GiB and was
killed.) Which operand type is faster depends on the processor: the rates of a large matrix product in both stand with
the results.
"""

# pyright: reportMissingImports=false

import argparse
import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
CONTENDERS = {
    "peer float32": {"engine": "peer", "grouped": False, "narrow": False},
    "peer float32 grouped": {"engine": "peer", "grouped": True, "narrow": False},
    "peer bfloat16": {"engine": "peer", "grouped": False, "narrow": True},
    "peer bfloat16 grouped": {"engine": "peer", "grouped": True, "narrow": True},
    "mtret float32": {"engine": "mtret", "narrow": False, "attention": True},
    "mtret float32 no attention": {"engine": "mtret", "narrow": False, "attention": False},
    "mtret bfloat16": {"engine": "mtret", "narrow": True, "attention": True},
    "mtret bfloat16 no attention": {"engine": "mtret", "narrow": True, "attention": False},
}
TASKS = "spider_column,metatool,policyqa,medquad"  # short documents, a long tail, middling, long
SEED = 0


@dataclass(frozen=True)
class Load:
    """The batches of every contender: `per_task` successive ones of each task."""

    planners: list[Any]
    plans: list[list[Any]]  # by task


def load(suite: Path, tasks: list[str], batch: int, length: int, per_task: int) -> Load:
    """Plans the batches, one planner a task so that every task has as many. Cached tokens are used again."""
    from mtret.data.formats import read_task
    from mtret.data.mixture import MixtureConfig
    from mtret.data.planning import Planner
    from mtret.data.templates import Templates
    from mtret.data.tokenize import Tokenizer
    from mtret.data.training_tasks import BatchConfig, training_task
    from mtret.devices import cache_folder
    from mtret.models import hf
    from mtret.models.dual_encoder import ModelConfig

    encoder = hf.load("minilm", ModelConfig())
    config = BatchConfig(queries=batch, query_length=length, document_length=length)
    tokenizer = Tokenizer(encoder.folder, cache_folder())
    planners, plans = [], []
    for name in tasks:
        task = training_task(read_task(suite / name), tokenizer, Templates(), config)
        planner = Planner([task], MixtureConfig(), config, encoder.pooling, SEED, per_task)
        planners.append(planner)
        plans.append([planner.plan(step) for step in range(per_task)])
    return Load(planners, plans)


def pairs_of(planner: Any, plan: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Token ids of each query and its target, as the peer gets them: one text a row, nothing merged."""
    task = planner.tasks[0]
    queries, documents = plan.queries.reshape(-1), plan.documents.reshape(-1)
    return [
        (
            task.queries.take(queries[[row]], task.config.query_length),
            task.documents.take(documents[[plan.target[row, 0]]], task.config.document_length),
        )
        for row in np.flatnonzero(queries >= 0)
    ]


def peer_batches(loaded: Load, grouped: bool) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Per task as planned, or sorted by length and dealt anew."""
    batches = []
    for planner, plans in zip(loaded.planners, loaded.plans, strict=True):
        own = [pairs_of(planner, plan) for plan in plans]
        if grouped:
            size = len(own[0])
            every = sorted((pair for batch in own for pair in batch), key=lambda pair: (len(pair[1]), len(pair[0])))
            own = [every[start : start + size] for start in range(0, len(every), size)]
        batches += own
    return batches


class Peer:
    """sentence-transformers: its model, its loss, AdamW and clipping as its trainer has them."""

    def __init__(self, model: str, batches: list[list[tuple[np.ndarray, np.ndarray]]], narrow: bool, dropout: float):
        import torch
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

        from mtret.models.hf import resolve

        torch.manual_seed(SEED)
        self.torch, self.narrow = torch, narrow
        as_float32 = {"dtype": torch.float32}  # else as stored, and float16 is slow on a CPU
        self.model = SentenceTransformer(str(resolve(model)), device="cpu", model_kwargs=as_float32)
        for module in self.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = dropout
        self.model.train()
        self.loss = MultipleNegativesRankingLoss(self.model, scale=20.0)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, weight_decay=0.01)
        self.batches = [[self._padded(side) for side in zip(*batch, strict=True)] for batch in batches]

    def _padded(self, texts: tuple[np.ndarray, ...]) -> dict[str, Any]:
        longest = max(len(text) for text in texts)
        ids, mask = (np.zeros((len(texts), longest), np.int64) for _ in range(2))
        for row, text in enumerate(texts):
            ids[row, : len(text)], mask[row, : len(text)] = text, 1
        return {"input_ids": self.torch.from_numpy(ids), "attention_mask": self.torch.from_numpy(mask)}

    def step(self, number: int) -> float:
        torch = self.torch
        self.optimizer.zero_grad()
        sides = [dict(side) for side in self.batches[number]]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.narrow):
            loss = self.loss(sides, None)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return float(loss.detach())


class Ours:
    """mtret's compiled steps, fed by its planner."""

    def __init__(self, loaded: Load, narrow: bool, attention: bool, dropout: float):
        from mtret.devices import keep_compilations, keep_memory

        keep_memory()
        keep_compilations()
        import jax

        from mtret.losses import LossConfig
        from mtret.models import hf, layers
        from mtret.models.dual_encoder import ModelConfig
        from mtret.train.optim import OptimConfig, optimizer
        from mtret.train.programs import compile_steps
        from mtret.train.sharding import MeshConfig, batch_sharding, make_mesh, param_specs
        from mtret.train.step import StepConfig, create_state, initial_params

        if not attention:
            layers.attend = lambda q, k, v, segment, **_: q + k + v
        matmul_dtype = "bfloat16" if narrow else "float32"
        encoder = hf.load("minilm", ModelConfig(dropout=dropout, matmul_dtype=matmul_dtype))
        params = initial_params(encoder.params, LossConfig())
        rule = optimizer(OptimConfig(learning_rate=1e-5), params, 1000)
        mesh = make_mesh(1)
        specs = param_specs(params, MeshConfig())
        self.state = create_state(params, rule, mesh, specs)
        self.ready = []
        for planner, plans in zip(loaded.planners, loaded.plans, strict=True):
            config = StepConfig(
                encoder.tower,
                rule,
                LossConfig(),
                planner.shard_queries,
                planner.shard_texts,
                chunked=False,
                dropout=dropout > 0,
                seed=SEED,
            )
            steps, _ = compile_steps(config, self.state, planner, mesh, specs)
            for plan in plans:
                self.ready.append((steps[plan.shape], jax.device_put(planner.fill(plan), batch_sharding(mesh))))

    def step(self, number: int) -> float:
        compiled, batch = self.ready[number]
        self.state, metrics = compiled(self.state, batch)
        return float(np.asarray(metrics)[0])


def work(arguments: argparse.Namespace) -> None:
    """A contender: answers each line on its input with the seconds of every step."""
    loaded = load(arguments.suite, arguments.tasks.split(","), arguments.batch, arguments.length, arguments.per_task)
    settings = dict(CONTENDERS[arguments.contender])
    if settings.pop("engine") == "peer":
        batches = peer_batches(loaded, settings.pop("grouped"))
        engine = Peer("minilm", batches, **settings, dropout=arguments.dropout)
    else:
        engine = Ours(loaded, **settings, dropout=arguments.dropout)
    count = sum(len(plans) for plans in loaded.plans)
    for number in range(count if "attention" in settings else min(2, count)):  # compiled once a shape
        engine.step(number)
    release_memory()
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        seconds, losses = [], []
        for number in range(count):
            began = time.perf_counter()
            losses.append(engine.step(number))
            seconds.append(time.perf_counter() - began)
        release_memory()
        print(json.dumps({"seconds": seconds, "losses": losses}), flush=True)


def release_memory() -> None:
    """What the C library keeps between a contender's turns would be missing in the others'."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        return


def measure(
    arguments: argparse.Namespace, names: list[str], tell: Callable[[dict[str, Any]], None]
) -> dict[str, list[list[float]]]:
    """Starts every contender, one after the other, then lets them take turns; tells the seconds of whole rounds."""
    passed = [f"--{key.replace('_', '-')}={getattr(arguments, key)}" for key in ("suite", "tasks", "batch", "length")]
    passed += [f"--per-task={arguments.per_task}", f"--dropout={arguments.dropout}"]
    workers = {}
    for name in names:
        command = [sys.executable, __file__, *passed, f"--contender={name}"]
        workers[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        _answer(workers[name], name)
        print(f"ready: {name}", flush=True)
    rounds: dict[str, list[list[float]]] = {name: [] for name in names}
    for number in range(arguments.rounds):
        for name, worker in workers.items():
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
            rounds[name].append(_answer(worker, name)["seconds"])
            print(f"round {number}: {name} {sum(rounds[name][-1]):.1f} s", flush=True)
        tell(rounds)
    for worker in workers.values():
        assert worker.stdin is not None
        worker.stdin.close()
        worker.wait()
    return rounds


def _answer(worker: subprocess.Popen, name: str) -> dict[str, Any]:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise SystemExit(f"{name}: ended early")
    return json.loads(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", type=Path, required=True)
    parser.add_argument("--tasks", default=TASKS)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--per-task", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--only", default="", help="part of the contenders' names")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--contender", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        work(arguments)
        return
    names = [name for name in CONTENDERS if arguments.only in name]
    loaded = load(arguments.suite, arguments.tasks.split(","), arguments.batch, arguments.length, arguments.per_task)
    about = {"planner": planner_speed(loaded), "processor": processor()}  # before anything else runs

    def tell(rounds: dict[str, list[list[float]]]) -> None:
        results = summary(loaded, rounds, arguments) | about
        print(json.dumps({key: value for key, value in results.items() if key != "seconds"}, indent=1), flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    measure(arguments, names, tell)


def summary(loaded: Load, rounds: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Medians over rounds; pairs and tokens are those of the batches, each distinct text counted once."""
    import jax

    plans = [plan for plans in loaded.plans for plan in plans]
    pairs, tokens = sum(plan.pairs for plan in plans), sum(plan.tokens for plan in plans)
    held = sum(p.rows * plan.shape[1] for plan in plans for p in plan.packings)
    padded = sum(_cells(batch) for batch in peer_batches(loaded, False))
    grouped = sum(_cells(batch) for batch in peer_batches(loaded, True))
    medians = {name: statistics.median(map(sum, seconds)) for name, seconds in rounds.items()}
    fastest = {name: min(map(sum, seconds)) for name, seconds in rounds.items()}
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "tasks": arguments.tasks.split(","),
        "batch": arguments.batch,
        "length": arguments.length,
        "dropout": arguments.dropout,
        "steps": len(plans),
        "rounds": len(next(iter(rounds.values()))),
        "pairs": pairs,
        "tokens": tokens,
        "shapes": sorted({plan.shape for plan in plans}),
        "fill before rounding": tokens / held,
        "fill": tokens / sum(plan.slots for plan in plans),
        "padded cells over tokens": {"as they come": padded / tokens, "grouped": grouped / tokens},
        "pairs_per_s": {name: pairs / seconds for name, seconds in medians.items()},
        "tokens_per_s": {name: tokens / seconds for name, seconds in medians.items()},
        "tokens_per_s of the fastest round": {name: tokens / seconds for name, seconds in fastest.items()},
        "versions": {"python": platform.python_version(), "jax": jax.__version__},
        "seconds": rounds,
    }
    for ours in ("mtret float32", "mtret bfloat16"):
        if ours in medians:
            result[f"{ours}: times as fast as"] = {
                name: seconds / medians[ours] for name, seconds in medians.items() if name != ours
            }
    result["by task"] = {
        planner.tasks[0].name: _of_task(loaded, number, rounds) for number, planner in enumerate(loaded.planners)
    }
    return result


def _of_task(loaded: Load, number: int, rounds: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Grouped batches stay within a task, so its steps are comparable too."""
    plans = loaded.plans[number]
    own = slice(number * len(plans), (number + 1) * len(plans))
    tokens = sum(plan.tokens for plan in plans)
    cells = sum(_cells(pairs_of(loaded.planners[number], plan)) for plan in plans)
    medians = {name: statistics.median(sum(steps[own]) for steps in seconds) for name, seconds in rounds.items()}
    return {
        "shapes": sorted({plan.shape for plan in plans}),
        "tokens": tokens,
        "padded cells over tokens": cells / tokens,
        "tokens_per_s": {name: tokens / seconds for name, seconds in medians.items()},
    }


def planner_speed(loaded: Load) -> dict[str, float]:
    """Of one thread, over the run's own batches: planning, and filling what is planned."""
    plans = [(planner, plan) for planner, plans in zip(loaded.planners, loaded.plans, strict=True) for plan in plans]
    texts = sum(int((plan.queries >= 0).sum() + (plan.documents >= 0).sum()) for _, plan in plans)
    tokens, seconds = sum(plan.tokens for _, plan in plans), {}
    for name, work in (
        ("plan", lambda planner, plan: planner.plan(plan.step)),
        ("fill", lambda planner, plan: planner.fill(plan)),
    ):
        began = time.perf_counter()
        for planner, plan in plans * 20:
            work(planner, plan)
        seconds[name] = (time.perf_counter() - began) / 20
    return {
        f"{name}: {unit}/s": count / taken
        for name, taken in seconds.items()
        for unit, count in (("texts", texts), ("tokens", tokens))
    }


def processor() -> dict[str, Any]:
    """Its cores, and operations a second in a large product of either type."""
    from mtret.runs.summary import matrix_rate

    return {"cores": os.cpu_count(), **{f"{name} GFLOP/s": matrix_rate(name) / 1e9 for name in ("float32", "bfloat16")}}


def _cells(batch: list[tuple[np.ndarray, np.ndarray]]) -> int:
    return sum(len(side) * max(len(text) for text in side) for side in zip(*batch, strict=True))


if __name__ == "__main__":
    main()
