"""From a run of configs/icons.py: results.json and the learning curve, beside this file.

python experiments/004_images/curve.py WORKDIR
"""

import json
import shutil
import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

HERE = Path(__file__).parent


def main() -> None:
    workdir = Path(sys.argv[1])
    shutil.copy(workdir / "test" / "results.json", HERE / "results.json")
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if "dev" not in line]
    dev = [line for line in lines if "dev" in line]
    curve = {
        "loss": {task: [[s["step"], round(s["loss"], 4)] for s in steps if s["task"] == task] for task in tasks(steps)},
        "dev_ndcg@10": {task: [[d["step"], round(d["dev"][task], 4)] for d in dev] for task in tasks(steps)},
    }
    (HERE / "curve.json").write_text(json.dumps(curve, indent=1) + "\n", encoding="utf-8")
    figure = Figure(figsize=(11, 4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = (("loss", "loss of a batch, nats"), ("dev_ndcg@10", "nDCG@10 on the dev sample"))
    for axes, (name, label) in zip(figure.subplots(1, 2), panels, strict=True):
        for task, points in sorted(curve[name].items()):
            own = task == "icons"
            colour = "#0072B2" if own else "#9A9A9A"
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=2 if own else 1, zorder=2 + own)
            if name == "loss" and not own:  # there they end in one heap
                continue
            axes.annotate(task, points[-1], (4, 0), textcoords="offset points", va="center", fontsize=8, color=colour)
        axes.set_xlabel("step")
        axes.set_title(label, loc="left", fontsize=10)
        axes.set_ylim(bottom=0)
        axes.grid(color="#DDDDDD", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.12)
    figure.savefig(HERE / "curve.png", metadata={"Software": None})


def tasks(steps: list[dict]) -> list[str]:
    return sorted({step["task"] for step in steps})


if __name__ == "__main__":
    main()
