"""Published prompts: found by one rule, put before texts by every command alike, and what a base is evaluated with."""

import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from mtret.data.formats import read_task
from mtret.data.templates import TemplateConfig, Templates
from mtret.data.tokenize import Tokenizer
from mtret.errors import UserError
from mtret.evaluation.metrics import hits, ndcg
from mtret.evaluation.results import parse_results
from mtret.evaluation.samples import DevConfig
from mtret.index.encode import Texts
from mtret.index.exact import Rules, search, tie_order
from mtret.model_folder.folder import load_model
from mtret.model_folder.prompts import Prompts, published, remarks
from mtret.model_folder.towers import embedder
from mtret.models import hf
from mtret.models.dual_encoder import ModelConfig
from mtret.run_config import RunConfig
from mtret.runs.baseline import base_forms, forms_of
from mtret.runs.evaluate import EvaluationConfig, evaluate
from mtret.runs.setup import with_templates

Mtret = Callable[..., tuple[int, str, str]]
E5 = {"query": "query: ", "document": "passage: "}
OF_FOLDER = "config_sentence_transformers.json"


def with_prompts(folder: Path, prompts: Any, default: Any = None) -> Path:
    config = {"prompts": prompts, "default_prompt_name": default, "similarity_fn_name": "cosine"}
    (folder / OF_FOLDER).write_text(json.dumps(config), encoding="utf-8")
    return folder


def vectors_in(path: Path) -> np.ndarray:
    """Of a file that `encode` wrote."""
    return np.array([json.loads(line)["vector"] for line in path.read_text(encoding="utf-8").splitlines()], np.float32)


def vectors_of(folder: Path, prompt: str, texts: list[str]) -> np.ndarray:
    """By the definition: the prompt's text, then the text."""
    encoder = hf.load(str(folder))
    tokens = Tokenizer(encoder.folder)([prompt + text for text in texts])
    return embedder(encoder)([Texts(tokens, encoder.max_length)])[0]


@pytest.mark.parametrize(
    ("prompts", "default", "query", "document"),
    [
        ({}, None, "", ""),
        (None, None, "", ""),
        (E5, None, "query: ", "passage: "),
        ({"query": "q ", "passage": "p "}, None, "q ", "p "),
        ({"query": "q ", "corpus": "c "}, None, "q ", "c "),
        ({"corpus": "c ", "passage": "p ", "document": "d "}, None, "", "d "),
        ({"query": "q ", "document": "", "passage": "p "}, None, "q ", ""),  # as sentence-transformers finds it
        ({"query": "q ", "document": None}, None, "q ", ""),
        (E5, "query", "query: ", "passage: "),  # a side's own prompt goes before the default
        ({"query": "q "}, "query", "q ", ""),  # a folder that tells sides apart: documents have no prompt
        ({"retrieval": "r ", "sts": "s "}, "retrieval", "r ", "r "),
        ({"retrieval": "r ", "sts": "s "}, None, "", ""),
        ({}, "document", "", ""),  # sentence-transformers has this name in every model
        ({"query": "{q} %s ", "document": "{}"}, None, "{q} %s ", "{}"),
    ],
)
def test_the_prompts_of_a_folder(own_model: Path, prompts: Any, default: Any, query: str, document: str) -> None:
    model = load_model(str(with_prompts(own_model, prompts, default)))
    assert model.published is not None
    assert (model.published.query, model.published.document) == (query, document)
    assert model.templates.query_prefix("an instruction") == query
    assert model.templates.document_prefix == document
    if query or document:
        assert (model.prompts["query"], model.prompts["document"]) == (query, document)


@pytest.mark.parametrize(
    ("prompts", "default", "message"),
    [
        (["query: "], None, r"prompts is \['query: '\], where an object is needed"),
        ({"query": 3}, None, "the prompt 'query' is 3, where a string is needed"),
        ({"sts": ["a"]}, None, r"the prompt 'sts' is \['a'\], where a string is needed"),
        (E5, "querry", "default_prompt_name is 'querry', which is none of its prompts"),
        (E5, 1, "default_prompt_name is 1, where a string is needed"),
    ],
)
def test_prompts_that_cannot_be_obeyed_are_refused(own_model: Path, prompts: Any, default: Any, message: str) -> None:
    with pytest.raises(UserError, match=rf"{OF_FOLDER}: {message}"):
        load_model(str(with_prompts(own_model, prompts, default)))


SEARCH = "Represent this sentence for searching relevant passages: "


@pytest.mark.parametrize(
    ("source", "query", "document"),
    [
        ("intfloat/e5-small-v2", "query: ", "passage: "),
        ("intfloat/multilingual-e5-large", "query: ", "passage: "),
        ("intfloat/multilingual-e5-large-instruct", "", ""),
        ("BAAI/bge-base-en-v1.5", SEARCH, ""),
        ("BAAI/bge-m3", "", ""),
        ("Snowflake/snowflake-arctic-embed-xs", SEARCH, ""),
        ("Snowflake/snowflake-arctic-embed-l-v2.0", "query: ", ""),
        ("nomic-ai/modernbert-embed-base", "search_query: ", "search_document: "),
        ("somebody/e5-small-v2", "", ""),  # by the hub id alone: a copy may have been trained otherwise
        ("thenlper/gte-base", "", ""),
    ],
)
def test_a_hub_id_is_known_where_its_folder_has_no_prompts(
    tiny_model: Path, own_model: Path, source: str, query: str, document: str
) -> None:
    found = published(hf.load(str(tiny_model)), source)
    assert (found.query, found.document) == (query, document)
    if query:
        assert found.origin == f"known of {source}, whose folder has none"
        (line,) = remarks(hf.load(str(tiny_model)), source, found)
        assert line.startswith(f"{source}: prompts {query!r} and {document!r} are put before its texts")
    stated = hf.load(str(with_prompts(own_model, {"query": "own "})))
    assert published(stated, source) == Prompts("own ", "", OF_FOLDER)
    assert published(stated, source, "given ") == Prompts("given ", "", "given by hand")
    assert published(stated, source, "", "d ") == Prompts("", "d ", "given by hand")


@pytest.mark.parametrize(
    ("name", "saved", "family"),
    [
        ("e5-small-v2", None, "E5"),
        ("me5_small_q4", None, "E5"),
        ("models--intfloat--multilingual-e5-base/snapshots/0a1b", None, "E5"),
        ("tickets", "/data/intfloat_multilingual-e5-small/", "E5"),
        ("tickets", "BAAI/bge-small-en-v1.5", "BGE"),
        ("snowflake-arctic-embed-m-v1.5", None, "Arctic Embed"),
        ("multilingual-e5-large-instruct", None, ""),
        ("bge-m3", None, ""),
        ("gte-base", None, ""),
        ("tickets", 7, ""),
    ],
)
def test_a_folder_that_is_called_like_a_known_family_is_remarked(
    tmp_path: Path, tiny_model: Path, name: str, saved: Any, family: str
) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / name))
    if saved:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps({**config, "_name_or_path": saved}), encoding="utf-8")
    lines = load_model(str(folder)).remarks
    assert len(lines) == bool(family)
    if family:
        assert f"is called like {family}, which was trained with the prompts" in lines[0]
        assert "so texts are read bare; --query_prompt=" in lines[0]
    given = load_model(str(folder), ModelConfig(str(folder), "query: ", "passage: "))
    assert given.remarks == () and given.templates == Templates("query: {query}", "passage: {document}")
    assert load_model(str(with_prompts(folder, E5))).remarks == ()


def test_prompts_that_are_not_used_are_remarked(own_model: Path) -> None:
    (line,) = load_model(str(with_prompts(own_model, {"s2p_query": "Instruct: ", "sts": "s "}))).remarks
    assert "has prompts (s2p_query, sts), but none for queries or documents, so texts are read bare" in line
    (line,) = load_model(str(with_prompts(own_model, {"query": "q ", "document": "", "passage": "p "}))).remarks
    assert "its prompt 'document' is empty and overrides 'passage'" in line and "--document_prompt='p '" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "query", "document"),
    [
        ((), "query: ", "passage: "),
        (("--query_prompt=", "--document_prompt="), "", ""),
        (("--query_prompt=instruct: ",), "instruct: ", "passage: "),
    ],
)
def test_one_text_has_one_vector(
    mtret: Mtret,
    own_model: Path,
    tiny_suite: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...],
    query: str,
    document: str,
) -> None:
    """Of a task, of a file, from Python and in a search: after the published prompts, or what is given for them."""
    monkeypatch.setenv("MTRET_CACHE", str(tmp_path / "cache"))
    with_prompts(own_model, E5)
    task = read_task(tiny_suite / "beta")
    wanted = {
        "documents": vectors_of(own_model, document, list(task.document_texts)),
        "queries": vectors_of(own_model, query, list(task.query_texts)),
    }
    bare = vectors_of(own_model, "", list(task.query_texts))
    assert (np.abs(bare - wanted["queries"]).max() > 1e-3) == bool(query)
    for side, file in (("documents", "corpus"), ("queries", "queries")):
        for name, source in (("task", "--task=beta"), ("texts", f"--texts={tiny_suite}/beta/{file}.jsonl")):
            given = [f"--model={own_model}", source, f"--side={side}", f"--out={tmp_path}/{name}_{side}.jsonl", *flags]
            given += [f"--suite={tiny_suite}"] if name == "task" else []
            code, said, error = mtret("encode", *given)
            assert code == 0, error
            assert f"prompt {(document if side == 'documents' else query)!r}" in said
            np.testing.assert_allclose(vectors_in(tmp_path / f"{name}_{side}.jsonl"), wanted[side], atol=1e-6)
    model = load_model(str(own_model))
    if not flags:
        texts = list(task.query_texts[:2])
        np.testing.assert_allclose(model.embed(texts), wanted["queries"][:2], atol=1e-6)
        texts = list(task.document_texts[:2])
        np.testing.assert_allclose(model.embed(texts, "document"), wanted["documents"][:2], atol=1e-6)
    code, said, error = mtret(
        "search", own_model, "beta", task.query_texts[0], f"--suite={tiny_suite}", "--json", "--top=60", *flags
    )
    assert code == 0, error
    (answer,) = [json.loads(line) for line in said.splitlines()]
    scores = {hit["id"]: hit["score"] for hit in answer["hits"]}
    for place, name in enumerate(task.document_ids):
        assert scores[name] == pytest.approx(float(wanted["documents"][place] @ wanted["queries"][0]), abs=1e-5)


@pytest.mark.slow
def test_a_model_with_prompts_of_its_own_takes_no_others(mtret: Mtret, finished: Path, tmp_path: Path) -> None:
    for flags in (
        ("encode", f"--model={finished}", "--task=alpha", f"--out={tmp_path}/a.jsonl"),
        ("evaluate", f"--model={finished}", f"--out={tmp_path}/out"),
        ("evaluate", f"--model={finished}/best.safetensors", f"--out={tmp_path}/out"),
        ("search", finished, "alpha", "a word"),
    ):
        code, _, error = mtret(*flags, "--query_prompt=query: ")
        assert code == 2 and error.count("\n") == 1
        assert "was trained by mtret and has prompts of its own" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_prompts_that_were_changed_in_one_of_two_files_are_refused(tmp_path: Path, finished: Path) -> None:
    """sentence-transformers and `encode --texts` would read one, `evaluate` the other."""
    folder = Path(shutil.copytree(finished / "model", tmp_path / "model"))
    path = folder / OF_FOLDER
    config = json.loads(path.read_text(encoding="utf-8"))
    config["prompts"]["document"] = "passage: "
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match=r"the prompt 'document' is 'passage: ', but mtret\.json says ''; .*export the"):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"_id": "q2", "text": 12345}', "'text' is 12345, not a string; put it in quotes"),
        ('{"_id": "q2", "text": null}', "'text' is null, not a string; put it in quotes"),
        ('{"_id": "q2", "text": ["a"]}', "'text' is .*, not a string; put it in quotes"),
        ('{"_id": 1.5, "text": "a"}', "the id is 1.5, which is neither a string nor an integer"),
        ('{"_id": null, "text": "a"}', "the id is null, which is neither a string nor an integer"),
        ('{"_id": true, "text": "a"}', "the id is true, which is neither"),
        ('["a"]', "must be a JSON object with '_id' and 'text'"),
        ('"a"', "must be a JSON object with '_id' and 'text'"),
        ("[" * 100_000, "must be a JSON object with '_id' and 'text'"),
    ],
)
@pytest.mark.parametrize("side", ["queries", "documents"])
def test_texts_that_are_none_are_named_with_their_line(
    mtret: Mtret, tiny_model: Path, tmp_path: Path, line: str, message: str, side: str
) -> None:
    texts = tmp_path / "badq.jsonl"
    texts.write_text(f'{{"_id": "q1", "text": "hello"}}\n{line}\n', encoding="utf-8")
    code, _, error = mtret("encode", tiny_model, f"--texts={texts}", f"--side={side}", f"--out={tmp_path}/v.jsonl")
    assert code == 2 and error.count("\n") == 1, error
    assert error.startswith(f"mtret: {texts}:2: ")
    assert re.search(message, error)
    assert [path.name for path in tmp_path.iterdir()] == ["badq.jsonl"]


def test_a_title_that_is_none_is_named(mtret: Mtret, tiny_model: Path, tmp_path: Path) -> None:
    texts = tmp_path / "t.jsonl"
    texts.write_text('{"_id": "d1", "text": "hello", "title": 7}\n', encoding="utf-8")
    code, _, error = mtret("encode", tiny_model, f"--texts={texts}", f"--out={tmp_path}/v.jsonl")
    assert code == 2 and f"{texts}:1: 'title' is 7, not a string" in error
    assert mtret("encode", tiny_model, f"--texts={texts}", "--side=queries", f"--out={tmp_path}/v.jsonl")[0] == 0


PLAIN = "Instruct: {instruction}\nQuery: {query}"


@pytest.mark.parametrize(
    ("prompts", "given", "query", "document"),
    [
        ({}, {}, PLAIN, "{document}"),
        (E5, {}, "query: " + PLAIN, "passage: {document}"),
        ({"query": "{x} "}, {}, "{{x}} " + PLAIN, "{document}"),
        (E5, {"query": "ask {query}"}, "ask {query}", "passage: {document}"),
        (E5, {"document": "{document}"}, "query: " + PLAIN, "{document}"),
    ],
)
def test_a_training_starts_from_the_encoder_s_prompts(
    own_model: Path, prompts: dict[str, str], given: dict[str, str], query: str, document: str
) -> None:
    config = RunConfig(model=ModelConfig(str(own_model)), templates=TemplateConfig(**given))
    settled = with_templates(config, hf.load(str(with_prompts(own_model, prompts))))
    assert settled.templates.chosen == Templates(query, document)
    assert with_templates(settled, hf.load(str(own_model))) == settled


@pytest.mark.slow
def test_a_training_from_a_trained_model_keeps_its_templates(finished: Path, own_model: Path) -> None:
    """Its prompt `query` is an instruction already; another before it would be one too many."""
    encoder = hf.load(str(finished / "model"))
    assert encoder.prompts["query"].startswith("Instruct: ")
    config = RunConfig(model=ModelConfig(str(finished / "model")))
    assert with_templates(config, encoder).templates.chosen == Templates()


def test_the_forms_of_a_base(own_model: Path) -> None:
    def forms(prompts: dict[str, str]) -> list[tuple[str, str, str]]:
        found = forms_of(load_model(str(with_prompts(own_model, prompts))))
        return [(name, each.query, each.document) for name, each in found.items()]

    assert forms({}) == [("bare", "{query}", "{document}")]
    assert forms(E5) == [
        ("published", "query: {query}", "passage: {document}"),
        ("bare", "{query}", "{document}"),
        ("query prompt on both sides", "query: {query}", "query: {document}"),
    ]
    assert [name for name, _, _ in forms({"query": "q: ", "document": "q: "})] == ["published", "bare"]
    assert [name for name, _, _ in forms({"document": "p: "})] == ["published", "bare"]


@pytest.mark.slow
def test_the_baseline_is_the_form_that_is_best_on_dev_queries(
    own_model: Path, tiny_suite: Path, console: Console, tmp_path: Path
) -> None:
    with_prompts(own_model, {"query": "instruct query : ", "document": "query query query : "})
    tasks = [read_task(tiny_suite / name) for name in ("alpha", "beta")]
    block = base_forms(load_model(str(own_model)), tasks, DevConfig(), 0, tmp_path, console)

    def score(query: str, document: str) -> dict[str, float]:
        """All documents of the tiny tasks are in their dev samples."""
        found = {}
        for task in tasks:
            dev = task.splits["dev"]
            queries = vectors_of(own_model, query, [task.query_texts[row] for row in dev.queries])
            documents = vectors_of(own_model, document, list(task.document_texts))
            run = search(queries, documents, 10, Rules(tie_order(task.named_ids)))
            found[task.name] = float(ndcg(hits(run, dev, dev.queries), 10).mean())
        return found

    texts = {
        "published": ("instruct query : ", "query query query : "),
        "bare": ("", ""),
        "query prompt on both sides": ("instruct query : ", "instruct query : "),
    }
    wanted = {name: score(*pair) for name, pair in texts.items()}
    means = {name: float(np.mean(list(scores.values()))) for name, scores in wanted.items()}
    assert len({round(mean, 4) for mean in means.values()}) == 3  # else nothing is chosen here
    for name, form in block["forms"].items():
        assert form["dev"]["tasks"] == pytest.approx(wanted[name], abs=1e-5)
        assert form["dev"]["mean"] == pytest.approx(means[name], abs=1e-5)
    assert block["chosen"] == max(means, key=lambda name: means[name])
    assert f"the base is evaluated in the form '{block['chosen']}'" in console.export_text()


def test_without_a_choice_nothing_is_encoded(
    own_model: Path, tiny_suite: Path, console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mtret.runs import baseline

    monkeypatch.setattr(baseline, "embed_tasks", lambda *given: pytest.fail("encoded"))
    tasks = [read_task(tiny_suite / "alpha")]
    block = base_forms(load_model(str(own_model)), tasks, DevConfig(), 0, tmp_path, console)
    assert (block["chosen"], block["why"]) == ("bare", "the only form")
    undev = [replace(task, splits={"train": task.splits["train"]}) for task in tasks]
    prompted = load_model(str(with_prompts(own_model, E5)))
    block = base_forms(prompted, undev, DevConfig(), 0, tmp_path, console)
    assert (block["chosen"], block["why"]) == ("published", "no task of the mixture has dev queries here")


def test_a_plain_encoder_is_judged_as_it_is_deployed_and_in_other_forms_on_request(
    own_model: Path, tiny_suite: Path, console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTRET_CACHE", str(tmp_path / "cache"))
    with_prompts(own_model, E5)
    config = EvaluationConfig(split="test", tasks=("gamma",), scann=False, pooled=False)
    results = evaluate(str(own_model), str(tiny_suite), replace(config, forms=True), tmp_path / "all", console)
    block = results["base_forms"]
    assert (block["chosen"], block["why"]) == ("published", "as it is deployed")
    protocol = results["protocol"]
    assert (protocol["query_template"], protocol["document_template"]) == ("query: {query}", "passage: {document}")
    assert protocol["base_prompts_from"] == OF_FOLDER
    score = {name: form["tasks"]["gamma"] for name, form in block["forms"].items()}
    assert score["published"] == results["tasks"]["gamma"]["systems"]["base"]["ndcg@10"]["mean"]
    bare = replace(config, query_prompt="", document_prompt="")
    alone = evaluate(str(own_model), str(tiny_suite), bare, tmp_path / "bare", console)
    assert score["bare"] == alone["tasks"]["gamma"]["systems"]["base"]["ndcg@10"]["mean"]
    assert alone["protocol"]["base_prompts_from"] == "given by hand" and len(alone["base_forms"]["forms"]) == 1
    both = evaluate(
        str(own_model), str(tiny_suite), replace(config, document_prompt="query: "), tmp_path / "both", console
    )
    assert score["query prompt on both sides"] == both["tasks"]["gamma"]["systems"]["base"]["ndcg@10"]["mean"]
    report = (tmp_path / "all" / "report.md").read_text(encoding="utf-8")
    assert (
        "## The base's prompts" in report
        and f"| **published** | `'query: {{query}}'` | `'passage: {{document}}'` | {score['published']:.3f} |" in report
    )


@pytest.mark.slow
def test_results_from_before_there_were_forms_are_read(
    finished: Path, tiny_suite: Path, console: Console, tmp_path: Path
) -> None:
    config = EvaluationConfig(split="dev", tasks=("alpha",), scann=False, pooled=False)
    evaluate(str(finished), str(tiny_suite), config, tmp_path, console)
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["base_forms"]["chosen"] == "bare" and results["base_forms"]["why"] == "the only form"
    assert "The base's prompts" not in (tmp_path / "report.md").read_text(encoding="utf-8")
    del results["base_forms"]
    parse_results(results)
    with pytest.raises(UserError, match=r"base_forms\.chosen: is missing"):
        parse_results({**results, "base_forms": {"why": "", "forms": {}}})


@pytest.mark.slow
@pytest.mark.system
def test_a_training_from_an_encoder_with_prompts(
    mtret: Mtret, own_model: Path, tiny_suite: Path, tiny_config: Path, tmp_path: Path
) -> None:
    """From the command line to the verdict: what is trained, exported and compared with has the encoder's prompts."""
    with_prompts(own_model, E5)
    run = tmp_path / "run"
    given = [f"--config={tiny_config}", f"--config.model.source={own_model}", f"--workdir={run}"]
    code, said, error = mtret("train", *given, "--config.loop.steps=2")
    assert code == 0, error
    assert f"prompts of the source ({OF_FOLDER}): texts become" in said
    templates = json.loads((run / "config.json").read_text(encoding="utf-8"))["config"]["templates"]
    assert (templates["query"], templates["document"]) == ("query: " + PLAIN, "passage: {document}")
    prompts = json.loads((run / "model" / OF_FOLDER).read_text(encoding="utf-8"))["prompts"]
    instruction = read_task(tiny_suite / "alpha").card.instruction
    assert prompts["alpha"] == f"query: Instruct: {instruction}\nQuery: " and prompts["document"] == "passage: "
    block = json.loads((run / "model" / "mtret.json").read_text(encoding="utf-8"))["base_forms"]
    assert set(block["forms"]["bare"]["dev"]["tasks"]) == {"alpha", "beta"}
    means = {name: form["dev"]["mean"] for name, form in block["forms"].items()}
    assert block["chosen"] == max(means, key=lambda name: means[name])
    form = block["forms"][block["chosen"]]
    assert f"in one form, *{block['chosen']}*" in (run / "model" / "README.md").read_text(encoding="utf-8")
    results = json.loads((run / "dev_sample" / "results.json").read_text(encoding="utf-8"))
    assert results["base_forms"] == block and results["systems"] == [
        "bm25",
        "base",
        "hybrid_ranks",
        "hybrid",
        "finetuned",
        "finetuned_hybrid",
    ]
    protocol = results["protocol"]
    assert protocol["base_query_template"] == form["query_template"]
    assert protocol["base_document_template"] == form["document_template"]
    for name in ("alpha", "beta"):  # its dev sample is that of the choice
        scored = results["tasks"][name]["systems"]["base"]["ndcg@10"]["mean"]
        assert scored == pytest.approx(form["dev"]["tasks"][name], abs=1e-5)
    code, said, error = mtret("train", *given, "--config.loop.steps=2")
    assert code == 0 and "all 2 steps are done already" in said
    texts = "one two\n"
    for name in ("alpha", "query"):
        sys.stdin = io.StringIO(texts)
        out = tmp_path / f"{name}.jsonl"
        assert mtret("encode", run, "--texts=-", f"--prompt={name}", f"--out={out}")[0] == 0
        wanted = vectors_of(run / "model", prompts[name], ["one two"])
        np.testing.assert_allclose(vectors_in(out), wanted, atol=1e-6)
