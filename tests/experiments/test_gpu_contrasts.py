"""The sweep's contrasts are what the scores say, and their intervals those of the two sources of chance."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def contrasts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "experiments" / "gpu"))
    return importlib.import_module("contrasts")


def write(path: Path, rows: dict[tuple[float, int, int], np.ndarray]) -> None:
    """By rate, batch and seed: of two tasks with 40 and 10 queries."""
    head = {"roles": {"a": "in_domain", "b": "in_domain"}, "queries": {"test": {"a": 40, "b": 10}}}
    lines = [{"name": "last step", "rate": r, "batch": n, "steps": 150, "seed": s} for r, n, s in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in [head, *lines]), encoding="utf-8")
    path.with_suffix(".scores").write_bytes(np.stack(list(rows.values())).astype(np.float32).tobytes())


def test_tasks_count_the_same_and_seeds_are_paired(contrasts: ModuleType, tmp_path: Path) -> None:
    base = np.random.default_rng(0).random(50)
    gain = np.repeat([0.1, 0.3], [40, 10])  # the same for every query: nothing to draw
    rows = {(1e-4, 64, seed): base * (seed + 1) for seed in (0, 1)}
    rows |= {(5e-5, 64, seed): base * (seed + 1) + gain + 0.01 * seed for seed in (0, 1)}
    rows |= {(5e-5, 1024, seed): base * (seed + 1) + gain for seed in (0, 1)}
    write(tmp_path / "old.jsonl", {(1e-4, 64, 0): np.zeros(50)})
    write(tmp_path / "new.jsonl", rows)
    scores = contrasts.Scores([tmp_path / "old.jsonl", tmp_path / "new.jsonl"])  # the last counts
    role = scores.by_role()["in_domain"]
    one, two = (contrasts.Side(rate, seeds=(0, 1)) for rate in (1e-4, 5e-5))
    paired = contrasts.difference(one, two, scores.models, *role)
    assert paired["by seed"] == pytest.approx([0.2, 0.21], abs=1e-5)
    assert paired["difference"] == pytest.approx(0.205, abs=1e-5)
    assert paired["over queries"] == pytest.approx([0.205, 0.205], abs=1e-5)
    # Student's t of one degree of freedom, 12.7, times half of the difference between the two.
    low, high = paired["over queries and seeds"]
    assert (high - low) / 2 == pytest.approx(12.7 * 0.005, rel=0.3)
    apart = contrasts.difference(one, contrasts.Side(5e-5, 1024, (0, 1)), scores.models, *role)
    assert "by seed" not in apart and np.ptp(apart["over queries and seeds"]) > 1  # seed 1 has twice seed 0's score
    single = contrasts.difference(contrasts.Side(1e-4), contrasts.Side(5e-5), scores.models, *role)
    assert single["by seed"] == pytest.approx([0.2], abs=1e-5) and "over queries and seeds" not in single
