"""The sweep at a glance: in-domain against cross-domain and zero-shot, from the last step half-way to the base.

python experiments/gpu/figure.py experiments/gpu/results/sweep-{rates,batches}.jsonl --out=experiments/gpu/sweep.png
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sweep import HALF_WAY, PLAIN, SOUP, model_of, read

COLOURS = {64: "#8A8A8A", 256: "#E69F00", 1024: "#0072B2"}  # by batch; Okabe and Ito
INK, FAINT = "#222222", "#DDDDDD"
RATES = {5e-5: False, 1e-4: True, 2e-4: True}  # whether half-way is shown: where the rate is low it is worse
PANELS = (("cross_domain", "Cross-domain (9 tasks)"), ("zero_shot", "Zero-shot (2 tasks)"))
Means = Mapping[tuple[str, float, int], Mapping[str, float]]


def means(paths: Sequence[Path]) -> tuple[Means, Mapping[str, float]]:
    """By name, rate and batch, over seeds, of the runs of 150 steps; and the base's."""
    lines = {model_of(line): line["means"]["test"] for line in read(paths)[1]}
    groups: dict[tuple[str, float, int], list[Mapping[str, float]]] = {}
    for (name, rate, batch, steps, _), found in lines.items():
        if steps == 150:
            groups.setdefault((name, rate, batch), []).append(found)
    over_seeds = {
        key: {role: float(np.mean([each[role] for each in group])) for role in group[0]}
        for key, group in groups.items()
    }
    return over_seeds, lines["base, bare", None, None, None, None]


def draw(axes: Axes, role: str, found: Means, base: Mapping[str, float]) -> None:
    """Lines from a filled dot, the last step, to a hollow one, half-way; stars are means of seeds."""
    axes.plot(base["in_domain"], base[role], "x", color=INK, markersize=7)
    axes.annotate("base", (base["in_domain"], base[role]), (6, -3), textcoords="offset points", fontsize=8, color=INK)
    for batch, colour in COLOURS.items():
        for rate, with_half in RATES.items():
            shown = [found[name, rate, batch] for name in ((PLAIN, HALF_WAY) if with_half else (PLAIN,))]
            x, y = ([each[key] for each in shown] for key in ("in_domain", role))
            axes.plot(x, y, "-", color=colour, linewidth=1.4, alpha=0.6, zorder=1)
            axes.plot(x[1:], y[1:], "o", color=colour, markersize=7, markerfacecolor="white", zorder=2)
            axes.plot(x[0], y[0], "o", color=colour, markersize=7, zorder=2)
            axes.annotate(f"{rate:.0e}".replace("e-0", "e-"), (x[0], y[0]), (7, -5), textcoords="offset points",
                          fontsize=8, color=colour)  # fmt: skip
            if soup := found.get((SOUP, rate, batch)):
                axes.plot(soup["in_domain"], soup[role], "*", color=colour, markersize=11, markeredgecolor="white",
                          markeredgewidth=0.5, zorder=3)  # fmt: skip
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("in-domain (19 tasks), nDCG@10")


def figure(paths: Sequence[Path]) -> Figure:
    found, base = means(paths)
    page = Figure(figsize=(10.5, 4.6), dpi=110, layout="constrained")
    FigureCanvasAgg(page)
    for axes, (role, title) in zip(page.subplots(1, 2), PANELS, strict=True):
        draw(axes, role, found, base)
        axes.set_title(title, loc="left", fontweight="bold", fontsize=11.5, color=INK)
    legend = page.axes[0]
    for batch, colour in COLOURS.items():
        legend.plot([], [], "o-", color=colour, label=f"batch {batch:,}")
    for style, label in (("o", "last step"), ("wo", "half-way to the base"), ("*", "mean of three seeds")):
        legend.plot([], [], style[-1], color=INK, label=label, markerfacecolor="white" if style == "wo" else INK)
    page.legend(loc="outside lower center", ncols=6, frameon=False, fontsize=8.5)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("sweep.png"))
    arguments = parser.parse_args()
    figure(arguments.results).savefig(arguments.out, metadata={"Software": None})


if __name__ == "__main__":
    main()
