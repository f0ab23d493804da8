"""What every command needs first: a suite by its name, a place to write to."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mtret.data.formats import read_task
from mtret.data.tasks import Judgements
from mtret.errors import UserError
from mtret.runs.setting import check_writable, content_sha256, load_suite, versions


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


def test_a_place_is_writable_if_its_nearest_folder_is(tmp_path: Path) -> None:
    check_writable(tmp_path, "--out")
    check_writable(tmp_path / "a" / "b" / "c", "--out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for place in ("file", "file/a/b", "dangling", "dangling/a"):
        with pytest.raises(
            UserError, match=rf"^--out={tmp_path}/{place}: .* is no folder that can be written to; choose"
        ):
            check_writable(tmp_path / place, "--out")


def test_versions_of_all_that_numbers_depend_on() -> None:
    import jax

    found = versions()
    assert found["jax"] == jax.__version__
    assert found["numpy"] == np.__version__
    assert set(found) >= {"python", "mtret", "tokenizers", "bm25s", "scann"}
