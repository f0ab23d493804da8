"""Every mistake of the user is one line (what, where, remedy) and exit code 2; nothing is written."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

Answer = tuple[int, str, str]
Mtret = Callable[..., Answer]
Tree = Callable[[Path], dict[str, bytes]]
Spoil = Callable[[Path], object]


def check(answer: Answer, *patterns: str) -> None:
    code, _, error = answer
    assert code == 2, error
    assert error.startswith("mtret: ")
    assert error.count("\n") == 1, error
    for pattern in patterns:
        assert re.search(pattern, error), f"{pattern!r} is not in {error!r}"


def append(place: str, content: str | bytes) -> Spoil:
    def spoil(suite: Path) -> None:
        raw = content if isinstance(content, bytes) else content.encode()
        (suite / place).write_bytes((suite / place).read_bytes() + raw)

    return spoil


def put(place: str, content: str) -> Spoil:
    return lambda suite: (suite / place).write_text(content, encoding="utf-8")


def edit(place: str, before: str, after: str) -> Spoil:
    def spoil(suite: Path) -> None:
        text = (suite / place).read_text(encoding="utf-8")
        assert before in text
        (suite / place).write_text(text.replace(before, after), encoding="utf-8")

    return spoil


def same_query_in_two_splits(suite: Path) -> None:
    path = suite / "alpha/queries.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    text = json.loads(lines[0])["text"]
    lines[41] = json.dumps({"_id": "q41", "text": text.upper() + "?"})
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


DATA: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "malformed JSON": (
        append("alpha/corpus.jsonl", '{"_id": "x", \n'),
        (r"alpha/corpus\.jsonl:61: not valid JSON", "Write"),
    ),
    "not UTF-8": (
        append("alpha/queries.jsonl", b'{"_id": "x", "text": "caf\xe9"}\n'),
        (r"queries\.jsonl:57: .*UTF-8", "Save"),
    ),
    "duplicate id": (
        append("beta/corpus.jsonl", '{"_id": "d7", "text": "x"}\n'),
        (r"beta/corpus\.jsonl:61: _id 'd7' stands on line 8 already", "Give"),
    ),
    "unknown document": (
        append("alpha/qrels/train.tsv", "q1\td599\t1\n"),
        (r"alpha/qrels/train\.tsv:42: document 'd599' is not in corpus\.jsonl", "Did you mean 'd59'"),
    ),
    "no finite score": (
        append("alpha/qrels/test.tsv", "q47\td1\tinf\n"),
        (r"alpha/qrels/test\.tsv:12: score 'inf' is not a finite number", "Write one"),
    ),
    "empty corpus": (put("gamma/corpus.jsonl", ""), (r"gamma/corpus\.jsonl: holds no document", "Write")),
    "query in two splits": (
        same_query_in_two_splits,
        (r"alpha/queries\.jsonl:42: query 'q41' of dev has the text of 'q0' of train \(line 1\)", "Keep it in one"),
    ),
    "missing instruction": (
        edit("beta/task.json", '"instruction"', '"instrucion"'),
        (r"beta/task\.json:\d+: unknown key 'instrucion'", "Did you mean 'instruction'"),
    ),
    "empty instruction": (
        edit("beta/task.json", '"instruction": "', '"instruction": "", "notes": "'),
        (r"beta/task\.json:\d+: 'instruction' must be a string that is not empty",),
    ),
    "no queries": (lambda suite: (suite / "delta/queries.jsonl").unlink(), (r"delta/queries\.jsonl: missing",)),
}


@pytest.mark.parametrize("command", ["data check", "train", "evaluate"])
@pytest.mark.parametrize(("spoil", "patterns"), DATA.values(), ids=list(DATA))
def test_mistakes_in_a_suite(
    request: pytest.FixtureRequest, tmp_path: Path, mtret: Mtret, own_suite: Path, tree: Tree,
    command: str, spoil: Spoil, patterns: tuple[str, ...],
) -> None:  # fmt: skip
    spoil(own_suite)
    before = tree(tmp_path)
    suite = f"--suite={own_suite}"
    if command == "train":
        config = request.getfixturevalue("tiny_config")
        answer = mtret("train", f"--config={config}", suite, f"--workdir={tmp_path / 'run'}")
    elif command == "evaluate":
        model = request.getfixturevalue("tiny_model")
        answer = mtret("evaluate", f"--model={model}", suite, f"--out={tmp_path / 'out'}")
    else:
        answer = mtret(*command.split(), suite)
    check(answer, *patterns)
    assert tree(tmp_path) == before


def truncated(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-500])


def misshapen(model: Path) -> None:
    path = model / "model.safetensors"
    tensors = load_file(path)
    tensors["encoder.layer.0.intermediate.dense.weight"] = np.zeros((64, 31), np.float32)
    save_file(tensors, path)


def lacking(model: Path) -> None:
    path = model / "model.safetensors"
    tensors = load_file(path)
    del tensors["embeddings.LayerNorm.bias"]
    save_file(tensors, path)


MODELS: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "truncated": (truncated, (r"encoder/model\.safetensors: damaged or truncated", "fetch it again")),
    "wrong shape": (
        misshapen,
        (r"'encoder\.layer\.0\.intermediate\.dense\.weight' has shape \[64, 31\]", r"\[64, 32\]"),
    ),
    "lacking a tensor": (lacking, (r"1 tensors are missing \(embeddings\.LayerNorm\.bias\)",)),
    "no weights": (lambda model: (model / "model.safetensors").unlink(), (r"model\.safetensors: missing",)),
    "unknown tower": (
        edit("config.json", '"bert"', '"brt"'),
        (r"config\.json: model_type 'brt' is not supp", "'bert'"),
    ),
    "broken tokenizer": (put("tokenizer.json", "{"), (r"encoder: no readable tokenizer",)),
}


@pytest.mark.parametrize(("spoil", "patterns"), MODELS.values(), ids=list(MODELS))
def test_mistakes_in_a_model(
    tmp_path: Path, mtret: Mtret, own_model: Path, tiny_config: Path, tiny_suite: Path, tree: Tree,
    spoil: Spoil, patterns: tuple[str, ...],
) -> None:  # fmt: skip
    spoil(own_model)
    before = tree(tmp_path)
    run = ("train", f"--config={tiny_config}", f"--config.model.source={own_model}", f"--workdir={tmp_path / 'run'}")
    check(mtret(*run), *patterns)
    check(mtret("evaluate", f"--model={own_model}", f"--suite={tiny_suite}", f"--out={tmp_path / 'out'}"), *patterns)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("override", "patterns"),
    [
        ("loop.step=3", (r"unknown key 'loop\.step'\. Did you mean 'steps'\?",)),
        ("batch.queries=many", (r"batch\.queries: needs an integer, got 'many'",)),
        ("batch.queries=True", (r"batch\.queries: needs an integer, got True",)),
        ("batch.queries=0", (r"batch\.queries: must be at least 1, is 0",)),
        (
            "batch.shards=3",
            (r"batch\.shards: 3 shards cannot be shared evenly by 8 devices; set it to a multiple of 8",),
        ),
        ("batch.row_length=16", (r"batch\.query_length: a row of 16 tokens cannot hold a text of 24; raise",)),
        ("batch.document_length=100", (r"batch\.document_length: 100 tokens for task 'alpha', .* reads 64; give 64",)),
        ("batch.negatives=2", (r"task 'alpha': 2 hard negatives .* it has no negatives/train\.tsv; batch",)),
        ("batch.tasks.alhpa.queries=4", (r"batch\.tasks: 'alhpa' is not in the mixture\. Did you mean 'alpha'\?",)),
        ("templates.query={query}: {instruction}", (r"must end in \{query\}", "Move")),
        ("mixture.tasks=alhpa", (r"mixture\.tasks: no task 'alhpa' in .*\. Did you mean 'alpha'\?",)),
        ("mixture.tasks=alpha,alpha", (r"mixture\.tasks: a task is named twice",)),
        ("mixture.tasks=alpha,gamma", (r"task 'gamma' is in the mixture but has no train split \(qrels/train\.tsv\)",)),
        ("mixture.weights=gama:1", (r"mixture\.weights: 'gama' is not in the mixture",)),
        ("mixture.weights=alpha:-1", (r"mixture\.weights\.alpha: -1\.0 is not a positive number",)),
        ("optim.schedule=cosin", (r"optim\.schedule: must be one of cosine, linear, constant, is 'cosin'",)),
        (
            "optim.decay_mask=(('tower/.*', True),)",
            (r"optim\.decay_mask: no rule matches the parameter 'log_scale'; add one",),
        ),
        ("loss.temperature=0.0", (r"loss\.temperature: must be above 0, is 0\.0",)),
        ("loss.dimensions=(16,32)", (r"loss\.dimensions: \(16, 32\), but the vectors of .* have 32 dimensions",)),
        ("model.attention=pallas", (r"model\.attention: 'pallas' needs an NVIDIA GPU, and JAX sees none here",)),
        (
            "model.attention=palas",
            (r"model\.attention: 'palas' is not one of xla, cpu, pallas, cudnn\. Did you mean 'pallas'\?",),
        ),
        ("loop.evaluate_every=0", (r"loop\.evaluate_every: must be at least 1, is 0",)),
        ("suite=", (r"no suite: give --suite=FOLDER",)),
        ("suite=/nowhere/at/all", (r"/nowhere/at/all: no such folder",)),
        ("model.source=/nowhere/at/all", (r"model '/nowhere/at/all': no such folder; give",)),
    ],
)
def test_mistakes_in_a_configuration(
    tmp_path: Path, mtret: Mtret, tiny_config: Path, tree: Tree, override: str, patterns: tuple[str, ...]
) -> None:
    run = ("train", f"--config={tiny_config}", f"--workdir={tmp_path / 'run'}", f"--config.{override}")
    check(mtret(*run), *patterns)
    assert tree(tmp_path) == {}


def test_a_configuration_file_that_fails(tmp_path: Path, mtret: Mtret, tree: Tree) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def get_config():\n    return 1 / 0\n", encoding="utf-8")
    notes = tmp_path / "notes.yaml"
    notes.write_text("steps: 3\n", encoding="utf-8")
    before = tree(tmp_path)
    for config, pattern in [
        (path, r"mine\.py:2: ZeroDivisionError: division by zero"),
        (notes, r"--config: .*notes\.yaml is not a Python file \(\.py\); `mtret init` writes one"),
        (tmp_path / "mime.py", r"--config: no file '.*/mime\.py'\. Did you mean '.*/mine\.py'\?"),
    ]:
        check(mtret("train", f"--config={config}", f"--workdir={tmp_path / 'run'}"), pattern)
    assert tree(tmp_path) == before


@pytest.mark.slow  # a whole run is compiled first
def test_workdirs_that_are_not_this_run_s(
    tmp_path: Path, mtret: Mtret, tiny_config: Path, unfinished: Path, own_suite: Path, own_model: Path, tree: Tree
) -> None:
    foreign, file = tmp_path / "foreign", tmp_path / "file"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work", encoding="utf-8")
    file.write_text("x", encoding="utf-8")
    torn = tmp_path / "torn"
    torn.mkdir()
    (torn / "config.json").write_text('{"config"', encoding="utf-8")
    append("alpha/qrels/dev.tsv", "q40\td3\t1\n")(own_suite)
    before = tree(tmp_path)
    run = ("train", f"--config={tiny_config}")
    for workdir, more, pattern in [
        (unfinished, ["--config.seed=3"], r"belongs to another run: config\.seed: 3, there 0; use another --workdir"),
        (
            unfinished,
            [f"--suite={own_suite}"],
            r"belongs to another run: config\.suite: .* \(and 1 more\); use another",
        ),
        (foreign, [], r"foreign: is not empty and holds no run; use another --workdir"),
        (file, [], r"--workdir=.*/file: .*/file is not writable; choose another place"),
        (file / "below", [], r"--workdir=.*/file/below: .*/file is not writable"),
        (torn, [], r"torn/config\.json: cannot be read \(.*\); give the folder of a run, or a new one"),
        (own_model, [], r"encoder/config\.json: is not that of a run; give the folder of a training, or a new one"),
    ]:
        check(mtret(*run, f"--workdir={workdir}", *more), pattern)
    assert tree(tmp_path) == before


@pytest.mark.slow  # a whole run is compiled first
def test_changed_data_is_another_run(
    tmp_path: Path, mtret: Mtret, tiny_config: Path, own_suite: Path, finished: Path
) -> None:
    """Under the same path, too."""
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    noted = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
    noted["config"]["suite"] = str(own_suite)
    (workdir / "config.json").write_text(json.dumps(noted), encoding="utf-8")
    run = ("train", f"--config={tiny_config}", f"--suite={own_suite}", f"--workdir={workdir}")
    assert mtret(*run)[0] == 0
    append("alpha/qrels/dev.tsv", "q40\td3\t1\n")(own_suite)
    check(mtret(*run), r"belongs to another run: data\.alpha: '")


@pytest.mark.slow  # a whole run is compiled first
def test_mistakes_when_evaluating(
    tmp_path: Path, mtret: Mtret, tiny_suite: Path, tiny_model: Path, unfinished: Path, own_suite: Path, tree: Tree
) -> None:
    file = tmp_path / "file"
    file.write_text("x", encoding="utf-8")
    (own_suite / "gamma/qrels/dev.tsv").unlink()
    before = tree(tmp_path)
    model, suite, out = f"--model={tiny_model}", f"--suite={tiny_suite}", f"--out={tmp_path / 'out'}"
    for arguments, pattern in [
        ((f"--model={unfinished}", suite, out), r"unfinished: this run is not finished; .* mtret export --model="),
        ((model, suite, out, "--tasks=alpha,gama"), r"--tasks: no task 'gama' in .*\. Did you mean 'gamma'\?"),
        ((model, f"--suite={own_suite}", out, "--tasks=alpha,gamma"), r"task 'gamma' has no split 'dev', only test"),
        ((model, suite, f"--out={file}"), r"--out=.*/file: .*/file is not writable"),
        ((model, suite, out, "--split=train"), r"--split=train: value should be one of <dev\|test>"),
        ((model, suite, out, "--config.seed=3"), r"--config\.seed=3: only train has a configuration"),
        ((model, out), r"no suite: give --suite=FOLDER, "),
        ((suite, out), r"--model is needed: "),
        (
            ("--model=minilm", suite),
            r"--out is needed, since 'minilm' is not a folder here\. It is the folder of the results",
        ),
        ((f"--model={tmp_path}/none", suite, out), r"model '.*/none': no such folder"),
    ]:
        check(mtret("evaluate", *arguments), pattern)
    assert tree(tmp_path) == before


@pytest.mark.slow  # a whole run is compiled first
def test_mistakes_when_exporting_and_reporting(
    tmp_path: Path, mtret: Mtret, unfinished: Path, own_model: Path, tree: Tree
) -> None:
    file, bare = tmp_path / "file", tmp_path / "bare"
    file.write_text("x", encoding="utf-8")
    shutil.copytree(unfinished, bare)
    (bare / "best.safetensors").unlink()
    before = tree(tmp_path)
    for arguments, pattern in [
        (
            ("export", f"--model={unfinished}", f"--out={own_model}"),
            r"encoder: exists already and is never overwritten",
        ),
        (("export", f"--model={unfinished}", f"--out={file}/x"), r"--out=.*/file/x: .*/file is not writable"),
        (("export", f"--model={tmp_path}/none", f"--out={tmp_path}/x"), r"none: holds no run \(no config\.json\)"),
        (
            ("export", f"--model={own_model}", f"--out={tmp_path}/x"),
            r"encoder: is a model folder already; there is nothing to export",
        ),
        (("export", f"--model={bare}", f"--out={tmp_path}/x"), r"bare: has no readable best parameters"),
        (
            ("report", f"--results={tmp_path}/results.json"),
            r"results\.json: no such file; write it with `mtret evaluate`",
        ),
        (("report", f"--results={file}"), r"file: cannot be read as JSON"),
        (("data", "enterprise", f"--out={own_model}"), r"encoder: exists already"),
        (("data", "enterprise", f"--out={file}/x"), r"file/x"),
    ]:
        check(mtret(*arguments), pattern)
    assert tree(tmp_path) == before
