"""The tables of this study, from the runs that run.sh leaves: results.json beside this file, Markdown on the console.

python experiments/003_adapting/tables.py RUNS
"""

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TRAINED = ("plain", "other_seed", "matryoshka", "lora", "no_words")
JUDGED = ("plain", "half", "soup", "lora")
PRIMARY = "ndcg@10"


def lines(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def training(workdir: Path) -> dict[str, Any]:
    """Dev scores by step, whole and cut, and what the run cost."""
    summary = json.loads((workdir / "summary.json").read_text(encoding="utf-8"))
    dev = {line["step"]: line["dev"] for line in lines(workdir) if "dev" in line}
    return {
        "dev": {step: {k: v for k, v in scores.items() if k.startswith("mean")} for step, scores in dev.items()},
        "parameters": summary["parameters"],
        "optimizer_bytes": summary["optimizer_bytes"],
        "peak_memory_bytes": summary["peak_memory_bytes"],
        "seconds_a_step": summary["seconds"] / summary["steps"],
    }


def judged(folder: Path) -> dict[str, Any]:
    """Mean nDCG@10 by role, of the model and of the encoder that it came from, with intervals."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {
        role: {system: one["systems"][system][PRIMARY] for system in ("untuned", "hybrid", "tuned")}
        for role, one in results["roles"].items()
    }


def table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])


def main() -> None:
    runs = Path(sys.argv[1])
    found = {
        "trained": {name: training(runs / name) for name in TRAINED},
        "judged": {name: judged(runs / "judged" / name) for name in JUDGED},
    }
    (HERE / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    cut = []
    for name, one in found["trained"].items():
        for step in (min(one["dev"]), max(one["dev"])):
            scores = one["dev"][step]
            cut.append([name, str(step), *(f"{scores[k]:.4f}" for k in ("mean", "mean@256", "mean@128", "mean@64"))])
    print(table(["run", "step", "384", "256", "128", "64"], cut), end="\n\n")
    cost = [
        [
            name,
            f"{one['parameters']['trained']:,}",
            f"{one['optimizer_bytes'] / 2**20:,.1f}",
            f"{one['peak_memory_bytes'] / 2**30:.2f}",
            f"{one['seconds_a_step']:.2f}",
        ]
        for name, one in found["trained"].items()
    ]
    print(table(["run", "trained parameters", "optimizer, MiB", "peak, GiB", "s a step"], cost), end="\n\n")
    roles = list(found["judged"]["plain"])
    means = [["untuned", *(f"{found['judged']['plain'][role]['untuned']['mean']:.3f}" for role in roles)]]
    for name, one in found["judged"].items():
        cells = (one[role]["tuned"] for role in roles)
        means.append([name, *(f"{c['mean']:.3f} [{c['ci95'][0]:.3f}, {c['ci95'][1]:.3f}]" for c in cells)])
    print(table(["model", *roles], means))


if __name__ == "__main__":
    main()
