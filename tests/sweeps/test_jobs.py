"""The job scripts of docs/sweeps.md, run as a cluster would run them."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
SBATCH = """#!/bin/bash
# A cluster of one: runs every task of the array, one after the other, as sbatch's jobs would.
array=${1#--array=}
for task in $(seq "${array%-*}" "${array#*-}"); do
  SLURM_ARRAY_TASK_ID=$task SLURM_ARRAY_TASK_COUNT=$((${array#*-} - ${array%-*} + 1)) bash "$2" || exit 1
done
"""


def block(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """An environment with sbatch, and an mtret that writes down what it is asked."""
    for name, text in {"sbatch": SBATCH, "mtret": f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n'}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}


def shards(tmp_path: Path) -> list[str]:
    lines = (tmp_path / "asked").read_text(encoding="utf-8").splitlines()
    assert all(line.startswith("sweep configs/sweeps/quickstart.py --out=/shared/sweep --shard=") for line in lines)
    return [line.rpartition("=")[2] for line in lines]


def test_a_slurm_array_does_every_shard(tmp_path: Path, cluster: dict[str, str]) -> None:
    command = re.search(r"`(sbatch --array=\S+ sweep\.sh)`", PAGE)
    assert command is not None
    (tmp_path / "sweep.sh").write_text(block("slurm"), encoding="utf-8")
    subprocess.run(command[1].split(), cwd=tmp_path, env=cluster, check=True)
    assert shards(tmp_path) == ["0/4", "1/4", "2/4", "3/4"]


def test_an_indexed_job_does_every_shard(tmp_path: Path, cluster: dict[str, str]) -> None:
    import yaml

    job: dict[str, Any] = yaml.safe_load(block("kubernetes"))
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed"
    (container,) = spec["template"]["spec"]["containers"]
    for index in range(spec["completions"]):
        subprocess.run(container["command"], env={**cluster, "JOB_COMPLETION_INDEX": str(index)}, check=True)
    assert shards(tmp_path) == ["0/4", "1/4", "2/4", "3/4"]
