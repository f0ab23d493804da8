"""How to fuse an encoder with BM25: which normalisation and weight serve tasks of a kind that chose neither?

    python experiments/009_what_wins/fusion.py --suite=FOLDER --models=minilm,ENCODER [--split=dev] [--queries=200]
        [--distractors=1000] --out=FILE

For every model and every task of texts with the split: the first hundred of exact search and of BM25, in one list with
both scores of each (`index.fusion.union`); nDCG@10 of every query by each normalisation and weight, by reciprocal
ranks, and as stores compute it (each side min-max over its own hundred, 0 for what it did not return). Then, one family
after the other: normalisation and weight are chosen on all other families (mean over tasks), and judged on this one.
`--distractors`: of each task's documents only the gold ones of the chosen queries and so many others, at random.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from mtret.data.suites import load_suite
from mtret.data.tasks import Task
from mtret.evaluation.metrics import hits, ndcg
from mtret.evaluation.samples import drawing, drawn_queries, pooled_sample
from mtret.index.bm25 import BM25Index
from mtret.index.exact import NOTHING, Run, rules_of, scores_at, search
from mtret.index.fusion import DEPTH, Scored, convex, fuse, union
from mtret.model_folder.folder import load_model
from mtret.models.dual_encoder import ModelConfig
from mtret.runs import session
from mtret.runs.embedding import embed_tasks, unreadable

WEIGHTS = tuple(round(0.05 * n, 2) for n in range(21))
NORMALISATIONS = ("minmax", "minimum", "zscore")
SEED = 0


def as_stores_do(scored: Scored, lexical: Run, dense: Run) -> Scored:
    """What a side did not return has the least that it did return there: 0 after min-max."""

    def own(run: Run, scores: np.ndarray) -> np.ndarray:
        returned = (scored.documents[:, :, None] == run.documents[:, None, :DEPTH]).any(axis=-1)
        least = np.where(returned, scores, np.inf).min(axis=1, keepdims=True)
        least = np.where(np.isfinite(least), least, 0)
        return np.where(returned, scores - least, 0).astype(np.float32)

    return Scored(scored.documents, own(lexical, scored.lexical), own(dense, scored.dense))


def evaluated(task: Task, split: str, rows: np.ndarray, sides: Sequence[np.ndarray]) -> dict[str, list[float]]:
    """nDCG@10 of each query, by way of fusing."""
    rules, asked = rules_of(task, rows), [task.query_texts[row] for row in rows]
    index = BM25Index(task.document_texts)
    lexical, dense = index.search(asked, DEPTH, rules), search(sides[0], sides[1], DEPTH, rules)
    both = union(
        lexical,
        dense,
        lambda wanted: index.scores_at(asked, wanted, task.parents),
        lambda wanted: scores_at(sides[0], sides[1], wanted, task.parents),
    )
    judged = task.splits[split]

    def scores(run: Run) -> list[float]:
        return [round(float(each), 5) for each in ndcg(hits(run, judged, rows), 10)]

    found = {"ranks": scores(fuse([lexical, dense], 10, order=rules.order)), "bm25": scores(lexical)}
    stores = as_stores_do(both, lexical, dense)
    for weight in WEIGHTS:
        for kind in NORMALISATIONS:
            found[f"{kind} {weight}"] = scores(convex(both, weight, 10, order=rules.order, normalisation=kind))
        found[f"stores {weight}"] = scores(convex(stores, weight, 10, order=rules.order, normalisation="minmax"))
    assert (both.documents != NOTHING).any()
    return found


def left_out(means: Mapping[str, Mapping[str, float]], families: Mapping[str, str]) -> dict[str, Any]:
    """By kind: what a weight that the other families chose scores on each family, as a mean over tasks; and beside it
    the weight that all choose together. `means`: by task, then way."""
    found: dict[str, Any] = {}
    for kind in (*NORMALISATIONS, "stores"):
        ways = [f"{kind} {weight}" for weight in WEIGHTS]
        by_task, chosen = {}, {}
        for family in sorted(set(families.values())):
            others = [task for task in means if families[task] != family]
            best = max(ways, key=lambda way: np.mean([means[task][way] for task in others]))
            chosen[family] = float(best.split()[1])
            by_task |= {task: means[task][best] for task in means if families[task] == family}
        every = max(ways, key=lambda way: np.mean([each[way] for each in means.values()]))
        found[kind] = {
            "left out": float(np.mean([*by_task.values()])),
            "weights": chosen,
            "weight of all": float(every.split()[1]),
            "best of all": float(np.mean([each[every] for each in means.values()])),
            "tasks": by_task,
        }
    dense = f"minmax {WEIGHTS[-1]}"
    found |= {way: float(np.mean([each[way] for each in means.values()])) for way in ("ranks", "bm25", dense)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", required=True)
    parser.add_argument("--models", default="minilm")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--tasks", default="")
    parser.add_argument("--distractors", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    console, suite = Console(), load_suite(arguments.suite)
    cache = session.begin(console).cache
    wanted = set(arguments.tasks.split(",")) - {""}
    result: dict[str, Any] = {"split": arguments.split, "queries": arguments.queries, "models": {}}
    for name in arguments.models.split(","):
        model = load_model(name, ModelConfig(name))
        tasks = [
            task
            for task in suite.tasks.values()
            if arguments.split in task.splits and task.images is None and (not wanted or task.name in wanted)
        ]
        bad = unreadable(model, tasks)
        tasks = [task for task in tasks if task.name not in bad]
        rows = [drawn_queries(task, arguments.split, arguments.queries, drawing(task, SEED)) for task in tasks]
        if arguments.distractors:
            sampled = [
                pooled_sample(task, arguments.split, chosen, [], arguments.distractors, drawing(task, SEED + 1))
                for task, chosen in zip(tasks, rows, strict=True)
            ]
            tasks = [each.as_task() for each in sampled]
            rows = [task.splits[arguments.split].queries for task in tasks]
        asked = [(task, [task.query_texts[row] for row in chosen]) for task, chosen in zip(tasks, rows, strict=True)]
        vectors = embed_tasks(name, model, asked, cache, console)
        found = {}
        for task, chosen, sides in zip(tasks, rows, vectors, strict=True):
            found[task.name] = evaluated(task, arguments.split, chosen, [*map(model.encoder.comparable, sides)])
            console.print(f"{task.name} done")
        means = {task: {way: float(np.mean(each)) for way, each in ways.items()} for task, ways in found.items()}
        families = {task.name: task.card.family for task in tasks}
        label = Path(name).name
        result["models"][label] = {"left out": left_out(means, families), "means": means, "families": families}
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        summary = {k: v if isinstance(v, float) else {a: v[a] for a in ("left out", "weight of all", "best of all")}
                   for k, v in result["models"][label]["left out"].items()}  # fmt: skip
        console.print(label, summary)


if __name__ == "__main__":
    main()
