"""The GPU benchmark works, in its small mode; and its arithmetic is right."""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments" / "002_training_speed" / "gpu.py"


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_benchmark"] = module  # where its dataclasses look for themselves
    spec.loader.exec_module(module)
    return module


def arguments(**changed: Any) -> argparse.Namespace:
    chosen = {"geometry": "tiny", "batch": 8, "steps": 2, "rounds": 2, "dropout": 0.0, "limit_s": 540}
    chosen |= {"chunk_tokens": None, "mini_batch": None, "only": "", "unchecked": False, "out": None}
    return argparse.Namespace(**{**chosen, **changed})


def test_model_flops_by_hand(gpu: ModuleType) -> None:
    geometry = gpu.Geometry(hidden=2, layers=3, heads=1, inner=4, vocabulary=9, chunk_tokens=1, mini_batch=1)
    assert geometry.kernels == 3 * (4 * 4 + 2 * 8)
    assert gpu.model_flops(geometry, np.array([5, 1])) == 6 * 96 * 6 + 12 * 3 * 2 * 26
    assert gpu.GEOMETRIES["minilm"].kernels == 10_616_832  # MiniLM-L6's, of its 22.7 million parameters


def test_pairs_are_drawn_as_the_mixture_has_them(gpu: ModuleType) -> None:
    pairs = gpu.draw_pairs(4000, 1000)
    tasks = json.loads(gpu.LENGTHS.read_text(encoding="utf-8"))["counts by length, from 0"]
    sizes = np.array([sum(task["query"]) for task in tasks.values()])
    shares = np.sqrt(sizes) / np.sqrt(sizes).sum()
    for side, name in enumerate(("query", "document")):
        lengths = np.array([len(pair[side]) for pair in pairs])
        means = [np.average(np.arange(len(task[name])), weights=task[name]) for task in tasks.values()]
        assert lengths.min() >= 1 and lengths.max() <= 256
        assert lengths.mean() == pytest.approx(shares @ means, rel=0.05)
    again = gpu.draw_pairs(4000, 1000)
    assert all(
        np.array_equal(a, b) for one, other in zip(pairs, again, strict=True) for a, b in zip(one, other, strict=True)
    )
    assert sum(sum(task["document"]) for task in tasks.values()) == sizes.sum()


def test_all_pairs_are_planned_once_and_in_chunks_only_where_they_must(gpu: ModuleType) -> None:
    planner = gpu.plan(gpu.GEOMETRIES["tiny"], arguments(batch=32, chunk_tokens=1024))
    assert planner.batch.chunk_tokens == 1024
    assert sorted(np.concatenate([planner.plan(step).queries.reshape(-1) for step in range(2)])) == list(range(64))
    assert gpu.plan(gpu.GEOMETRIES["tiny"], arguments(batch=8)).batch.chunk_tokens is None
    assert gpu.plan(gpu.GEOMETRIES["tiny"], arguments(batch=32, chunk_tokens=0)).batch.chunk_tokens is None


def test_a_report_gives_medians_and_says_what_did_not_run(gpu: ModuleType) -> None:
    facts = {"losses": [1.0], "device": "NVIDIA H100 80GB HBM3", "matrix_flops_per_s": 5e14, "peak_memory_bytes": 7}
    said = [{"seconds": [s, s], **facts, "versions": {"jax": "0"}} for s in (1.0, 9.0, 2.0)]
    rounds = {"mtret pallas": said, "peer sdpa": [{"not installed": "No module named 'torch'"}], "peer flash": []}
    found = gpu.report(arguments(), rounds)
    ours = found["contenders"]["mtret pallas"]
    assert ours["pairs_per_s"] == 16 / 4.0
    assert ours["utilisation of the nominal rate"] == pytest.approx(ours["model_flops_per_s"] / 989e12)
    assert ours["model_flops_per_s"] == pytest.approx(found["model_flops of a step"] * 2 / 4.0)
    assert found["contenders"]["peer sdpa"] == {"not installed": "No module named 'torch'"}
    assert found["contenders"]["peer flash"] == {"not run": "not within 540 s"}


def test_an_attention_that_differs_is_not_timed(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(_: argparse.Namespace, contender: str) -> dict[str, Any]:
        asked.append(contender)
        if contender == "check":
            return {"errors": {"xla": 0.001, "cpu": 0.001, "pallas_interpreted": float("nan")}, "platform": "cpu"}
        return {"not installed": contender}

    monkeypatch.setattr(gpu, "in_process", answer)
    assert gpu.compare(arguments())["wrong"] == ["pallas_interpreted"]
    assert asked == ["check", "mtret xla", "mtret cpu", "peer sdpa", "peer sdpa grouped", "peer flash"]


def benchmark(out: Path, *flags: str) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPT), "--geometry=tiny", "--batch=4", "--rounds=1", f"--out={out}", *flags]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.system
@pytest.mark.slow
def test_the_kernel_is_checked_and_timed(tmp_path: Path) -> None:
    found = benchmark(tmp_path / "out.json", "--steps=1", "--only=pallas", "--chunk-tokens=256")
    assert 0 < found["attention errors"]["pallas_interpreted"] < 2e-2
    (ours,) = found["contenders"].values()
    assert np.isfinite(ours["last loss"]) and ours["pairs_per_s"] > 0


@pytest.mark.slow
@pytest.mark.parity
def test_the_peer_takes_its_turns(tmp_path: Path) -> None:
    found = benchmark(tmp_path / "out.json", "--steps=2", "--only=xla,grouped,flash")
    ours, peer = (found["contenders"][name] for name in ("mtret xla", "peer sdpa grouped"))
    assert peer["loss"] == "MultipleNegativesRankingLoss"
    assert ours["last loss"] == pytest.approx(peer["last loss"], abs=0.5)  # random weights: about log 4
    assert "FlashAttention2" in found["contenders"]["peer flash"]["not installed"]
