"""The first batches of the public mixture, trained by mtret and by sentence-transformers: tokens/s and memory.

    .venv-parity/bin/python experiments/007_large_vocabularies/peer.py --suite=FOLDER --model=ENCODER [--steps=10]
        [--only=NAME,...] [--config ...] --out=FILE

Each contender is a process of its own, one after the other (together they would not fit in memory), and gets the same
pairs, tokens, lengths and dropout. mtret comes first and last, and before each contender a large matrix product is
timed, so that one sees what the machine itself did meanwhile. Tokenising and compiling are not in tokens/s, nor is a
first step, of the largest batch, which takes the memory. Tokens are those of the batch's distinct texts.

`mtret, 30,522 words`: the same tower with a table of BERT's size, to which token numbers are folded. `mtret, all
words`: without the working vocabulary.
"""

# pyright: reportMissingImports=false

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
CONFIG = HERE.parents[1] / "configs" / "public_suite.py"
BERT_WORDS = 30_522
DROPOUT = 0.1
CONTENDERS = (
    "mtret",
    "mtret, 30,522 words",
    "mtret, all words",
    "sentence-transformers",
    "sentence-transformers, grouped by length",
    "mtret again",
)


def of_training_speed() -> Any:
    """The peer of experiments/002_training_speed."""
    place = HERE.parent / "002_training_speed" / "run.py"
    spec = importlib.util.spec_from_file_location("training_speed", place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def work(arguments: argparse.Namespace) -> None:
    """A contender: prints its figures as one line of JSON."""
    from rich.console import Console

    from mtret.run_config import read_config
    from mtret.runs import session, setup

    ours = arguments.contender.startswith("mtret")
    console = Console(quiet=True)
    cache = session.begin(console).cache
    given = [f"suite={arguments.suite}", f"model.source={arguments.model}", f"model.dropout={DROPOUT}"]
    config, _, tasks, model = setup.load_inputs(read_config(str(CONFIG), [*given, *arguments.config]), console)
    drawn = arguments.contender in ("mtret", "mtret again")
    words = None if drawn else np.arange(model.encoder.config.vocab_size, dtype=np.int32)
    run = setup.prepare(config, tasks, model, cache, console, words)
    found = ours_on(run, arguments) if ours else peer_on(run, arguments)
    found["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(found), flush=True)


def ours_on(run: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    import jax

    from mtret.data.pipeline import batches
    from mtret.pytrees import flatten, unflatten
    from mtret.train.programs import compile_steps
    from mtret.train.sharding import batch_sharding
    from mtret.train.step import create_state

    planner, step, params = run.planner, run.step, run.params
    if "30,522" in arguments.contender:
        for task in planner.tasks:
            for name in ("queries", "generic", "documents"):
                texts = getattr(task, name)
                if texts is not None:
                    texts.ids[:] = texts.ids % BERT_WORDS
        step = replace(step, tower=step.tower.clone(config=replace(step.tower.config, vocab_size=BERT_WORDS)))
        cut = {
            path: leaf[:BERT_WORDS] if path.endswith("word_embeddings/embedding") else leaf
            for path, leaf in flatten(params).items()
        }
        params = unflatten(cut)
    state = create_state(params, step.optimizer, run.mesh, run.specs)
    # In the order of the run, so that all contenders see the same batches.
    plans = [planner.plan(number) for number in range(arguments.steps)]
    shapes = tuple({plan.shape for plan in plans})
    steps, seconds = compile_steps(step, state, planner, run.mesh, run.specs, only=shapes)
    source = batches(planner, batch_sharding(run.mesh), 0)
    loaded = [next(source) for _ in plans]
    plan, batch = max(loaded, key=lambda each: each[0].slots)
    state, metrics = steps[plan.shape](state, batch)
    np.asarray(metrics)
    taken, losses = [], []
    for plan, batch in loaded:
        began = time.perf_counter()
        state, metrics = steps[plan.shape](state, batch)
        losses.append(float(np.asarray(metrics)[0]))
        taken.append(time.perf_counter() - began)
    tokens = [plan.tokens for plan in plans]
    words = len(run.vocabulary.ids) if "30,522" not in arguments.contender else BERT_WORDS
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) / 2**30
    return {
        "words": words,
        "state_gib": size,
        "shapes": len(shapes),
        "compile_seconds": seconds,
        "tokens": tokens,
        "seconds": taken,
        "losses": losses,
    }


def peer_on(run: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    speed = of_training_speed()
    plans = [run.planner.plan(number) for number in range(arguments.steps)]
    of_run = [pairs_of(speed, run.planner, plan) for plan in plans]
    # A batch holds one task; grouped by length, the pairs of a task's batches are dealt anew among them.
    if "grouped" in arguments.contender:
        of_run = grouped(of_run, [plan.task for plan in plans])
    peer = speed.Peer(arguments.model, of_run, False, DROPOUT)
    peer.step(max(range(len(of_run)), key=lambda number: max(len(text) for pair in of_run[number] for text in pair)))
    taken, losses = [], []
    for number in range(len(of_run)):
        began = time.perf_counter()
        losses.append(peer.step(number))
        taken.append(time.perf_counter() - began)
    return {"tokens": [plan.tokens for plan in plans], "seconds": taken, "losses": losses}


def pairs_of(speed: Any, planner: Any, plan: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of the task of this plan."""
    task = type("Only", (), {"tasks": [planner.tasks[plan.task]]})
    return speed.pairs_of(task, plan)


def grouped(batches: list[Any], tasks: list[int]) -> list[Any]:
    """Each task's pairs sorted by length, and dealt anew into batches of the sizes that it had."""
    found: list[Any] = [None] * len(batches)
    for task in set(tasks):
        own = [number for number, each in enumerate(tasks) if each == task]
        pairs = sorted((pair for number in own for pair in batches[number]), key=lambda p: (len(p[1]), len(p[0])))
        for number in own:
            size = len(batches[number])
            found[number], pairs = pairs[:size], pairs[size:]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", required=True)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--only", default="", help="numbers of contenders, from 0, with commas")
    parser.add_argument("--config", nargs="*", default=[])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--contender", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        work(arguments)
        return
    speed = of_training_speed()
    chosen = [CONTENDERS[int(number)] for number in arguments.only.split(",")] if arguments.only else CONTENDERS
    found: dict[str, Any] = {"steps": arguments.steps, "dropout": DROPOUT, "config": arguments.config}
    for contender in chosen:
        rates = speed.processor()
        command = [sys.executable, __file__, f"--suite={arguments.suite}", f"--model={arguments.model}"]
        command += [f"--steps={arguments.steps}", f"--contender={contender}"]
        if arguments.config:
            command += ["--config", *arguments.config]
        line = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]
        numbers = json.loads(line)
        numbers["tokens_per_s"] = sum(numbers["tokens"]) / sum(numbers["seconds"])
        numbers["processor"] = rates
        found[contender] = numbers
        print(contender, {key: value for key, value in numbers.items() if not isinstance(value, list)}, flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
