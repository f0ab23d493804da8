"""The encoder that a training starts from, as a guide of its loss."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from mtret.data.guide import Vectors
from mtret.model_folder.folder import base_of
from mtret.run_config import read_config
from mtret.runs.guide import guides
from mtret.runs.setup import load_inputs, prepare

Mtret = Callable[..., tuple[int, str, str]]
STEPS = ("--config.loop.steps=3", "--config.loop.evaluate_every=3", "--noevaluate")


def test_vectors_are_looked_up_by_row_and_are_zero_where_there_is_none() -> None:
    vectors = Vectors(np.array([2, 5]), np.array([[1, 2], [3, 4]], np.float32))
    assert vectors.at(np.array([5, -1, 2, 7, 3])).tolist() == [[3, 4], [0, 0], [1, 2], [0, 0], [0, 0]]
    assert (
        Vectors(np.zeros(0, np.int64), np.zeros((0, 3), np.float32)).at(np.array([0, -1])).tolist() == [[0.0] * 3] * 2
    )


def test_every_text_of_the_plan_has_the_vector_that_the_encoder_is_deployed_with(
    tiny_config: Path, console: Console, tmp_path: Path
) -> None:
    config = read_config(str(tiny_config), ["loss.guide_margin=0.0"])
    config, _, tasks, model = load_inputs(config, console)
    planner = prepare(config, tasks, model, tmp_path, console).planner
    empty: Any = planner.fill(planner.plan(0)).guide
    assert not empty.queries.any()
    found = guides(planner, tasks, model.encoder, config, tmp_path, console)
    planner.guides = found
    assert planner.in_chunks(64).guides is found
    base = base_of(model.encoder, config.model)
    for step in range(config.loop.steps):
        plan = planner.plan(step)
        guide: Any = planner.fill(plan).guide
        training: Any = planner.tasks[plan.task]
        task = tasks[plan.task]
        for rows, vectors, of_task, texts in (
            (plan.queries.reshape(-1), guide.queries, training.query_rows, task.query_texts),
            (plan.documents.reshape(-1), guide.documents, training.document_rows, task.document_texts),
        ):
            there = np.flatnonzero(rows >= 0)
            wanted = base.embed([texts[row] for row in of_task[rows[there]]])
            np.testing.assert_allclose(vectors[there], wanted, atol=1e-5)
            assert not vectors[rows < 0].any() and len(there)


@pytest.mark.slow
def test_a_guide_that_hides_nothing_changes_nothing_and_one_that_hides_all_leaves_no_loss(
    tmp_path: Path, tiny_config: Path, mtret: Mtret
) -> None:
    losses = {}
    for name, margin in (("none", None), ("nothing", -2.5), ("some", 0.0), ("all", 2.5)):
        workdir = tmp_path / name
        more = (f"--config.loss.guide_margin={margin}",)
        code, said, wrong = mtret("train", f"--config={tiny_config}", f"--workdir={workdir}", *STEPS, *more)
        assert code == 0, (said, wrong)
        assert ("by the encoder as it came" in said) == (margin is not None)
        lines = map(json.loads, (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        losses[name] = [line["loss"] for line in lines if "loss" in line]
    assert losses["nothing"] == losses["none"] and losses["all"] == [0.0] * 3
    assert all(0 < some < none for some, none in zip(losses["some"], losses["none"], strict=True))
