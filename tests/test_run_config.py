"""Configurations: what is read from files and from the command line, and what is refused."""

import json
from dataclasses import replace
from functools import reduce
from pathlib import Path

import pytest

from mtret.data.training_tasks import TaskBatch
from mtret.errors import UserError
from mtret.run_config import RunConfig, as_json, build, differences, read_config

FILE = """
from ml_collections import ConfigDict

def get_config(kind="small"):
    return ConfigDict({"suite": kind, "loop": {"steps": 7}, "mixture": {"weights": {"alpha": 2}}})
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "config.py"
    path.write_text(FILE, encoding="utf-8")
    return str(path)


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_changes_what_it_names_and_nothing_else(file: str) -> None:
    base = RunConfig()
    wanted = replace(
        base,
        suite="small",
        loop=replace(base.loop, steps=7),
        mixture=replace(base.mixture, weights={"alpha": 2.0}),
    )
    assert read_config(file) == wanted
    assert read_config(f"{file}:large") == replace(wanted, suite="large")


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("batch.queries=128", "batch.queries", 128),
        ("optim.learning_rate=1", "optim.learning_rate", 1.0),
        ("optim.learning_rate=3e-5", "optim.learning_rate", 3e-5),
        ("loss.symmetric=true", "loss.symmetric", True),
        ("loss.symmetric=False", "loss.symmetric", False),
        ("model.dropout=None", "model.dropout", None),
        ("model.dropout=0.1", "model.dropout", 0.1),
        ("model.source=/a/b=c", "model.source", "/a/b=c"),
        ("templates.query=Q: {query}", "templates.query", "Q: {query}"),
        ("templates.query={query}", "templates.query", "{query}"),
        ("mixture.tasks=alpha, beta", "mixture.tasks", ("alpha", "beta")),
        ("mixture.tasks=alpha", "mixture.tasks", ("alpha",)),
        ("mixture.tasks=", "mixture.tasks", ()),
        ("mixture.tasks=('alpha','beta')", "mixture.tasks", ("alpha", "beta")),
        ("mixture.weights=alpha:1, beta:2.5", "mixture.weights", {"alpha": 1.0, "beta": 2.5}),
        ("mixture.weights={'beta': 3}", "mixture.weights", {"beta": 3.0}),
        ("mixture.weights.beta=2", "mixture.weights", {"alpha": 2.0, "beta": 2.0}),
        ("batch.tasks.beta.queries=8", "batch.tasks", {"beta": TaskBatch(queries=8)}),
        ("batch.tasks.beta.query_length=None", "batch.tasks", {"beta": TaskBatch()}),
        ("optim.decay_mask=((r'.*', True),)", "optim.decay_mask", ((".*", True),)),
    ],
)
def test_overrides(file: str, override: str, path: str, value: object) -> None:
    section, name = path.split(".")
    found = getattr(getattr(read_config(file, [override]), section), name)
    assert found == value
    assert type(found) is type(value)


def test_the_last_override_counts(file: str) -> None:
    assert read_config(file, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loop.step=3", r"unknown key 'loop\.step'\. Did you mean 'steps'\? Known: steps, log_every"),
        ("lop.steps=3", r"unknown key 'lop'\. Did you mean 'loop'\?"),
        ("batch.tasks.beta.querys=3", r"unknown key 'batch\.tasks\.beta\.querys'\. Did you mean 'queries'\?"),
        ("batch.queries=many", r"config batch\.queries: needs an integer, got 'many'"),
        ("batch.queries=True", r"config batch\.queries: needs an integer, got True"),
        ("batch.queries=1.5", r"config batch\.queries: needs an integer, got 1\.5"),
        ("batch.queries=None", r"config batch\.queries: needs an integer, got None"),
        ("optim.learning_rate=fast", r"config optim\.learning_rate: needs a number, got 'fast'"),
        ("optim.learning_rate=True", r"config optim\.learning_rate: needs a number, got True"),
        ("loss.symmetric=1", r"config loss\.symmetric: needs True or False, got 1"),
        ("mixture.weights=alpha", r"config mixture\.weights: 'alpha' is not of the form name:number,name:number"),
        ("mixture.weights=alpha:much", r"config mixture\.weights: 'alpha:much' is not of the form"),
        ("mixture.weights=3", r"config mixture\.weights: needs names and values, got 3"),
        ("optim.decay_mask=('x',)", r"config optim\.decay_mask\[0\]: needs 2 entries, got \['x'\]"),
        ("optim.decay_mask=(('(', True),)", r"config optim\.decay_mask: '\(' is not a regular expression"),
        ("loop=3", r"config loop: needs keys and values, got 3"),
        ("loop.steps.x=3", r"--config\.loop\.steps\.x: 'steps' is a value, it has no keys"),
        ("loop.steps", r"--config\.loop\.steps: give it a value"),
        ("batch={1: 2}", r"unknown key 'batch\.1'\."),
        ("batch={[]: 2}", r"config batch: needs keys and values, got '\{\[\]: 2\}'"),
        ("templates.query={query} please", r"must end in \{query\}"),
        ("templates.document={text}", r"unknown placeholder \{text\}"),
    ],
)
def test_what_is_not_of_the_schema_is_refused(file: str, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_config(file, [override])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"source": 7}}, r"config model\.source: needs a string, got 7"),
        ({"seed": 10**30}, r"config seed: must be between -2\^62 and 2\^62, is 1000"),
        ({"optim": {"learning_rate": 10**400}}, r"config optim\.learning_rate: must be between"),
        ({"suite": None}, r"config suite: needs a string, got None"),
        ({"mixture": {"tasks": 3}}, r"config mixture\.tasks: needs a list, got 3"),
        ({"mixture": {"tasks": ("alpha", 3)}}, r"config mixture\.tasks\[1\]: needs a string, got 3"),
    ],
)
def test_a_number_is_no_text_in_a_file(tmp_path: Path, values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_config(write(tmp_path / "numbers.py", f"def get_config():\n    return {values!r}\n"))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed=-1", "at least 0"),
        ("loop.steps=0", "at least 1"),
        ("loop.log_every=0", "at least 1"),
        ("loop.evaluate_every=0", "at least 1"),
        ("loop.checkpoint_every=-5", "at least 1"),
        ("loop.keep_checkpoints=0", "at least 1"),
        ("dev.queries=0", "at least 1"),
        ("dev.distractors=-1", "at least 0"),
        ("optim.epsilon=0", "above 0"),
        ("optim.learning_rate=-1e-3", "above 0"),
        ("optim.learning_rate=1e999", "above 0"),
        ("optim.warmup_steps=-1", "at least 0"),
        ("optim.clip_norm=-1.0", "at least 0"),
        ("optim.beta1=1.0", "at least 0 and below 1"),
        ("model.dropout=1.0", "None, or at least 0 and below 1"),
        ("model.matmul_dtype=float16", "one of float32, bfloat16"),
    ],
)
def test_values_that_make_no_sense_are_refused(file: str, override: str, words: str) -> None:
    with pytest.raises(UserError, match=f"^config {override.split('=')[0]}: must be {words}, is "):
        read_config(file, [override])


def test_a_missing_file_offers_its_neighbour(tmp_path: Path, file: str) -> None:
    with pytest.raises(UserError, match=rf"no file '{tmp_path}/confg\.py'\. Did you mean '{file}'\?"):
        read_config(str(tmp_path / "confg.py"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config():\n    return {'a': \n", r"bad\.py:2: SyntaxError: "),
        ("def get_config():\n    x = 1\n    raise KeyError('gone')\n", r"bad\.py:3: KeyError: 'gone'"),
        ("import mtret_is_not_here\n", r"bad\.py:1: ModuleNotFoundError: "),
        ("x = 1\n", r"bad\.py: defines no get_config\(\)"),
        ("def get_config():\n    return 3\n", r"get_config\(\) must return a ConfigDict or a dict, got 3"),
        ("def get_config():\n    pass\n", r"must return a ConfigDict or a dict, got None"),
    ],
)
def test_a_file_that_fails_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_config(write(tmp_path / "bad.py", text), ["seed=1"])


def test_a_configuration_survives_json() -> None:
    """As it is written beside a run, and read again by export."""
    base = RunConfig()
    batch = replace(base.batch, tasks={"alpha": TaskBatch(queries=8)})
    config = replace(base, batch=batch, mixture=replace(base.mixture, tasks=("alpha",), weights={"alpha": 2.0}))
    written = json.loads(json.dumps(as_json(config)))
    assert build(RunConfig, written, "") == config
    assert differences(as_json(config), written) == []


def test_differences_name_the_key_and_both_values() -> None:
    ours, theirs = as_json(RunConfig()), as_json(replace(RunConfig(), seed=3))
    theirs["loop"]["steps"] = 5
    del theirs["dev"]["queries"]
    assert differences(ours, theirs) == ["dev.queries: 100, there None", "loop.steps: 200, there 5", "seed: 0, there 3"]


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("suite=2024", "suite", "2024"),
        ("suite=007", "suite", "007"),
        ("suite=1e5", "suite", "1e5"),
        ("suite='2024'", "suite", "2024"),
        ("suite=True", "suite", "True"),
        ("mixture.hold_out=404", "mixture.hold_out", ("404",)),
        ("mixture.hold_out=404,article,1e2", "mixture.hold_out", ("404", "article", "1e2")),
        ("mixture.hold_out=(404, 'article')", "mixture.hold_out", ("404", "article")),
        ("mixture.tasks=()", "mixture.tasks", ()),
        ("model.attention=None", "model.attention", None),
    ],
)
def test_a_number_is_a_text_where_a_text_belongs(file: str, override: str, key: str, value: object) -> None:
    """A folder may be called 2024, and a family 404."""
    assert reduce(getattr, key.split("."), read_config(file, [override])) == value
