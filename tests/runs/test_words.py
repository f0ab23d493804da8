"""Trainings that hold the word embeddings that they draw, from a configuration to the model's folder."""

import io
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from mtret.files import replace_arrays
from mtret.run_config import read_config
from mtret.runs.train import train
from mtret.train import vocabulary
from mtret.train.loop import Loop, Stopped

pytestmark = pytest.mark.slow  # whole runs

TABLE = "tower/embeddings/word_embeddings/embedding"


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "ROUNDED_TO", 8)


def run(config: Path, workdir: Path, *overrides: str) -> str:
    console = Console(record=True, file=io.StringIO(), width=200)
    given = ("mixture.tasks=('beta',)", "optim.weight_decay=0.5", "loop.keep_weights=1", *overrides)
    train(read_config(str(config), given), workdir, console)
    return console.export_text()


def last(workdir: Path) -> dict[str, np.ndarray]:
    return load_file(workdir / "weights" / "step_6.safetensors")


def dev_scores(workdir: Path) -> list[dict[str, float]]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line["dev"] for line in lines if "dev" in line]


class StopsAt(Loop):
    """As by Ctrl-C, right after the checkpoint of step 2."""

    def _save(self, state: Any) -> None:
        super()._save(state)
        if int(state.step) == 2:
            self.checkpoints.wait()
            raise Stopped(2, signal.SIGINT)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory, tiny_config: Path) -> tuple[Path, str]:
    """A run that was left alone, and what it said."""
    workdir = tmp_path_factory.mktemp("words") / "drawn"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "ROUNDED_TO", 8)
        return workdir, run(tiny_config, workdir)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, tiny_config: Path) -> Path:
    """The same, stopped after its second step. Copy it before it goes on."""
    workdir = tmp_path_factory.mktemp("words") / "stopped"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(vocabulary, "ROUNDED_TO", 8)
        patch.setattr("mtret.runs.train.Loop", StopsAt)
        run(tiny_config, workdir)
    return workdir


def test_the_model_is_that_of_a_run_that_holds_all(
    tiny_config: Path, tiny_model: Path, tmp_path: Path, drawn: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir, said = drawn
    ids = load_file(workdir / "words.safetensors")["ids"]
    start = load_file(tiny_model / "model.safetensors")["embeddings.word_embeddings.weight"]
    assert f"word embeddings: {len(ids)} of {len(start)} are drawn and trained, the others only decay" in said
    assert len(ids) % 8 == 0 and len(ids) < len(start)
    monkeypatch.setattr(vocabulary, "ROUNDED_TO", 10**6)
    assert "word embeddings" not in run(tiny_config, tmp_path / "all")
    ours, theirs = last(workdir), last(tmp_path / "all")
    for name, tensor in theirs.items():
        if name.endswith("key/bias"):  # softmax takes no notice of it: its gradient is rounding, which Adam enlarges
            continue
        np.testing.assert_allclose(ours[name], tensor, atol=2e-4, err_msg=name)
    undrawn = np.setdiff1d(np.arange(len(start)), ids)
    np.testing.assert_allclose(ours[TABLE][undrawn], theirs[TABLE][undrawn], rtol=1e-6)
    assert (np.abs(ours[TABLE][undrawn] / start[undrawn] - 1) > 1e-4).all()
    scores = [dev_scores(each) for each in (workdir, tmp_path / "all")]
    assert len(scores[0]) == 3 and scores[0] == [pytest.approx(each) for each in scores[1]]
    assert load_file(workdir / "model" / "model.safetensors").keys() > {"embeddings.word_embeddings.weight"}


@pytest.mark.parametrize("lost", [False, True])
def test_a_stopped_run_goes_on_with_its_words(
    tiny_config: Path, tmp_path: Path, words: None, drawn: tuple[Path, str], stopped: Path,
    monkeypatch: pytest.MonkeyPatch, lost: bool,
) -> None:  # fmt: skip
    workdir = Path(shutil.copytree(stopped, tmp_path / "stopped"))
    if lost:
        (workdir / "words.safetensors").unlink()
    else:  # whatever a later mtret would draw
        monkeypatch.setattr(vocabulary, "ROUNDED_TO", 64)
    assert "resumed at step 2" in run(tiny_config, workdir)
    ours, theirs = last(workdir), last(drawn[0])
    assert [name for name in theirs if ours[name].tobytes() != theirs[name].tobytes()] == []


def test_a_run_of_before_goes_on_with_all_words(
    tiny_config: Path, tmp_path: Path, words: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("mtret.runs.train.Loop", StopsAt)
        patch.setattr(vocabulary, "ROUNDED_TO", 10**6)
        with pytest.raises(Stopped):
            run(tiny_config, tmp_path)
    (tmp_path / "words.safetensors").unlink()  # of which it knew nothing
    noted = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({key: noted[key] for key in noted if key != "words"}))
    said = run(tiny_config, tmp_path)
    assert "resumed at step 2" in said and "word embeddings" not in said


def test_a_start_that_was_ended_before_it_claimed_its_folder_is_no_run(
    tiny_config: Path, tmp_path: Path, words: None
) -> None:
    replace_arrays(tmp_path / "words.safetensors", {"ids": np.arange(3, dtype=np.int32)})
    run(tiny_config, tmp_path)
    assert len(load_file(tmp_path / "words.safetensors")["ids"]) > 3
