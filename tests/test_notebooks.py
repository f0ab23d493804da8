"""The notebooks hold no outputs, and run from top to bottom as they are, but for the values of their parameters."""

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from safetensors.numpy import load_file, save_file

from mtret.models.hf import resolve

COLABS = Path(__file__).parents[1] / "colabs"
BOOKS = {path.stem: path for path in sorted(COLABS.glob("*.ipynb"))}
# Fewer steps, tasks and layers than a reader would want; all else is as it stands.
SMALL: dict[str, dict[str, Any]] = {
    "quickstart": {
        "evaluated": ("it_article", "business_report"),
        "steps": 4,
        "settings": ("batch.queries=16", "batch.document_length=128", "dev.queries=5", "dev.distractors=10"),
        "folder": "run",
    },
    "bring_your_own_tasks": {
        "steps": 4,
        "settings": ("mixture.hold_out=('report',)", "batch.queries=16", "dev.queries=5", "dev.distractors=10"),
        "folder": "own",
    },
}


@pytest.fixture(scope="module")
def first_layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MiniLM's folder, with the first of its six layers."""
    folder = tmp_path_factory.mktemp("encoders") / "first-layer"
    shutil.copytree(resolve("minilm"), folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}), encoding="utf-8")
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if ".layer." not in name or ".layer.0." in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def with_parameters(book: nbformat.NotebookNode, values: dict[str, Any]) -> nbformat.NotebookNode:
    """The book with other values in its cell of parameters, which has to name each of them."""
    book = copy.deepcopy(book)
    (cell,) = (cell for cell in book.cells if "parameters" in cell.metadata.get("tags", ()))
    named = {line.split(" = ")[0] for line in cell.source.splitlines() if " = " in line}
    assert named == set(values)
    cell.source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    return book


def printed(book: nbformat.NotebookNode) -> str:
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.get("text", "") + json.dumps(output.get("data", "")) for output in outputs)


def test_every_notebook_is_tested() -> None:
    assert set(BOOKS) == set(SMALL)


@pytest.mark.parametrize("path", BOOKS.values(), ids=list(BOOKS))
def test_no_outputs_are_kept(path: Path) -> None:
    book = read(path)
    nbformat.validate(book)
    for cell in book.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
    assert set(book.metadata) <= {"kernelspec", "language_info"}


@pytest.mark.system
@pytest.mark.slow
@pytest.mark.parametrize("name", list(SMALL))
def test_runs_from_top_to_bottom(name: str, tmp_path: Path, first_layer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", os.environ["MTRET_TESTS_QUICK"])  # one device, as a reader has
    settings = *SMALL[name]["settings"], f"model.source={first_layer}"
    book = with_parameters(read(BOOKS[name]), {**SMALL[name], "settings": settings})
    client = NotebookClient(book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    run = tmp_path / ("run" if name == "quickstart" else "own/run")
    assert (run / "model" / "modules.json").exists()
    results = json.loads((run / "test" / "results.json").read_text(encoding="utf-8"))
    assert results["systems"] == ["bm25", "base", "hybrid_ranks", "hybrid", "finetuned", "finetuned_hybrid"]
    assert {task["role"] for task in results["tasks"].values()} == {"in_domain", "zero_shot"}
    assert "1  0." in printed(book)  # the first hit and its score
