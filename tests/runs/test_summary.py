"""The rate of matrix products: measured once, kept, and measured again where it would mislead."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mtret.kernels.dense import MATMUL_DTYPES
from mtret.runs import summary as module
from mtret.runs.summary import matrix_rate, matrix_rates, summary
from mtret.train.loop import Totals

PARAMS = {"dense": {"kernel": np.zeros((10, 20)), "bias": np.zeros(20)}}


class Rates:
    """Stands in for `matrix_rate`: the rates to find, one after the other, and how many were asked for."""

    def __init__(self, *rates: float):
        self.rates, self.asked = list(rates), 0

    def __call__(self, matmul_dtype: str) -> float:
        self.asked += 1
        return self.rates[(self.asked - 1) // len(MATMUL_DTYPES)]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MTRET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def measuring(monkeypatch: pytest.MonkeyPatch, *rates: float) -> Rates:
    found = Rates(*rates)
    monkeypatch.setattr(module, "matrix_rate", found)
    return found


def run_of(seconds: float, tokens: int) -> Mapping[str, Any]:
    totals = Totals(seconds=seconds, steps=3, pairs=4, tokens=tokens, slots=tokens)
    return summary(totals, PARAMS, "float32", 1, 0.0)


def test_rates_are_measured_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = measuring(monkeypatch, 5.0, 7.0)
    first = matrix_rates()
    assert first["rates"] == dict.fromkeys(MATMUL_DTYPES, 5.0)
    assert matrix_rates() == first and rates.asked == len(MATMUL_DTYPES)
    (kept,) = (cache / "rates").iterdir()
    kept.write_text(kept.read_text(encoding="utf-8")[:20], encoding="utf-8")  # damaged
    assert matrix_rates()["rates"] == dict.fromkeys(MATMUL_DTYPES, 7.0)


def test_measured_again_the_highest_stay(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measuring(monkeypatch, 5.0, 3.0, 8.0)
    assert [matrix_rates(again)["rates"]["float32"] for again in (False, True, True, False)] == [5.0, 5.0, 8.0, 8.0]


@pytest.mark.parametrize("name", ["processor", "version"])
def test_another_machine_or_version_is_measured_for_itself(
    cache: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    measuring(monkeypatch, 5.0, 7.0)
    matrix_rates()
    if name == "processor":
        monkeypatch.setattr(module, "processor", lambda: "another")
    else:
        monkeypatch.setattr(jax, "__version__", "0.0")
    assert matrix_rates()["rates"]["float32"] == 7.0
    assert len(list((cache / "rates").iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measuring(monkeypatch, 5.0)
    cache.write_text("a file where a folder belongs", encoding="utf-8")
    assert matrix_rates()["rates"]["float32"] == 5.0


def test_utilisation_is_of_what_the_machine_can_do(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three products forward and backward, two operations each: 6 * 200 operations a token."""
    rates = measuring(monkeypatch, 1e6, 2e6, 4e6)
    devices = jax.device_count()
    slow = run_of(10.0, 1000)
    assert slow["flops_per_s"] == pytest.approx(120_000)
    assert slow["utilisation"] == pytest.approx(120_000 / (1e6 * devices))
    assert slow["matrix_flops_per_s"] == dict.fromkeys(MATMUL_DTYPES, 1e6 * devices)
    assert slow["matrix_flops_measured"] == json.loads(next((cache / "rates").iterdir()).read_text())["time"]
    assert run_of(10.0, 1000)["utilisation"] == slow["utilisation"] and rates.asked == len(MATMUL_DTYPES)
    fast = run_of(1.0, 1000 * devices)  # 1.2 times what was thought possible
    assert fast["utilisation"] == pytest.approx(1.2e6 / 2e6)
    assert run_of(1.0, 1000)["matrix_flops_per_s"]["float32"] == 2e6 * devices
    assert run_of(60.0, 1000)["matrix_flops_per_s"]["float32"] == 4e6 * devices  # a long run measures again
    assert rates.asked == 3 * len(MATMUL_DTYPES)


def test_the_rate_is_that_of_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that ticks a quarter of a second at each look: 2 * size^3 operations in that time."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    ticks = iter(np.arange(100) / 4)
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(ticks)))
    monkeypatch.setattr(module, "project", lambda x, y, matmul_dtype: x)
    assert matrix_rate("float32") == 2 * size**3 / 0.25
