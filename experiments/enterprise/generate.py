"""Makes the embedded suite: an enterprise with eight families of retrieval tasks, in IT and in other departments.

    python experiments/enterprise/generate.py --out=FOLDER --seed=1  # an enterprise of another seed, as task folders
    python experiments/enterprise/generate.py --ship                 # what mtret carries

How it is made, its conventions and its limits: docs/enterprise.md.
"""

import argparse
import gzip
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from collection import Collection
from customer import CUSTOMER
from data_model import build_fields, build_tables
from facilities import FACILITIES
from finance import FINANCE
from hr import HR
from it import IT
from legal import LEGAL
from lexicon import Department
from operations import build_endpoints, build_steps
from processes import build_reports, build_workflows
from service_desk import build_articles, build_catalogue
from voice import Speaker, generator

from mtret.data.task_files import TaskParts, dump_card, write_task
from mtret.data.tasks import TaskCard, query_key

BUSINESS = (HR, FINANCE, FACILITIES, CUSTOMER, LEGAL)
DIVISIONS: Mapping[str, tuple[Department, ...]] = {"it": (IT,), "business": BUSINESS}
SHIPPED = Path(__file__).parents[2] / "mtret" / "data" / "enterprise.json.gz"

_HELD_OUT_SHARE = 0.3  # of the documents: positives in dev and test, never in train
_MOST_TRIES = 100  # per request


@dataclass(frozen=True)
class _Family:
    """What a family's tasks share. `build` takes departments, a seed and, by division, how much each thing offers."""

    instruction: str
    cutoffs: tuple[int, ...]
    build: Callable[..., Collection]
    offered: Mapping[str, tuple[int, ...]]
    train: int  # queries of the IT task; 0 for a family that is only ever evaluated


FAMILIES: Mapping[str, _Family] = {
    "step": _Family(
        "Given what an automation should do, retrieve the flow steps that it is built from.",
        (1, 5, 10, 15), build_steps, {"it": (13,), "business": (9,)}, 380,
    ),
    "table": _Family(
        "Given a question about company data, retrieve the database tables that hold the answer.",
        (1, 5, 10), build_tables, {"it": (9, 8), "business": (8, 6)}, 440,
    ),
    "field": _Family(
        "Given a piece of information somebody needs, retrieve the table columns that store it.",
        (1, 5, 10), build_fields, {"it": (9, 8), "business": (8, 6)}, 420,
    ),
    "catalog": _Family(
        "Given a wish or complaint of an employee, retrieve the catalogue item to order.",
        (1, 5, 10), build_catalogue, {"it": (7,), "business": (5,)}, 480,
    ),
    "article": _Family(
        "Given a question or trouble of an employee, retrieve the knowledge article that resolves it.",
        (1, 5, 10), build_articles, {"it": (7,), "business": (5,)}, 480,
    ),
    "api": _Family(
        "Given what a developer wants to do, retrieve the REST operation that does it.",
        (1, 5, 10), build_endpoints, {"it": (13,), "business": (8,)}, 460,
    ),
    "workflow": _Family(
        "Given what a team wants to happen by itself, retrieve the ready-made workflow.",
        (1, 5, 10), build_workflows, {"it": (9,), "business": (6,)}, 0,
    ),
    "report": _Family(
        "Given a question about how work is going, retrieve the reports that answer it.",
        (1, 5, 10), build_reports, {"it": (8,), "business": (6,)}, 0,
    ),
}  # fmt: skip

_EVALUATED = {"dev": 70, "test": 140}


def build_parts(seed: int = 0) -> dict[str, TaskParts]:
    """The sixteen tasks by name, as files hold them. No query occurs twice in the whole suite."""
    asked: set[str] = set()
    return {f"{division}_{name}": _parts(name, division, seed, asked) for name in FAMILIES for division in DIVISIONS}


def _parts(name: str, division: str, seed: int, asked: set[str]) -> TaskParts:
    family = FAMILIES[name]
    collection = family.build(DIVISIONS[division], seed, *family.offered[division])
    trained = division == "it" and family.train > 0
    ids = {document.about: document.id for document in collection.documents if document.about is not None}
    held_out = _held_out(sorted(ids), generator(seed, division, name, "held out"))
    queries: dict[str, str] = {}
    qrels: dict[str, list[tuple[str, str, float]]] = {}
    sizes = ({"train": family.train} if trained else {}) | _EVALUATED
    for split, size in sizes.items():
        allowed = frozenset(ids) - held_out if split == "train" else frozenset(ids)
        speaker = Speaker(generator(seed, division, name, split), training=split == "train")
        qrels[split] = []
        for text, wants in _requests(collection, speaker, allowed, size, asked):
            query = f"{split}-{len(queries):04d}"
            queries[query] = text
            qrels[split] += [(query, ids[about], 1.0) for about in sorted(wants)]
    documents = [{"_id": one.id, "title": one.title, "text": one.text} for one in collection.documents]
    return TaskParts(_card(name, division), documents, queries, qrels)


def _held_out(meanings: Sequence[str], rng: np.random.Generator) -> frozenset[str]:
    return frozenset(
        one for one, share in zip(meanings, rng.random(len(meanings)), strict=True) if share < _HELD_OUT_SHARE
    )


def _requests(
    collection: Collection, speaker: Speaker, allowed: frozenset[str], size: int, asked: set[str]
) -> list[tuple[str, frozenset[str]]]:
    """So many requests for allowed meanings only, none of which was asked before."""
    found = []
    for _ in range(size * _MOST_TRIES):
        request = collection.ask(speaker, allowed)
        if request is None or not request.wants <= allowed or query_key(request.text) in asked:
            continue
        asked.add(query_key(request.text))
        found.append((request.text, request.wants))
        if len(found) == size:
            return found
    raise AssertionError(f"found {len(found)} of {size} different requests: the word lists are too small")


def _card(name: str, division: str) -> TaskCard:
    family = FAMILIES[name]
    return TaskCard(
        name=f"{division}_{name}",
        family=name,
        domain=", ".join(department.name for department in DIVISIONS[division]),
        languages=("en",),
        instruction=family.instruction,
        license="Apache-2.0",
        source="generated",
        cutoffs=family.cutoffs,
        notes="Synthetic, for quickstarts and tests; says nothing about real data.",
    )


def content(suite: Mapping[str, TaskParts]) -> bytes:
    """The JSON that `mtret.data.enterprise` reads."""
    tasks = {
        name: {
            "card": json.loads(dump_card(parts.card)),
            "documents": parts.documents,
            "queries": parts.queries,
            "qrels": parts.qrels,
        }
        for name, parts in suite.items()
    }
    return json.dumps(tasks, ensure_ascii=False).encode()


def ship() -> None:
    """Writes the package's file, of seed 0, and prints the hash to pin."""
    made = content(build_parts())
    SHIPPED.write_bytes(gzip.compress(made, 9, mtime=0))
    print(f'wrote {SHIPPED}; in mtret/data/enterprise.py: SHA256 = "{hashlib.sha256(made).hexdigest()}"')


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="the folder to write the tasks to")
    what.add_argument("--ship", action="store_true", help="write the file that mtret carries")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(words)
    if arguments.ship and arguments.seed:
        parser.error("what mtret carries is seed 0")
    if arguments.ship:
        ship()
        return
    for name, parts in build_parts(arguments.seed).items():
        write_task(parts, arguments.out / name)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
