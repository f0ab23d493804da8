"""The published MiniLM here and in sentence-transformers. The same on 1,000 real texts: experiments/parity."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from mtret.data.tasks import Judgements, Task, TaskCard
from mtret.data.templates import Templates
from mtret.data.tokenize import Tokenizer
from mtret.losses import LossConfig
from mtret.models import hf
from mtret.train.optim import OptimConfig

pytestmark = [pytest.mark.parity, pytest.mark.slow]

STEPS, PAIRS = 10, 8
ODD = [
    "",
    " ",
    "\n",
    ".",
    "a",
    "  spaces\tand\n\nlines \r\n",
    "Wo finde ich die Rechnung für das Gerät? ÄÖÜ ß",
    "où est la clé d'accès ? e\u0301 = é",
    "パスワードを再設定する方法",
    "如何重置密码",
    "كيف أغير كلمة المرور؟",
    "пароль для входа",
    "👩‍💻🔑 reset \u200b please \x00 \ufffd",
    "SELECT name FROM sys_user WHERE active = true -- ?",
    "customer_account_id",
    "[CLS] [SEP] [PAD] [MASK] [UNK]",
    "x" * 120,
    "Instruct: Given a question, retrieve the article that answers it.\nQuery: How do I reset my password?",
]
SUBJECTS = ("printer", "invoice", "laptop", "badge", "mailbox", "licence", "meeting room", "contract", "server")
VERBS = ("order", "cancel", "repair", "move", "renew", "lock", "share", "archive", "approve", "find", "return", "name")


def sentences(subject: str, verb: str) -> tuple[str, str]:
    """A question, and what answers it."""
    where = 100 * SUBJECTS.index(subject) + VERBS.index(verb)
    answer = f"{subject.capitalize()}: {verb}. Open form {where}, choose {verb} and name the {subject}."
    return f"How can I {verb} the {subject} of a colleague?", answer + " Then wait for an answer." * (where % 4)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few texts would be few tokens among much padding in the index's batches."""
    monkeypatch.setattr("mtret.index.encode.BATCH_TOKENS", 512)


@pytest.fixture(scope="module")
def encoder() -> hf.Pretrained:
    return hf.load("minilm")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Odd ones, ordinary ones, and some around and above the limit of 256 tokens; an even number."""
    ordinary = [text for subject in SUBJECTS for text in sentences(subject, "order")]
    numbers = np.random.default_rng(1).integers(0, 10_000, 700).astype(str)
    long = [" ".join(numbers[:n]) for n in (60, 100, 700)] + ["word " * n for n in (253, 254, 255, 1000)] + ["é " * 300]
    return [*ODD, *ordinary, *long]


@pytest.fixture(scope="module")
def task() -> Task:
    """108 training pairs, eight of which the curve may not use: four queries have the same answer as another."""
    pairs = [sentences(subject, verb) for subject in SUBJECTS for verb in VERBS]
    rows = np.arange(len(pairs), dtype=np.int32)
    documents = np.where(rows < 4, rows + 4, rows).astype(np.int32)
    card = TaskCard(
        name="desk",
        family="article",
        domain="written for this test",
        languages=("en",),
        instruction="Given a question of an employee, retrieve the article that answers it.",
        license="CC0-1.0",
        source="this file",
    )
    ids = tuple(str(row) for row in rows)
    queries, answers = zip(*pairs, strict=True)
    train = Judgements.from_pairs(rows, documents, np.ones(len(rows)))
    return Task(card, ids, queries, ids, answers, {"train": train})


@pytest.fixture(scope="module")
def reference(study: ModuleType, encoder: hf.Pretrained, texts: list[str]) -> np.ndarray:
    return study.reference(encoder.folder, texts, encoder.max_length)


@pytest.mark.parametrize("way", ["alone", "padded", "packed", "planned"])
def test_embeddings(
    study: ModuleType, encoder: hf.Pretrained, texts: list[str], reference: np.ndarray, way: str
) -> None:
    tokens = Tokenizer(encoder.folder)(texts)
    assert np.diff(tokens.offsets).min() == 2 and np.diff(tokens.offsets).max() > 2 * encoder.max_length
    ours = study.planned(encoder, tokens, 2) if way == "planned" else getattr(study, way)(encoder, tokens)
    found = study.agreement(ours, reference)
    assert found["min_cosine"] >= study.MIN_COSINE
    assert found["max_difference"] < 1e-5


def test_pairs_that_share_a_text_are_left_out_of_the_curve(
    study: ModuleType, encoder: hf.Pretrained, task: Task
) -> None:
    curve = study.make_curve(task, encoder, PAIRS, STEPS, seed=0)
    assert len(curve.queries) == len(task.query_texts) - 8
    pairs = dict(zip(curve.queries, curve.documents, strict=True))
    prefix = Templates().query_prefix(task.card.instruction)
    expected = {prefix + q: d for q, d in zip(task.query_texts[8:], task.document_texts[8:], strict=True)}
    assert pairs == expected


@pytest.fixture(scope="module", params=[False, True], ids=["queries to documents", "symmetric"])
def trained(request: pytest.FixtureRequest, study: ModuleType, encoder: hf.Pretrained, task: Task) -> dict[str, Any]:
    # So strong a decay and so low a norm that a wrong mask or a missing clip shows: 5e-4 and 9e-3 in the loss.
    optim = OptimConfig(warmup_steps=5, clip_norm=2.0, weight_decay=10.0)
    loss = LossConfig(temperature=0.07, symmetric=request.param)
    curve = study.make_curve(task, encoder, PAIRS, STEPS, seed=0)
    ours, params = study.our_losses(curve, encoder, loss, optim)
    return {"curve": curve, "params": params, "ours": ours, "theirs": study.their_losses(curve, encoder, loss, optim)}


def test_the_loss_is_the_same_at_every_step(study: ModuleType, trained: dict[str, Any]) -> None:
    ours, theirs = trained["ours"], trained["theirs"]
    assert ours.shape == theirs.shape == (STEPS,)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=study.MAX_LOSS_DIFFERENCE / 20)
    assert np.abs(ours - ours[0]).max() > 100 * study.MAX_LOSS_DIFFERENCE  # a curve that stands still shows nothing


def test_the_exported_folder_embeds_the_same_there(
    study: ModuleType,
    encoder: hf.Pretrained,
    texts: list[str],
    trained: dict[str, Any],
    tmp_path: Path,
    reference: np.ndarray,
) -> None:
    study.export(tmp_path / "model", trained["curve"], encoder, trained["params"])
    for name, found in study.exported_agreement(tmp_path / "model", trained["curve"].task, texts).items():
        assert found["min_cosine"] >= study.MIN_COSINE, name
    moved = study.reference(tmp_path / "model", texts, encoder.max_length)
    assert study.agreement(moved, reference)["min_cosine"] < 0.99  # it is the trained model that was compared


def test_published_weights_survive_a_round_trip(encoder: hf.Pretrained, tmp_path: Path) -> None:
    hf.write(tmp_path / "model", encoder, encoder.params, {})
    before, after = (load_file(folder / "model.safetensors") for folder in (encoder.folder, tmp_path / "model"))
    assert before.keys() == after.keys()
    assert {"pooler.dense.weight", "embeddings.position_ids"} < before.keys()  # that we have no use for
    for name, value in before.items():
        assert value.dtype == after[name].dtype, name
        assert value.shape == after[name].shape, name
        assert value.tobytes() == after[name].tobytes(), name
