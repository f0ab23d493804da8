"""The README's figures are those of the committed results, and the page of commands is that of the code."""

import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_quickstart_table_is_that_of_the_committed_results() -> None:
    study = load(ROOT / "experiments" / "000_quickstart" / "readme.py")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert study.with_table(readme) == readme


def test_the_first_hour_is_the_committed_transcript() -> None:
    study = load(ROOT / "experiments" / "005_first_hour" / "run.py")
    page = (ROOT / "docs" / "first_hour.md").read_text(encoding="utf-8")
    assert study.with_transcript(page) == page
    for command in study.COMMANDS:
        assert f"\n$ {command}\n" in page


def test_the_pages_of_commands_and_keys_are_those_of_the_code() -> None:
    writer = load(ROOT / "docs" / "write_commands.py")
    page = writer.page()
    assert page == (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert writer.keys_page() == (ROOT / "docs" / "keys.md").read_text(encoding="utf-8")
    assert "| `--hold_out` | list |" in page


def test_the_quickstart_tuned_model_is_better_in_every_role() -> None:
    """The claim that the README makes of its own table."""
    from mtret.evaluation.results import read_results

    roles = read_results(ROOT / "experiments" / "000_quickstart" / "results.json").roles
    assert set(roles) == {"in_domain", "cross_domain", "zero_shot"}
    for role in roles.values():
        for difference in role.differences["finetuned"].values():
            assert difference.low > 0
