"""Memory against batch size: one step of short pairs in chunks, and the loss alone at sizes that no matrix would fit.

    python experiments/002_training_speed/memory.py [--out=memory.json]

Pairs of random tokens, at most 16 a side; MiniLM; chunks of 4,096 tokens. Each size is a process of its own: its peak
is that of the whole process, the compiler's account is of what the step needs beside its arguments. The loss is
compiled, not run: the account is the compiler's, for one device, forward and backward, in both directions, all masks
included.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

SIZES = (256, 1024, 4096, 16384)
LOSSES = ((4096, 8192), (16384, 32768), (65536, 131072))
TOKENS = 16
CHUNK = 4096


def step(pairs: int, matmul_dtype: str) -> dict[str, Any]:
    """One step to warm up and one that is timed."""
    from mtret.devices import keep_compilations, keep_memory

    keep_memory()
    keep_compilations()
    import jax

    from mtret.data.mixture import MixtureConfig
    from mtret.data.planning import Planner
    from mtret.data.tokenize import Tokens, offsets_of
    from mtret.data.training_tasks import BatchConfig, Relation, TrainingTask
    from mtret.losses import LossConfig
    from mtret.models import hf
    from mtret.models.dual_encoder import ModelConfig
    from mtret.runs.summary import peak_memory
    from mtret.train.optim import OptimConfig, optimizer
    from mtret.train.programs import compile_steps
    from mtret.train.sharding import MeshConfig, batch_sharding, make_mesh, param_specs
    from mtret.train.step import StepConfig, create_state, initial_params

    random = np.random.default_rng(0)

    def texts() -> Tokens:
        lengths = random.integers(6, TOKENS + 1, pairs)
        return Tokens(random.integers(1000, 30000, lengths.sum()).astype(np.int32), offsets_of(lengths), 1)

    config = BatchConfig(queries=pairs, query_length=TOKENS, document_length=TOKENS, chunk_tokens=CHUNK)
    own = Relation(np.arange(pairs + 1), np.arange(pairs, dtype=np.int32))
    planner = Planner(
        [TrainingTask("pairs", texts(), texts(), own, own, None, config)], MixtureConfig(), config, "mean", 0, 1
    )
    encoder = hf.load("minilm", ModelConfig(dropout=0.1, matmul_dtype=matmul_dtype))
    params = initial_params(encoder.params, LossConfig())
    rule = optimizer(OptimConfig(), params, 10)
    mesh, specs = make_mesh(1), param_specs(params, MeshConfig())
    state = create_state(params, rule, mesh, specs)
    plan = planner.plan(0)
    chosen = StepConfig(
        encoder.tower,
        rule,
        LossConfig(symmetric=True),
        planner.shard_queries,
        planner.shard_texts,
        chunked=True,
        dropout=True,
        seed=0,
    )
    before = peak_memory()
    compiled: Any = compile_steps(chosen, state, planner, mesh, specs)[0][plan.shape]
    batch = jax.device_put(planner.fill(plan), batch_sharding(mesh))
    seconds, losses = [], []
    for _ in range(2):
        began = time.perf_counter()
        state, metrics = compiled(state, batch)
        losses.append(float(np.asarray(metrics)[0]))
        seconds.append(time.perf_counter() - began)
    return {
        "pairs": pairs,
        "tokens": plan.tokens,
        "chunks": plan.slots // CHUNK,
        "losses": losses,
        "seconds": seconds[-1],
        "pairs_per_s": pairs / seconds[-1],
        "temporary_bytes": compiled.temporary_bytes,
        "peak_bytes": peak_memory(),
        "peak_bytes_before_the_step": before,
    }


def loss(queries: int, documents: int, block: int | None) -> dict[str, Any]:
    """What the compiler sets aside for loss and gradient; `block`: None as it is, or all columns at once."""
    import jax
    import jax.numpy as jnp

    from mtret.losses import contrastive

    features, positives, masked = 384, 2, 8
    shapes = [((queries, features), jnp.float32), ((documents, features), jnp.float32), ((), jnp.float32)]
    shapes += [
        ((queries, positives), jnp.int32),
        ((queries, masked), jnp.int32),
        ((queries,), bool),
        ((documents,), bool),
    ]
    arguments = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    gradient = jax.grad(lambda *x: contrastive(*x, symmetric=True, block=block)[0], argnums=(0, 1, 2))
    analysis = jax.jit(gradient).lower(*arguments).compile().memory_analysis()
    assert analysis is not None
    return {
        "queries": queries,
        "documents": documents,
        "block": block or "own",
        "temporary_bytes": analysis.temp_size_in_bytes,
        "one_matrix_bytes": queries * documents * 4,
        "embeddings_bytes": (queries + documents) * features * 4,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--matmul_dtype", default="float32")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--pairs", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.pairs:
        print(json.dumps(step(arguments.pairs, arguments.matmul_dtype)))
        return
    steps, losses = [], []
    for pairs in SIZES:
        command = [sys.executable, __file__, f"--pairs={pairs}", f"--matmul_dtype={arguments.matmul_dtype}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        steps.append(json.loads(done.stdout.splitlines()[-1]))
        print(json.dumps(steps[-1]), flush=True)
    for queries, documents in LOSSES:
        for block in (None, documents) if queries < 65536 else (None,):
            losses.append(loss(queries, documents, block))
            print(json.dumps(losses[-1]), flush=True)
    if arguments.out:
        results = {"matmul_dtype": arguments.matmul_dtype, "chunk_tokens": CHUNK, "steps": steps, "losses": losses}
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
