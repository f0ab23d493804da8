"""A long run of the command line, watched from outside: does it recompile, leak, or meet a step that is not finite?

    python experiments/002_training_speed/steady.py --suite=FOLDER [--steps=1000] [--out=steady.json]

Trains the public mixture in small batches of short texts, so that a thousand steps take minutes, and samples the
process's resident memory once a second. Memory counts as flat when the last quarter of the run peaks no more than 3%
above the second; the first still fills pools. Exit code 1 where one of the three does not hold.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident(process: int) -> int:
    """Bytes; Linux only."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE


def watch(command: list[str], metrics: Path) -> list[tuple[float, int, int]]:
    """(seconds, steps written, resident bytes), once a second until the command ends. Raises if it fails."""
    began, seen = time.monotonic(), []
    with subprocess.Popen(command, cwd=ROOT) as process:
        while process.poll() is None:
            try:
                steps = metrics.read_bytes().count(b'"plan"') if metrics.exists() else 0
                seen.append((round(time.monotonic() - began, 1), steps, resident(process.pid)))
            except (OSError, IndexError):  # it has just ended
                break
            time.sleep(1.0)
    if process.returncode:
        raise SystemExit(f"the run ended with exit code {process.returncode}")
    return seen


def quarters(samples: list[tuple[float, int, int]], steps: int) -> list[int]:
    """Peak of resident memory in each quarter of the steps."""
    return [
        max(size for _, done, size in samples if steps * i / 4 < done <= steps * (i + 1) / 4 and done < steps)
        for i in range(4)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    changes = {
        "batch.queries": 8,
        "batch.query_length": 64,
        "batch.document_length": 64,
        "loop.steps": arguments.steps,
        "loop.evaluate_every": arguments.steps,
        "loop.checkpoint_every": arguments.steps // 4,
        "dev.queries": 10,
        "dev.distractors": 50,
        "model.dropout": 0.1,
    }
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        command = [sys.executable, "-m", "mtret.cli", "train", "--config=configs/public_suite.py"]
        command += [f"--suite={arguments.suite}", f"--workdir={workdir}"]
        command += [f"--config.{key}={value}" for key, value in changes.items()]
        samples = watch(command, workdir / "metrics.jsonl")
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        summary = json.loads((workdir / "summary.json").read_text())
    losses = [line["loss"] for line in lines if "loss" in line]
    memory = quarters(samples, arguments.steps)
    result: dict[str, Any] = {
        "changes": changes,
        "steps": len(losses),
        "not finite": sum(loss is None for loss in losses),
        "summary": summary,
        "resident bytes, peak by quarter": memory,
        "mean loss by tenth": [
            sum(part) / len(part)
            for i in range(10)
            if (part := losses[i * len(losses) // 10 : (i + 1) * len(losses) // 10])
        ],
    }
    print(json.dumps(result, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if len(losses) < arguments.steps or result["not finite"] or memory[3] > 1.03 * memory[1]:
        raise SystemExit("not steady")


if __name__ == "__main__":
    main()
