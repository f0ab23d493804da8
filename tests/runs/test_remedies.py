"""Remedies that messages name are tried: a mistake is made, its message is read, what it says is done and helps."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from mtret.files import load_arrays, replace_arrays

pytestmark = pytest.mark.slow  # a whole run is compiled first

Answer = tuple[int, str, str]
Mtret = Callable[..., Answer]
QUICK = "--noscann --nopooled --tasks=alpha"
PLAN = "train --config={config} --dry_run"
# What is wrong, what of the message is taken from it, and the command that it leads to, in which {1} is the first group
# of the message. `{out}` is a folder that is not there yet.
REMEDIES: dict[str, tuple[str, str, str]] = {
    "a command": ("trian", r"Did you mean '(\w+)'\? `mtret --help` lists them", "{1} --help"),
    "a command on data": ("data chek {suite}", r"Did you mean '(data \w+)'", "{1} {suite}"),
    "a shell": ("completion fish", r"name one shell: mtret (completion bash), or", "{1}"),
    "a flag": (
        "report {evaluated} --metrc=mrr@10",
        r"Did you mean '(\w+)'",
        "report {evaluated} --{1}=mrr@10 --format=csv",
    ),
    "a metric": (
        "report {evaluated} --metric=p@1",
        r"only (\S+),",
        "report {evaluated} --metric={1} --format=markdown",
    ),
    "a flag that is a key": ("train --steps=3", r"Did you mean (--config\S+)\?", PLAN + " {1}=3"),
    "a key": (PLAN + " --config.loop.step=3", r"Did you mean '(\w+)'", PLAN + " --config.loop.{1}=3"),
    "a section": (PLAN + " --config.lop.steps=3", r"Did you mean '(\w+)'", PLAN + " --config.{1}.steps=3"),
    "a family": (PLAN + " --hold_out=tabel", r"Did you mean '(\w+)'", PLAN + " --hold_out={1}"),
    "no hard negatives": (
        PLAN + " --hold_out=beta --config.batch.negatives=2",
        r"; (batch\.tasks\.alpha\.negatives=0) trains it without",
        PLAN + " --hold_out=beta --config.batch.negatives=2 --config.{1}",
    ),
    "a row": (PLAN + " --config.batch.row_length=16", r"raise (batch\.row_length)", PLAN + " --config.{1}=64"),
    "shards": (PLAN + " --config.batch.shards=3", r"a multiple of (\d+)", PLAN + " --config.batch.shards={1}"),
    "a length": (
        PLAN + " --config.batch.document_length=100",
        r"give (\d+) or less",
        PLAN + " --config.batch.document_length={1}",
    ),
    "a suite": ("data check {suite}s", r"Did you mean '(\w+)'", "data check {suite}/../{1}"),
    "a task for a suite": ("data check {suite}/alpha", r"Give the folder that holds it: (\S+)\.$", "data check {1}"),
    "a column": (
        "data import {rows} --query=question --text=text --family=x --instruction=y --out={out}/task",
        r"It has: (\w+), (\w+)",
        "data import {rows} --query={1} --text={2} --family=x --instruction=y --out={out}/task",
    ),
    "no place for a configuration": (
        "init --suite={suite}",
        r"(--out) is needed",
        "init --suite={suite} --config.model.source={encoder} {1}={out}/mine.py",
    ),
    "a task to search": ("search {run} alhpa words", r"Did you mean '(\w+)'", "search {run} {1} words"),
    "an unfinished run": (
        "search {unfinished} alpha words",
        r"its best so far: (\S+/best\.safetensors),",
        "search {1} alpha words",
    ),
    "an unfinished run to export": (
        "verify {unfinished}",
        r"or mtret (export --model=\S+ --out=)FOLDER",
        "{1}{out}/model",
    ),
    "a model folder to export": (
        "export --model={run}/model --out={out}/model",
        r"give its run, (--model=\S+), or use",
        "export {1} --out={out}/model",
    ),
    "a file of a model folder": (
        "search {run}/model/model.safetensors alpha words",
        r"give the folder, (\S+)",
        "search {1} alpha words",
    ),
    "a step": (
        "export --model={unfinished} --step=99 --out={out}/model",
        r"it has those of steps (\d+)",
        "export --model={unfinished} --step={1} --out={out}/model",
    ),
    "a step of one step": (
        "export --model={run}/best.safetensors --step=3 --out={out}/model",
        r"(\S+)/best\.safetensors is the parameters of one step; give the run's folder",
        "export --model={1} --out={out}/model",
    ),
    "no place for results": (
        "evaluate --model={run}/best.safetensors " + QUICK,
        r"(--out) is needed",
        "evaluate --model={run}/best.safetensors " + QUICK + " {1}={out}/evaluated",
    ),
    "results that are there": (
        "evaluate --model={run} --out={evaluated} " + QUICK,
        r"give another (--out)",
        "evaluate --model={run} {1}={out}/evaluated " + QUICK,
    ),
    "a task to evaluate": (
        "evaluate --model={run} --out={out}/evaluated --noscann --nopooled --tasks=gama",
        r"Did you mean '(\w+)'",
        "evaluate --model={run} --out={out}/evaluated --noscann --nopooled --tasks={1}",
    ),
    "queries that were trained on": (
        "evaluate --model={run} --suite={leaky} --split=test --out={out}/evaluated --noscann --nopooled",
        r"Pass (--allow_leakage) to drop them",
        "evaluate --model={run} --suite={leaky} --split=test --out={out}/evaluated --noscann --nopooled {1}",
    ),
    "results to compare": (
        "compare {evaluated}",
        r"takes two results, got 1; mtret (compare) runs",
        "{1} a={evaluated} b={other}",
    ),
    "names of results": (
        "report a={evaluated} a={other}",
        r"call one otherwise: NAME=(FOLDER)",
        "report a={evaluated} b={other} --format=csv",
    ),
    "the folder of results": ("report {holding}", r"holds no results\.json; give (\S+), which does", "report {1}"),
    "one model twice": (
        "merge --models={run},{run} --out={out}/soup",
        r"give it a larger (weight) instead",
        "merge --models={run},{encoder} --{1}s=2,1 --out={out}/soup",
    ),
    "a kind of file": (
        "encode --model={run} --task=alpha --out={out}/v.csv",
        r"must end in \.parquet, (\.\w+),",
        "encode --model={run} --task=alpha --out={out}/v{1}",
    ),
    "a prompt": (
        "encode --model={run} --texts={texts} --prompt=alpa --out={out}/v.jsonl",
        r"Did you mean '(\w+)'",
        "encode --model={run} --texts={texts} --prompt={1} --out={out}/v.jsonl",
    ),
    "a run to plot": ("curves {run}/checkpoints", r"Did you mean '(\S+)'", "curves {1} --out={out}/curves.png"),
}


@pytest.fixture(scope="module")
def places(
    tmp_path_factory: pytest.TempPathFactory, tiny_suite: Path, tiny_model: Path, tiny_config: Path, finished: Path
) -> Mapping[str, Path]:
    """Sound inputs, and some that are not. None is changed by what reads it."""
    from mtret.cli import main

    folder = tmp_path_factory.mktemp("remedies")
    (folder / "rows.csv").write_text("query,text\n" + "".join(f"ask {i},answer {i}\n" for i in range(40)))
    (folder / "texts.jsonl").write_text('{"_id": "a", "text": "banan"}\n')
    evaluate = ["evaluate", f"--model={finished}", *QUICK.split(), f"--out={folder}/evaluated"]
    assert main(evaluate) == 0
    for other in ("other", "holding/test"):
        shutil.copytree(folder / "evaluated", folder / other)
    unfinished = Path(shutil.copytree(finished, folder / "unfinished"))
    shutil.rmtree(unfinished / "model")
    replace_arrays(
        unfinished / "weights/step_4.safetensors", load_arrays(unfinished / "best.safetensors"), {"step": "4"}
    )
    leaky = Path(shutil.copytree(tiny_suite, folder / "leaky"))
    trained = json.loads((leaky / "alpha/queries.jsonl").read_text(encoding="utf-8").splitlines()[0])["text"]
    lines = (leaky / "gamma/queries.jsonl").read_text(encoding="utf-8").splitlines()
    lines[7] = json.dumps({"_id": "q7", "text": trained})
    (leaky / "gamma/queries.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {
        "suite": tiny_suite, "encoder": tiny_model, "config": tiny_config, "run": finished, "unfinished": unfinished,
        "rows": folder / "rows.csv", "texts": folder / "texts.jsonl", "evaluated": folder / "evaluated",
        "other": folder / "other", "holding": folder / "holding", "leaky": leaky,
    }  # fmt: skip


@pytest.mark.parametrize("name", REMEDIES)
def test_a_remedy_helps(
    name: str, places: Mapping[str, Path], mtret: Mtret, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtret.runs.dry_run._say_costs", lambda *arguments: None)
    wrong, pattern, right = REMEDIES[name]
    filled = {**{key: str(path) for key, path in places.items()}, "out": str(tmp_path / "out")}
    code, _, error = mtret(*wrong.format(**filled).split())
    assert code == 2 and error.count("\n") == 1, error
    found = re.search(pattern, error.strip())
    assert found, f"{pattern!r} is not in {error!r}"
    assert not (tmp_path / "out").exists()
    code, _, error = mtret(*right.format(None, *found.groups(), **filled).split())
    assert (code, error) == (0, "")
