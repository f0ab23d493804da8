"""The queue for a lent GPU keeps what the minutes allowed."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def queue(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("gpu/run.py")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Ends as it is told, or waits for ever in a process of its own; writes its --out first."""
    path = tmp_path / "program.py"
    path.write_text(
        "import pathlib, subprocess, sys\n"
        "pathlib.Path(sys.argv[-1].removeprefix('--out=')).write_text('{}')\n"
        "if sys.argv[1] == 'wait':\n"
        "    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "    pathlib.Path(__file__).with_name('child').write_text(str(child.pid))\n"
        "    child.wait()\n"
        "sys.exit(int(sys.argv[1]))\n",
        encoding="utf-8",
    )
    return path


def test_every_job_says_how_it_ended_and_leaves_nothing_running(
    queue: ModuleType, program: Path, tmp_path: Path
) -> None:
    jobs = [queue.Job("good", 20, ("0",)), queue.Job("bad", 20, ("3",)), queue.Job("endless", 3, ("wait",))]
    ended = queue.run((*jobs, queue.Job("last", 60, ("0",))), tmp_path / "out", 30.0, program)
    assert [(one["job"], one["ended"]) for one in ended] == [
        ("good", "well"),
        ("bad", "with exit code 3"),
        ("endless", "stopped after 3 s"),
        ("last", "not begun: too little time was left"),
    ]
    assert json.loads((tmp_path / "out" / "queue.json").read_text(encoding="utf-8")) == ended
    assert (tmp_path / "out" / "good.json").exists() and (tmp_path / "out" / "bad.log").exists()
    status = Path("/proc") / (tmp_path / "child").read_text(encoding="utf-8") / "stat"
    deadline = time.monotonic() + 30  # a killed process may take a while to go
    while status.exists() and status.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_job_beside_the_others_is_not_waited_for_and_keeps_its_log_where_it_failed(
    queue: ModuleType, program: Path, tmp_path: Path
) -> None:
    beside = [
        queue.Job(name, 30, (how,), beside=True) for name, how in (("fine", "0"), ("broken", "3"), ("long", "wait"))
    ]
    ended = queue.run((*beside, queue.Job("wait", 4, ("wait",))), tmp_path / "out", 40.0, program)
    assert {one["job"]: one["ended"] for one in ended} == {
        "wait": "stopped after 4 s",
        "fine": "well",
        "broken": "with exit code 3",
        "long": "stopped with the last of the others",
    }
    assert sorted(path.stem for path in (tmp_path / "out").glob("*.log")) == ["broken", "long", "wait"]


def test_the_programs_know_the_jobs_arguments(queue: ModuleType) -> None:
    for job in (*queue.JOBS, *queue.MEASURED, *queue.TINY):
        known = (job.program or queue.BENCHMARK).read_text(encoding="utf-8")
        flags = {argument.split("=")[0] for argument in (*job.arguments, "--out")}
        assert all(f'"{flag}"' in known for flag in flags), job
    assert sum(job.seconds for job in queue.JOBS if not job.beside) <= 565  # of the 600 that a lent card allows at once
