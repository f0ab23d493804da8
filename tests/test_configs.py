"""The committed configurations are what they say: base_config.py is the defaults, the others change some of them."""

from pathlib import Path

import pytest

from mtret.run_config import RunConfig, as_json, differences, read_config

CONFIGS = Path(__file__).parents[1] / "configs"
BASE = CONFIGS.parent / "mtret" / "base_config.py"


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


def test_base_names_every_key_with_its_default() -> None:
    assert read_config(str(BASE)) == RunConfig()
    assert keys(literal(BASE)) == keys(as_json(RunConfig()))


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
