"""What a sweep file says becomes runs: names, seeds, configurations; and what is wrong with it is said in one line."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from mtret.errors import UserError
from mtret.run_config import RunConfig
from mtret.sweeps import grid, product, zip_
from mtret.sweeps.definition import Families, Runs, read_sweep

HEAD = "from mtret.sweeps import Sweep, grid, product, zip_\n\ndef get_sweep():\n    return "


def read(folder: Path, said: str, *overrides: str) -> Runs:
    path = folder / "sweep.py"
    path.write_text(f"{HEAD}{said}\n", encoding="utf-8")
    return runs_of(path, overrides)


def runs_of(path: Path, overrides: Sequence[str] = (), families: Families | None = None) -> Runs:
    found = read_sweep(str(path), overrides, families=families)
    assert isinstance(found, Runs)
    return found


def test_combinations() -> None:
    assert grid({"a": [1, 2], "b": "xy"[:1].split()}) == [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}]
    assert zip_({"a": [1, 2], "b": [3, 4]}) == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]
    assert product(grid({"a": [1, 2]}), zip_({"b": [3], "c": [4]})) == [
        {"a": 1, "b": 3, "c": 4},
        {"a": 2, "b": 3, "c": 4},
    ]


def test_runs_are_every_setting_with_every_seed(tmp_path: Path) -> None:
    said = (
        "Sweep(dict(suite='enterprise'), grid({'optim.learning_rate': [1e-4, 5e-5], 'loop.steps': [7]}), seeds=(3, 0))"
    )
    runs = read(tmp_path, said, "batch.queries=16", "loop.steps=9")
    assert [run.name for run in runs.every] == [
        "learning_rate-0.0001/seed3",
        "learning_rate-0.0001/seed0",
        "learning_rate-5e-05/seed3",
        "learning_rate-5e-05/seed0",
    ]
    last = runs.every[-1].config
    assert (last.optim.learning_rate, last.seed, last.suite) == (5e-5, 0, "enterprise")
    assert last.batch.queries == 16 and last.loop.steps == 9  # what is given on the command line wins
    assert runs.baseline == "learning_rate-0.0001" and list(runs.settings) == [
        "learning_rate-0.0001",
        "learning_rate-5e-05",
    ]


def test_a_configuration_file_and_named_settings(tmp_path: Path) -> None:
    (tmp_path / "base.py").write_text("def get_config(steps):\n    return {'loop': {'steps': int(steps)}}\n")
    base = f"{tmp_path}/base.py:12"
    said = f"Sweep({base!r}, {{'plain': {{}}, 'tasks': {{'mixture.tasks': ('a', 'b')}}}}, baseline='tasks')"
    runs = read(tmp_path, said)
    assert [run.name for run in runs.every] == ["plain/seed0", "tasks/seed0"]
    assert runs.every[1].config.mixture.tasks == ("a", "b") and runs.every[1].config.loop.steps == 12
    assert list(runs.settings) == ["tasks", "plain"]


def test_names_say_what_differs(tmp_path: Path) -> None:
    keys = "{'loop.steps': [9], 'batch.queries': [4, 8], 'batch.tasks.a.queries': [2, None], 'model.source': ['x/y z']}"
    names = [run.setting for run in read(tmp_path, f"Sweep({{}}, grid({keys}))").every]
    assert names[0] == "batch.queries-4_batch.tasks.a.queries-2" and names[-1].endswith("queries-None")
    missing = read(tmp_path, "Sweep({}, [{}, {'loop.steps': 5}])")
    assert [run.setting for run in missing.every] == ["plain", "steps-5"]


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ("3", "must return a mtret.sweeps.Sweep, got int"),
        ("Sweep({}, [])", "runs must be a list of settings"),
        ("Sweep({}, ['loop.steps=5'])", "a setting is .*, not 'loop.steps=5'"),
        ("Sweep({}, [{'seed': 4}])", "give seeds=\\(4, ...\\) to the sweep"),
        ("Sweep({}, [{}], seeds=())", "seeds must be whole numbers"),
        ("Sweep({}, [{}], seeds=(1, 1))", "a seed is given twice"),
        ("Sweep({}, [{}], split='train')", "split is 'dev' or 'test', not 'train'"),
        ("Sweep({}, {'a': {}}, baseline='b')", "baseline 'b' is none of its runs"),
        ("Sweep({}, {'a/b': {}})", "'a/b' cannot be a folder's name"),
        ("Sweep({}, [{}, {}])", "two runs are called 'plain'"),
        ("Sweep({}, {'a': {}, 'b': {'loop.steps': 200}})", "'a' and 'b' are the same configuration"),
        ("Sweep({}, [{'loop.step': 5}])", "run 'step-5': config: unknown key 'loop.step'"),
        ("Sweep({}, [{'loop.steps': 'x'}])", "run 'steps-x': config loop.steps"),
        ("Sweep({}, grid({'loop.steps': 5}))", "sweep.py:4: loop.steps: 5 is not a list of values"),
        ("Sweep({}, zip_({'loop.steps': [5], 'seed': [1, 2]}))", "zip_: needs as many values of each key"),
        ("Sweep({}, product([{'loop.steps': 5}], [{'loop.steps': 6}]))", "loop.steps is set by two of the lists"),
        ("1 / 0", "sweep.py:4: ZeroDivisionError"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, said: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        read(tmp_path, said)


def test_runs_are_chosen_by_name_and_shared_out(tmp_path: Path) -> None:
    runs = read(tmp_path, "Sweep({}, {'a': {}, 'b': {'loop.steps': 5}, 'c': {'loop.steps': 6}}, seeds=(0, 1))")
    assert [run.name for run in runs.chosen(["b", "c/seed1"], (0, 1))] == ["b/seed0", "b/seed1", "c/seed1"]
    parts = [runs.chosen([], (part, 4)) for part in range(4)]
    names = [run.name for part in parts for run in part]
    assert sorted(names) == sorted(run.name for run in runs.every) and max(map(len, parts)) == 2
    with pytest.raises(UserError, match=r"--only: no run 'c/seed2'. Did you mean 'c/seed"):
        runs.chosen(["c/seed2"], (0, 1))


def test_every_setting_leaves_each_family_out(tmp_path: Path) -> None:
    path = tmp_path / "sweep.py"
    said = "Sweep({}, {'a': {}, 'b': {'mixture.hold_out': ('z',), 'loop.steps': 5}}, seeds=(0, 1))"
    path.write_text(f"{HEAD}{said}\n", encoding="utf-8")

    def families(config: RunConfig) -> list[str]:
        return ["x y", "article"] if config.loop.steps == 5 else ["article"]

    runs = runs_of(path, families=families)
    assert [(run.name, run.config.mixture.hold_out) for run in runs.every if not run.seed] == [
        ("a_without-article/seed0", ("article",)),
        ("b_without-x-y/seed0", ("z", "x y")),
        ("b_without-article/seed0", ("z", "article")),
    ]
    assert runs.hold_out and runs.baseline == "a_without-article"


def test_the_committed_sweeps_are_sweeps() -> None:
    folder = Path(__file__).parents[2] / "configs" / "sweeps"
    experiments = folder.parents[1] / "experiments"
    for path in [*folder.glob("*.py"), *experiments.glob("0*/sweep.py")]:
        assert runs_of(path).every
