"""The rules that a machine can check: imports point down only, and what a file may be."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A part may import the parts of the rows above its own, never one of its own row.
LAYERS = (
    ("errors",),
    ("files", "names", "schema"),
    ("types", "pytrees", "devices", "console", "tables", "provenance", "encoder_folder"),
    ("processes", "kernels"),
    ("models", "losses", "data"),
    ("train", "index"),
    ("model_folder", "evaluation"),
    ("run_config",),
    ("runs",),
    ("sweeps",),
    ("commands",),
    ("cli",),
    ("__main__",),
)
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}
OUTSIDE = ("configs", "experiments", "colabs")
BANNED = ("torch", "tensorflow", *OUTSIDE)
LINES = 450


def part_of(module: str) -> str:
    """`mtret.data.tasks` -> `data`."""
    return module.split(".")[1]


def complaint(importer: str, imported: str) -> str | None:
    """Why module `importer` of mtret may not import module `imported`, or None where it may."""
    package = imported.split(".")[0]
    if package in BANNED:
        return f"imports {package}"
    if package != "mtret":
        return None
    if imported == "mtret":
        return "imports the package as a whole, which hides the part it needs"
    if importer == "mtret":
        return "the package itself imports none of its parts"
    own, other = part_of(importer), part_of(imported)
    if other not in RANK:
        return f"imports {imported}, and {other} stands in no layer"
    if own != other and RANK[own] <= RANK[other]:
        return f"{own} imports {other}, not below it"
    return None


def problems(importer: str, source: str) -> list[str]:
    """What breaks a rule in one module of mtret, each with its line."""
    if importer != "mtret" and part_of(importer) not in RANK:
        return [f"1: {part_of(importer)} stands in no layer: give it one in LAYERS"]
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            reasons = [complaint(importer, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            relative = "relative import" if node.level else None
            reasons = [relative or complaint(importer, node.module or "")]
        else:
            continue
        found += [f"{node.lineno}: {reason}" for reason in reasons if reason]
    lines = source.count("\n")
    if lines > LINES:
        found.append(f"{lines}: more than {LINES} lines")
    if importer.endswith(".utils"):
        found.append("1: a file called utils.py says nothing about what is in it")
    return found


def module_name(path: Path) -> str:
    """`mtret/data/__init__.py` -> `mtret.data`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", sorted((ROOT / "mtret").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_rules(path: Path) -> None:
    assert problems(module_name(path), path.read_text(encoding="utf-8")) == []


def test_every_layer_is_looked_at() -> None:
    """A path that moved must not leave the rules without anything to check."""
    names = map(module_name, (ROOT / "mtret").rglob("*.py"))
    assert {part_of(name) for name in names if name != "mtret"} == set(RANK)


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("mtret.train.step", "from mtret.losses import info_nce\nfrom mtret.errors import UserError"),
        ("mtret.train.step", "from mtret.train.state import State"),
        ("mtret.evaluation.retrieval", "import mtret.index.exact\nimport numpy as np"),
        ("mtret.cli", "def main():\n    from mtret.runs import train"),
        ("mtret.data.formats", "import torchlight\nimport tensorflow_datasets"),
    ],
)
def test_sound_sources_pass(importer: str, source: str) -> None:
    assert problems(importer, source) == []


@pytest.mark.parametrize(
    ("importer", "source", "problem"),
    [
        ("mtret.losses", "import numpy\nfrom mtret.data.tasks import Task", "2: losses imports data, not below it"),
        ("mtret.models.bert", "import mtret.losses", "1: models imports losses, not below it"),
        ("mtret.data.tasks", "from mtret.models.hf import load", "1: data imports models, not below it"),
        ("mtret.train.loop", "from mtret.evaluation.metrics import ndcg", "1: train imports evaluation, not below it"),
        ("mtret.train.loop", "from mtret.index.exact import search", "1: train imports index, not below it"),
        ("mtret.index.exact", "from mtret.evaluation.metrics import ndcg", "1: index imports evaluation, not below it"),
        (
            "mtret.model_folder.card",
            "import mtret.evaluation.metrics",
            "1: model_folder imports evaluation, not below it",
        ),
        ("mtret.types", "from mtret.pytrees import flatten", "1: types imports pytrees, not below it"),
        (
            "mtret.run_config",
            "def read():\n    from mtret.runs import train",
            "2: run_config imports runs, not below it",
        ),
        ("mtret", "import mtret.cli", "1: the package itself imports none of its parts"),
        (
            "mtret.cli",
            "from mtret import runs",
            "1: imports the package as a whole, which hides the part it needs",
        ),
        ("mtret.cli", "import mtret", "1: imports the package as a whole, which hides the part it needs"),
        ("mtret.data.tasks", "from .templates import render", "1: relative import"),
        ("mtret.data.tasks", "from . import templates", "1: relative import"),
        ("mtret.data.tasks", "from mtret.helper import x", "1: imports mtret.helper, and helper stands in no layer"),
        ("mtret.helper", "", "1: helper stands in no layer: give it one in LAYERS"),
        ("mtret.data.utils", "", "1: a file called utils.py says nothing about what is in it"),
        ("mtret.models.hf", "import numpy, torch.nn", "1: imports torch"),
        ("mtret.index.scann", "def load():\n    from tensorflow.io import gfile", "2: imports tensorflow"),
        ("mtret.runs", "from configs.base import get_config", "1: imports configs"),
        ("mtret.runs", "import experiments", "1: imports experiments"),
        ("mtret.losses", "\n" * 451, "451: more than 450 lines"),
    ],
)
def test_each_breach_is_found(importer: str, source: str, problem: str) -> None:
    assert problems(importer, source) == [problem]
