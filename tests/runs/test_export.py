"""A checkpoint is opened as the model that an export of it would be."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from mtret.data.tokenize import Tokenizer
from mtret.errors import UserError
from mtret.index.encode import Texts
from mtret.model_folder.folder import load_model
from mtret.runs.export import export, open_model


@pytest.mark.slow
def test_a_checkpoint_equals_its_export(unfinished: Path, tmp_path: Path, words: list[str]) -> None:
    exported = load_model(str(export(unfinished, tmp_path / "exported")))
    (unfinished / "weights").mkdir()
    shutil.copy(unfinished / "best.safetensors", unfinished / "weights" / "step_4.safetensors")
    for name in ("best.safetensors", "weights/step_4.safetensors"):
        opened = open_model(str(unfinished / name))
        assert opened.templates == exported.templates
        assert opened.prompts == exported.prompts
        saved = {
            key: value for key, value in exported.details.items() if key not in ("templates", "towers", "base_forms")
        }
        assert opened.details == saved
        assert opened.record is not None and exported.record is not None
        assert opened.record.tasks == exported.record.tasks
        vectors = []
        for each in (opened, exported):
            tokens = Tokenizer(each.encoder.folder)([" ".join(words[:9]), words[3]])
            vectors.append(each.towers.embedders().queries([Texts(tokens, 20)])[0])
        np.testing.assert_array_equal(*vectors)


def test_its_hash_is_its_own(unfinished: Path) -> None:
    """Vectors are kept by it, and those of the encoder that it came from are others."""
    opened = open_model(str(unfinished / "best.safetensors"))
    assert opened.towers.weights_sha256 != opened.details["source_sha256"]


@pytest.mark.parametrize("name", ["nothing.safetensors", "weights/step_7.safetensors"])
def test_no_checkpoint(unfinished: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"no such file, or a damaged one; give a run's best\.safetensors"):
        open_model(str(unfinished / name))


def test_weights_of_no_run(tiny_model: Path) -> None:
    with pytest.raises(UserError, match=rf"is a part of a model folder; give the folder, {tiny_model}$"):
        open_model(str(tiny_model / "model.safetensors"))


def test_an_unfinished_run_names_its_checkpoint(unfinished: Path) -> None:
    with pytest.raises(UserError, match=r"not finished; .*unfinished/best\.safetensors, or mtret export"):
        open_model(str(unfinished))
