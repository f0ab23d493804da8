"""Trainings that could teach nothing, or little, are refused or named before they begin; so is a prompt that leaves no
room for a text, in whatever command reads it. Every remedy that is named helps."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

Answer = tuple[int, str, str]
Mtret = Callable[..., Answer]
HEADER = "query-id\tcorpus-id\tscore\n"


def judge_all_by(suite: Path, task: str, document: Callable[[int], str]) -> None:
    """Gives each train query of a task this document."""
    rows = "".join(f"q{i}\t{document(i)}\t1\n" for i in range(40))
    (suite / task / "qrels" / "train.tsv").write_text(HEADER + rows, encoding="utf-8")


def rewrite(path: Path, change: Callable[[int, str], str]) -> None:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    texts = [{**line, "text": change(row, line["text"])} for row, line in enumerate(lines)]
    path.write_text("".join(json.dumps(line) + "\n" for line in texts), encoding="utf-8")


@pytest.fixture
def plan(mtret: Mtret, tiny_config: Path, own_suite: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """`mtret train --dry_run`, up to what a step costs."""
    monkeypatch.setattr("mtret.runs.dry_run._say_costs", lambda *arguments: None)
    return lambda *more: mtret("train", f"--config={tiny_config}", f"--suite={own_suite}", "--dry_run", *more)


def refused(answer: Answer, pattern: str) -> None:
    code, _, error = answer
    assert code == 2 and error.count("\n") == 1 and re.search(pattern, error), error


def said(answer: Answer, *patterns: str) -> None:
    code, out, error = answer
    assert (code, error) == (0, "")
    for pattern in patterns:
        assert re.search(pattern, out), f"{pattern!r} is not in {out!r}"


NONE = r"{0}: none of its queries have a negative in a batch of 16, so that its steps teach nothing; give "


def test_one_document_for_all(plan: Callable[..., Answer], own_suite: Path) -> None:
    judge_all_by(own_suite, "beta", lambda i: "d0")
    hard = r"hard negatives, in negatives/train\.tsv, with --config\.batch\.tasks\.beta\.negatives=1"
    said(plan(), NONE.format("beta") + hard + r" or --hold_out=beta, which leaves it out\.\n")
    code, out, _ = plan("--hold_out=beta")
    assert code == 0 and "have a negative" not in out
    refused(plan("--hold_out=alpha"), r"nothing can be learned\. " + NONE.format("beta") + hard + r"\.\n")
    (own_suite / "beta/negatives").mkdir()
    rows = "".join(f"q{i}\td{1 + i}\t1\n" for i in range(40))
    (own_suite / "beta/negatives/train.tsv").write_text(HEADER + rows, encoding="utf-8")
    code, out, _ = plan("--hold_out=alpha", "--config.batch.tasks.beta.negatives=1")
    assert code == 0 and "have a negative" not in out


def test_training_is_refused_as_its_plan_is(mtret: Mtret, tmp_path: Path, tiny_config: Path, own_suite: Path) -> None:
    judge_all_by(own_suite, "alpha", lambda i: "d0")
    judge_all_by(own_suite, "beta", lambda i: "d1")
    workdir = tmp_path / "run"
    answer = mtret("train", f"--config={tiny_config}", f"--suite={own_suite}", f"--workdir={workdir}")
    refused(answer, r"nothing can be learned\. alpha: none .* beta: none")
    assert not workdir.exists()


def test_documents_that_read_alike_as_far_as_they_are_read(
    plan: Callable[..., Answer], own_suite: Path, words: list[str]
) -> None:
    """Such as those behind one long title. 30 words and the special tokens are all of 32."""
    rewrite(own_suite / "beta/corpus.jsonl", lambda row, text: " ".join(words[:30]) + f" {text}")
    alike = r"beta: 39 documents read like another one in their first 32 tokens, and count as the same; raise batch"
    said(plan(), alike + r"\.document_length\.", NONE.format("beta"))
    code, out, _ = plan("--config.batch.document_length=64")
    assert code == 0 and "read like another" not in out and "have a negative" not in out


def test_batches_of_one_query(plan: Callable[..., Answer]) -> None:
    one = ("--config.batch.queries=1", "--hold_out=alpha")
    refused(plan(*one), r"beta: none of its queries have a negative in a batch of 1, .*; give --config\.batch\.tasks")
    said(plan(*one, "--config.batch.tasks.beta.queries=2"))


def test_parameters_that_would_stay_as_they_are(plan: Callable[..., Answer]) -> None:
    refused(
        plan("--config.optim.learning_rate_scales=(('.*',0.0),)"),
        r"optim\.learning_rate_scales: the rate of every parameter .* is 0; nothing would",
    )
    said(plan("--config.optim.learning_rate_scales=(('.*bias',0.0),('.*',1.0))"))
    # After six steps 0.999^6 = 0.994 of the average are the first parameters, of one of 0.5 1/64.
    said(
        plan("--config.optim.ema_decay=0.999"),
        r"optim\.ema_decay=0\.999 over 6 steps: 99% of .*; give --config\.optim\.ema",
    )
    code, out, _ = plan("--config.optim.ema_decay=0.5")
    assert code == 0 and "optim.ema_decay" not in out


def test_a_rare_second_document(plan: Callable[..., Answer], own_suite: Path) -> None:
    """One query of forty has it, so that it is in a batch of 16 with 0.4."""
    judge_all_by(own_suite, "beta", lambda i: "d1" if i == 7 else "d0")
    said(
        plan(),
        r"beta: only (3[0-9]|4[0-9])% of its queries .*teach little; give --config\.batch\.tasks\.beta\.queries=32 ",
    )
    code, out, _ = plan("--config.batch.tasks.beta.queries=32")
    assert code == 0 and "have a negative" not in out


def test_hard_negatives_that_read_like_positives(plan: Callable[..., Answer], own_suite: Path) -> None:
    """d59 has the text of d0, q0's positive is d0 or reads like it."""
    rewrite(own_suite / "beta/corpus.jsonl", lambda row, text: "fiter" if row in (0, 59) else text)
    judge_all_by(own_suite, "beta", lambda i: f"d{i % 20}")
    (own_suite / "beta/negatives").mkdir()
    path = own_suite / "beta/negatives/train.tsv"
    path.write_text(HEADER + "q0\td59\t1\nq1\td30\t1\n", encoding="utf-8")
    none = r"beta: 39 of 40 queries have no hard negative: none is given .*or it reads like one of their positives"
    said(plan("--config.batch.tasks.beta.negatives=1"), none)
    fewer = r"beta: 1 of 40 queries have fewer than 2 hard negatives, 1 at least; their batches hold those that they"
    batch = r"1 positive\(s\) and up to 2 hard negatives \(0\.025 on average\) each"  # of beta's 40
    said(plan("--config.batch.tasks.beta.negatives=2", "--hold_out=alpha"), none, fewer, batch)
    path.write_text(HEADER + "q0\td59\t1\n", encoding="utf-8")
    refused(
        plan("--config.batch.tasks.beta.negatives=3"),
        r"^mtret: beta: none of its 40 queries has a hard negative, but batch\.negatives asks for 3: .*; give others, "
        r"or --config\.batch\.tasks\.beta\.negatives=0$",
    )


def test_a_warm_up_that_the_run_never_leaves(plan: Callable[..., Answer]) -> None:
    said(
        plan("--config.optim.warmup_steps=50"),
        r"optim\.warmup_steps=50 of 6 steps: .*, to 0\.00036 of 0\.003; give fewer, such as --config\.optim\.warm",
    )
    code, out, _ = plan("--config.optim.warmup_steps=0")
    assert code == 0 and "warmup" not in out


# 60 words, the template's five and two special tokens, of which a query's 24 and the encoder's 64 hold no query.
LONG = 60
WITHIN = 30  # fits the encoder, but not batch.query_length


def instruct(suite: Path, task: str, words: list[str]) -> None:
    path = suite / task / "task.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**card, "instruction": " ".join(words)}), encoding="utf-8")


def test_an_instruction_that_fills_the_length(plan: Callable[..., Answer], own_suite: Path, words: list[str]) -> None:
    instruct(own_suite, "beta", words[:LONG])
    refused(
        plan(),
        r"^mtret: beta: the prompt before a query takes 66 tokens of batch\.query_length=24, so nothing of the query "
        r"is read; shorten its instruction in task\.json$",
    )
    instruct(own_suite, "beta", words[:WITHIN])
    refused(plan(), r"takes 36 tokens of .*=24, .*; give --config\.batch\.query_length=64, or shorten its instruction")
    said(plan("--config.batch.query_length=64"))
    instruct(own_suite, "beta", words[:14])
    cut = r"beta: the prompt before a query takes 20 tokens of .*=24, and 100% of its texts are cut; give"
    said(plan(), cut)


@pytest.mark.parametrize(
    ("override", "pattern"),
    [
        (
            "batch.query_length=8",
            r"alpha: the prompt before a query takes 9 tokens .*length=8, .*; give --config\.batch",
        ),
        (
            "batch.tasks.beta.query_length=8",
            r"beta: .* of batch\.tasks\.beta\.query_length=8, .*; give --config\.batch\.tasks\.beta\.query_length=41,",
        ),
        ("templates.generic={}", r"the prompt before a query takes 66 tokens .*; shorten templates\.generic"),
        (
            "templates.document={} {{document}}",
            r"before a document takes 62 tokens .*=32, .*, or shorten templates\.doc",
        ),
    ],
)
def test_other_prompts_that_fill_the_length(
    plan: Callable[..., Answer], words: list[str], override: str, pattern: str
) -> None:
    refused(plan(f"--config.{override.format(' '.join(words[:LONG]))}"), pattern)


def test_what_a_model_cannot_be_asked_is_named(
    mtret: Mtret, tmp_path: Path, finished: Path, own_suite: Path, words: list[str]
) -> None:
    instruct(own_suite, "gamma", words[:LONG])
    suite, out = f"--suite={own_suite}", f"--out={tmp_path / 'out'}"
    reason = (
        r"its prompt takes 66 of the 64 tokens that are read: no text is left; shorten its instruction in task\.json"
    )
    refused(mtret("search", finished, "gamma", "words", suite), rf"'gamma' cannot be searched: {reason}\n")
    encode = ("encode", f"--model={finished}", suite, "--task=gamma", f"--out={tmp_path / 'v.jsonl'}")
    refused(mtret(*encode, "--side=queries"), rf"'gamma' cannot be encoded: {reason}\n")
    assert mtret(*encode)[0] == 0  # documents have no instruction
    evaluate = ("evaluate", f"--model={finished}", suite, out, "--noscann", "--nopooled")
    refused(mtret(*evaluate, "--tasks=gamma"), rf"--tasks: 'gamma' cannot be evaluated: {reason}\n")
    said(mtret(*evaluate), rf"\ngamma: not evaluated: {reason}\.\n")
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert set(results["skipped"]) == {"gamma"} and set(results["tasks"]) == {"alpha", "beta", "delta"}
    instruct(own_suite, "gamma", words[:20])
    assert mtret("search", finished, "gamma", "words", suite)[0] == 0
    shutil.rmtree(tmp_path / "out")


def test_texts_behind_a_prompt_that_fills_the_length(
    mtret: Mtret, tmp_path: Path, own_model: Path, words: list[str]
) -> None:
    about = {"prompts": {"query": " ".join(words[:70]) + " ", "document": ""}}
    (own_model / "config_sentence_transformers.json").write_text(json.dumps(about), encoding="utf-8")
    texts = tmp_path / "texts.txt"
    texts.write_text("banan\n", encoding="utf-8")
    encode = ("encode", f"--model={own_model}", f"--texts={texts}", f"--out={tmp_path / 'v.jsonl'}")
    refused(
        mtret(*encode, "--side=queries"), r"cannot be encoded as queries: its prompt takes 72 of the 64 tokens .*--prom"
    )
    assert mtret(*encode)[0] == 0
