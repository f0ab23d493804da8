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

from mtret.index.exact import Run
from mtret.train.optim import OptimConfig, optimizer


@pytest.fixture(scope="module")
def sweep(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("gpu/sweep.py")


@pytest.mark.slow
def test_rates_in_a_table_move_parameters_as_the_schedule_does(sweep: ModuleType) -> None:
    config = OptimConfig(learning_rate=3e-5, warmup_steps=3, weight_decay=0.1)
    kernel, words = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 3)), jnp.float32)
    words_too = {"embeddings": {"word_embeddings": {"embedding": words}}}
    params: Any = {"tower": {"kernel": kernel, **words_too}}
    halved = ((r".*/word_embeddings/.*", 0.5), (r".*", 1.0))
    own = optimizer(replace(config, learning_rate_scales=halved), params, 12)
    unit = replace(config, learning_rate=1.0, warmup_steps=0, schedule="constant")
    adam: Any = optimizer(unit, params, sweep.MOST_STEPS)
    by_table = optax.chain(adam, sweep.by_table())
    states: list[Any] = [own.init(params), by_table.init(params)]
    table = sweep.rates_of(sweep.Run(3e-5, steps=12), config)
    states[1] = (states[1][0], sweep.RateState(jnp.int32(0), table, jnp.float32(0.5)))
    both: list[Any] = [params, params]
    for step in range(12):
        gradient = jax.tree.map(lambda x, n=step: jnp.sin(x * (n + 1)), params)
        for i, rule in enumerate((own, by_table)):
            updates, states[i] = rule.update(gradient, states[i], both[i])
            both[i] = optax.apply_updates(both[i], updates)
    first, found, expected = (jax.tree.leaves(each["tower"]) for each in (params, both[1], both[0]))
    for old, new, same in zip(first, found, expected, strict=True):
        assert np.abs(new - old).min() > 5e-6
        np.testing.assert_allclose(new, same, rtol=1e-6)


def test_the_queues_stay_within_the_programs_that_are_compiled(sweep: ModuleType) -> None:
    assert set(sweep.QUEUES) == {"rates", "batches", "e5"}
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


def test_what_is_not_as_configured_is_another_setting(sweep: ModuleType) -> None:
    plain, warm = sweep.Run(1e-4), sweep.Run(1e-4, temperature=0.02, without=("banking77",))
    lines = [{"name": sweep.PLAIN, **sweep.about_run(run)} for run in (plain, warm)]
    assert sweep.model_of(lines[0]) == (sweep.PLAIN, 1e-4, 64, 150, 0) != sweep.model_of(lines[1])
    assert list(sweep.grouped(lines)) == [
        "1e-04, 64 x 150",
        "1e-04, 64 x 150, temperature 0.02, without three families",
    ]


def test_the_fusion_is_that_of_a_search_of_all_documents(load: Callable[[str], ModuleType]) -> None:
    fused, random = load("gpu/fused.py"), np.random.default_rng(0)
    queries, documents = (random.normal(size=(n, 8)).astype(np.float32) for n in (70, 40))
    dense, lexical = queries @ documents.T, np.maximum(random.normal(size=(70, 40)), 0).astype(np.float32)
    lexical[0] = 0  # no hit
    lexical[1, 3:] = 0  # fewer than are asked for
    runs = []
    for scores, least in ((dense, -np.inf), (lexical, 0.0)):
        best = np.argsort(-scores, axis=1)[:, :30]
        values = np.take_along_axis(scores, best, axis=1)
        runs.append(Run(np.where(values > least, best, -1).astype(np.int32), values))
    found = fused.fused(*runs, queries, documents)
    for weight, run in zip(fused.WEIGHTS, found, strict=True):
        for row in range(70):
            both = set(runs[0].documents[row]) | set(runs[1].documents[row]) - {-1}
            low, high = min(dense[row, list(both)]), dense[row].max()
            known = np.where(np.isin(np.arange(40), runs[1].documents[row]), lexical[row], 0)
            whole = weight * (dense[row] - low) / (high - low) + (1 - weight) * known / max(known.max(), 1e-9)
            expected = sorted(both, key=lambda n, whole=whole: -whole[n])[:10]
            np.testing.assert_allclose(whole[run.documents[row]], whole[expected], rtol=1e-4, atol=1e-5)
            assert len(set(run.documents[row])) == 10


def test_four_bits_are_packed_exactly_or_not_at_all(load: Callable[[str], ModuleType]) -> None:
    pack, random = load("gpu/pack.py"), np.random.default_rng(0)
    scales = random.normal(size=(6, 1)).astype(np.float16).astype(np.float32)
    numbers = random.integers(-8, 8, (6, 32))
    numbers[:, 0] = -8
    numbers[5] = 0
    published = (numbers * scales).astype(np.float16).astype(np.float32).reshape(3, 64)
    packed = pack.in_four_bits(published)
    assert packed is not None and sum(part.nbytes for part in packed) == 6 * 18
    np.testing.assert_array_equal(pack.of_four_bits(*packed).reshape(3, 64), published)
    assert pack.in_four_bits(published + 1e-3) is None


def _line(about: dict[str, object], score: float) -> dict[str, object]:
    test = {"i": score, "z": score / 2}
    means = {"test": {"in_domain": score, "zero_shot": score / 2}, "dev": {"in_domain": score}}
    return {**about, "means": means, "dev": {"i": score}, "test": test}
