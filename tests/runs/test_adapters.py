"""A run that trains adapters and keeps a moving average: on the way out it is an ordinary model."""

import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mtret.model_folder.folder import check
from mtret.models import hf
from mtret.models.lora import LoraConfig
from mtret.pytrees import flatten
from mtret.run_config import RunConfig, read_config
from mtret.runs.export import export
from mtret.runs.train import train

pytestmark = [pytest.mark.slow, pytest.mark.system]


@pytest.fixture(scope="module")
def adapting(tiny_config: Path) -> RunConfig:
    config = read_config(str(tiny_config))
    lora = LoraConfig(rank=2, targets=r"encoder/layer/0/.*/(query|value)/kernel")
    return replace(
        config,
        model=replace(config.model, lora=lora),
        optim=replace(config.optim, ema_decay=0.5),
        loop=replace(config.loop, keep_weights=1),
        dev=replace(config.dev, dimensions=(8, 4)),
    )


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory, adapting: RunConfig) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "run"
    said = Console(record=True, width=200, file=io.StringIO())
    train(adapting, folder, said)
    assert re.search(r"trained: [\d,]+ of [\d,]+ parameters \([\d.]+%\), the others are frozen", said.export_text())
    return folder


def test_the_model_differs_from_its_source_where_adapters_are(tmp_path: Path, workdir: Path, tiny_model: Path) -> None:
    export(workdir, tmp_path / "last", step=6)  # the best may be the first
    ours, theirs = (flatten(hf.load(str(path)).params) for path in (tmp_path / "last", tiny_model))
    assert ours.keys() == theirs.keys()
    moved = {path for path in ours if not np.array_equal(ours[path], theirs[path])}
    assert moved == {f"encoder/layer/0/attention/self/{name}/kernel" for name in ("query", "value")}
    assert check(workdir / "model").cosine > 0.999999


def test_dev_scores_by_fewer_features_and_costs_are_noted(workdir: Path) -> None:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    scores = [line["dev"] for line in lines if "dev" in line]
    assert [set(each) for each in scores] == [{"mean", "mean@8", "mean@4", "alpha", "beta"}] * 3
    for each in scores:
        assert each["mean"] == pytest.approx((each["alpha"] + each["beta"]) / 2)
        assert len({each["mean"], each["mean@8"], each["mean@4"]}) == 3
    summary = json.loads((workdir / "summary.json").read_text(encoding="utf-8"))
    sizes = summary["parameters"]
    adapters = 2 * 2 * 2 * 32  # two kernels, a and b, rank 2
    assert sizes["trained"] == adapters + 1 and sizes["all"] > 50 * adapters  # and the temperature
    assert summary["optimizer_bytes"] < 4 * (3 * sizes["trained"] + 20)  # two moments, an average, counts


def test_it_goes_on_bit_for_bit(tmp_path: Path, workdir: Path, adapting: RunConfig, console: Console) -> None:
    again = shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(again / "checkpoints" / "6")
    shutil.rmtree(again / "model")
    train(adapting, again, console)
    assert "resumed at step 4" in console.export_text()
    for name in ("model/model.safetensors", "best.safetensors", "weights/step_6.safetensors"):
        assert (again / name).read_bytes() == (workdir / name).read_bytes()


def test_its_best_is_exported_merged(tmp_path: Path, workdir: Path) -> None:
    export(workdir, tmp_path / "out", target="tei")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        workdir / "model" / "model.safetensors"
    ).read_bytes()
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "Not evaluated when this was written" in card
    assert (
        json.loads((tmp_path / "out" / "mtret.json").read_text(encoding="utf-8"))["config"]["model"]["lora"]["rank"]
        == 2
    )
