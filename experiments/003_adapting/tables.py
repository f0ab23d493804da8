"""The tables of this study, from the runs that run.sh leaves: results.json beside this file, Markdown on the console.

python experiments/003_adapting/tables.py RUNS
"""

import json
import sys
from pathlib import Path
from typing import Any

from mtret.names import results_now

HERE = Path(__file__).parent
TRAINED = {
    "plain": "plain/seed0",
    "other_seed": "plain/seed1",
    "matryoshka": "matryoshka/seed0",
    "matryoshka, other_seed": "matryoshka/seed1",
}
EVALUATED = {"plain": "plain/seed0", "half": "half", "soup": "soup"}
PRIMARY = "ndcg@10"


def dev_scores(workdir: Path) -> dict[str, Any]:
    """Means by step, whole and cut."""
    found = (json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    dev = {line["step"]: line["dev"] for line in found if "dev" in line}
    return {str(step): {k: v for k, v in scores.items() if k.startswith("mean")} for step, scores in dev.items()}


def evaluated(folder: Path) -> dict[str, Any]:
    """Mean nDCG@10 by role, with intervals, and what it depends on."""
    results = results_now(json.loads((folder / "results.json").read_text(encoding="utf-8")))
    roles = {
        role: {
            "tasks": len(one["tasks"]),
            "queries": one["n_queries"],
            **{system: one["systems"][system][PRIMARY] for system in ("base", "hybrid", "finetuned")},
        }
        for role, one in results["roles"].items()
    }
    tasks = {name: one["systems"]["finetuned"][PRIMARY]["mean"] for name, one in results["tasks"].items()}
    return {"protocol": results["protocol"], "roles": roles, "tasks": tasks}


def table(header: list[str], rows: list[list[str]]) -> str:
    numeric = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, numeric, *rows])


def main() -> None:
    runs = Path(sys.argv[1])
    found = {
        "trained": {name: dev_scores(runs / place) for name, place in TRAINED.items()},
        # What is not evaluated yet is not shown.
        "judged": {
            name: evaluated(runs / place / "test")
            for name, place in EVALUATED.items()
            if (runs / place / "test" / "results.json").exists()
        },
    }
    (HERE / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    cut = []
    for name, dev in found["trained"].items():
        for step in (min(dev, key=int), max(dev, key=int)):
            scores = (f"{dev[step][key]:.4f}" for key in ("mean", "mean@256", "mean@128", "mean@64"))
            cut.append([name, step, *scores])
    print(table(["run", "step", "384", "256", "128", "64"], cut), end="\n\n")
    if "plain" not in found["judged"]:
        return
    roles = found["judged"]["plain"]["roles"]
    header = ["model", *(f"{role} ({one['tasks']} tasks)" for role, one in roles.items())]
    means = [["base", *(interval(one["base"]) for one in roles.values())]]
    means += [
        [name, *(interval(one["roles"][role]["finetuned"]) for role in roles)] for name, one in found["judged"].items()
    ]
    print(table(header, means))


def interval(score: dict[str, Any]) -> str:
    low, high = score["ci95"]
    return f"{score['mean']:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
