"""Every command, flag, configuration key, file, extra and make target that a message or a page names is there."""

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtret.cli import COMMANDS
from mtret.run_config import RunConfig
from mtret.schema import walk

ROOT = Path(__file__).parents[1]
# Not the names of before.
MODULES = sorted({*(ROOT / "mtret").rglob("*.py"), *(ROOT / "configs").glob("*.py")} - {ROOT / "mtret" / "names.py"})
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
        *(page for place in ("docs/*.md", "experiments/*/*.md", "colabs/*.ipynb") for page in ROOT.glob(place)),
    ]
)
FILLED = "{}"  # in place of what a message fills in
# Flags of other tools, and of the programs in experiments/, that our pages and messages name.
FOREIGN = {
    "array", "attention", "command", "cpus-per-task", "gpus-per-node", "help", "job-name", "mem", "model-id", "no-deps",
    "nodes", "ntasks-per-node", "only", "porcelain", "ship", "time", "untracked-files", "version", "worker",
    "xla_gpu_enable_latency_hiding_scheduler",
}  # fmt: skip
PLACEHOLDERS = {"flag", "name", "noname"}
SECTIONS = "model|mixture|templates|batch|loss|optim|loop|mesh|dev"
KEYS = {path for path, _, _ in walk(RunConfig)} | {f"batch.tasks.{FILLED}", f"mixture.weights.{FILLED}"}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
SUFFIXES = ("safetensors", "json", "jsonl", "md", "py", "tsv", "encode", "encode_document", "png", "load")


def flags_of(name: str) -> set[str]:
    values = COMMANDS[name].flags()
    return {one for flag in values for one in ([flag, f"no{flag}"] if values[flag].boolean else [flag])}


FLAGS = {name: flags_of(name) for name in COMMANDS}


def literals(path: Path) -> list[tuple[int, str]]:
    """Every string of a module with its line, as it is read: what an f-string fills in stands as `{}`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            words = [str(part.value) if isinstance(part, ast.Constant) else FILLED for part in node.values]
            found.append((node.lineno, "".join(words)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            found.append((node.lineno, node.value))
    return found


def paragraphs(path: Path) -> list[tuple[int, str]]:
    """Every line of a page; lines that a backslash continues are one."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    found: list[tuple[int, str]] = []
    continued = False
    for number, line in enumerate(text.split("\n"), start=1):
        if continued:
            number, before = found.pop()
            line = f"{before} {line.strip()}"
        continued = line.endswith("\\")
        found.append((number, line.removesuffix("\\")))
    return found


def complaints(text: str) -> Iterator[str]:
    """What a text names and is not there."""
    rest = text
    for found in re.finditer(r"\bmtret (data [a-z]+|[a-z]+)(?![\w-])((?: [^`\n|;,)]*)?)", text):
        first, words = found[1], found[2]
        if "`" not in text and not re.match(r"\s*(--|[A-Z{]|$|`)", words) and first.split()[0] not in COMMANDS:
            continue  # prose: "mtret trains"
        name = first if first in COMMANDS else first.split()[0]
        if name not in COMMANDS:
            if name != "data" and re.search(rf"(`|^|next: |\$ )mtret {name}", text):
                yield f"no command {name}"
            continue
        rest = rest.replace(found[0], "")
        yield from _wrong_flags(name, words)
    known = set.union(*FLAGS.values(), FOREIGN, PLACEHOLDERS)
    for flag in re.findall(r"(?<![\w-])--([a-z][\w-]*)", rest):
        if flag not in known:
            yield f"no flag --{flag}"
    yield from _wrong_keys(text)
    for place in re.findall(r"(?<![\w/.])((?:docs|configs|experiments|colabs|tests|mtret|\.ci)/[\w./-]*\w)", text):
        named = place.startswith(("docs", "configs", "experiments", ".ci")) or place.endswith((".py", ".ipynb"))
        if named and not re.search("[A-Z]{4}", place) and not (ROOT / place).exists():
            yield f"no file {place}"
    yield from (f"no extra {extra}" for extra in re.findall(r"mtret\[(\w+)\]", text) if extra not in EXTRAS)
    yield from (f"no target {target}" for target in re.findall(r"`make ([a-z-]+)", text) if target not in TARGETS)


def _wrong_flags(name: str, words: str) -> Iterator[str]:
    for flag in re.findall(r"(?<![\w-])--([a-z][\w.-]*)", words):
        if flag.startswith("config.") and COMMANDS[name].configurable:
            continue  # its key is looked at with all others
        if flag not in FLAGS[name] | {"help", FILLED}:
            yield f"mtret {name} has no flag --{flag}"


def _wrong_keys(text: str) -> Iterator[str]:
    for found in re.finditer(rf"(?<![\w./'\"-])(?:--config\.)?((?:{SECTIONS})(?:\.(?:[a-z_]\w*|\{{\}}))+)", text):
        key = re.sub(r"^(batch\.tasks|mixture\.weights)\.\w+", rf"\1.{FILLED}", found[1])
        own = key.removeprefix(f"batch.tasks.{FILLED}.")
        if key in KEYS or key.rpartition(".")[2] in SUFFIXES or key.endswith(FILLED):
            continue
        if own == key or f"batch.{own}" not in KEYS:
            yield f"no key {found[1]}"
    for key in re.findall(r"--config\.([a-z_]\w*(?:\.[\w{}]+)*)", text):
        section = key.partition(".")[0]
        if section not in KEYS and section != "a":  # a.b=value
            yield f"no key {key}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_messages_name_is_there(path: Path) -> None:
    found = [f"{line}: {one}" for line, text in literals(path) for one in complaints(text)]
    assert found == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_pages_name_is_there(page: Path) -> None:
    found = [f"{line}: {one}" for line, text in paragraphs(page) for one in complaints(text)]
    assert found == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Pass --allow_lekage to drop them", ["no flag --allow_lekage"]),
        ("run `mtret evalute --model=x`", ["no command evalute"]),
        ("next: mtret train --model={}", ["mtret train has no flag --model"]),
        ("`mtret evaluate --noscann` does, `mtret data check --suite=x` too", []),
        ("mtret search --config.seed=1", ["mtret search has no flag --config.seed"]),
        ("raise batch.querys, or --config.loop.step=3", ["no key batch.querys", "no key loop.step"]),
        ("give --config.batch.tasks.{}.queries=2 or batch.tasks.alpha.negatives=0", []),
        ("batch.tasks.alpha.positive=0", ["no key batch.tasks.alpha.positive"]),
        ("best.safetensors, model.safetensors", []),
        ("docs/data.md and docs/date.md", ["no file docs/date.md"]),
        ("pip install 'mtret[parqet]'", ["no extra parqet"]),
        ("`make test`, `make tset`", ["no target tset"]),
        ("mtret trains one encoder", []),
    ],
)
def test_what_is_not_there_is_found(text: str, expected: list[str]) -> None:
    assert list(complaints(text)) == expected
