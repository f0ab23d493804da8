"""The same batches on 1, 2, 4 and 8 devices: speed, bytes per device, and that the losses do not change.

    python experiments/002_training_speed/devices.py [--out=devices.json] [--platform=cpu|gpu] [--model=bert-base]

Synthetic texts of a mixture's lengths, MiniLM or BERT-base geometry, random weights. Each number of devices, with whole
and with cut parameters, is a process of its own; they take turns, a round at a time. On a CPU the devices are virtual
and share the same cores: bytes and losses mean something there, pairs/s do not. Bytes are the compiler's account of one
device.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

SEED = 0
GEOMETRY = {  # features, layers, heads, inner
    "tiny": (64, 2, 2, 128),
    "minilm": (384, 6, 12, 1536),
    "bert-base": (768, 12, 12, 3072),
}
VOCABULARY = 30522


def work(arguments: argparse.Namespace) -> None:
    """One number of devices: says what it holds, then answers each line on its input with the seconds of every step."""
    from mtret.devices import keep_compilations, keep_memory

    keep_memory()
    keep_compilations()
    import jax

    from mtret.losses import LossConfig
    from mtret.train.optim import OptimConfig, optimizer
    from mtret.train.programs import compile_steps
    from mtret.train.sharding import MeshConfig, batch_sharding, layout, make_mesh, param_specs
    from mtret.train.step import StepConfig, create_state, initial_params

    planner = _planner(arguments)
    tower, params = _tower(arguments.model)
    params = initial_params(params, LossConfig())
    rule = optimizer(OptimConfig(learning_rate=1e-4, warmup_steps=1), params, 1000)
    mesh = make_mesh(arguments.shards, arguments.state_shards, jax.devices()[: arguments.devices])
    specs = param_specs(params, MeshConfig(state_shards=arguments.state_shards))
    state = create_state(params, rule, mesh, specs)
    config = StepConfig(
        tower=tower,
        optimizer=rule,
        loss=LossConfig(),
        shard_queries=planner.shard_queries,
        shard_texts=planner.shard_texts,
        chunked=False,
        dropout=False,
        seed=SEED,
    )
    kept = layout(state.params, state.opt_state)
    steps, seconds = compile_steps(config, state, planner, mesh, specs)
    plans = [planner.plan(step) for step in range(planner.steps)]
    largest = max((steps[plan.shape] for plan in plans), key=lambda step: step.temporary_bytes)
    ready = [(steps[plan.shape], jax.device_put(planner.fill(plan), batch_sharding(mesh))) for plan in plans]
    said = {
        "device": jax.devices()[0].device_kind,
        "parameter_bytes": sum(row.param_bytes for row in kept),
        "optimizer_bytes": sum(row.optimizer_bytes for row in kept),
        "argument_bytes": sum(row.param_bytes + row.optimizer_bytes for row in kept) + largest.gradient_bytes,
        "temporary_bytes": largest.temporary_bytes,
        "pairs": sum(plan.pairs for plan in plans),
        "tokens": sum(plan.tokens for plan in plans),
        "compile_seconds": round(seconds, 1),
    }
    print(json.dumps(said), flush=True)
    for _ in sys.stdin:
        times, losses = [], []
        for compiled, batch in ready:
            began = time.perf_counter()
            state, metrics = compiled(state, batch)
            losses.append(float(np.asarray(metrics)[0]))
            times.append(time.perf_counter() - began)
        print(json.dumps({"seconds": times, "losses": losses}), flush=True)


def _planner(arguments: argparse.Namespace) -> Any:
    """A task of short documents, one of long ones; lengths have the long tail of real texts."""
    from mtret.data.mixture import MixtureConfig
    from mtret.data.planning import Planner
    from mtret.data.tokenize import Tokens, offsets_of
    from mtret.data.training_tasks import BatchConfig, Relation, TrainingTask

    random = np.random.default_rng(SEED)
    config = BatchConfig(
        queries=arguments.batch, query_length=32, document_length=arguments.length, shards=arguments.shards
    )
    count = 2 * arguments.batch

    def texts(mean: float, longest: int) -> Tokens:
        lengths = np.clip(np.exp(random.normal(np.log(mean), 0.6, count)), 4, longest).astype(np.int64)
        return Tokens(random.integers(1000, VOCABULARY, lengths.sum()).astype(np.int32), offsets_of(lengths), 1)

    def task(name: str, mean: float) -> TrainingTask:
        own = Relation(np.arange(count + 1), np.arange(count, dtype=np.int32))
        return TrainingTask(name, texts(12, 32), texts(mean, arguments.length), own, own, None, config)

    tasks = [task("short", 12), task("long", arguments.length / 2)]
    return Planner(tasks, MixtureConfig(), config, "mean", SEED, arguments.steps)


def _tower(model: str) -> tuple[Any, Any]:
    import jax
    import jax.numpy as jnp

    from mtret.models.bert import BertConfig, BertTower

    hidden, layers, heads, inner = GEOMETRY[model]
    published = {
        "vocab_size": VOCABULARY, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "intermediate_size": inner, "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
    }  # fmt: skip
    tower = BertTower(BertConfig(**published))
    one = jnp.zeros((1, 32), jnp.int32)
    shapes = jax.eval_shape(lambda: tower.init(jax.random.key(0), one, one, one, None))["params"]
    random = np.random.default_rng(SEED)

    def drawn(path: Any, leaf: Any) -> np.ndarray:
        name = str(path[-1].key)
        if name in ("scale", "bias"):
            return np.full(leaf.shape, float(name == "scale"), np.float32)
        return random.normal(0, 0.02, leaf.shape).astype(np.float32)

    return tower, jax.tree_util.tree_map_with_path(drawn, shapes)


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Starts every contender, then lets them take turns."""
    counts = [int(each) for each in arguments.counts.split(",")]
    contenders = [(count, state_shards) for count in counts for state_shards in sorted({1, count})]
    passed = [f"--{name}={getattr(arguments, name)}" for name in ("batch", "length", "shards", "steps", "model")]
    workers, rows = [], []
    for count, state_shards in contenders:
        line = [sys.executable, __file__, *passed, f"--devices={count}", f"--state_shards={state_shards}"]
        workers.append(
            subprocess.Popen(
                line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment(arguments, count)
            )
        )
        rows.append({"devices": count, "state_shards": state_shards, **_answer(workers[-1])})
        print(json.dumps(rows[-1]), flush=True)
    rounds: list[list[dict[str, Any]]] = [[] for _ in workers]
    for _ in range(arguments.rounds):
        for worker, found in zip(workers, rounds, strict=True):
            assert worker.stdin is not None
            print("go", file=worker.stdin, flush=True)
            found.append(_answer(worker))
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.close()
        worker.wait()
    for row, found in zip(rows, rounds, strict=True):
        timed = found[1:] or found  # the first round warms up
        row["pairs_per_s"] = row["pairs"] / statistics.median(sum(each["seconds"]) for each in timed)
        row["losses"] = found[0]["losses"]
        one = rounds[0][0]["losses"]
        row["largest relative difference of a loss"] = max(
            abs(a - b) / abs(b) for a, b in zip(row["losses"], one, strict=True)
        )
    return rows


def _environment(arguments: argparse.Namespace, count: int) -> dict[str, str]:
    if arguments.platform != "cpu":
        return dict(os.environ)
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}


def _answer(worker: subprocess.Popen) -> dict[str, Any]:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise SystemExit("a process ended early; its error stands above")
    return json.loads(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", default="1,2,4,8")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--model", choices=GEOMETRY, default="minilm")
    parser.add_argument("--platform", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--devices", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--state_shards", type=int, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.devices:
        work(arguments)
        return
    rows = measure(arguments)
    print("devices  state_shards  parameters  optimizer  temporary (MiB each)  pairs/s  loss differs by")
    for row in rows:
        sizes = (row[f"{name}_bytes"] / 2**20 for name in ("parameter", "optimizer", "temporary"))
        parameters, kept, temporary = (f"{size:,.1f}" for size in sizes)
        print(
            f"{row['devices']:>7}  {row['state_shards']:>4}  {parameters:>10}  {kept:>9}  {temporary:>20}  "
            f"{row['pairs_per_s']:>7.1f}  {row['largest relative difference of a loss']:.1e}"
        )
    if arguments.out:
        import jax

        settings = {
            name: getattr(arguments, name) for name in ("model", "batch", "length", "shards", "steps", "rounds")
        }
        versions = {"python": platform.python_version(), "jax": jax.__version__}
        found = {
            **settings,
            "platform": arguments.platform,
            "cores": os.cpu_count(),
            "versions": versions,
            "rows": rows,
        }
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
