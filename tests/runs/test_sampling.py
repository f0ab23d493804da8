"""`mtret evaluate --sample`: the same few queries and documents for every model, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow  # a whole run is compiled first

Mtret = Callable[..., tuple[int, str, str]]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer distractors than the tiny tasks have documents."""
    monkeypatch.setattr("mtret.runs.sampling.DISTRACTORS", 8)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.usefixtures("small")
def test_a_model_and_its_base_are_evaluated_on_the_same_sample(
    mtret: Mtret, finished: Path, tiny_suite: Path, tiny_model: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    code, said, wrong = mtret("evaluate", f"--model={run}", f"--suite={tiny_suite}", "--split=test", "--sample=4")
    assert code == 0, wrong
    assert f"wrote {run}/sample_test/results.json, queries.jsonl, sample.json, report.md and results.png" in said
    results, sample = read(run / "sample_test" / "results.json"), read(run / "sample_test" / "sample.json")
    assert set(sample["tasks"]) == set(results["tasks"]) == {"alpha", "beta", "delta", "gamma"}
    for name, task in sample["tasks"].items():
        assert len(task["queries"]) == 4 == results["tasks"][name]["n_queries"]
        assert len(task["documents"]) == results["tasks"][name]["n_documents"] == len(set(task["documents"]))
        gold = [line.split("\t") for line in (tiny_suite / name / "qrels/test.tsv").read_text("utf-8").splitlines()]
        wanted = {row[1] for row in gold if row[0] in task["queries"] and row[2] != "0"}
        assert wanted <= {*task["documents"]} and len(task["documents"]) == len(wanted) + 8
    words = results["protocol"]["sample"]
    assert "at most 4 queries a task" in words and "first 20 results of bm25 and tiny " in words
    assert all(task["scann"] is None for task in results["tasks"].values())

    out = tmp_path / "base"
    base = ("evaluate", f"--model={tiny_model}", f"--suite={tiny_suite}", "--split=test", f"--out={out}")
    assert mtret(*base, "--sample=4", "--nopooled")[0] == 0
    assert read(out / "sample.json") == sample
    assert read(out / "results.json")["protocol"]["sample_sha256"] == results["protocol"]["sample_sha256"]
    ours = {name: task["systems"]["base"] for name, task in results["tasks"].items()}
    assert {name: task["systems"]["base"] for name, task in read(out / "results.json")["tasks"].items()} == ours
    code, said, wrong = mtret("compare", str(out), str(run / "sample_test"), f"--out={tmp_path / 'compared'}")
    assert code == 0, wrong

    again = tmp_path / "again"
    file = run / "sample_test" / "sample.json"
    command = ("evaluate", f"--model={run}", f"--suite={tiny_suite}", "--split=test", f"--out={again}")
    code, said, wrong = mtret(*command, f"--sample={file}", "--tasks=alpha,gamma")
    assert code == 0, wrong
    assert set(read(again / "results.json")["tasks"]) == {"alpha", "gamma"}
    for name, task in read(again / "results.json")["tasks"].items():
        assert task["systems"]["finetuned"] == results["tasks"][name]["systems"]["finetuned"]


@pytest.mark.usefixtures("small")
def test_a_sample_of_other_data_or_none_is_refused(
    mtret: Mtret, finished: Path, own_suite: Path, tiny_model: Path, tmp_path: Path
) -> None:
    def wrong(*more: str) -> str:
        out = f"--out={tmp_path / 'never'}"
        code, _, words = mtret("evaluate", f"--model={tiny_model}", f"--suite={own_suite}", out, *more)
        assert code == 2 and words.count("\n") == 1 and not (tmp_path / "never").exists()
        return words

    first = tmp_path / "first"
    command = ("evaluate", f"--model={tiny_model}", f"--suite={own_suite}", f"--out={first}", "--nopooled")
    assert mtret(*command, "--split=test", "--sample=3", f"--pool={tiny_model},{finished}")[0] == 0
    file = first / "sample.json"
    assert len(read(file)["pooled"]) == 3
    assert "is no query" in wrong("--sample=0") and "give --sample=NUMBER" in wrong(f"--pool={tiny_model}")
    assert "no file" in wrong("--sample=nowhere.json") and "give --split=test" in wrong(f"--sample={file}")
    other = tmp_path / "other.json"
    other.write_text("[]", encoding="utf-8")
    assert "is not a sample.json" in wrong(f"--sample={other}", "--split=test")
    raw = read(file)
    raw["tasks"]["beta"]["documents"][0] = "nobody"
    other.write_text(json.dumps(raw), encoding="utf-8")
    assert "'beta' names what its data does not hold" in wrong(f"--sample={other}", "--split=test")
    raw["tasks"]["betta"] = raw["tasks"].pop("beta")
    other.write_text(json.dumps(raw), encoding="utf-8")
    assert "no task 'betta'" in wrong(f"--sample={other}", "--split=test")
    with (own_suite / "alpha" / "corpus.jsonl").open("a", encoding="utf-8") as corpus:
        corpus.write(json.dumps({"_id": "new", "text": "a new one"}) + "\n")
    assert "'alpha' was drawn of other data" in wrong(f"--sample={file}", "--split=test")
