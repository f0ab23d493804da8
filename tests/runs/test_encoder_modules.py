"""A training that begins with an encoder of more modules than the usual three, to its export."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file, save_file

from mtret.model_folder.folder import check, load_model
from mtret.run_config import read_config
from mtret.runs.train import train

HIDDEN = 32


@pytest.fixture
def own_modules(own_model: Path) -> Path:
    """Pooled in two ways, then a Dense, and compared by dot product."""
    types = ("Transformer", "Pooling", "Dense")
    modules = [
        {"name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(types)
    ]
    files = {
        "modules.json": modules,
        "1_Pooling/config.json": {"embedding_dimension": HIDDEN, "pooling_mode": ["max", "cls"]},
        "2_Dense/config.json": {"in_features": 2 * HIDDEN, "out_features": 24},
        "config_sentence_transformers.json": {"similarity_fn_name": "dot"},
    }
    (own_model / "2_Dense").mkdir()
    for name, content in files.items():
        (own_model / name).write_text(json.dumps(content), encoding="utf-8")
    random = np.random.default_rng(0)
    tensors = {"linear.weight": random.normal(0, 0.1, (24, 2 * HIDDEN)), "linear.bias": random.normal(0, 0.1, 24)}
    save_file({n: x.astype(np.float32) for n, x in tensors.items()}, own_model / "2_Dense" / "model.safetensors")
    return own_model


@pytest.mark.slow
@pytest.mark.system
def test_all_modules_are_trained_and_exported(
    tmp_path: Path, own_modules: Path, tiny_config: Path, console: Console, mtret: Callable[..., tuple[int, str, str]]
) -> None:
    config = read_config(str(tiny_config), [f"model.source={own_modules}"])
    folder = train(config, tmp_path / "run", console)
    said = console.export_text()
    assert f"{own_modules}: trained and exported with Normalize as its last module, compared by cosine" in said
    encoder = load_model(str(folder)).encoder
    assert (encoder.pooling, encoder.dimension, encoder.similarity) == ("max+cls", 24, "cosine")
    assert encoder.normalises
    before, after = (load_file(each / "2_Dense" / "model.safetensors") for each in (own_modules, folder))
    assert all(np.abs(before[name] - after[name]).max() > 1e-4 for name in before)
    assert check(folder).cosine > 0.9999
    texts = tmp_path / "texts.txt"
    texts.write_text("a text\nanother\n", encoding="utf-8")
    for model, words in ((own_modules, "24 dimensions, not of length 1, to be compared by dot"), (folder, "length 1,")):
        code, out, _ = mtret("encode", f"--model={model}", f"--texts={texts}", f"--out={tmp_path / model.name}.jsonl")
        assert code == 0 and words in out
    written = (tmp_path / f"{own_modules.name}.jsonl").read_text(encoding="utf-8").splitlines()
    vectors = np.array([json.loads(line)["vector"] for line in written])
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).min() > 0.01
