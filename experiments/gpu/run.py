"""The queue for a GPU that is lent for minutes: jobs in the order of their worth, each with a time limit of its own.

    python experiments/gpu/run.py --out=FOLDER                  # the third visit, at most --limit-s in all
    python experiments/gpu/run.py --out=FOLDER --only=train-minilm,train-base
    python experiments/gpu/run.py --out=FOLDER --tiny           # on a CPU: does every job work

`sweep-e5` needs what `pack.py --model` writes, in .gpu-data-e5; other sweeps, `encode` and `command` what it writes of
MiniLM, in .gpu-data. Every job is a process of its own and writes
FOLDER/NAME.json (the sweep .jsonl and .scores); what it prints goes to FOLDER/NAME.log. After each job
FOLDER/queue.json says what was run, for how long, and how it ended, so that whatever the minutes allowed is kept. A job
that would not have half of its time is left for another day. Some run beside those that follow, to compile for a later
job; their log is kept only where they fail.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
BENCHMARK = HERE.parent / "002_training_speed" / "gpu.py"


@dataclass(frozen=True)
class Job:
    """`arguments` of `program`, by default the benchmark; `seconds`: after so many it is stopped."""

    name: str
    seconds: int
    arguments: tuple[str, ...]
    program: Path | None = None
    output: str = ".json"
    beside: bool = False  # does not wait for its end, and is stopped with the last of the others
    environment: Mapping[str, str] = field(default_factory=dict)


def training(geometry: str, seconds: int, rounds: int, *more: str) -> tuple[str, ...]:
    """A comparison that starts no round that would not end some time before its limit."""
    return (f"--geometry={geometry}", f"--rounds={rounds}", f"--limit-s={seconds * 0.85:.0f}", *more)


def sweep(seconds: int, *more: str, name: str = "sweep") -> Job:
    """Leaves part of the GPU's memory to what compiles beside it."""
    memory = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.6"}
    return Job(name, seconds, (f"--limit-s={seconds - 6}", *more), HERE / "sweep.py", ".jsonl", environment=memory)


def encoding(seconds: int, *more: str) -> Job:
    return Job("encode", seconds, (f"--limit-s={seconds - 3}", *more), HERE / "encode.py")


# As long as they took on an H200, and a third more: a contender of MiniLM's size takes 25 s, of BERT-base's 35 to 65,
# most of which is compilation. What a later job needs is compiled beside the sweep.
FASTEST = "--only=pallas,sdpa"
LARGE = ("--batch=4096", "--steps=1")


def compiling(geometry: str) -> Job:
    """Beside the others, with a part of the GPU's memory."""
    arguments = (f"--geometry={geometry}", "--compile=pallas", *LARGE)
    memory = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.3"}
    return Job(f"compile-{geometry.split('-')[0]}", 300, arguments, beside=True, environment=memory)


JOBS = (
    compiling("e5-small"),
    sweep(455, "--runs=e5", "--data=.gpu-data-e5", name="sweep-e5"),
    Job("train-e5", 100, training("e5-small", 100, 1, *LARGE, FASTEST)),
)
MEASURED = (  # on other occasions; experiments/gpu/results has all of them
    Job("command", 170, ("--limit-s=165",), HERE / "command.py"),
    sweep(360),
    encoding(95),
    compiling("gte-base"),
    Job("train-gte", 105, training("gte-base", 105, 1, *LARGE, FASTEST, "--unchecked")),
    sweep(215, "--runs=batches", name="sweep-batches"),
    Job("attention-minilm", 50, ("--attention", "--geometry=minilm")),
    Job("train-minilm", 170, training("minilm", 170, 1, "--steps=2")),
    Job("train-base", 165, training("bert-base", 165, 1, "--steps=2", FASTEST)),
    Job("attention-base", 50, ("--attention", "--geometry=bert-base")),
)
TINY = (
    Job("compile-tiny", 300, ("--geometry=tiny", "--compile=xla", "--batch=8", "--steps=1"), beside=True),
    Job("attention-tiny", 300, ("--attention", "--geometry=tiny", "--batch=16")),
    Job("train-tiny", 300, training("tiny", 300, 1, "--batch=8", "--steps=1", "--only=xla", "--unchecked")),
    sweep(300, "--tiny"),
    encoding(300, "--tiny"),
    Job("command", 300, ("--limit-s=295", "--tiny"), HERE / "command.py"),
)


def run(jobs: tuple[Job, ...], folder: Path, limit_s: float, program: Path = BENCHMARK) -> list[dict[str, object]]:
    """Runs them in turn. What comes back, and stands in queue.json: name, seconds, and how each ended."""
    folder.mkdir(parents=True, exist_ok=True)
    start, ended = time.monotonic(), list[dict[str, object]]()
    beside: list[tuple[Job, subprocess.Popen[bytes], float]] = []

    def note(job: Job, how: str, began: float) -> None:
        ended.append({"job": job.name, "ended": how, "seconds": round(time.monotonic() - began, 1)})
        (folder / "queue.json").write_text(json.dumps(ended, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(ended[-1]), flush=True)

    for job in jobs:
        began = time.monotonic()
        seconds = min(limit_s - (began - start), job.seconds)
        if seconds < job.seconds / 2:
            note(job, "not begun: too little time was left", began)
            continue
        process = _begin(job, folder, program)
        if job.beside:
            beside.append((job, process, began))
            continue
        note(job, _end(process, seconds), began)
        for each in [each for each in beside if each[1].poll() is not None]:
            beside.remove(each)
            _note_beside(*each, folder, note)
    for each in beside:
        _note_beside(*each, folder, note)
    return ended


def _begin(job: Job, folder: Path, program: Path) -> "subprocess.Popen[bytes]":
    out = f"--out={folder / job.name}{job.output}"
    command = [sys.executable, str(job.program or program), *job.arguments, out]
    with (folder / f"{job.name}.log").open("w", encoding="utf-8") as log:
        environment = {**os.environ, **job.environment}
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=environment)


def _end(process: "subprocess.Popen[bytes]", seconds: float) -> str:
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # what it started holds the device too
        process.wait()
        return f"stopped after {seconds:.0f} s"
    return "well" if code == 0 else f"with exit code {code}"


def _note_beside(
    job: Job, process: "subprocess.Popen[bytes]", began: float, folder: Path, note: Callable[[Job, str, float], None]
) -> None:
    """Its seconds are those until it was looked at."""
    unfinished = process.poll() is None
    how = _end(process, 0)
    if unfinished:
        how = "stopped with the last of the others"
    if how == "well":
        (folder / f"{job.name}.log").unlink()
    note(job, how, began)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit-s", type=float, default=565, help="of all jobs together")
    parser.add_argument("--only", default="", help="names of jobs, with commas between")
    parser.add_argument("--tiny", action="store_true", help="jobs that a CPU can do")
    arguments = parser.parse_args()
    known = TINY if arguments.tiny else (*JOBS, *MEASURED)
    wanted = {name for name in arguments.only.split(",") if name}
    if unknown := wanted - {job.name for job in known}:
        parser.error(f"no job {', '.join(sorted(unknown))}; there are {', '.join(job.name for job in known)}")
    chosen = tuple(job for job in known if job.name in wanted) if wanted else TINY if arguments.tiny else JOBS
    ended = run(chosen, arguments.out, arguments.limit_s)
    return int(any(one["ended"] != "well" for one in ended))


if __name__ == "__main__":
    raise SystemExit(main())
