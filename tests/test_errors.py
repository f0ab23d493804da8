from pathlib import Path

import pytest

from mtret.errors import nearest, nearest_folder


def test_the_nearest_name() -> None:
    assert nearest("trian", ["train", "test"]) == " Did you mean 'train'?"
    assert nearest("xyz", ["train"]) == ""


def test_the_nearest_folder_is_sought_level_by_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "first").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert nearest_folder("runs/frist") == " Did you mean 'runs/first'?"
    assert nearest_folder("run/first") == " Did you mean 'runs'?"
    assert nearest_folder("runs/first") == nearest_folder("elsewhere/x") == ""
