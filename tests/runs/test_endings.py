"""A finished training always ends with its model, what is known of a verdict, and a next command that works."""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # whole runs

Answer = tuple[int, str, str]
Mtret = Callable[..., Answer]


def leak(suite: Path, rows: range) -> None:
    """Gives these dev queries of gamma, which is outside the mixture, the texts of training queries of alpha."""
    trained = [json.loads(line)["text"] for line in (suite / "alpha/queries.jsonl").open(encoding="utf-8")]
    path = suite / "gamma" / "queries.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    for row in rows:
        lines[row] = json.dumps({"_id": f"q{row}", "text": trained[row].title() + "  ?"})
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path, finished: Path) -> Path:
    """A copy of the finished run, whose same command does nothing but give the verdict."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def ending(mtret: Mtret, config: Path, run: Path, suite: Path, *more: str) -> Answer:
    return mtret("train", f"--config={config}", f"--suite={suite}", f"--workdir={run}", *more)


def next_command(said: str) -> list[str]:
    """The words behind `next: mtret`, as a shell reads them."""
    last = said.splitlines()[-1]
    assert last.startswith("next: mtret "), last
    return shlex.split(last.removeprefix("next: mtret "))


def test_queries_of_the_verdict_that_were_trained_on_are_dropped_and_counted(
    mtret: Mtret, tiny_config: Path, run: Path, own_suite: Path
) -> None:
    """The sample holds four of gamma's six dev queries, of which the first three are training queries of alpha."""
    leak(own_suite, range(3))
    code, said, error = ending(mtret, tiny_config, run, own_suite)
    assert (code, error) == (0, "")
    results = json.loads((run / "dev_sample" / "results.json").read_text(encoding="utf-8"))
    gamma = results["tasks"]["gamma"]
    leaked = {"q0", "q1", "q2"} & set(gamma["dropped_queries"])
    assert gamma["n_queries"] + gamma["n_dropped"] == 4 and gamma["n_dropped"] == len(leaked) >= 1
    assert f"left out: {gamma['n_dropped']} of gamma.\n" in said
    assert f"\nmodel: {run}/model\n" in said
    assert next_command(said) == ["evaluate", f"--model={run}", f"--suite={own_suite}", "--split=test"]


def test_a_task_of_the_verdict_with_no_query_left_is_named_and_skipped(
    mtret: Mtret, tiny_config: Path, run: Path, own_suite: Path
) -> None:
    leak(own_suite, range(6))
    code, said, error = ending(mtret, tiny_config, run, own_suite)
    assert (code, error) == (0, "")
    reason = "all its 4 dev queries are training queries of the model"
    results = json.loads((run / "dev_sample" / "results.json").read_text(encoding="utf-8"))
    assert results["skipped"] == {"gamma": reason} and set(results["tasks"]) == {"alpha", "beta", "delta"}
    assert f"\ngamma: not evaluated: {reason}.\n" in said
    assert f"- gamma: not evaluated: {reason}." in (run / "dev_sample" / "report.md").read_text(encoding="utf-8")


def test_a_verdict_that_fails_leaves_a_finished_training(
    mtret: Mtret, tiny_config: Path, run: Path, tiny_suite: Path
) -> None:
    (run / "dev_sample").write_text("in the way", encoding="utf-8")
    code, said, error = ending(mtret, tiny_config, run, tiny_suite)
    assert code == 3
    assert error.startswith("mtret: the training is finished, but its verdict failed: ") and error.count("\n") == 1
    assert f"{run}/dev_sample is not writable" in error and "--out" not in error
    assert f"\nmodel: {run}/model\nnext: mtret evaluate " in said
    (run / "dev_sample").unlink()
    assert ending(mtret, tiny_config, run, tiny_suite)[0] == 0


def test_a_suite_without_test_splits_is_evaluated_on_dev_next(
    mtret: Mtret, tiny_config: Path, tmp_path: Path, own_suite: Path, finished: Path
) -> None:
    for path in own_suite.glob("*/qrels/test.tsv"):
        path.unlink()
    run = tmp_path / "a run"
    shutil.copytree(finished, run)
    noted = json.loads((run / "config.json").read_text(encoding="utf-8"))
    from mtret.data.formats import read_suite

    noted["data"] = {name: read_suite(own_suite).task_sha256[name] for name in noted["data"]}
    (run / "config.json").write_text(json.dumps(noted), encoding="utf-8")
    code, said, error = ending(mtret, tiny_config, run, own_suite)
    assert (code, error) == (0, "")
    assert next_command(said) == ["evaluate", f"--model={run}", f"--suite={own_suite}", "--split=dev"]
    code, said, error = mtret(*next_command(said), "--noscann", "--nopooled")
    assert (code, error) == (0, "")
    task = next(iter(json.loads((run / "dev" / "results.json").read_text(encoding="utf-8"))["tasks"]))
    assert next_command(said) == ["search", str(run), task, "a query", f"--suite={own_suite}"]
    code, said, error = mtret(*next_command(said))
    assert (code, error) == (0, "") and said.startswith("a query\n")
    code, _, error = mtret("evaluate", f"--model={run}", f"--suite={own_suite}", "--split=test")
    assert code == 2 and error.endswith("no task has a test split (qrels/test.tsv); give --split=dev\n")
