"""Long documents from import to search: cut, trained on, evaluated by their parents, and shown by their best chunk."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mtret.data.formats import read_task
from mtret.data.tokenize import Tokenizer
from mtret.index.encode import Texts
from mtret.model_folder.folder import load_model
from mtret.model_folder.towers import embedder

pytestmark = pytest.mark.slow

Mtret = Callable[..., tuple[int, str, str]]


@pytest.fixture
def suite(mtret: Mtret, tmp_path: Path, words: list[str]) -> Path:
    """Two tasks by import, one of them of documents of 10 to 120 words; a query is some words of one place in one."""
    random = np.random.default_rng(3)
    for name, longest in (("long", 120), ("short", 12)):
        lines = ["q,text,doc"]
        for document in range(40):
            text = random.choice(words, random.integers(10, longest)).tolist()
            for _ in range(3):
                start = random.integers(0, len(text) - 5)
                query = " ".join([*random.permutation(text[start : start + 5]), str(random.choice(words))])
                lines.append(f"{query},{' '.join(text)},d{document}")
        (tmp_path / f"{name}.csv").write_text("\n".join([*lines, ""]))
        code, said, _ = mtret(
            "data", "import", tmp_path / f"{name}.csv", "--query=q", "--text=text", "--doc_id=doc", "--family=article",
            "--instruction=Find it.", "--split=60/20/20", "--chunk=64", f"--out={tmp_path / 'suite' / name}",
        )  # fmt: skip
        assert code == 0 and ("(0.0%), cut into 0 chunks" in said) == (name == "short")
    return tmp_path / "suite"


def test_from_import_to_search(mtret: Mtret, tmp_path: Path, suite: Path, tiny_config: Path, words: list[str]) -> None:
    task = read_task(suite / "long")
    assert task.parents is not None and len(task.parent_rows) == 40 < len(task.document_ids)
    assert read_task(suite / "short").parents is None
    run = tmp_path / "run"
    code, said, error = mtret("train", f"--config={tiny_config}", f"--suite={suite}", f"--workdir={run}")
    assert code == 0, said + error
    code, said, error = mtret("evaluate", f"--model={run}", "--split=test", f"--out={tmp_path / 'out'}")
    assert code == 0, said + error
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    own = results["tasks"]["long"]
    assert own["n_documents"] == 40 and results["pooled"]["n_documents"] == 80
    assert own["role"] == "in_domain" and 0 < own["seen_document_share"] <= 1
    assert set(own["systems"]) == {"bm25", "base", "hybrid_ranks", "hybrid", "finetuned", "finetuned_hybrid"}
    assert own["scann"]["recall"] == 1.0
    assert results["pooled"]["tasks"]["long"]["n_queries"] == own["n_queries"]

    query = " ".join(words[3:7])
    code, said, _ = mtret("search", run, "long", query, "--json", "--top=40")
    hits = json.loads(said)["hits"]
    wanted = nearest(run, suite, query)
    assert [hit["parent"] or hit["id"] for hit in hits] == [parent for parent, _, _ in wanted]
    assert [hit["id"] for hit in hits] == [chunk for _, chunk, _ in wanted]
    np.testing.assert_allclose([hit["score"] for hit in hits], [score for _, _, score in wanted], atol=1e-5)
    assert all(hit["text"] == task.document_texts[task.document_ids.index(hit["id"])] for hit in hits)
    code, said, _ = mtret("search", run, "long", query, "--pooled", "--top=80")
    first = next(hit for hit in hits if hit["parent"])
    assert f"long/{first['id']} of {first['parent']}  " in said and len(said.splitlines()) == 81


def nearest(run: Path, suite: Path, query: str) -> list[tuple[str, str, float]]:
    """By the definition: parent, its best chunk and that one's cosine, best first."""
    model, task = load_model(str(run)), read_task(suite / "long")
    tokenizer = Tokenizer(model.encoder.folder)
    asked = tokenizer([model.templates.query_prefix(task.card.instruction) + query])
    texts = [Texts(each, model.encoder.max_length) for each in (asked, tokenizer(task.document_texts))]
    vector, documents = embedder(model.encoder)(texts)
    best: dict[str, tuple[str, str, float]] = {}
    for own, parent, score in zip(task.document_ids, task.named_ids, (documents @ vector[0]).tolist(), strict=True):
        if parent not in best or score > best[parent][2]:
            best[parent] = (parent, own, score)
    return sorted(best.values(), key=lambda each: -each[2])
