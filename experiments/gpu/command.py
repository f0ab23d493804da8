"""`mtret train` and `mtret encode` as people type them, on the device at hand: do they end well, and how.

    python experiments/gpu/command.py --data=.gpu-data --out=command.json        # --tiny: on a CPU

The quickstart from MiniLM's weights of pack.py: with all the memory; goes on from its middle, as after a kill; and with
so little that batches must be read in chunks, which a run is to find out by itself. Then the enterprise's documents are
encoded by the command's own batches. Needs what wheels.sh in experiments/002_training_speed fetches, but for ScaNN.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

START = time.monotonic()
SHORT = ("--config.loop.steps=30", "--config.loop.evaluate_every=15", "--config.loop.checkpoint_every=15")
TINY = ("--config.loop.steps=2", "--config.loop.evaluate_every=1", "--config.loop.checkpoint_every=1",
        "--config.batch.queries=4")  # fmt: skip


def mtret(*arguments: str, limit_s: float, memory: str = "") -> dict[str, Any]:
    """Seconds, exit code and the last lines of what it printed."""
    began = time.monotonic()
    environment = {**os.environ, "COLUMNS": "160"} | ({"XLA_PYTHON_CLIENT_MEM_FRACTION": memory} if memory else {})
    command = [sys.executable, "-m", "mtret", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(limit_s, 1), env=environment)
        said, code = done.stdout + done.stderr, done.returncode
    except subprocess.TimeoutExpired as error:
        said, code = str(error), -1
    seconds = round(time.monotonic() - began, 1)
    return {"command": arguments[0], "memory": memory, "seconds": seconds, "code": code, "said": said[-4000:]}


def killed_after_a_checkpoint(*arguments: str, workdir: Path, limit_s: float) -> dict[str, Any]:
    """`mtret`, ended without warning as soon as there is something to go on from."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "mtret", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while time.monotonic() - began < limit_s and process.poll() is None:
        if any(each.name.isdigit() for each in (workdir / "checkpoints").glob("*")):
            break
        time.sleep(0.01)
    process.kill()
    seconds = round(time.monotonic() - began, 1)
    return {"command": f"{arguments[0]}, killed", "seconds": seconds, "code": 0, "ended": process.wait()}


def work(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    from pack import unpack

    found: list[dict[str, Any]] = []

    def left() -> float:
        return arguments.limit_s - (time.monotonic() - START)

    def note(what: dict[str, Any]) -> None:
        found.append(what)
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"{what['command']}: code {what['code']} after {what['seconds']} s", flush=True)

    with TemporaryDirectory() as place:
        _, model = unpack(arguments.data, Path(place, "model"))
        plain, again, small = (Path(place, name) for name in ("plain", "again", "small"))
        fast = () if arguments.tiny else ("--config.model.matmul_dtype=bfloat16", "--config.model.attention=pallas")
        how = ("train", "--config=configs/quickstart.py", f"--config.model.source={model}", *fast)
        how += TINY if arguments.tiny else SHORT

        def train(workdir: Path, *more: str, memory: str = "") -> None:
            note(mtret(*how, *more, f"--workdir={workdir}", limit_s=left(), memory=memory))
            record = workdir / "config.json"
            if record.exists():
                found[-1]["chunk_tokens"] = json.loads(record.read_text(encoding="utf-8")).get("chunk_tokens")

        train(plain)
        if not arguments.tiny:
            train(small, "--config.batch.queries=512", memory="0.012")
        note(killed_after_a_checkpoint(*how, f"--workdir={again}", workdir=again, limit_s=left()))
        train(again)
        out = Path(place, "vectors.jsonl")
        what = ("--suite=enterprise", "--task=it_article", f"--out={out}")
        note(mtret("encode", f"--model={plain}", *what, limit_s=left()))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(".gpu-data"), help="what pack.py wrote, of MiniLM")
    parser.add_argument("--out", type=Path, default=Path("command.json"))
    parser.add_argument("--limit-s", type=float, default=170)
    parser.add_argument("--tiny", action="store_true", help="two steps")
    found = work(parser.parse_args())
    return int(any(each["code"] for each in found))


if __name__ == "__main__":
    raise SystemExit(main())
