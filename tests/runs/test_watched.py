"""Tasks that a training is watched by though it does not train on them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtret.errors import UserError
from mtret.evaluation.samples import TaskSample
from mtret.runs.dev import watched_by

Mtret = Callable[..., tuple[int, str, str]]


def dev_lines(run: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if "dev" in line]


def test_what_the_best_step_is_chosen_by() -> None:
    samples = {name: TaskSample.__new__(TaskSample) for name in "abc"}
    assert watched_by(samples, [], "trained") == {"mean": ["a", "b", "c"]}
    groups = {"mean of trained": ["a", "b"], "mean of others": ["c"]}
    assert watched_by(samples, ["c"], "trained") == {"mean": ["a", "b"], "mean of others": ["c"]}
    assert watched_by(samples, ["c"], "others") == {"mean": ["c"], "mean of trained": ["a", "b"]}
    assert watched_by(samples, ["c"], "both") == {"mean": ["a", "b", "c"], **groups}
    assert watched_by({}, [], "trained") == {"mean": []}
    with pytest.raises(UserError, match=r"name some in loop\.evaluate_tasks"):
        watched_by(samples, [], "others")
    with pytest.raises(UserError, match="no task of the mixture has a dev split"):
        watched_by(samples, ["a", "b", "c"], "trained")


@pytest.mark.slow
def test_others_are_shown_and_change_nothing_unless_they_are_chosen_by(
    mtret: Mtret, tiny_config: Path, tmp_path: Path, finished: Path
) -> None:
    given = ("train", f"--config={tiny_config}", "--noevaluate", "--config.loop.evaluate_tasks=('all',)")
    code, said, wrong = mtret(*given, f"--workdir={tmp_path / 'shown'}")
    assert code == 0, wrong
    plain, shown = dev_lines(finished), dev_lines(tmp_path / "shown")
    for before, now in zip(plain, shown, strict=True):
        assert {"delta", "gamma", "mean of others"} <= now["dev"].keys()
        assert now["dev"]["mean of others"] == pytest.approx((now["dev"]["delta"] + now["dev"]["gamma"]) / 2)
        assert {key: now["dev"][key] for key in before["dev"]} == before["dev"] and now["best"] == before["best"]
    assert f", mean of others {shown[-1]['dev']['mean of others']:.4f}" in said
    weights = [(run / "model" / "model.safetensors").read_bytes() for run in (finished, tmp_path / "shown")]
    assert weights[0] == weights[1]
    code, said, wrong = mtret(*given, "--config.loop.choose_by=others", f"--workdir={tmp_path / 'chosen'}")
    assert code == 0, wrong
    for before, now in zip(shown, dev_lines(tmp_path / "chosen"), strict=True):
        assert now["dev"]["mean"] == before["dev"]["mean of others"]
        assert now["dev"]["mean of trained"] == before["dev"]["mean"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("('gama',)", "'gama' is no task or family of"),
        ("('alpha',)", "'alpha': nothing of it is left to evaluate; a task must not be trained on"),
    ],
)
def test_names_that_are_no_other_tasks_are_refused(
    names: str, words: str, mtret: Mtret, tiny_config: Path, tmp_path: Path
) -> None:
    given = ("train", f"--config={tiny_config}", f"--workdir={tmp_path / 'run'}")
    code, _, wrong = mtret(*given, f"--config.loop.evaluate_tasks={names}")
    assert code == 2 and words in wrong and wrong.count("\n") == 1
