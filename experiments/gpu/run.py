"""The queue for a GPU that is lent for minutes: jobs in the order of their worth, each with a time limit of its own.

    python experiments/gpu/run.py --out=FOLDER                  # all of them, at most --limit-s in all
    python experiments/gpu/run.py --out=FOLDER --only=train-minilm,train-base
    python experiments/gpu/run.py --out=FOLDER --tiny           # on a CPU: does every job work

Every job is a process of its own and writes FOLDER/NAME.json; what it prints goes to FOLDER/NAME.log. After each job
FOLDER/queue.json says what was run, for how long, and how it ended, so that whatever the minutes allowed is kept. A job
that would not have half of its time is left for another day.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

BENCHMARK = Path(__file__).parents[1] / "002_training_speed" / "gpu.py"


@dataclass(frozen=True)
class Job:
    """`arguments` of the benchmark; `seconds`: after so many it is stopped."""

    name: str
    seconds: int
    arguments: tuple[str, ...]


def training(geometry: str, seconds: int, rounds: int, *more: str) -> tuple[str, ...]:
    """A comparison that starts no round that would not end some time before its limit."""
    return (f"--geometry={geometry}", f"--rounds={rounds}", f"--limit-s={seconds * 0.85:.0f}", *more)


# As long as they took on an H200, and a third more: a contender of MiniLM's size takes 25 s, of BERT-base's 35 to 65,
# most of which is compilation.
FASTEST = "--only=pallas,sdpa"
JOBS = (
    Job("attention-minilm", 50, ("--attention", "--geometry=minilm")),
    Job("train-minilm", 170, training("minilm", 170, 1, "--steps=2")),
    Job("train-base", 165, training("bert-base", 165, 1, "--steps=2", FASTEST)),
    Job("train-gte", 165, training("gte-base", 165, 1, "--steps=2", FASTEST)),
    Job("attention-base", 50, ("--attention", "--geometry=bert-base")),
)
TINY = (
    Job("attention-tiny", 300, ("--attention", "--geometry=tiny", "--batch=16")),
    Job("train-tiny", 300, training("tiny", 300, 1, "--batch=8", "--steps=1", "--only=xla")),
)


def run(jobs: tuple[Job, ...], folder: Path, limit_s: float, program: Path = BENCHMARK) -> list[dict[str, object]]:
    """Runs them in turn. What comes back, and stands in queue.json: name, seconds, and how each ended."""
    folder.mkdir(parents=True, exist_ok=True)
    start, ended = time.monotonic(), list[dict[str, object]]()
    for job in jobs:
        left = limit_s - (time.monotonic() - start)
        began = time.monotonic()
        ended.append({"job": job.name, "ended": _one(job, folder, min(left, job.seconds), program)})
        ended[-1]["seconds"] = round(time.monotonic() - began, 1)
        (folder / "queue.json").write_text(json.dumps(ended, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(ended[-1]), flush=True)
    return ended


def _one(job: Job, folder: Path, seconds: float, program: Path) -> str:
    if seconds < job.seconds / 2:
        return "not begun: too little time was left"
    command = [sys.executable, str(program), *job.arguments, f"--out={folder / job.name}.json"]
    with (folder / f"{job.name}.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # what it started holds the device too
            process.wait()
            return f"stopped after {seconds:.0f} s"
    return "well" if code == 0 else f"with exit code {code}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit-s", type=float, default=540, help="of all jobs together")
    parser.add_argument("--only", default="", help="names of jobs, with commas between")
    parser.add_argument("--tiny", action="store_true", help="jobs that a CPU can do")
    arguments = parser.parse_args()
    jobs, wanted = TINY if arguments.tiny else JOBS, {name for name in arguments.only.split(",") if name}
    if unknown := wanted - {job.name for job in jobs}:
        parser.error(f"no job {', '.join(sorted(unknown))}; there are {', '.join(job.name for job in jobs)}")
    ended = run(tuple(job for job in jobs if not wanted or job.name in wanted), arguments.out, arguments.limit_s)
    return int(any(one["ended"] != "well" for one in ended))


if __name__ == "__main__":
    raise SystemExit(main())
