"""mtret/artefact.py: what is written with the weights comes back, and damage is named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mtret.artefact import BARE, load_artefact, save_artefact
from mtret.data.formats import read_task
from mtret.data.roles import role_of, training_record
from mtret.data.templates import Templates
from mtret.errors import UserError
from mtret.models import hf
from mtret.pytrees import flatten, unflatten

TEMPLATES = Templates(query="For {instruction}: {query}", document="Text: {document}")
DETAILS = {"mtret": "0", "source": "somewhere", "source_sha256": "x", "step": 3, "config": {"seed": 0}}


@pytest.fixture
def saved(tmp_path: Path, tiny_model: Path, tiny_suite: Path) -> Path:
    """The encoder with every parameter moved by 1, as trained on alpha and beta."""
    encoder = hf.load(str(tiny_model))
    params = unflatten({path: np.asarray(value) + 1 for path, value in flatten(encoder.params).items()})
    tasks = [read_task(tiny_suite / name) for name in ("alpha", "beta")]
    cards = [task.card for task in tasks]
    save_artefact(tmp_path / "model", encoder, params, TEMPLATES, cards, training_record(tasks), DETAILS)
    return tmp_path / "model"


def test_what_was_saved_is_loaded(saved: Path, tiny_model: Path, tiny_suite: Path) -> None:
    artefact, base = load_artefact(str(saved)), hf.load(str(tiny_model))
    ours, theirs = flatten(artefact.encoder.params), flatten(base.params)
    assert ours.keys() == theirs.keys()
    for path, value in ours.items():
        np.testing.assert_array_equal(value, theirs[path] + 1)
    assert artefact.templates == TEMPLATES
    assert artefact.details == {"templates": {"query": TEMPLATES.query, "document": TEMPLATES.document}, **DETAILS}
    assert (artefact.encoder.pooling, artefact.encoder.max_length) == (base.pooling, base.max_length)
    assert artefact.record is not None
    roles = {name: role_of(read_task(tiny_suite / name), artefact.record) for name in ("alpha", "gamma", "delta")}
    assert roles == {"alpha": "in_domain", "gamma": "cross_domain", "delta": "zero_shot"}


def test_instructions_are_carried_as_prompts(saved: Path, tiny_suite: Path) -> None:
    """In the form that the ecosystem reads, so that training and serving cannot disagree."""
    prompts = json.loads((saved / "config_sentence_transformers.json").read_text(encoding="utf-8"))["prompts"]
    instruction = read_task(tiny_suite / "alpha").card.instruction
    assert prompts["alpha"] == f"For {instruction}: "
    assert prompts["document"] == "Text: "
    assert set(prompts) == {"alpha", "beta", "document"}


def test_operands_are_the_caller_s(saved: Path) -> None:
    towers = [load_artefact(str(saved), operands).encoder.tower for operands in ("float32", "bfloat16")]
    assert [tower.config.operands for tower in towers] == ["float32", "bfloat16"]  # type: ignore[attr-defined]


def test_a_model_of_others_has_no_instructions_and_no_record(tiny_model: Path) -> None:
    artefact = load_artefact(str(tiny_model))
    assert (artefact.templates, artefact.record, artefact.details) == (BARE, None, {})


def test_a_run_stands_for_its_model(tmp_path: Path, saved: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(saved, run / "model")
    (run / "config.json").write_text("{}", encoding="utf-8")
    (run / "checkpoints").mkdir()
    assert load_artefact(str(run)).encoder.weights_sha256 == load_artefact(str(saved)).encoder.weights_sha256
    shutil.rmtree(run / "model")
    with pytest.raises(UserError, match=rf"{run}: this run is not finished; .*mtret export --model={run} --out=FOLDER"):
        load_artefact(str(run))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"templates": {"q": "{query}"}}'])
def test_damaged_details_are_named(saved: Path, content: str) -> None:
    (saved / "mtret.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=rf"{saved}/mtret\.json: damaged \(.*\); export the model again"):
        load_artefact(str(saved))


def test_an_existing_model_is_replaced_whole(saved: Path, tiny_model: Path, tiny_suite: Path) -> None:
    (saved / "left over").write_text("x", encoding="utf-8")
    encoder, tasks = hf.load(str(tiny_model)), [read_task(tiny_suite / "alpha")]
    save_artefact(
        saved, encoder, encoder.params, Templates(), [tasks[0].card], training_record(tasks), {**DETAILS, "step": 9}
    )
    assert load_artefact(str(saved)).details["step"] == 9
    assert not (saved / "left over").exists()
    assert [path.name for path in saved.parent.iterdir()] == ["model"]  # and no draft stays


def test_a_failure_leaves_what_was_there(saved: Path, tiny_model: Path, tiny_suite: Path) -> None:
    encoder, tasks = hf.load(str(tiny_model)), [read_task(tiny_suite / "alpha")]
    before = {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_artefact(
            saved, encoder, encoder.params, Templates(), [tasks[0].card], training_record(tasks),
            {**DETAILS, "config": {"x": float("nan")}},
        )  # fmt: skip
    assert {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()} == before
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_the_card_shows_a_prompt_and_every_task(saved: Path) -> None:
    card = (saved / "README.md").read_text(encoding="utf-8")
    assert "# A retriever for 2 tasks" in card
    assert 'prompt_name="alpha"' in card
    assert "| alpha | article | made up | CC0-1.0 |" in card
    assert "| beta | table | made up | CC0-1.0 |" in card
