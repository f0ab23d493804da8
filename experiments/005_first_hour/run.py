"""The tour of docs/first_hour.md, run for real: two applications' CSV files become tasks, a model and an answer.

    python experiments/005_first_hour/run.py SOURCES

SOURCES holds clones of two public repositories, PolyAI-LDN/task-specific-datasets (BANKING77) and
IBM/KPA_2021_shared_task. Writes transcript.txt and results.json beside this file, and the transcript into that page.
Ten minutes on two CPU cores.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "first_hour.md"
BLOCK = re.compile(r"(<!-- first hour: [^>]*-->\n)(.*?)(<!-- /first hour -->)", re.DOTALL)
FILES = {
    "banking_train.csv": "PolyAI-LDN/task-specific-datasets/banking_data/train.csv",
    "banking_test.csv": "PolyAI-LDN/task-specific-datasets/banking_data/test.csv",
    "arguments.csv": "IBM/KPA_2021_shared_task/kpm_data/arguments_train.csv",
    "key_points.csv": "IBM/KPA_2021_shared_task/kpm_data/key_points_train.csv",
    "labels.csv": "IBM/KPA_2021_shared_task/kpm_data/labels_train.csv",
}
COMMANDS = (
    """mtret data import train=banking_train.csv test=banking_test.csv --query=text --text=category --family=intent \\
    --instruction="Given a customer's message, retrieve its intent." --out=tasks/banking""",
    """mtret data import arguments.csv --docs=key_points.csv --labels=labels.csv --query=argument --query_id=arg_id \\
    --doc_id=key_point_id --text=key_point --score=label --group_by=topic --family=key_point \\
    --instruction="Given an argument, retrieve the key point that it makes." --out=tasks/key_points""",
    "mtret train --suite=tasks --workdir=runs/first",
    "mtret evaluate --model=runs/first --split=test",
    'mtret search runs/first banking "my card was swallowed by the machine"',
)
PROGRESS = re.compile(  # of a bar, where there is no terminal
    r"^[^|$]*\b(bytes|tokens|training|texts|images) [\d,]+/[\d,]+(, .* left)?(  .*)?$"
)


def tour(folder: Path) -> str:
    """Runs the commands in `folder` as a shell would, and returns what a reader would see."""
    environment = {**os.environ, "COLUMNS": "118", "PYTHONWARNINGS": "ignore"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    told = []
    for command in COMMANDS:
        print(f"$ {command}", flush=True)
        done = subprocess.run(
            command,
            shell=True,
            cwd=folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        print(done.stdout, flush=True)
        if done.returncode:
            raise SystemExit(f"exit code {done.returncode}: {command}")
        lines = [line.rstrip() for line in done.stdout.splitlines() if not PROGRESS.match(line)]
        told.append("\n".join([f"$ {command}", *lines]).rstrip())
    return ("\n\n".join(told) + "\n").replace(str(Path.home()), "~")


def with_transcript(page: str) -> str:
    """The page's text with the transcript as it has to be."""
    told = (HERE / "transcript.txt").read_text(encoding="utf-8")
    filled, count = BLOCK.subn(lambda match: f"{match[1]}\n```console\n{told}```\n\n{match[3]}", page)
    if count != 1:
        raise ValueError(f"{PAGE}: needs one block between <!-- first hour: ... --> and <!-- /first hour -->")
    return filled


def main() -> None:
    sources = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for own, theirs in FILES.items():
            shutil.copyfile(sources / theirs, folder / own)
        told = tour(folder)
        shutil.copyfile(folder / "runs" / "first" / "test" / "results.json", HERE / "results.json")
    (HERE / "transcript.txt").write_text(told, encoding="utf-8")
    PAGE.write_text(with_transcript(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
