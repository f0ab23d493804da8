"""The sweep's optimizer is mtret's, and its table says what its lines say."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtret.train.optim import OptimConfig, optimizer


@pytest.fixture(scope="module")
def sweep(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("gpu/sweep.py")


def test_rates_in_a_table_move_parameters_as_the_schedule_does(sweep: ModuleType) -> None:
    config = OptimConfig(learning_rate=3e-5, warmup_steps=3, weight_decay=0.1)
    params: Any = {"tower": {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)}}
    own = optimizer(config, params, 12)
    unit = replace(config, learning_rate=1.0, warmup_steps=0, schedule="constant")
    adam: Any = optimizer(unit, params, sweep.MOST_STEPS)
    by_table = optax.chain(adam, sweep.by_table())
    states: list[Any] = [own.init(params), by_table.init(params)]
    states[1] = (states[1][0], sweep.RateState(jnp.int32(0), sweep.rates_of(sweep.Run(3e-5, steps=12), config)))
    both: list[Any] = [params, params]
    for step in range(12):
        gradient = jax.tree.map(lambda x, n=step: jnp.sin(x * (n + 1)), params)
        for i, rule in enumerate((own, by_table)):
            updates, states[i] = rule.update(gradient, states[i], both[i])
            both[i] = optax.apply_updates(both[i], updates)
    moved = np.abs(both[0]["tower"]["kernel"] - params["tower"]["kernel"])
    assert moved.min() > 1e-5
    np.testing.assert_allclose(both[1]["tower"]["kernel"], both[0]["tower"]["kernel"], rtol=1e-6)


def test_the_queues_stay_within_the_programs_that_are_compiled(sweep: ModuleType) -> None:
    assert set(sweep.QUEUES) == {"rates", "batches"}
    for runs in sweep.QUEUES.values():
        assert len(set(runs)) == len(runs)
        assert max(run.steps for run in runs) <= sweep.MOST_STEPS
        assert {run.batch for run in runs} <= set(sweep.CHUNK_TOKENS)


def test_the_table_is_the_mean_over_seeds(sweep: ModuleType, tmp_path: Path) -> None:
    head = {"device": "d", "base": "b", "weights": "w", "operands": "o", "metric": "m"}
    lines = [{**head, "roles": {"z": "zero_shot", "i": "in_domain"}}, _line({"name": "base, bare"}, 0.5)]
    lines += [_line({"name": sweep.PLAIN, "rate": 3e-5, "batch": 64, "seed": n, "steps": 150}, 0.6 + n) for n in (0, 1)]
    path = tmp_path / "sweep.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    said = sweep.table(path).splitlines()
    assert "| base, bare | 1 | 0.5000 |  | 0.2500 | 0.5000 |  |  |" in said
    assert "| 3e-05, 64 x 150 | 2 | 1.1000 ± 0.7071 |  | 0.5500 ± 0.3536 | 1.1000 ± 0.7071 |  |  |" in said
    assert "| test split of | i | z |" in said and "| 3e-05, 64 x 150 | 1.100 | 0.550 |" in said


def _line(about: dict[str, object], score: float) -> dict[str, object]:
    test = {"i": score, "z": score / 2}
    means = {"test": {"in_domain": score, "zero_shot": score / 2}, "dev": {"in_domain": score}}
    return {**about, "means": means, "dev": {"i": score}, "test": test}
