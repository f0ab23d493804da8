"""Two tasks that tell what a mixture loses, made of public files: neither is ever trained on.

    python experiments/009_what_wins/guards.py --wikiqa=WikiQA-test.tsv --arabic=arcd.json --turkish=train-v0.1.json
        --persian=pqa_test.json --thai=test.jsonl --out=FOLDER

`guard_answers`: questions and the sentences that answer them (WikiQA, test), the kind that small encoders are trained
on before they get here. `guard_languages`: questions and the paragraphs that answer them, in Arabic (ARCD, of
husseinmozannar/SOQAL), Turkish (TQuAD/turkish-nlp-qa-dataset), Persian (sajjjadayobi/PersianQA) and Thai
(iapp-technology/iapp-wiki-qa-dataset), in one index. Each has a dev split of at most 400 queries.
"""

import argparse
import csv
import json
import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

QUERIES = 400
LONGEST = 2000  # characters
Pair = tuple[str, str]  # question, text that answers it


def squad(path: Path) -> Iterator[Pair]:
    """Questions that can be answered, with their paragraphs; and paragraphs without one, with an empty question."""
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            asked = [each["question"] for each in paragraph["qas"] if not each.get("is_impossible")]
            yield from ((question, paragraph["context"]) for question in asked or [""])


def lines(path: Path) -> Iterator[Pair]:
    """One question and its article a line."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            yield row["question"], row["context"]


def wikiqa(path: Path) -> Iterator[Pair]:
    """Every sentence; with an empty question where it answers none."""
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            yield row["Question"] if row["Label"] == "1" else "", row["Sentence"]


def clean(text: str) -> str:
    return " ".join(text.split())[:LONGEST]


def write(folder: Path, card: dict[str, Any], languages: Mapping[str, Iterable[Pair]], draw: random.Random) -> None:
    documents: dict[str, str] = {}
    asked: dict[str, set[str]] = {}
    for name, pairs in languages.items():
        own: dict[str, set[str]] = {}
        for question, text in ((clean(question), clean(text)) for question, text in pairs):
            key = documents.setdefault(text, f"{name}-{len(documents)}")
            if question:
                own.setdefault(question, set()).add(key)
        chosen = sorted(own)
        draw.shuffle(chosen)
        asked |= {question: own[question] for question in chosen[: QUERIES // len(languages)]}
        print(f"{card['name']}, {name}: {len(own):,} questions, {len(documents):,} documents so far")
    (folder / "qrels").mkdir(parents=True)
    (folder / "task.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    ids = {question: f"q{number}" for number, question in enumerate(asked)}
    for file, rows in (
        ("corpus.jsonl", [{"_id": key, "title": "", "text": text} for text, key in documents.items()]),
        ("queries.jsonl", [{"_id": key, "text": question} for question, key in ids.items()]),
    ):
        with (folder / file).open("w", encoding="utf-8") as output:
            output.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    judged = [f"{ids[question]}\t{key}\t1" for question, keys in asked.items() for key in sorted(keys)]
    text = "\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n"
    (folder / "qrels" / "dev.tsv").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("wikiqa", "arabic", "turkish", "persian", "thai", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    answers = {
        "name": "guard_answers",
        "family": "guard_answers",
        "domain": "encyclopedia sentences",
        "languages": ["en"],
        "modality": "text",
        "instruction": "Given a question, retrieve the sentence that answers it.",
        "license": "Microsoft Research Data License (WikiQA)",
        "source": "WikiQA, test",
    }
    languages = {
        "name": "guard_languages",
        "family": "guard_languages",
        "domain": "encyclopedia paragraphs",
        "languages": ["ar", "tr", "fa", "th"],
        "modality": "text",
        "instruction": "Given a question, retrieve the paragraph that answers it.",
        "license": "as each of its four sources has it",
        "source": "ARCD, TQuAD, PersianQA, iapp-wiki-qa",
    }
    parts = {"ar": squad(given.arabic), "tr": squad(given.turkish), "fa": squad(given.persian), "th": lines(given.thai)}
    draw = random.Random(0)
    write(given.out / answers["name"], answers, {"en": wikiqa(given.wikiqa)}, draw)
    write(given.out / languages["name"], languages, parts, draw)


if __name__ == "__main__":
    main()
