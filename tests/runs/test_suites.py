"""A suite by its name."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mtret.data.formats import read_task
from mtret.data.suites import content_sha256, load_suite
from mtret.data.tasks import Judgements


def test_a_folder_is_read_and_a_home_is_found(tiny_suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tiny_suite.parent))
    suite = load_suite("~/tiny")
    assert list(suite.tasks) == ["alpha", "beta", "delta", "gamma"]
    assert suite.sha256 == load_suite(str(tiny_suite)).sha256


def test_the_embedded_suite_has_a_hash_of_its_content() -> None:
    suite = load_suite("enterprise")
    assert str(suite.folder) == "enterprise"
    assert len(suite.tasks) == 16
    assert set(suite.task_sha256) == set(suite.tasks)
    assert len(set(suite.task_sha256.values())) == 16


def test_everything_in_a_task_moves_its_hash(tiny_suite: Path) -> None:
    task = read_task(tiny_suite / "alpha")
    dev = task.splits["dev"]
    pair = Judgements.from_pairs(np.array([0], np.int32), np.array([59], np.int32), np.zeros(1))
    changed = [
        replace(task, card=replace(task.card, instruction="another")),
        replace(task, query_ids=("x", *task.query_ids[1:])),
        replace(task, query_texts=("x", *task.query_texts[1:])),
        replace(task, document_ids=("x", *task.document_ids[1:])),
        replace(task, document_texts=("x", *task.document_texts[1:])),
        replace(task, splits={**task.splits, "dev": replace(dev, scores=dev.scores * 2)}),
        replace(task, splits={"train": task.splits["train"], "dev": dev}),
        replace(task, negatives={"train": pair}),
        replace(task, exclude=pair),
    ]
    hashes = [content_sha256(one) for one in (task, *changed)]
    assert len(set(hashes)) == len(hashes)
    assert content_sha256(read_task(tiny_suite / "alpha")) == hashes[0]
