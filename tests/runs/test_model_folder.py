"""mtret/model_folder: what is written with the weights comes back, and damage is named."""

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from mtret.data.formats import read_task
from mtret.data.roles import TrainedTask, role_of, training_record
from mtret.data.templates import Templates
from mtret.errors import UserError
from mtret.model_folder import manifest
from mtret.model_folder.card import card
from mtret.model_folder.folder import check, load_model, prompts_of, save_model_folder
from mtret.model_folder.towers import Towers
from mtret.models import hf
from mtret.models.dual_encoder import ModelConfig
from mtret.models.weights import file_sha256
from mtret.pytrees import flatten, unflatten

TEMPLATES = Templates(query="For {instruction}: {query}", document="Text: {document}")
PROMPTS = prompts_of(Templates(), {"alpha": "this"})
DETAILS = {"mtret": "0", "source": "somewhere", "source_sha256": "x", "step": 3, "config": {"seed": 0}}


@pytest.fixture
def saved(tmp_path: Path, tiny_model: Path, tiny_suite: Path) -> Path:
    """The encoder with every parameter moved by 1, as trained on alpha and beta."""
    encoder = hf.load(str(tiny_model))
    params = unflatten({path: np.asarray(value) + 1 for path, value in flatten(encoder.params).items()})
    tasks = [read_task(tiny_suite / name) for name in ("alpha", "beta")]
    prompts = prompts_of(TEMPLATES, {task.name: task.card.instruction for task in tasks})
    save_model_folder(
        tmp_path / "model",
        Towers(encoder).with_params({"tower": params}),
        TEMPLATES,
        prompts,
        training_record(tasks),
        DETAILS,
    )
    return tmp_path / "model"


def test_what_was_saved_is_loaded(saved: Path, tiny_model: Path, tiny_suite: Path) -> None:
    model, base = load_model(str(saved)), hf.load(str(tiny_model))
    ours, theirs = flatten(model.encoder.params), flatten(base.params)
    assert ours.keys() == theirs.keys()
    for path, value in ours.items():
        np.testing.assert_array_equal(value, theirs[path] + 1)
    assert model.templates == TEMPLATES
    assert model.details == {"templates": asdict(TEMPLATES), "towers": [], **DETAILS}
    assert (model.encoder.pooling, model.encoder.max_length) == (base.pooling, base.max_length)
    assert model.record is not None
    roles = {name: role_of(read_task(tiny_suite / name), model.record) for name in ("alpha", "gamma", "delta")}
    assert roles == {"alpha": "in_domain", "gamma": "cross_domain", "delta": "zero_shot"}


def test_texts_are_embedded_after_a_prompt(saved: Path) -> None:
    model = load_model(str(saved))
    vectors = model.embed(["a b", "c"], "document")
    assert vectors.shape[0] == 2 and np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert model.embed(["c"], "document")[0] == pytest.approx(vectors[1], abs=1e-6)
    assert not np.allclose(model.embed(["c"]), vectors[1:], atol=1e-3)
    with pytest.raises(UserError, match=r"embed takes a list of texts; write embed\(\[text\]\)"):
        model.embed("c")
    with pytest.raises(UserError, match=r"no prompt 'documnt', .* Did you mean 'document'"):
        model.embed(["c"], "documnt")
    encoder = replace(model.encoder, prompts={"query": "word " * 200})
    long = replace(model, towers=replace(model.towers, encoder=encoder))
    with pytest.raises(UserError, match=r"as 'query': its prompt takes \d+ of the \d+ tokens"):
        long.embed(["c"])


def test_instructions_are_carried_as_prompts(saved: Path, tiny_suite: Path) -> None:
    """In the form that the ecosystem reads, so that training and serving cannot disagree."""
    prompts = json.loads((saved / "config_sentence_transformers.json").read_text(encoding="utf-8"))["prompts"]
    instruction = read_task(tiny_suite / "alpha").card.instruction
    assert prompts["alpha"] == f"For {instruction}: "
    assert prompts["document"] == "Text: "
    assert prompts["query"] == f"For {TEMPLATES.generic}: "
    assert set(prompts) == {"alpha", "beta", "query", "document"}


def test_operands_are_the_caller_s(saved: Path) -> None:
    towers = [
        load_model(str(saved), ModelConfig(matmul_dtype=matmul_dtype)).encoder.tower
        for matmul_dtype in ("float32", "bfloat16")
    ]
    assert [tower.config.matmul_dtype for tower in towers] == ["float32", "bfloat16"]  # type: ignore[attr-defined]


def test_a_model_of_others_has_no_instructions_and_no_record(tiny_model: Path) -> None:
    model = load_model(str(tiny_model))
    assert (model.templates, model.record, model.details) == (Templates(query="{query}"), None, {})


def test_a_run_stands_for_its_model(tmp_path: Path, saved: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(saved, run / "model")
    (run / "config.json").write_text("{}", encoding="utf-8")
    (run / "checkpoints").mkdir()
    assert load_model(str(run)).encoder.weights_sha256 == load_model(str(saved)).encoder.weights_sha256
    shutil.rmtree(run / "model")
    with pytest.raises(UserError, match=rf"{run}: this run is not finished; .*mtret export --model={run} --out=FOLDER"):
        load_model(str(run))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"templates": {"q": "{query}"}}'])
def test_damaged_details_are_named(saved: Path, content: str) -> None:
    (saved / "mtret.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=rf"{saved}/mtret\.json: damaged \(.*\); export the model again"):
        load_model(str(saved))


def test_an_existing_model_is_replaced_whole(saved: Path, tiny_model: Path, tiny_suite: Path) -> None:
    (saved / "left over").write_text("x", encoding="utf-8")
    encoder, tasks = hf.load(str(tiny_model)), [read_task(tiny_suite / "alpha")]
    save_model_folder(saved, Towers(encoder), Templates(), PROMPTS, training_record(tasks), {**DETAILS, "step": 9})
    assert load_model(str(saved)).details["step"] == 9
    assert not (saved / "left over").exists()
    assert [path.name for path in saved.parent.iterdir()] == ["model"]  # and no draft stays


def test_a_failure_leaves_what_was_there(saved: Path, tiny_model: Path, tiny_suite: Path) -> None:
    encoder, tasks = hf.load(str(tiny_model)), [read_task(tiny_suite / "alpha")]
    before = {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_model_folder(
            saved, Towers(encoder), Templates(), PROMPTS, training_record(tasks),
            {**DETAILS, "config": {"x": float("nan")}},
        )  # fmt: skip
    assert {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()} == before
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_the_card_shows_a_prompt_and_every_task(saved: Path) -> None:
    card = (saved / "README.md").read_text(encoding="utf-8")
    assert "# A retriever for 2 tasks" in card
    assert 'prompt_name="alpha"' in card
    assert "| alpha | article | made up | en | CC0-1.0 |" in card
    assert "| beta | table | made up | en | CC0-1.0 |" in card
    assert file_sha256(saved / "model.safetensors") in card and "Not evaluated when this was written" in card


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("minilm", "base_model: sentence-transformers/all-MiniLM-L6-v2\n"),
        ("intfloat/e5-small", "base_model: intfloat/e5-small\n"),
        ("/models/mine", ""),
    ],
)
def test_the_card_names_a_base_that_others_can_find(source: str, shown: str) -> None:
    task = TrainedTask("alpha", "article", "here", ("no", "en"), None, "CC0-1.0")
    prompts = {"alpha": "For this: "}
    text = card([task], prompts, DETAILS | {"source": source}, "sha", "")
    header = text.split("---\n")[1]
    assert header.endswith(f'similarity\n{shown}language:\n- "en"\n- "no"\n')
    assert "No licence of the model itself is stated" in text
    text = card([task], prompts, DETAILS | {"license": "apache-2.0"}, "sha", "")
    assert "\nlicense: apache-2.0\n" in text.split("---\n")[1] and "own licence: apache-2.0." in text


def test_integration_shows_the_real_prefixes(saved: Path, tiny_suite: Path) -> None:
    words = (saved / "INTEGRATE.md").read_text(encoding="utf-8")
    instruction = read_task(tiny_suite / "alpha").card.instruction
    for part in (f'"For {instruction}: "', '"Text: "', 'prompt_name="alpha"', "vector(32)"):
        assert part in words


def test_a_folder_answers_its_golden_texts(saved: Path) -> None:
    found = check(saved)
    assert found.cosine > 0.999999
    assert found.vectors == 4 * 7  # prompts, texts


def test_another_models_weights_do_not(saved: Path, tiny_model: Path) -> None:
    shutil.copy(tiny_model / "model.safetensors", saved / "model.safetensors")
    with pytest.raises(UserError, match=rf"{saved}/model.safetensors: is not the file that was exported"):
        check(saved)
    (saved / "manifest.json").unlink()  # as an older mtret's
    with pytest.raises(UserError, match=r"with the prompt '.*', the text '.*' has cosine .*: this is not the model"):
        check(saved)


def test_every_file_counts_but_pages_that_people_add_to(saved: Path) -> None:
    assert manifest.verify(saved) == len([path for path in saved.rglob("*") if path.is_file()]) - 3
    for name in ("README.md", "INTEGRATE.md"):
        (saved / name).write_text("ours", encoding="utf-8")
    assert manifest.verify(saved) > 8
    shutil.rmtree(saved / "1_Pooling")
    with pytest.raises(UserError, match=rf"{saved}/1_Pooling/config.json: missing, a part of this model"):
        check(saved)
    for content in ("[]", '{"sha256": {"../../x": "0"}}', '{"sha256": {"/dev/zero": "0"}}', '{"sha256": {"a": 1}}'):
        (saved / "manifest.json").write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=rf"{saved}/manifest.json: damaged .*; fetch the folder again"):
            check(saved)


def test_everyone_may_read_it_who_may_read_other_files(saved: Path) -> None:
    assert {path.stat().st_mode & 0o777 for path in saved.rglob("*") if path.is_file()} == {0o666 & ~umask()}


def umask() -> int:
    old = os.umask(0)
    os.umask(old)
    return old


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("golden.json", None, "has no golden vectors"),
        ("golden.json", "{", "golden.json: damaged"),
        ("golden.json", '{"prompts": ["alpha"], "texts": ["a"], "cosine": 0.9}', "golden.json: damaged"),
        ("golden.safetensors", "x", "golden.json: damaged"),
    ],
)
def test_damaged_golden_vectors_are_named(saved: Path, name: str, content: str | None, message: str) -> None:
    (saved / name).unlink()
    with pytest.raises(UserError, match=rf"{saved}/{name}: missing, a part of this model"):
        check(saved)
    (saved / "manifest.json").unlink()
    if content is not None:
        (saved / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        check(saved)


def test_nothing_is_written_that_does_not_answer_alike(
    saved: Path, tiny_model: Path, tiny_suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, tasks = hf.load(str(tiny_model)), [read_task(tiny_suite / "alpha")]
    before = {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()}
    moved = unflatten({path: np.asarray(value) * 1.5 + 0.3 for path, value in flatten(encoder.params).items()})
    real = hf.write
    monkeypatch.setattr(hf, "write", lambda folder, model, params, *rest: real(folder, model, moved, *rest))
    with pytest.raises(UserError, match="this is not the model that was exported"):
        save_model_folder(saved, Towers(encoder), Templates(), PROMPTS, training_record(tasks), DETAILS)
    assert {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_target_gets_what_it_needs_or_nothing(
    tmp_path: Path, saved: Path, tiny_model: Path, tiny_suite: Path
) -> None:
    encoder, tasks = hf.load(str(tiny_model)), [read_task(tiny_suite / "alpha")]
    record = training_record(tasks)
    for target in ("tei", "elastic"):
        save_model_folder(saved, Towers(encoder), Templates(), PROMPTS, record, DETAILS, target=target)
    bare = shutil.copytree(tiny_model, tmp_path / "bare")
    config = json.loads((bare / "config.json").read_text(encoding="utf-8"))
    (bare / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "hidden_act"}))
    before = {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"--target=tei: config\.json has None for 'hidden_act', where a str is needed"):
        save_model_folder(saved, Towers(hf.load(str(bare))), Templates(), PROMPTS, record, DETAILS, target="tei")
    assert {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()} == before
