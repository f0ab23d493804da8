"""The three forms of an encoder with prompts, scored through sentence-transformers alone: the same figures as
`mtret evaluate --forms`, from code that shares nothing with it.

    .venv-parity/bin/python experiments/parity/prompts.py --model=FOLDER --suite=FOLDER --results=RUN/results.json

Prints a line a task and form: nDCG@10 on the test split here and in results.json, and their difference. Exit code 1
where one is above 1e-3.
"""

# pyright: reportMissingImports=false

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

BAR = 1e-3


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def rendered(document: dict) -> str:
    """Title and text; the title left out where the text begins with it."""
    title, text = document.get("title", "").strip(), document["text"].strip()
    return text if text.startswith(title) else f"{title} {text}".strip()


def ndcg_at_10(gains: np.ndarray, best: Iterable[float]) -> float:
    """Of one query: gains of the first ten results, over the best that ten could have."""
    discounts = 1 / np.log2(np.arange(2, 12))
    ideal = np.array(sorted(best, reverse=True)[:10])
    return float((gains * discounts[: len(gains)]).sum() / (ideal * discounts[: len(ideal)]).sum())


def score(model, task: Path, split: str, prompts: tuple[str, str]) -> float:
    """Mean nDCG@10 of exact search, cosine."""
    documents, queries = records(task / "corpus.jsonl"), records(task / "queries.jsonl")
    rows = [line.split("\t") for line in (task / "qrels" / f"{split}.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    judged: dict[str, dict[str, float]] = {}
    for query, document, relevance in rows:
        judged.setdefault(query, {})[document] = float(relevance)
    asked = [query for query in queries if str(query["_id"]) in judged]
    options = {"batch_size": 16, "normalize_embeddings": True, "show_progress_bar": False}
    of_queries = model.encode([query["text"] for query in asked], prompt=prompts[0], **options)
    of_documents = model.encode([rendered(document) for document in documents], prompt=prompts[1], **options)
    best = np.argsort(-(of_queries @ of_documents.T), axis=1, kind="stable")[:, :10]
    ids = [str(document["_id"]) for document in documents]
    found = []
    for query, places in zip(asked, best, strict=True):
        gains = judged[str(query["_id"])]
        found.append(ndcg_at_10(np.array([gains.get(ids[place], 0.0) for place in places]), gains.values()))
    return float(np.mean(found))


def main() -> int:
    import torch
    from sentence_transformers import SentenceTransformer

    parser = argparse.ArgumentParser()
    for name in ("model", "suite", "results"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    model = SentenceTransformer(str(arguments.model), device="cpu", model_kwargs={"dtype": "float32"})
    query, document = model.prompts["query"], model.prompts["document"]
    forms = {"published": (query, document), "bare": ("", ""), "query prompt on both sides": (query, query)}
    results = json.loads(arguments.results.read_text(encoding="utf-8"))
    worst = 0.0
    for name in results["tasks"]:
        for form, prompts in forms.items():
            theirs = score(model, arguments.suite / name, results["protocol"]["split"], prompts)
            ours = results["base_forms"]["forms"][form]["tasks"][name]
            worst = max(worst, abs(ours - theirs))
            print(f"{name:24} {form:28} {theirs:.4f} {ours:.4f} {ours - theirs:+.5f}", flush=True)
    print(f"largest difference: {worst:.2e}, the bar is {BAR}")
    return int(worst > BAR)


if __name__ == "__main__":
    raise SystemExit(main())
