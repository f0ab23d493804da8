"""docs/python.md, run as it stands, on a small suite and a small encoder."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "python.md"

pytestmark = [pytest.mark.slow, pytest.mark.system]  # five trainings


def test_the_page_runs(
    tmp_path: Path,
    tiny_suite: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    small = f'"loop.steps=3", "batch.queries=16", "model.source={str(tiny_model)!r}"'  # all of one shape
    code = "\n".join(blocks).replace('"loop.steps=100"', small)
    shutil.copytree(tiny_suite, tmp_path / "tasks")
    monkeypatch.chdir(tmp_path)
    variables: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), variables)
    said = capsys.readouterr().out
    assert "From seven to three." in said and "2 of `both`, 2 of `one`" in said and "finetuned 0." in said
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"first", "both-0", "both-1", "one-0", "one-1"}
    assert variables["vectors"].shape == (2, 32)
