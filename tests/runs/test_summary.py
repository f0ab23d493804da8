"""What a run cost, and the rate of matrix products that it is compared with."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pytest

from mtret.kernels.dense import MATMUL_DTYPES
from mtret.runs import summary as module
from mtret.runs.summary import in_words, matrix_rate, summary
from mtret.train.loop import Totals

PARAMS = {"dense": {"kernel": np.zeros((10, 20)), "bias": np.zeros(20)}}


def run_of(seconds: float, tokens: int) -> Mapping[str, Any]:
    totals = Totals(seconds=seconds, steps=3, pairs=4, tokens=tokens, slots=tokens)
    return summary(totals, PARAMS, "float32", 1, 0.0)


def test_utilisation_is_of_what_the_machine_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three products forward and backward, two operations each: 6 * 200 operations a token."""
    rates = dict(zip(MATMUL_DTYPES, (1e6, 2e6), strict=True))
    monkeypatch.setattr(module, "matrix_rate", rates.__getitem__)
    devices = jax.device_count()
    found = run_of(60.0, 6000)
    assert found["flops_per_s"] == pytest.approx(120_000)
    assert found["utilisation"] == pytest.approx(120_000 / (rates["float32"] * devices))
    assert found["matrix_flops_per_s"] == {name: rate * devices for name, rate in rates.items()}
    said = in_words(dict(found))
    assert "0.00 TFLOP/s, " in said and "of a large matrix product here" in said
    assert "model.matmul_dtype='bfloat16' would multiply 2.0 times as fast here" in said


def test_a_short_run_measures_no_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "matrix_rate", None)
    found = run_of(59.0, 6000)
    assert found["flops_per_s"] and found["utilisation"] is found["matrix_flops_per_s"] is None
    assert in_words(dict(found)).endswith(" GiB")


def test_the_rate_is_that_of_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that ticks a quarter of a second at each look: 2 * size^3 operations in that time."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    ticks = iter(np.arange(100) / 4)
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(ticks)))
    monkeypatch.setattr(module, "project", lambda x, y, matmul_dtype: x)
    assert matrix_rate("float32") == 2 * size**3 / 0.25
