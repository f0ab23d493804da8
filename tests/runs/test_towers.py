"""Runs whose model has more towers than one: images in the mixture, documents that stay as they were."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from mtret.data.tokenize import Tokenizer
from mtret.errors import UserError
from mtret.evaluation.results import parse_results, read_results
from mtret.files import load_arrays, replace_arrays
from mtret.index.encode import Texts
from mtret.model_folder.folder import check, load_model
from mtret.models.vision import VisionConfig
from mtret.run_config import RunConfig, read_config
from mtret.runs.evaluate import EvaluationConfig, evaluate
from mtret.runs.export import export
from mtret.runs.merge import merge
from mtret.runs.train import train

pytestmark = pytest.mark.slow

VISION = VisionConfig(source="scratch", image_size=8, patch_size=4, width=12, layers=1, heads=2)
EVERY_FILE = ("model.safetensors", "documents/model.safetensors", "vision/model.safetensors")


def write_images(folder: Path, words: list[str], count: int = 20) -> None:
    """Each image has its own colours; a query is words that belong to its image."""
    random = np.random.default_rng(9)
    (folder / "images").mkdir(parents=True)
    documents, queries, qrels = [], [], {"train": [], "dev": [], "test": []}
    for i in range(count):
        pixels = random.integers(0, 256, (2, 2, 3)).astype(np.uint8).repeat(6, 0).repeat(6, 1)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        documents.append({"_id": f"i{i}", "image": f"images/{i}.png"})
        for j, split in enumerate(("train", "train", "dev", "test")):
            text = " ".join(random.permutation([*words[4 * i : 4 * i + 3], words[100 + j]]))
            queries.append({"_id": f"q{i}.{j}", "text": text})
            qrels[split].append(f"q{i}.{j}\ti{i}\t1")
    card = {
        "name": folder.name,
        "family": "image",
        "domain": "made up",
        "languages": ["en"],
        "modality": "image",
        "instruction": "ban the image",
        "license": "CC0-1.0",
        "source": "made for this test",
    }
    (folder / "task.json").write_text(json.dumps(card))
    for name, records in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "qrels").mkdir()
    for split, rows in qrels.items():
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows, ""]))


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory, tiny_suite: Path, words: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("suites") / "seen"
    for name in ("alpha", "gamma"):
        shutil.copytree(tiny_suite / name, folder / name)
    write_images(folder / "shapes", words)
    return folder


@pytest.fixture(scope="module")
def seeing(tiny_config: Path, suite: Path) -> RunConfig:
    config = read_config(str(tiny_config))
    return replace(
        config,
        suite=str(suite),
        model=replace(config.model, vision=VISION, documents="frozen"),
        loop=replace(config.loop, keep_weights=1),
    )


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory, seeing: RunConfig) -> Path:
    console = Console(record=True, width=200, file=open("/dev/null", "w"))  # noqa: SIM115
    folder = tmp_path_factory.mktemp("towers") / "run"
    train(seeing, folder, console)
    said = console.export_text()
    assert "reading images 20/20" in said and " and 2 images (" in said and "the others are frozen" in said
    return folder


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory, workdir: Path) -> Path:
    """The parameters after the last step: the best may be the first."""
    return Path(str(export(workdir, tmp_path_factory.mktemp("exported") / "last", step=6)))


@pytest.mark.system
def test_the_model_says_that_an_index_stays_valid_and_it_does(last: Path, tiny_model: Path, words: list[str]) -> None:
    model = load_model(str(last)).towers
    ours = load_arrays(last / "documents" / "model.safetensors")
    for name, tensor in load_arrays(tiny_model / "model.safetensors").items():
        np.testing.assert_array_equal(ours[name], tensor)
    assert model.documents is not None and model.images is not None
    texts = Texts(Tokenizer(tiny_model)([" ".join(words[i : i + 5]) for i in range(9)]), 32)
    embed = load_model(str(last)).towers.embedders()
    assert embed.documents is not None
    of_source = load_model(str(tiny_model)).towers.embedders().queries([texts])[0]
    np.testing.assert_array_equal(embed.documents([texts])[0], of_source)
    assert np.abs(embed.queries([texts])[0] - of_source).max() > 1e-3
    for name in ("README.md", "INTEGRATE.md"):
        page = (last / name).read_text(encoding="utf-8")
        assert "An index of documents stays valid" in page
        assert "/documents" in page and "SiglipVisionModel" in page
        assert "model.encode_document" not in page
    assert "document" not in model.encoder.prompts and set(model.documents.prompts) == {"document"}


@pytest.mark.system
def test_golden_vectors_cover_every_tower(tmp_path: Path, last: Path) -> None:
    agreement = check(last)
    assert agreement.cosine > 0.999999
    assert agreement.vectors == 7 * 3 + 7 + 3  # two tasks and `query`; `document`; images
    for place, message in (
        ("documents", "documents: with the prompt 'document'"),
        ("vision", "golden image . has cosine"),
    ):
        spoiled = shutil.copytree(last, tmp_path / place)
        (spoiled / "manifest.json").unlink()
        tensors = load_arrays(spoiled / place / "model.safetensors")
        random = np.random.default_rng(0)
        replace_arrays(
            spoiled / place / "model.safetensors",
            {name: random.normal(0, 1, x.shape).astype(np.float32) for name, x in tensors.items()},
        )
        with pytest.raises(UserError, match=message):
            check(spoiled)


@pytest.mark.system
def test_it_goes_on_bit_for_bit(tmp_path: Path, workdir: Path, seeing: RunConfig, console: Console) -> None:
    again = shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(again / "checkpoints" / "6")
    shutil.rmtree(again / "model")
    train(seeing, again, console)
    assert "resumed at step 4" in console.export_text()
    for name in ("best.safetensors", "weights/step_6.safetensors", *(f"model/{name}" for name in EVERY_FILE)):
        assert (again / name).read_bytes() == (workdir / name).read_bytes()


@pytest.mark.system
def test_images_are_judged_apart_and_stand_in_the_pooled_index(
    tmp_path: Path, last: Path, suite: Path, console: Console
) -> None:
    results = evaluate(
        str(last), str(suite), EvaluationConfig(split="test", dimensions=(16,)), tmp_path / "out", console
    )
    assert read_results(tmp_path / "out" / "results.json") == parse_results(json.loads(json.dumps(results)))
    task, pooled = results["tasks"]["shapes"], results["pooled"]
    assert task["images"] and task["role"] == "in_domain" and list(task["systems"]) == ["finetuned"]
    assert results["systems"] == ["bm25", "base", "hybrid_ranks", "hybrid", "finetuned", "finetuned_hybrid"]
    assert results["roles"]["in_domain"]["tasks"] == ["alpha"]
    assert pooled["n_documents"] == 60 + 60 + 20 and list(pooled["tasks"]["shapes"]["systems"]) == ["finetuned"]
    assert list(pooled["tasks"]["alpha"]["systems"]) == results["systems"]
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "## Images" in report and "| shapes | In-domain | 20 | 20 |" in report
    assert "tasks of images" in console.export_text()
    only = evaluate(str(last), str(suite), EvaluationConfig(split="test", tasks=("shapes",)), tmp_path / "one", console)
    assert only["systems"] == ["finetuned"] and only["tasks"]["shapes"]["systems"] == task["systems"]
    assert only["pooled"]["n_documents"] == 20


def test_a_model_without_an_image_tower_says_so(
    tmp_path: Path, tiny_model: Path, suite: Path, seeing: RunConfig, console: Console
) -> None:
    results = evaluate(str(tiny_model), str(suite), EvaluationConfig(split="test"), tmp_path / "out", console)
    reason = "its documents are images, and the model has no image tower"
    assert results["skipped"] == {"shapes": reason} and "shapes" not in results["tasks"]
    with pytest.raises(UserError, match=f"--tasks: 'shapes' cannot be evaluated: {reason}"):
        evaluate(
            str(tiny_model), str(suite), EvaluationConfig(split="test", tasks=("shapes",)), tmp_path / "two", console
        )
    blind = replace(seeing, model=replace(seeing.model, vision=VisionConfig()))
    named = replace(blind, mixture=replace(blind.mixture, tasks=("alpha", "shapes")))
    with pytest.raises(UserError, match=r"mixture.tasks: 'shapes' is a task of images, .* model.vision.source"):
        train(named, tmp_path / "run", console)
    texts = replace(seeing, mixture=replace(seeing.mixture, tasks=("alpha",)))
    with pytest.raises(UserError, match=r"model.vision.source: names an image tower, but no task"):
        train(texts, tmp_path / "run", console)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_size": 5000}, "model.vision.image_size: 5000 is not between one patch of 4 and 4096 pixels"),
        ({"width": 13}, "model.vision.width: 13 is not a multiple of 2 attention heads"),
        ({"layers": 0}, "model.vision.layers: must be at least 1, is 0"),
        ({"image_size": 3}, "model.vision.image_size: 3 is not between one patch of 4 and 4096 pixels"),
        ({"source": "nowhere"}, "model.vision.source: model 'nowhere': no such folder"),
    ],
)
def test_sizes_that_do_not_fit_are_named(
    tmp_path: Path, seeing: RunConfig, console: Console, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        config = replace(seeing, model=replace(seeing.model, vision=replace(VISION, **wrong)))
        train(config, tmp_path / "run", console)


def test_images_have_no_guide(tmp_path: Path, seeing: RunConfig, console: Console) -> None:
    config = replace(seeing, loss=replace(seeing.loss, guide_margin=0.1))
    with pytest.raises(UserError, match=r"loss\.guide_margin: the documents of task 'shapes' are images, which"):
        train(config, tmp_path / "run", console)


@pytest.mark.system
def test_merging_takes_every_tower(tmp_path: Path, workdir: Path, last: Path, finished: Path) -> None:
    merge([str(workdir), str(last)], [], tmp_path / "soup")
    for name in EVERY_FILE[::2]:
        ours, *parts = (load_arrays(folder / name) for folder in (tmp_path / "soup", workdir / "model", last))
        for key, value in ours.items():
            np.testing.assert_allclose(value, (parts[0][key] + parts[1][key]) / 2, atol=1e-6)
    with pytest.raises(UserError, match="differ in their towers of documents or images"):
        merge([str(workdir), str(finished)], [], tmp_path / "other")


@pytest.mark.system
def test_a_published_tower_is_where_training_starts(
    tmp_path: Path, last: Path, seeing: RunConfig, console: Console
) -> None:
    """LiT: the text tower frozen; what `vision/` holds is in the published form itself."""
    config = replace(
        seeing,
        model=replace(seeing.model, documents="shared", vision=VisionConfig(source=str(last / "vision"))),
        optim=replace(seeing.optim, trainable=((r"tower/.*", False), (r".*", True))),
        loop=replace(seeing.loop, steps=2, evaluate_every=2),
    )
    train(config, tmp_path / "run", console)
    model = tmp_path / "run" / "model"
    before, after = (load_arrays(folder / "vision" / "model.safetensors") for folder in (last, model))
    assert before.keys() == after.keys()
    assert max(np.abs(before[name] - after[name]).max() for name in before) < 0.1
    assert (model / "INTEGRATE.md").read_text(encoding="utf-8").count("document") > 2


@pytest.mark.system
def test_queries_are_tuned_again_and_documents_stay_where_they_were(
    tmp_path: Path, last: Path, tiny_model: Path, seeing: RunConfig, console: Console
) -> None:
    """A second training starts from both towers of the first."""
    config = replace(
        seeing,
        model=replace(seeing.model, source=str(last), vision=VisionConfig()),
        mixture=replace(seeing.mixture, tasks=("alpha",)),
        loop=replace(seeing.loop, steps=2, evaluate_every=2),
    )
    train(config, tmp_path / "run", console)
    model = tmp_path / "run" / "model"
    ours, theirs = load_arrays(model / "documents" / "model.safetensors"), load_arrays(tiny_model / "model.safetensors")
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor)
    assert f"{last}/documents` as it came" in (model / "README.md").read_text(encoding="utf-8")
    shared = replace(config, model=replace(config.model, documents="shared"))
    with pytest.raises(UserError, match=r"reads documents by a tower of their own; give model.documents='frozen'"):
        train(shared, tmp_path / "other", console)


@pytest.mark.parametrize("part", ["documents", "vision"])
@pytest.mark.system
def test_a_folder_that_lost_a_part_is_refused(tmp_path: Path, last: Path, part: str) -> None:
    copy = shutil.copytree(last, tmp_path / "copy")
    shutil.rmtree(copy / part)
    with pytest.raises(UserError, match=f"copy/{part}: missing, a part of this model; copy the whole folder"):
        load_model(str(copy))
    with pytest.raises(UserError, match="fetch the whole folder again"):
        check(copy)


@pytest.mark.system
def test_what_is_left_out_is_said(tmp_path: Path, suite: Path, seeing: RunConfig, console: Console) -> None:
    blind = replace(seeing, model=replace(seeing.model, vision=VisionConfig()), loop=replace(seeing.loop, steps=1))
    train(blind, tmp_path / "run", console)
    said = console.export_text()
    assert "shapes: left out; its documents are images, which need an image tower: model.vision.source" in said
    only = tmp_path / "only"
    shutil.copytree(suite / "shapes", only / "shapes")
    with pytest.raises(UserError, match=r"nothing to train on; its documents are images.*model.vision.source"):
        train(replace(blind, suite=str(only)), tmp_path / "other", console)


@pytest.mark.system
def test_scores_belong_to_all_towers(tmp_path: Path, last: Path) -> None:
    """The queries' tower alone does not tell whose they are."""
    model = load_model(str(last))
    assert len(model.towers.weights_sha256.split()) == 3
    spoiled = shutil.copytree(last, tmp_path / "copy")
    kernel = load_arrays(spoiled / "vision" / "projection.safetensors")["weight"]
    replace_arrays(spoiled / "vision" / "projection.safetensors", {"weight": kernel + 1})
    assert load_model(str(spoiled)).towers.weights_sha256 != model.towers.weights_sha256
