"""A sweep that is killed, gone on with by two workers at once, or done in two shards, beside one left in peace.

    python experiments/008_sweeps/killed.py [--sweep=configs/sweeps/quickstart.py] [--steps=8] --out=FOLDER

Two settings by two by two seeds on the bundled enterprise. Prints whether every table and every result is the same to
the last digit, but for times, and how often each run was begun. Exit code 1 where one is not.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

KILLS = 2


def command(arguments: argparse.Namespace, out: Path, *more: str) -> list[str]:
    given = [f"--config.loop.{key}={arguments.steps}" for key in ("steps", "evaluate_every")]
    given.append(f"--config.loop.checkpoint_every={max(arguments.steps // 4, 1)}")
    return [sys.executable, "-m", "mtret.cli", "sweep", arguments.sweep, f"--out={out}", *given, *more]


def began(arguments: argparse.Namespace, out: Path, *more: str) -> "subprocess.Popen[bytes]":
    log = (out.parent / f"{out.name}.log").open("ab")
    return subprocess.Popen(command(arguments, out, *more), stdout=log, stderr=log)


def finished(process: "subprocess.Popen[bytes]") -> None:
    if process.wait():
        raise SystemExit(f"ended with {process.returncode}: {process.args}")


def found(out: Path) -> dict[str, Any]:
    """What a sweep found, without what a clock says."""
    tables: dict[str, Any] = {"table.md": (out / "table.md").read_text(encoding="utf-8")}
    for path in sorted(out.glob("*/seed*/test/results.json")):
        results = json.loads(path.read_text(encoding="utf-8"))
        scores = {name: [task["systems"], task["differences"]] for name, task in results["tasks"].items()}
        tables[str(path.relative_to(out))] = [scores, results["roles"], results["pooled"]["roles"]]
    return tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", default="configs/sweeps/quickstart.py")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True)
    places = {name: arguments.out / name for name in ("peace", "killed", "shard0", "shard1")}
    began_at = time.monotonic()
    finished(began(arguments, places["peace"]))
    peace = time.monotonic() - began_at
    draw = random.Random(0)
    for _ in range(KILLS):
        process = began(arguments, places["killed"])
        time.sleep(draw.uniform(0.15, 0.6) * peace)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        done = len([*places["killed"].glob("*/seed*/test/results.json")])
        print(f"killed, with {done} runs finished", flush=True)
    workers = [began(arguments, places["killed"]) for _ in range(2)]
    for worker in workers:
        finished(worker)
    for number in range(2):
        finished(began(arguments, places[f"shard{number}"], f"--shard={number}/2"))
    shutil.copytree(places["shard1"], places["shard0"], dirs_exist_ok=True)
    finished(began(arguments, places["shard0"]))
    same = {name: found(places[name]) == found(places["peace"]) for name in ("killed", "shard0")}
    starts = {
        str(path.parent.relative_to(places["killed"])): len(json.loads(path.read_text(encoding="utf-8"))["starts"])
        for path in sorted(places["killed"].glob("*/seed*/config.json"))
    }
    print(f"the sweep left in peace: {peace:.0f} s, {len(starts)} runs")
    print(f"starts of each run where it was killed: {starts}")
    print(f"the same to every digit: {same}")
    sys.exit(0 if all(same.values()) else 1)


if __name__ == "__main__":
    main()
