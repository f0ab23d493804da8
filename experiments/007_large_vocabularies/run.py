"""Memory and speed of a training step by step: does the process grow, and by what?

    python experiments/007_large_vocabularies/run.py --suite=FOLDER --model=ENCODER [--steps=40] [--all_words]
        [--config=batch.chunk_tokens=4096 ...] --out=FILE

The public mixture (configs/public_suite.py), the process's resident set after each part and each step, and the
compiler's own account of what the programs need. `--all_words`: without the working vocabulary, as runs of before.
Nothing is evaluated.
"""

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from mtret.data.pipeline import batches
from mtret.pytrees import flatten
from mtret.run_config import read_config
from mtret.runs import session, setup
from mtret.train.programs import compile_steps
from mtret.train.sharding import batch_sharding
from mtret.train.step import create_state

CONFIG = Path(__file__).parents[2] / "configs" / "public_suite.py"


def resident() -> float:
    """GiB of this process now."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 2**20


def peak() -> float:
    """GiB of this process at its largest."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains so many steps of the configuration's."""
    console = Console(quiet=True)
    cache = session.begin(console).cache
    given = [f"suite={arguments.suite}", f"model.source={arguments.model}", *arguments.config]
    config, _, tasks, model = setup.load_inputs(read_config(str(CONFIG), given), console)
    size = model.encoder.config.vocab_size
    words = np.arange(size, dtype=np.int32) if arguments.all_words else None
    run = setup.prepare(config, tasks, model, cache, console, words)
    found: dict[str, Any] = {
        "config": given,
        "words": [len(run.vocabulary.ids), size],
        "parameters": sum(leaf.size for leaf in flatten(run.params).values()),
        "shapes": {f"{shape.rows} x {shape.length}": steps for shape, steps in run.planner.shapes.items()},
        "prepared_gib": resident(),
    }
    state = create_state(run.params, run.step.optimizer, run.mesh, run.specs)
    steps, found["compile_seconds"] = compile_steps(run.step, state, run.planner, run.mesh, run.specs)
    found["temporary_gib"] = [step.temporary_bytes / 2**30 for step in steps.values()]
    found["compiled_gib"] = resident()
    print(json.dumps(found), flush=True)
    found["steps"] = []
    source = batches(run.planner, batch_sharding(run.mesh), 0)
    for _ in range(arguments.steps):
        plan, batch = next(source)
        began = time.monotonic()
        state, metrics = steps[plan.shape](state, batch)
        loss = float(np.asarray(metrics)[0])
        found["steps"].append(
            {
                "rows": plan.shape.rows,
                "length": plan.shape.length,
                "tokens": plan.tokens,
                "loss": loss,
                "seconds": time.monotonic() - began,
                "gib": resident(),
            }
        )
        print(json.dumps(found["steps"][-1]), flush=True)
    found["peak_gib"] = peak()
    timed = found["steps"][2:]
    found["tokens_per_s"] = sum(step["tokens"] for step in timed) / max(sum(step["seconds"] for step in timed), 1e-9)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", required=True)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--all_words", action="store_true")
    parser.add_argument("--config", nargs="*", default=[])
    parser.add_argument("--out", type=Path, required=True)
    own = parser.parse_args()
    numbers = measure(own)
    own.out.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    print({key: value for key, value in numbers.items() if key != "steps"})
