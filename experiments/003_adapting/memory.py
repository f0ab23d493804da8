"""What each way to train holds in memory, by the compiler's account: memory.json beside this file, and a table.

    python experiments/003_adapting/memory.py FOLDER_OF_TASKS

Batches of 64 of `policyqa`, float32. State: parameters and what the optimizer keeps. Temporary: activations, gradients,
all else that lives within a step. A process's peak would say less: compiling and embedding take more than some steps.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from mtret.data.suites import load_suite
from mtret.devices import cache_folder, keep_compilations
from mtret.files import locate
from mtret.run_config import read_config
from mtret.runs import setup
from mtret.runs.tasks import mixture_tasks
from mtret.train.programs import compile_steps
from mtret.train.step import create_state

HERE = Path(__file__).parent
WAYS: dict[str, list[str]] = {
    "everything": [],
    "and a moving average": ["optim.ema_decay=0.99"],
    "words frozen": ["optim.trainable=(('tower/embeddings/.*', False), ('.*', True))"],
    "adapters, rank 8, on queries and values": ["model.lora.rank=8"],
    "adapters, rank 8, on every kernel": ["model.lora.rank=8", "model.lora.targets=encoder/.*/kernel"],
    "queries alone (documents frozen)": ["model.documents=frozen"],
    "adapters on queries alone": ["model.documents=frozen", "model.lora.rank=8"],
    "two towers": ["model.documents=separate"],
}


def measure(suite: str, overrides: list[str]) -> dict[str, Any]:
    """Parameters, state and temporary memory of the largest shape."""
    own = [f"suite={suite!r}", "mixture.tasks=policyqa", "loop.steps=20", "dev.queries=1", "dev.distractors=1"]
    config = read_config(str(HERE.parents[1] / "configs" / "public_suite.py"), [*own, *overrides])
    tasks = mixture_tasks(load_suite(config.suite), config)
    model = setup.start_models(config, tasks)
    run = setup.prepare(config, tasks, model, cache_folder(), Console(quiet=True))
    state = create_state(run.params, run.step.optimizer, run.mesh, run.specs)
    steps, _ = compile_steps(run.step, state, run.planner, run.mesh, run.specs)
    compiled: Any = steps[max(steps)]
    kept = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    return {
        **setup.sizes_of(run.params, run.step.frozen),
        "state_bytes": kept,
        "temporary_bytes": compiled.temporary_bytes,
        "shape": list(max(steps)),
    }


def main() -> None:
    keep_compilations()
    suite = str(locate(sys.argv[1]))
    found = {name: measure(suite, overrides) for name, overrides in WAYS.items()}
    (HERE / "memory.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print("| trained | parameters | of all | state, MiB | temporary, MiB |\n| --- | ---: | ---: | ---: | ---: |")
    for name, one in found.items():
        share = one["trained"] / one["all"]
        sizes = f"{one['state_bytes'] / 2**20:,.0f} | {one['temporary_bytes'] / 2**20:,.0f}"
        print(f"| {name} | {one['trained']:,} | {share:.1%} | {sizes} |")


if __name__ == "__main__":
    main()
