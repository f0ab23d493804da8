"""Merged models: the mean of their parameters, the union of what they know."""

import json
from pathlib import Path

import numpy as np
import pytest

from mtret.data.formats import read_task
from mtret.data.roles import training_record
from mtret.data.templates import Templates
from mtret.errors import UserError
from mtret.model_folder.folder import check, load_model, prompts_of, save_model_folder
from mtret.model_folder.towers import Towers
from mtret.models import hf
from mtret.pytrees import flatten, unflatten
from mtret.runs.merge import merge

DETAILS = {"mtret": "0", "source": "somewhere", "source_sha256": "x", "step": 3, "config": {"seed": 0}}


def write(
    folder: Path, model: Path, suite: Path, names: tuple[str, ...], moved: float, templates: Templates | None = None
) -> str:
    """A model whose every parameter is moved by `moved`, as trained on these tasks."""
    encoder, templates = hf.load(str(model)), templates or Templates()
    params = unflatten({path: np.asarray(value) + moved for path, value in flatten(encoder.params).items()})
    tasks = [read_task(suite / name) for name in names]
    prompts = prompts_of(templates, {task.name: task.card.instruction for task in tasks})
    save_model_folder(
        folder, Towers(encoder).with_params({"tower": params}), templates, prompts, training_record(tasks), DETAILS
    )
    return str(folder)


@pytest.fixture
def two(tmp_path: Path, tiny_model: Path, tiny_suite: Path) -> list[str]:
    return [
        write(tmp_path / "one", tiny_model, tiny_suite, ("alpha",), 0.1),
        write(tmp_path / "two", tiny_model, tiny_suite, ("alpha", "beta"), 0.3),
    ]


def moved_by(folder: Path, model: Path) -> float:
    """By how much every parameter differs from the tiny model's."""
    ours, theirs = (flatten(hf.load(str(path)).params) for path in (folder, model))
    differences = np.concatenate([np.ravel(ours[path] - theirs[path]) for path in ours])
    np.testing.assert_allclose(differences, differences[0], atol=1e-6)
    return float(differences[0])


def test_a_soup_is_the_mean_and_knows_what_each_knows(tmp_path: Path, two: list[str], tiny_model: Path) -> None:
    agreement = merge(two, [], tmp_path / "soup")
    assert agreement.cosine > 0.999999 and check(tmp_path / "soup").cosine > 0.999999
    assert moved_by(tmp_path / "soup", tiny_model) == pytest.approx(0.2, abs=1e-6)
    soup, parts = load_model(str(tmp_path / "soup")), [load_model(each) for each in two]
    assert list(soup.encoder.prompts) == ["alpha", "beta", "query", "document"]
    assert soup.record is not None and [task.name for task in soup.record.tasks] == ["alpha", "beta"]
    for name in ("queries", "documents", "positives"):
        wanted = np.unique(np.concatenate([getattr(part.record, name) for part in parts]))
        np.testing.assert_array_equal(getattr(soup.record, name), wanted)
    assert [each["weight"] for each in soup.details["merged"]] == [0.5, 0.5]
    assert soup.details["source"] == "somewhere"


@pytest.mark.slow
def test_weights_are_shares(tmp_path: Path, two: list[str], tiny_model: Path) -> None:
    merge(two, [3.0, 1.0], tmp_path / "soup")
    assert moved_by(tmp_path / "soup", tiny_model) == pytest.approx(0.15, abs=1e-6)


@pytest.mark.slow
def test_half_way_back_to_where_it_came_from(tmp_path: Path, two: list[str], tiny_model: Path) -> None:
    merge([two[1], str(tiny_model)], [0.5, 0.5], tmp_path / "half")
    assert moved_by(tmp_path / "half", tiny_model) == pytest.approx(0.15, abs=1e-6)
    assert list(load_model(str(tmp_path / "half")).encoder.prompts) == ["alpha", "beta", "query", "document"]


@pytest.mark.slow
def test_what_does_not_fit_together_is_refused(
    tmp_path: Path, two: list[str], tiny_model: Path, tiny_suite: Path
) -> None:
    def refusal(sources: list[str], weights: list[float], out: str = "out") -> str:
        with pytest.raises(UserError) as caught:
            merge(sources, weights, tmp_path / out)
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    assert "never overwritten" in refusal(two, [], "one")
    assert "name two models or more" in refusal(two[:1], [])
    assert "1 for 2 models" in refusal(two, [1.0])
    assert "do not add up to a positive number" in refusal(two, [1.0, -1.0])
    assert "named twice" in refusal([two[0], two[0]], [])
    assert "none of them was trained by mtret" in refusal([str(tiny_model), str(tiny_model) + "/"], [])
    other = Templates(query="{instruction}: {query}")
    strange = write(tmp_path / "other", tiny_model, tiny_suite, ("alpha",), 0.1, other)
    assert "differ in their templates" in refusal([two[0], strange], [])
    tokenizer = tmp_path / "two" / "tokenizer.json"
    vocabulary = json.loads(tokenizer.read_text(encoding="utf-8"))
    vocabulary["model"]["vocab"] = dict.fromkeys(vocabulary["model"]["vocab"], 1)
    tokenizer.write_text(json.dumps(vocabulary), encoding="utf-8")
    assert "differ in their tokenizer" in refusal(two, [])
    pooling = tmp_path / "one" / "1_Pooling" / "config.json"
    first = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    pooling.write_text(json.dumps(first), encoding="utf-8")
    assert "differ in their pooling" in refusal(two, [])


@pytest.mark.slow
def test_a_training_that_keeps_a_share_of_its_base_ends_in_their_mean(tmp_path: Path, tiny_config: Path, mtret) -> None:
    """And watches that mean: the best step is chosen by it."""
    last = "--config.loop.evaluate_every=3"
    for name, more in (("plain", ()), ("shared", ("--config.optim.base_share=0.25",))):
        arguments = "--config.loop.steps=3", last, "--noevaluate", *more
        code, said, wrong = mtret("train", f"--config={tiny_config}", f"--workdir={tmp_path / name}", *arguments)
        assert code == 0, (said, wrong)
    plain, shared = (flatten(hf.load(str(tmp_path / name / "model")).params) for name in ("plain", "shared"))
    source = json.loads((tmp_path / "plain" / "config.json").read_text(encoding="utf-8"))["config"]["model"]["source"]
    for path, value in flatten(hf.load(source).params).items():
        np.testing.assert_allclose(shared[path], 0.75 * plain[path] + 0.25 * value, rtol=1e-5, atol=1e-6)
    assert any(np.abs(plain[path] - shared[path]).max() > 1e-4 for path in plain)
    scores = [
        json.loads((tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        for name in ("plain", "shared")
    ]
    assert scores[0] != scores[1]
