"""Every command in trouble: a value of the wrong type, a file that is missing or may not be read, a folder that may not
be written, a disk that is full, Ctrl-C twice. One line, exit code 2 (130), and nothing half done is left."""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from absl import flags

from mtret.cli import COMMANDS

Mtret = Callable[..., tuple[int, str, str]]
TYPED = [
    (name, flag)
    for name, command in COMMANDS.items()
    for values in [command.flags()]
    for flag in values
    if isinstance(values[flag].parser, flags.IntegerParser | flags.FloatParser | flags.BooleanParser | flags.EnumParser)
]
# What each command writes, by the name of its output. {out} must not be there before.
WRITES = {
    "data import": "data import {rows} --query=query --text=text --family=x --instruction=y --out={out}/task",
    "data enterprise": "data enterprise --out={out}/enterprise",
    "data tfds": "data tfds --suite={suite} --out={out}/sets",
    "init": "init --suite={suite} --config.model.source={encoder} --out={out}/mine.py",
    "train": "train --config={config} --workdir={out}/run",
    "sweep": "sweep {sweep} --out={out}/sweep",
    "evaluate": "evaluate --model={run} --suite={suite} --noscann --nopooled --out={out}/evaluated",
    "report": "report {evaluated} --out={out}/report",
    "report --format": "report {evaluated} b={other} --format=csv --out={out}/table.csv",
    "compare": "compare a={evaluated} b={other} --out={out}/compared",
    "curves": "curves {run} --out={out}/curves.png",
    "export": "export --model={run} --out={out}/model",
    "merge": "merge --models={run},{encoder} --out={out}/soup",
    "encode": "encode --model={run} --suite={suite} --task=alpha --out={out}/v.jsonl",
    "encode parquet": "encode --model={run} --suite={suite} --task=alpha --out={out}/v.parquet",
}
# What each command reads: {x} is a file or folder that is not there, or may not be read.
READS = {
    "data import": "data import {x} --query=query --text=text --family=x --instruction=y --out={out}/task",
    "data import --docs": "data import {rows} --docs={x} --query=query --doc_id=id --text=text --family=x"
    " --instruction=y --out={out}/t",
    "data check": "data check --suite={x}",
    "data stats": "data stats --suite={x}",
    "data tfds": "data tfds --suite={x} --out={out}/sets",
    "init": "init --suite={x} --config.model.source={encoder} --out={out}/mine.py",
    "train": "train --config={x} --workdir={out}/run",
    "sweep": "sweep {x} --out={out}/sweep",
    "train --suite": "train --config={config} --suite={x} --workdir={out}/run",
    "evaluate": "evaluate --model={x} --suite={suite} --out={out}/evaluated",
    "evaluate --suite": "evaluate --model={run} --suite={x} --out={out}/evaluated",
    "report": "report {x}",
    "compare": "compare {evaluated} {x}",
    "curves": "curves {run} {x} --out={out}/curves.png",
    "export": "export --model={x} --out={out}/model",
    "verify": "verify --model={x}",
    "merge": "merge --models={run},{x} --out={out}/soup",
    "search": "search {x} alpha words --suite={suite}",
    "encode": "encode --model={x} --suite={suite} --task=alpha --out={out}/v.jsonl",
    "encode --texts": "encode --model={run} --texts={x} --out={out}/v.jsonl",
}


@pytest.fixture(scope="module")
def places(
    tmp_path_factory: pytest.TempPathFactory, tiny_suite: Path, tiny_model: Path, tiny_config: Path, finished: Path
) -> Mapping[str, Path]:
    """Sound inputs of every kind."""
    from mtret.cli import main

    folder = tmp_path_factory.mktemp("places")
    rows = [f"question {i},the answer number {i}" for i in range(40)]
    (folder / "rows.csv").write_text("\n".join(["query,text", *rows, ""]), encoding="utf-8")
    words = ("--noscann", "--nopooled", f"--suite={tiny_suite}", f"--out={folder}/evaluated")
    assert main(["evaluate", f"--model={finished}", *words]) == 0
    shutil.copytree(folder / "evaluated", folder / "other")
    sweep = f"from mtret.sweeps import Sweep\ndef get_sweep():\n    return Sweep({str(tiny_config)!r}, [{{}}])\n"
    (folder / "sweep.py").write_text(sweep, encoding="utf-8")
    return {
        "sweep": folder / "sweep.py",
        "rows": folder / "rows.csv", "suite": tiny_suite, "encoder": tiny_model, "config": tiny_config, "run": finished,
        "evaluated": folder / "evaluated", "other": folder / "other",
    }  # fmt: skip


def line(template: str, places: Mapping[str, Path], **more: Path) -> list[str]:
    return [word.format(**places, **more) for word in template.split()]


def check(answer: tuple[int, str, str], *patterns: str) -> None:
    code, _, error = answer
    assert code == 2, error
    assert error.startswith("mtret: ")
    assert error.count("\n") == 1, error
    assert all(re.search(pattern, error) for pattern in patterns), error


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_every_command_that_writes_or_reads_is_here() -> None:
    """But for those that do neither."""
    tried = {name for each in (*WRITES.values(), *READS.values()) for name in COMMANDS if each.startswith(f"{name} ")}
    assert set(COMMANDS) - tried == {"doctor", "completion"}


@pytest.mark.parametrize(("name", "flag"), TYPED, ids=[f"{name} --{flag}" for name, flag in TYPED])
def test_a_value_of_the_wrong_type(name: str, flag: str, mtret: Mtret) -> None:
    check(mtret(*name.split(), f"--{flag}=nonsense"), rf"^mtret: {name}: flag --{flag}=nonsense: ")


@pytest.mark.parametrize("name", READS)
def test_a_missing_file(name: str, places: Mapping[str, Path], mtret: Mtret, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere" / "at_all"
    check(mtret(*line(READS[name], places, x=missing, out=tmp_path / "out")), "nowhere/at_all")
    assert listing(tmp_path) == []


class _Capabilities(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextmanager
def as_anybody() -> Iterator[None]:
    """Permissions count for root as well: this thread goes without the two capabilities that make root an exception."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        yield
        return
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (_Capabilities * 2)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, sets) == 0
    before = sets[0].effective
    sets[0].effective = before & ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0].effective = before
        assert libc.capset(header, sets) == 0


@pytest.mark.parametrize("name", WRITES)
def test_a_folder_that_may_not_be_written(name: str, places: Mapping[str, Path], mtret: Mtret, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    with as_anybody():
        assert not os.access(closed, os.W_OK, effective_ids=True)
        answer = mtret(*line(WRITES[name], places, out=closed))
    check(answer, "closed")
    assert listing(tmp_path) == ["closed"]


@pytest.mark.parametrize("name", READS)
def test_a_file_that_may_not_be_read(name: str, places: Mapping[str, Path], mtret: Mtret, tmp_path: Path) -> None:
    secret = tmp_path / ("secret.py" if name in ("train", "sweep") else "secret")
    secret.write_text("years of work", encoding="utf-8")
    secret.chmod(0)
    with as_anybody():
        answer = mtret(*line(READS[name], places, x=secret, out=tmp_path / "out"))
    check(answer, "secret")
    assert listing(tmp_path) == [secret.name]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte without a free byte, but for a few inodes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        with suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.system
@pytest.mark.parametrize("name", [name for name in WRITES if name != "train"])
def test_a_full_disk(name: str, places: Mapping[str, Path], mtret: Mtret, full_disk: Path) -> None:
    check(mtret(*line(WRITES[name], places, out=full_disk)), "No space left on device")
    assert listing(full_disk) == ["filler"]


@pytest.mark.system
@pytest.mark.slow
def test_a_training_on_a_disk_that_fills_up_goes_on_when_there_is_room(
    places: Mapping[str, Path], mtret: Mtret, full_disk: Path
) -> None:
    run = line(WRITES["train"], places, out=full_disk)
    check(mtret(*run), "No space left on device")
    (full_disk / "filler").write_bytes(bytes(600_000))  # room for the beginning, not for the end
    check(mtret(*run), "No space left on device")
    assert not (full_disk / "run" / "model").exists()
    (full_disk / "filler").unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", full_disk], check=True)
    code, _, error = mtret(*run)
    assert code == 0, error
    weights = "model/model.safetensors"
    assert (full_disk / "run" / weights).read_bytes() == (places["run"] / weights).read_bytes()


# The line to wait for before the first Ctrl-C, or the first trace of an output (None); the second comes a moment later.
INTERRUPTED = {
    "data import": None,
    "data tfds": None,
    "evaluate": r"^\d+ tasks",
    "encode": None,
    "export": None,
    "train": r"^compiled",
}
LONG = {"encode": "encode --model={run} --texts={texts} --out={out}/v.jsonl"}


@pytest.mark.system
@pytest.mark.slow
@pytest.mark.parametrize("name", INTERRUPTED)
def test_interrupted_twice(
    name: str, places: Mapping[str, Path], tmp_path: Path, environment: Mapping[str, str], mtret: Mtret
) -> None:
    out, rows, texts = tmp_path / "out", tmp_path / "rows.csv", tmp_path / "rows.txt"
    if name in ("data import", "encode"):  # enough that neither is done before it is interrupted
        many = (f"question {i},the answer number {i}\n" for i in range(100_000))
        rows.write_text("query,text\n" + "".join(many), encoding="utf-8")
        texts.symlink_to(rows)
    arguments = line(LONG.get(name, WRITES[name]), {**places, "rows": rows, "texts": texts}, out=out)
    if name == "train":
        arguments += ["--config.loop.steps=2000", "--config.loop.evaluate_every=2000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mtret.cli", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**environment, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    kill = threading.Timer(300, process.kill)
    kill.start()
    assert process.stdout is not None
    awaited = INTERRUPTED[name]
    if awaited is None:
        while process.poll() is None and not out.exists():
            time.sleep(0.01)
    else:
        assert any(re.search(awaited, said) for said in process.stdout)
    sent, code = (signal.SIGTERM, 143) if name == "data tfds" else (signal.SIGINT, 130)
    for pause in (0.1, 0.0):
        with suppress(ProcessLookupError):
            process.send_signal(sent)
        time.sleep(pause)
    _, error = process.communicate()
    kill.cancel()
    assert "Traceback" not in error and "Exception ignored" not in error, error
    if process.returncode == 0:
        pytest.fail("the command was done before it could be interrupted")
    assert process.returncode == code, error
    if name != "train":
        assert listing(out) == []
        return
    assert not (out / "run" / "model").exists()
    code, said, error = mtret(*arguments, "--dry_run")  # what the run's folder holds can be gone on with
    assert code == 0, error
    assert "2,000 steps" in said
