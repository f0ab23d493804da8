"""Configurations that nobody wrote: chosen for suite, encoder and machine, and written out to be edited."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from mtret.errors import UserError
from mtret.run_config import read_config
from mtret.runs import init as module
from mtret.runs.init import FEWEST_STEPS, SMALLEST, auto_config, one_epoch

Mtret = Callable[..., tuple[int, str, str]]


@pytest.fixture
def source(tiny_model: Path) -> str:
    return f"model.source={str(tiny_model)!r}"


def test_an_epoch_sees_each_query_once() -> None:
    assert one_epoch(np.array([640, 100, 7]), 64) == 10 + 1 + 1


def test_what_is_chosen_fits_suite_encoder_and_devices(tiny_suite: Path, source: str) -> None:
    config = auto_config(str(tiny_suite), [source])
    assert config.suite == str(tiny_suite)
    assert config.batch.queries == SMALLEST  # two tasks of forty queries: no size makes enough steps
    assert config.batch.shards == jax.device_count()
    assert config.loop.steps == FEWEST_STEPS
    assert config.loop.evaluate_every == config.loop.steps // 4
    assert (config.batch.query_length, config.batch.document_length) == (64, 64)  # what the encoder reads
    assert config.model.matmul_dtype == "float32"


def test_what_is_given_goes_before(tiny_suite: Path, source: str) -> None:
    given = [source, "batch.queries=8", "loop.steps=7", "dev.distractors=3", "batch.query_length=20"]
    config = auto_config(str(tiny_suite), given)
    assert (config.batch.queries, config.loop.steps, config.dev.distractors) == (8, 7, 3)
    assert (config.batch.query_length, config.loop.evaluate_every) == (20, 1)


def test_little_memory_makes_batches_small_and_then_cuts_them(
    tiny_suite: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WANTED_STEPS", 1)
    roomy = auto_config(str(tiny_suite), [source])
    assert roomy.batch.queries == module.CPU_LARGEST
    assert roomy.batch.chunk_tokens is None
    monkeypatch.setattr(module, "_tokens_in_memory", lambda encoder: 40 * 70 // jax.device_count())
    tight = auto_config(str(tiny_suite), [source])
    assert SMALLEST < tight.batch.queries < module.CPU_LARGEST
    monkeypatch.setattr(module, "_tokens_in_memory", lambda encoder: 1)
    hopeless = auto_config(str(tiny_suite), [source])
    assert hopeless.batch.queries == SMALLEST
    assert hopeless.batch.chunk_tokens == 64  # a row at a time


def test_a_run_goes_on_by_its_own_configuration(finished: Path) -> None:
    own = auto_config("", [], finished)
    assert (own.loop.steps, own.batch.queries) == (6, 16)
    assert auto_config("", ["loop.steps=9"], finished).loop.steps == 9


def test_held_out_tasks_are_left_out_before_anything_is_chosen(tiny_suite: Path, source: str) -> None:
    with pytest.raises(UserError, match=r"mixture\.hold_out: no task or family 'tabel' .* Did you mean 'table'\?"):
        auto_config(str(tiny_suite), [source, "mixture.hold_out=('tabel',)"])
    with pytest.raises(UserError, match="is all that could be trained; hold out less"):
        auto_config(str(tiny_suite), [source, "mixture.hold_out=('table', 'alpha')"])


def test_what_is_held_out_does_not_change_the_batch(
    tiny_suite: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WANTED_STEPS", 2)
    whole, less = (auto_config(str(tiny_suite), [source, *more]) for more in ([], ["mixture.hold_out=('beta',)"]))
    alone = auto_config(str(tiny_suite), [source, "mixture.tasks=('alpha',)"])
    assert alone.batch.queries < whole.batch.queries == less.batch.queries


def test_init_writes_what_train_would_have_chosen(tmp_path: Path, tiny_suite: Path, source: str, mtret: Mtret) -> None:
    out = tmp_path / "own.py"
    code, said, err = mtret(
        "init", f"--suite={tiny_suite}", f"--out={out}", f"--config.{source}", "--hold_out=beta",
        "--config.optim.learning_rate_scales=(('vision/.*', 10.0), ('.*', 1.0))", "--config.mixture.weights=alpha:2"
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert said.endswith(f"wrote {out}\nnext: mtret train --config={out} --workdir=runs/first\n")
    written = read_config(str(out))
    assert written == auto_config(
        str(tiny_suite),
        [
            source, "mixture.hold_out=('beta',)", "optim.learning_rate_scales=(('vision/.*', 10.0), ('.*', 1.0))",
            "mixture.weights=alpha:2",
        ],
    )  # fmt: skip
    assert '"queries": 16,  # distinct queries of one task per step' in out.read_text(encoding="utf-8")
    assert mtret("init", f"--suite={tiny_suite}", f"--out={out}", f"--config.{source}")[0] == 2
    assert read_config(str(out)) == written


@pytest.mark.slow
def test_training_without_a_file_ends_in_a_verdict_on_all_tasks(
    tmp_path: Path, tiny_suite: Path, source: str, mtret: Mtret
) -> None:
    workdir = tmp_path / "run"
    arguments = ("train", f"--suite={tiny_suite}", f"--workdir={workdir}", f"--config.{source}")
    code, said, err = mtret(*arguments, "--hold_out=beta", "--config.loop.steps=3")
    assert (code, err) == (0, "")
    assert "beta: held out, to be evaluated zero-shot\n" in said
    for task in ("alpha", "beta", "gamma", "delta"):
        assert f"  {task} " in said
    assert "`finetuned_hybrid` against `hybrid` is " in said and "`finetuned` against `base` is " in said
    assert f"wrote {workdir}/dev_sample/results.json, queries.jsonl, report.md and results.png\ncurves: " in said
    assert f"\ncurves: {workdir}/curves.png\nmodel: {workdir}/model\n" in said
    assert "a sample of the dev splits: at most 100 queries a task, their gold documents and" in said
    assert said.splitlines()[-1] == f"next: mtret evaluate --model={workdir} --suite={tiny_suite} --split=test"
    before = (workdir / "model" / "model.safetensors").read_bytes()
    code, again, _ = mtret("train", f"--workdir={workdir}", "--noevaluate")  # suite and configuration are the run's
    assert (code, "all 3 steps are done already" in again) == (0, True)
    assert (workdir / "model" / "model.safetensors").read_bytes() == before


@pytest.mark.slow
def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    tmp_path: Path, tiny_suite: Path, source: str, mtret: Mtret
) -> None:
    workdir = tmp_path / "run"
    code, said, err = mtret(
        "train", f"--suite={tiny_suite}", f"--workdir={workdir}", f"--config.{source}", "--dry_run",
        "--config.batch.document_length=10"
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert not workdir.exists()
    rows = {line.split()[0]: line.split() for line in said.splitlines() if line.split()[:1] in (["alpha"], ["beta"])}
    assert rows["alpha"][1:3] == ["40", "40"]
    assert rows["beta"][5] == "0.0%"
    assert float(rows["alpha"][7].rstrip("%")) > 50  # documents of up to 28 words, of which ten tokens are read
    assert "GiB for the largest step on each device" in said
    assert "time: about " in said
    assert said.endswith("nothing was written\nnext: the same command without --dry_run\n")
