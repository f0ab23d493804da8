"""What runs of a sweep share: eight of them as one sweep, and as eight commands each with a process of its own.

    python experiments/008_sweeps/sharing.py --suite=FOLDER [--steps=60] [--queries=8] [--tasks=banking77] --out=FILE

The public mixture in small batches of short texts, four learning rates and two seeds, each evaluated on some tasks.
Cold: nothing is cached; once for the sweep, and for the commands either once (they share a cache, one after the other)
or each (as on eight machines). Warm: everything is. What `mtret sweep --dry_run` says beforehand, with what the cold
sweep noted, stands beside. Before each contender a large matrix product is timed.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SWEEP = """
from mtret.sweeps import Sweep, grid


def get_sweep():
    return Sweep(
        "configs/public_suite.py",
        grid({{"optim.learning_rate": [1e-4, 7e-5, 5e-5, 3e-5]}}),
        seeds=(0, 1),
        tasks={tasks!r},
        evaluation={{"pooled": False, "scann": False}},
    )
"""


class Contest:
    """Runs commands and times them."""

    def __init__(self, arguments: argparse.Namespace, scratch: Path) -> None:
        self.scratch, self.number = scratch, 0
        self.file = scratch / "sweep.py"
        self.file.write_text(SWEEP.format(tasks=arguments.tasks.split(",")), encoding="utf-8")
        steps = arguments.steps
        settings = {
            "batch.queries": arguments.queries, "batch.query_length": 32, "batch.document_length": 64,
            "loop.steps": steps, "loop.evaluate_every": steps, "loop.checkpoint_every": steps,
            "dev.queries": 2, "dev.distractors": 4,
        }  # fmt: skip
        self.given = [f"--suite={arguments.suite}", *(f"--config.{key}={value}" for key, value in settings.items())]

    def mtret(self, cache: Path, *words: str) -> tuple[float, str]:
        """Seconds of a command, and what it says."""
        command = [sys.executable, "-m", "mtret.cli", "sweep", str(self.file), *self.given, *words]
        began = time.perf_counter()
        done = subprocess.run(
            command, env={**os.environ, "MTRET_CACHE": str(cache)}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return time.perf_counter() - began, done.stdout

    def fresh(self) -> Path:
        self.number += 1
        return self.scratch / f"{self.number}"

    def as_sweep(self, cache: Path) -> float:
        return self.mtret(cache, f"--out={self.fresh()}")[0]

    def as_commands(self, cache: Path, each_cold: bool) -> float:
        """A process for each run, as `--print_commands` gives them; the last shows the table."""
        out, total = self.fresh(), 0.0
        for line in self.mtret(cache, "--list")[1].splitlines():
            if each_cold:
                shutil.rmtree(cache, ignore_errors=True)
            total += self.mtret(cache, f"--out={out}", f"--only={line.split()[0]}")[0]
        return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--queries", type=int, default=8)
    parser.add_argument("--tasks", default="banking77")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    from mtret.runs.summary import matrix_rate

    found: dict[str, Any] = {"steps": arguments.steps, "queries": arguments.queries, "tasks": arguments.tasks}

    def note(name: str, value: Any) -> None:
        found[name] = value
        print(name, value, flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        contest, one, other = Contest(arguments, scratch), scratch / "cache", scratch / "other"

        def timed(name: str, seconds: float, rate: float) -> None:
            note(name, {"seconds": seconds, "product_gflops": rate / 1e9})

        rate = matrix_rate("float32")
        note("first told", contest.mtret(one, "--dry_run")[1].splitlines()[-5:])
        shutil.rmtree(one)
        timed("sweep, cold", contest.as_sweep(one), rate)
        seconds, said = contest.mtret(one, "--dry_run")
        note("told", {"seconds": seconds, "said": re.sub(r"\s+", " ", said.splitlines()[-1])})
        rate = matrix_rate("float32")
        timed("sweep, warm", contest.as_sweep(one), rate)
        rate = matrix_rate("float32")
        timed("commands, cold", contest.as_commands(other, each_cold=False), rate)
        rate = matrix_rate("float32")
        timed("commands, warm", contest.as_commands(other, each_cold=False), rate)
        rate = matrix_rate("float32")
        timed("commands, each cold", contest.as_commands(other, each_cold=True), rate)


if __name__ == "__main__":
    main()
