"""The committed configurations are what they say."""

from pathlib import Path

import pytest

from mtret.run_config import RunConfig, as_json, build, differences, read_config, with_overrides
from mtret.runs.init import source_of
from mtret.schema import walk

CONFIGS = Path(__file__).parents[1] / "configs"


def keys(values: object, path: str = "") -> set[str]:
    """`a.b` for every leaf of nested dictionaries; empty ones are leaves."""
    if not isinstance(values, dict) or not values:
        return {path}
    return {leaf for key, value in values.items() for leaf in keys(value, f"{path}.{key}".lstrip("."))}


def literal(path: Path) -> dict:
    """What a configuration file itself gives."""
    scope: dict = {}
    exec(path.read_text(encoding="utf-8"), scope)
    return scope["get_config"]().to_dict()


def test_every_key_says_what_it_means() -> None:
    assert not {path for path, each, section in walk(RunConfig) if not (section or each.metadata.get("meaning"))}


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["suite='Störung \\\\ \"x\" \\n'", "model.dropout=None", "mixture.tasks=a,b", "mixture.weights=a:2,b:.5"],
        [f"optim.trainable=(('tower/embeddings/{'x' * 90}', False), ('.*', True))", "loss.dimensions=(192, 96)"],
        ["batch.tasks={'a': {'queries': 8}, 'b': {'negatives': 2, 'row_length': 64}}"],
    ],
)
def test_a_configuration_that_is_written_out_reads_as_it_was(tmp_path: Path, overrides: list[str]) -> None:
    config = build(RunConfig, with_overrides({}, overrides), "")
    path = tmp_path / "config.py"
    path.write_text(source_of(config), encoding="utf-8")
    assert read_config(str(path)) == config
    assert keys(literal(path)) == keys(as_json(config))
    assert all(len(line) <= 120 for line in path.read_text(encoding="utf-8").splitlines()) or overrides


def test_every_configuration_is_found() -> None:
    assert {path.name for path in CONFIGS.glob("*.py")} >= {"icons.py", "quickstart.py", "public_suite.py"}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.name)
def test_every_configuration_loads_as_it_is_written(path: Path) -> None:
    given = keys(literal(path))
    changed = {line.split(":")[0] for line in differences(as_json(read_config(str(path))), as_json(RunConfig()))}
    assert {key for key in changed if not any(f"{one}.".startswith(f"{key}.") for one in given)} == set()


def test_the_quickstart_needs_no_data() -> None:
    assert read_config(str(CONFIGS / "quickstart.py")).suite == "enterprise"


def test_the_public_suite_trains_on_sixteen_tasks_each_named_once() -> None:
    config = read_config(str(CONFIGS / "public_suite.py"), ["suite=somewhere"])
    assert len(config.mixture.tasks) == len(set(config.mixture.tasks)) == 16
    assert config.suite == "somewhere"
