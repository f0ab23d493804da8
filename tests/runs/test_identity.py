"""A run's folder has one owner at a time."""

from pathlib import Path

import pytest

from mtret.errors import UserError
from mtret.runs.identity import alone_in


def test_a_folder_is_trained_in_by_one_process_at_a_time(tmp_path: Path) -> None:
    workdir = tmp_path / "runs" / "first"
    with alone_in(workdir):
        with pytest.raises(UserError, match="runs/first: another process trains there already"), alone_in(workdir):
            pytest.fail("two were let in")
        with alone_in(tmp_path / "runs" / "second"):
            pass
    with alone_in(workdir):
        (workdir / "a").touch()


def test_a_folder_made_for_nothing_goes_again(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x"), alone_in(tmp_path / "runs" / "first"):
        raise ValueError("x")
    assert not (tmp_path / "runs").exists()
