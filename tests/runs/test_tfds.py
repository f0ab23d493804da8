"""Training from a data set: the same batches as from the folder, and runs that go on from one to the other."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from mtret.data.pipeline import batches
from mtret.data.suites import load_suite
from mtret.data.tfds_suites import write_dataset
from mtret.devices import cache_folder
from mtret.run_config import read_config
from mtret.runs.setup import prepare, start_models
from mtret.runs.tasks import mixture_tasks
from mtret.train.sharding import batch_sharding

STEPS = 50
Answer = tuple[int, str, str]
Tree = dict[str, bytes]


@pytest.fixture(scope="module")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory, tiny_suite: Path) -> str:
    """The tiny suite as a data set, as `--suite` names it. Not to be changed."""
    folder = tmp_path_factory.mktemp("tfds") / "tiny" / "1.0.0"
    write_dataset(load_suite(str(tiny_suite)), folder)
    return f"tfds:{folder}"


def digests(source: str, suite: str, console: Console) -> list[str]:
    """One for each step: of every array of its batch, with its kind and shape."""
    config = read_config(source, [f"suite={suite}", f"loop.steps={STEPS}"])
    tasks = mixture_tasks(load_suite(config.suite), config)
    run = prepare(config, tasks, start_models(config, tasks), cache_folder(), console)
    found = []
    for loaded in batches(run.planner, batch_sharding(run.mesh), 0):
        sha = hashlib.sha256()
        for array in map(np.asarray, jax.tree.leaves(loaded.batch)):
            sha.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
        found.append(sha.hexdigest())
    return found


@pytest.mark.slow
def test_fifty_steps_have_the_batches_of_the_folder(
    tiny_config: Path,
    tiny_suite: Path,
    tiny_dataset: str,
    console: Console,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    ours = digests(str(tiny_config), tiny_dataset, console)
    monkeypatch.setenv(
        "MTRET_CACHE", str(tmp_path)
    )  # so that the folder's texts are read, and not the data set's tokens
    theirs = digests(str(tiny_config), str(tiny_suite), console)
    assert len(ours) == len({*ours}) == STEPS
    assert ours == theirs


def lose_the_end(workdir: Path) -> None:
    """As a run that was killed after its checkpoint of step 4."""
    shutil.rmtree(workdir / "model")
    shutil.rmtree(workdir / "checkpoints" / "6")


@pytest.mark.slow
@pytest.mark.system
def test_a_run_goes_on_from_the_other_and_ends_the_same(
    tiny_config: Path, tiny_suite: Path, tiny_dataset: str, finished: Path, tmp_path: Path, mtret: Callable[..., Answer]
) -> None:
    workdir = Path(shutil.copytree(finished, tmp_path / "run"))
    model = (finished / "model" / "model.safetensors").read_bytes()
    for suite in (tiny_dataset, str(tiny_suite)):
        lose_the_end(workdir)
        code, said, error = mtret("train", f"--config={tiny_config}", f"--workdir={workdir}", f"--suite={suite}")
        assert (code, error) == (0, "") and "\nresumed at step 4\n" in said
        assert (workdir / "model" / "model.safetensors").read_bytes() == model
        there = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
        assert there["config"]["suite"] == there["starts"][-1]["suite"] == suite
    assert [start["suite"] for start in there["starts"]] == [str(tiny_suite), tiny_dataset, str(tiny_suite)]


def test_what_is_exported_is_read_from_where_the_data_was_last(
    tiny_config: Path, tiny_dataset: str, unfinished: Path, tmp_path: Path, mtret: Callable[..., Answer]
) -> None:
    for suite in (tiny_dataset, "tfds:./nowhere/1.0.0"):
        path = unfinished / "config.json"
        there = json.loads(path.read_text(encoding="utf-8"))
        there["config"]["suite"] = suite
        path.write_text(json.dumps(there), encoding="utf-8")
        code, _, error = mtret("export", f"--model={unfinished}", f"--out={tmp_path / 'model'}")
        assert (code == 0) == (suite == tiny_dataset), error
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
    assert "tfds:./nowhere/1.0.0: no such folder. Check the path." in error


def test_a_data_set_of_other_tasks_does_not_go_on(
    tiny_config: Path, own_suite: Path, unfinished: Path, tmp_path: Path, mtret: Callable[..., Answer]
) -> None:
    with (own_suite / "alpha" / "qrels" / "dev.tsv").open("a", encoding="utf-8") as file:
        file.write("q40\td3\t1\n")
    write_dataset(load_suite(str(own_suite)), tmp_path / "data" / "tiny" / "1.0.0")
    line = ("train", f"--config={tiny_config}", f"--workdir={unfinished}", f"--suite=tfds:{tmp_path / 'data' / 'tiny'}")
    code, _, error = mtret(*line)
    assert code == 2 and "belongs to another run: config.suite: 'tfds:" in error


def test_the_command_writes_what_every_other_reads(
    tiny_suite: Path, tmp_path: Path, mtret: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    write = ("data", "tfds", f"--out={tmp_path}", f"--suite={tiny_suite}")
    code, said, error = mtret(*write)
    assert (code, error) == (0, "")
    folder = tmp_path / "tiny" / "1.0.0"
    assert said.endswith(f"wrote {folder}\nnext: mtret data check --suite=tfds:{folder}\n")
    for command in ("check", "stats"):
        code, said, error = mtret("data", command, "--suite=tfds:tiny")
        assert (code, error) == (0, "")
        assert mtret("data", command, f"--suite={tiny_suite}") == (0, said.replace("tfds:tiny", str(tiny_suite)), "")
    for more, complaint in [
        ([], f"{folder}: exists already and is never overwritten; give another --version, --name or --out"),
        (["--name=Tiny"], "--name=Tiny: a data set's name has small letters, digits and _"),
        (["--version=2"], "--version=2: must be three numbers such as 1.0.0"),
        (["--out=s3://bucket/data"], "--out=s3://bucket/data: array_record files are written to local folders only"),
        ([f"--suite={tiny_suite}s"], "no such folder. Did you mean 'tiny'?"),
    ]:
        code, _, error = mtret(*write, *more)
        assert code == 2 and complaint in error and error.count("\n") == 1, error
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    assert mtret(*write, "--version=1.1.0")[0] == 0
    assert mtret("data", "tfds", "--suite=tfds:tiny", "--name=copy", f"--out={tmp_path}")[0] == 0
    assert load_suite("tfds:copy").sha256 == load_suite(str(tiny_suite)).sha256
