"""One fingerprint of a model: caches, runs and baselines tell encoders apart by all that changes their vectors."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file, save_file

from mtret.data.formats import read_task
from mtret.data.suites import load_suite
from mtret.data.tasks import Task
from mtret.data.templates import TemplateConfig, Templates
from mtret.errors import UserError
from mtret.model_folder import fingerprint
from mtret.model_folder.folder import load_model
from mtret.models import hf
from mtret.models.dual_encoder import ModelConfig
from mtret.run_config import RunConfig, read_config
from mtret.runs.embedding import embed_tasks
from mtret.runs.evaluate import EvaluationConfig, evaluate
from mtret.runs.identity import begun_by_older, claim, identity_of, read_identity, resuming
from mtret.runs.setup import start_models, with_templates
from mtret.runs.tasks import mixture_tasks
from mtret.runs.train import train

Change = Callable[[Path], None]
Mtret = Callable[..., tuple[int, str, str]]


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def norms(folder: Path) -> None:
    edit(folder / "config.json", lambda config: config.update(layer_norm_eps=0.5))


def pooling(folder: Path) -> None:
    edit(
        folder / "1_Pooling" / "config.json",
        lambda config: config.update(pooling_mode_mean_tokens=False, pooling_mode_cls_token=True),
    )


def tokenizer(folder: Path) -> None:
    """Two words change places in the vocabulary."""

    def swap(content: dict[str, Any]) -> None:
        words = content["model"]["vocab"]
        first, second = [word for word in words if not word.startswith("[")][-2:]
        words[first], words[second] = words[second], words[first]

    edit(folder / "tokenizer.json", swap)


def length(folder: Path) -> None:
    edit(folder / "sentence_bert_config.json", lambda config: config.update(max_seq_length=8))


def prompts(folder: Path) -> None:
    edit(folder / "config_sentence_transformers.json", lambda config: config.update(prompts={"document": "query : "}))


def weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["embeddings.LayerNorm.bias"] = tensors["embeddings.LayerNorm.bias"] + np.float32(1)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


CHANGES: list[tuple[Change, str]] = [
    (norms, "tower.layer_norm_eps: 0.5, there 1e-12"),
    (pooling, "tower.head: "),
    (tokenizer, "tokenizer.tokenizer.json: "),
    (length, "max_length: 8, there 64"),
    (prompts, "prompts: {'document': 'query : '}, there {}"),
    (weights, "weights_sha256: "),
]
each_change = pytest.mark.parametrize(("change", "part"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])


@each_change
def test_every_change_is_another_model_and_its_part_is_named(
    tiny_model: Path, own_model: Path, change: Change, part: str
) -> None:
    before = load_model(str(tiny_model)).towers
    assert before.fingerprint == load_model(str(own_model)).towers.fingerprint  # wherever it lies
    change(own_model)
    after = load_model(str(own_model)).towers
    assert after.fingerprint != before.fingerprint
    changed = fingerprint.differing(after.parts["queries"], before.parts["queries"])
    assert any(line.startswith(part) for line in changed), changed


def test_how_it_is_run_counts_for_its_vectors_alone(tiny_model: Path) -> None:
    ways = [
        ModelConfig(str(tiny_model), **how)  # type: ignore[arg-type]
        for how in ({"attention": "xla"}, {"attention": "xla", "matmul_dtype": "bfloat16"}, {"attention": "pallas"})
    ]
    found = [load_model(str(tiny_model), way).towers for way in ways]
    assert len({model.fingerprint for model in found}) == 1
    assert len({fingerprint.key(model.encoder) for model in found}) == 3
    dropped = load_model(str(tiny_model), ModelConfig(str(tiny_model), attention="xla", dropout=0.3, remat=True)).towers
    assert fingerprint.key(dropped.encoder) == fingerprint.key(found[0].encoder)


def test_what_an_older_mtret_did_not_write_down_is_no_difference(tiny_model: Path) -> None:
    parts = load_model(str(tiny_model)).towers.parts["queries"]
    assert fingerprint.differing(parts, {key: value for key, value in parts.items() if key != "similarity"}) == []
    more = {**parts, "tokenizer": {**parts["tokenizer"], "added_tokens.json": "0"}}
    assert fingerprint.differing(parts, more) == ["tokenizer.added_tokens.json: None, there '0'"]


def test_a_field_of_another_kind_is_not_left_out(tiny_model: Path) -> None:
    """What cannot be written down must be named, or it would change vectors and no fingerprint."""
    assert fingerprint._plain({"a": (1, None, 0.5)}) == {"a": [1, None, 0.5]}
    one, other = (fingerprint._plain(np.full(3, value)) for value in (1.0, 2.0))
    assert one != other
    with pytest.raises(TypeError, match="a object cannot stand in a fingerprint"):
        fingerprint._plain(object())


def vectors(folder: Path, task: Task, cache: Path, console: Console) -> np.ndarray:
    model = load_model(str(folder))
    return np.concatenate(embed_tasks("", model, [(task, task.query_texts[:3])], cache, console)[0])


@each_change
def test_the_cache_never_answers_with_another_model_s_vectors(
    tiny_model: Path, own_model: Path, tiny_suite: Path, tmp_path: Path, console: Console, change: Change, part: str
) -> None:
    task = read_task(tiny_suite / "gamma")
    before = vectors(tiny_model, task, tmp_path / "cache", console)
    change(own_model)
    found = vectors(own_model, task, tmp_path / "cache", console)
    np.testing.assert_array_equal(found, vectors(own_model, task, tmp_path / "fresh", console))
    assert np.abs(found - before).max() > 1e-3  # else nothing was put to the test
    np.testing.assert_array_equal(vectors(tiny_model, task, tmp_path / "cache", console), before)


def run_of(model: Path, suite: Path) -> tuple[RunConfig, dict[str, Any]]:
    """A configuration, and what its run would be told by."""
    config = RunConfig(suite=str(suite), model=ModelConfig(str(model)))
    there = load_suite(str(suite))
    tasks = mixture_tasks(there, config)
    start = start_models(config, tasks)
    config = with_templates(config, start.encoder, None)
    return config, identity_of(config, there, tasks, start)


@each_change
def test_a_run_goes_on_with_the_encoder_that_it_began_with(
    own_model: Path, tiny_suite: Path, tmp_path: Path, change: Change, part: str
) -> None:
    workdir = tmp_path / "run"
    claim(workdir, run_of(own_model, tiny_suite)[1], write=True)
    identity = run_of(own_model, tiny_suite)[1]
    claim(workdir, identity, write=True)
    assert resuming(workdir, identity) == []
    change(own_model)
    with pytest.raises(UserError, match=f"{workdir}: belongs to another run: ") as caught:
        claim(workdir, run_of(own_model, tiny_suite)[1], write=False)
    named = {"weights": "weights_sha256", "prompts": "config.templates.document"}.get(
        change.__name__, f"queries.{part}"
    )
    assert named in str(caught.value) or "and 1 more" in str(caught.value)


def test_dropout_as_published_is_part_of_a_run(own_model: Path, tiny_suite: Path, tmp_path: Path) -> None:
    def identity() -> dict[str, Any]:
        config = RunConfig(suite=str(tiny_suite), model=ModelConfig(str(own_model), dropout=None))
        there = load_suite(str(tiny_suite))
        tasks = mixture_tasks(there, config)
        start = start_models(config, tasks)
        return identity_of(with_templates(config, start.encoder), there, tasks, start)

    claim(tmp_path / "run", identity(), write=True)
    edit(own_model / "config.json", lambda config: config.update(hidden_dropout_prob=0.5))
    with pytest.raises(UserError, match=r"source\.queries\.dropout\.hidden_dropout_prob: 0\.5, there 0\.1"):
        claim(tmp_path / "run", identity(), write=False)


def test_the_command_refuses_another_tokenizer(
    mtret: Mtret, own_model: Path, tiny_suite: Path, tiny_config: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    config = read_config(str(tiny_config), [f"model.source={own_model}"])
    there = load_suite(config.suite)
    tasks = mixture_tasks(there, config)
    start = start_models(config, tasks)
    claim(workdir, identity_of(with_templates(config, start.encoder), there, tasks, start), write=True)
    tokenizer(own_model)
    code, _, error = mtret(
        "train", f"--config={tiny_config}", f"--config.model.source={own_model}", f"--workdir={workdir}"
    )
    assert code == 2 and error.count("\n") == 1
    assert "belongs to another run: source.queries.tokenizer.tokenizer.json: " in error


def test_attention_is_part_of_a_run_s_record(own_model: Path, tiny_suite: Path, tmp_path: Path) -> None:
    identity = run_of(own_model, tiny_suite)[1]
    claim(tmp_path / "run", {**identity, "attention": "cpu"}, write=True)
    there = read_identity(tmp_path / "run")
    assert [start["attention"] for start in there["starts"]] == ["cpu"] and "attention" not in there
    (line,) = resuming(tmp_path / "run", {**identity, "attention": "xla"})
    assert line.startswith("attention is computed by 'xla', by 'cpu' before: the last digits differ")
    claim(tmp_path / "run", {**identity, "attention": "xla"}, write=True)
    assert [start["attention"] for start in read_identity(tmp_path / "run")["starts"]] == ["cpu", "xla"]


@pytest.mark.slow
def test_a_run_of_an_older_mtret_resumes_and_says_what_is_not_known(
    unfinished: Path, tiny_config: Path, console: Console
) -> None:
    edit(unfinished / "config.json", lambda there: there.pop("source"))
    for start in range(2):
        train(read_config(str(tiny_config)), unfinished, console)
        said = console.export_text()
        assert "was begun by an older mtret, which wrote down the encoder's weights alone: whether its" in said
        assert len(read_identity(unfinished)["starts"]) == 2 and "source" not in read_identity(unfinished)
        assert ("all 6 steps are done already" in said) == bool(start)
    assert load_model(str(unfinished)).details["step"] <= 6


def test_a_run_of_an_older_mtret_keeps_its_templates(own_model: Path, tiny_suite: Path, tmp_path: Path) -> None:
    """It put nothing of the encoder's before texts; going on with other templates would be another training."""
    config = {"query": "query: ", "document": "passage: "}
    edit(own_model / "config_sentence_transformers.json", lambda whole: whole.update(prompts=config))
    settled, identity = run_of(own_model, tiny_suite)
    assert settled.templates.chosen.document == "passage: {document}"
    workdir = tmp_path / "run"
    plain = Templates()
    old = {**identity, "config": {**identity["config"], "templates": vars(plain)}}
    del old["source"]
    claim(workdir, {**old, "source": {}}, write=True)
    edit(workdir / "config.json", lambda there: there.pop("source"))
    begun = begun_by_older(workdir)
    assert begun == TemplateConfig(plain.query, plain.document, plain.generic)
    unset = replace(settled, templates=TemplateConfig())
    assert with_templates(unset, hf.load(str(own_model)), begun).templates.chosen == plain
    given = replace(settled, templates=TemplateConfig(query="ask {query}"))
    assert with_templates(given, hf.load(str(own_model)), begun).templates.query == "ask {query}"


DEV = EvaluationConfig(split="dev", tasks=("alpha",), scann=False, pooled=False)


@pytest.fixture
def moved(tmp_path: Path, finished: Path, own_model: Path) -> Path:
    """A finished model whose base is one's own, to be spoiled."""
    folder = Path(shutil.copytree(finished / "model", tmp_path / "model"))
    edit(folder / "mtret.json", lambda details: details.update(source=str(own_model)))
    return folder


@pytest.mark.slow
def test_a_model_of_an_older_mtret_is_judged_and_says_what_is_not_known(
    moved: Path, own_model: Path, tiny_suite: Path, console: Console, tmp_path: Path
) -> None:
    def older(details: dict[str, Any]) -> None:
        del details["source_parts"], details["base_forms"]
        details["source_sha256"] = hf.load(str(own_model)).weights_sha256

    edit(moved / "mtret.json", older)
    results = evaluate(str(moved), str(tiny_suite), DEV, tmp_path / "out", console)
    assert results["base_forms"]["chosen"] == "bare"
    assert "has the weights that this model was finetuned from; whether its configuration" in console.export_text()
    weights(own_model)
    with pytest.raises(UserError, match=r"its weights are not those that this model was finetuned from"):
        evaluate(str(moved), str(tiny_suite), DEV, tmp_path / "other", console)


@pytest.mark.slow
@pytest.mark.parametrize(("change", "part"), CHANGES[:3], ids=[change.__name__ for change, _ in CHANGES[:3]])
def test_a_base_that_changed_in_any_part_is_no_base(
    moved: Path, own_model: Path, tiny_suite: Path, console: Console, tmp_path: Path, change: Change, part: str
) -> None:
    change(own_model)
    with pytest.raises(UserError, match=rf"model '{own_model}': is not what this model was finetuned from: {part}"):
        evaluate(str(moved), str(tiny_suite), DEV, tmp_path / "out", console)
    assert not (tmp_path / "out").exists()
