"""Does a sample say what the whole split says? Differences between models on `mtret evaluate --sample`, and whole.

    python experiments/008_sweeps/sample.py --suite=FOLDER --models=NAME=MODEL,NAME=MODEL,... [--sample=200]
        [--tasks=NAME,...] --out=FOLDER

The first model is the baseline. Every model is evaluated whole and on the sample (what is there already is not done
again); for every other model: by task and by role, the difference to the baseline in nDCG@10, whole with its interval
and on the sample. Where the whole interval excludes zero, the sample should have the same sign. And the same with
random distractors alone, of the same number: what pooling does to scores, and to differences.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from mtret.evaluation.comparison import Comparison, Side, compare
from mtret.evaluation.query_scores import read_query_scores

KINDS = ("whole", "pooled", "random")
# The same command, with a sample whose distractors are all random.
RANDOM = (
    "import sys; from mtret.evaluation import samples; samples.POOLED_SHARE = 0.0; "
    "from mtret.cli import main; sys.exit(main())"
)


def evaluate(arguments: argparse.Namespace, name: str, model: str, kind: str) -> float | None:
    """Seconds; None where it is done already."""
    out = arguments.out / kind / name
    if (out / "results.json").exists():
        return None
    begin = ["-c", RANDOM] if kind == "random" else ["-m", "mtret.cli"]
    command = [sys.executable, *begin, "evaluate", f"--model={model}", f"--suite={arguments.suite}", f"--out={out}"]
    command += ["--split=test", "--nopooled", "--noscann", *([f"--tasks={arguments.tasks}"] if arguments.tasks else [])]
    command += [] if kind == "whole" else [f"--sample={arguments.sample}"]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def agreement(whole: Comparison, sample: Comparison) -> dict[str, Any]:
    """Of the differences of one model to the baseline."""
    tasks = {
        name: [*one.difference[:3], sample.tasks[name].difference.mean] for name, one in sorted(whole.tasks.items())
    }
    shown = {name: row for name, row in tasks.items() if row[1] > 0 or row[2] < 0}
    roles = {
        "/".join(one.roles): [one.difference.mean, other.difference.mean]
        for one, other in zip(whole.roles, sample.roles, strict=True)
    }
    return {
        "tasks: whole, its interval, sample": tasks,
        "shown": len(shown),
        "of these another sign": sorted(name for name, row in shown.items() if np.sign(row[0]) != np.sign(row[3])),
        "mean absolute error by task": float(np.mean([abs(row[0] - row[3]) for row in tasks.values()])),
        "roles: whole, sample": roles,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", required=True)
    parser.add_argument("--models", required=True)
    parser.add_argument("--sample", type=int, default=200)
    parser.add_argument("--tasks", default="")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    models = dict(each.split("=", 1) for each in arguments.models.split(","))
    place = arguments.out / "agreement.json"
    found: dict[str, Any] = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {"seconds": {}}
    for kind in KINDS:
        for name, model in models.items():
            if (seconds := evaluate(arguments, name, model, kind)) is not None:
                found["seconds"][f"{kind}, {name}"] = round(seconds, 1)
                print(kind, name, f"{seconds:.0f} s", flush=True)
    scores = {kind: {name: read_query_scores(str(arguments.out / kind / name)) for name in models} for kind in KINDS}
    first = next(iter(models))
    for kind in KINDS[1:]:
        found[kind] = {}
        for name in [*models][1:]:
            pairs = [
                compare(Side(first, [scores[each][first]]), Side(name, [scores[each][name]]))
                for each in ("whole", kind)
            ]
            found[kind][name] = agreement(*pairs)
        means = {each: _mean(scores[each][first].results) for each in ("whole", kind)}
        found[kind]["mean nDCG@10 of the baseline: whole, sample"] = [*means.values()]
    place.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for kind in KINDS[1:]:
        for name in [*models][1:]:
            one = found[kind][name]
            print(kind, name, {key: value for key, value in one.items() if not key.startswith("tasks")})


def _mean(results: Any) -> float:
    return float(np.mean([task.primary(results.systems[-1]).mean for task in results.tasks.values()]))


if __name__ == "__main__":
    main()
