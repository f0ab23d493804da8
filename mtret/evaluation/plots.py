"""One figure, from the results dictionary alone: systems by role, and every task's difference to the reference."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mtret.evaluation.findings import reference_system, tasks_by_role
from mtret.evaluation.results import validate
from mtret.evaluation.retrieval import PRIMARY, ROLES
from mtret.evaluation.wording import ROLE_NAMES, metric_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart by readers with any colour vision (Okabe and Ito), and by word and place besides.
VERDICT_COLOURS = {"better": "#0072B2", "no difference": "#8A8A8A", "WORSE": "#D55E00"}
INK, FAINT, SYSTEM, LAST = "#222222", "#DDDDDD", "#B8BCC0", "#0072B2"
ROW_INCHES = 0.27


def results_png(results: Mapping[str, Any]) -> bytes:
    """The figure as a PNG, the same bytes for the same results. Raises UserError as `results_figure` does."""
    buffer = io.BytesIO()
    results_figure(results).savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def results_figure(results: Mapping[str, Any]) -> "Figure":
    """Bars of every system by role, and dots of every task's difference to the reference, with intervals.

    Raises:
      UserError: the results are not of the schema.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    validate(results)
    systems, pooled = results["systems"], results["pooled"]
    other = reference_system(systems)
    by_role = tasks_by_role(results["tasks"])
    roles = [role for role, _ in by_role]
    panels = [("By role, each task over its own documents", results["roles"])]
    if pooled is not None:
        title = f"By role, one index of all {pooled['n_documents']:,} documents"
        panels.append((title, pooled["roles"]))
    rows = max(sum(len(names) + 1.6 for _, names in by_role), len(panels) * (len(roles) * (len(systems) + 1.6) + 2), 4)
    figure = Figure(figsize=(13 if other else 6, rows * ROW_INCHES + 1.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(panels), 2 if other else 1, width_ratios=(1, 1.3) if other else None)
    first = None
    for number, (title, entries) in enumerate(panels):
        first = figure.add_subplot(grid[number, 0], sharex=first)
        _draw_roles(first, title, entries, systems)
    if other:
        _draw_differences(figure.add_subplot(grid[:, 1]), results, by_role, other)
    return figure


def _draw_roles(axes: "Axes", title: str, entries: Mapping[str, Any], systems: Sequence[str]) -> None:
    labels: list[tuple[float, str]] = []
    y = 0.0
    for role in (role for role in ROLES if role in entries):
        entry = entries[role]
        n = len(entry["tasks"])
        counts = f"{n} task{'' if n == 1 else 's'}, {entry['n_queries']:,} queries"
        axes.text(0, y, f"{ROLE_NAMES[role]}  ({counts})", va="center", fontsize=9.5, fontweight="bold", color=INK)
        for system in systems:
            y += 1
            one, last = entry["systems"][system][PRIMARY], system == systems[-1]
            axes.barh(y, one["mean"], height=0.72, color=LAST if last else SYSTEM, zorder=2)
            axes.plot(one["ci95"], [y, y], color=INK, linewidth=1.3, zorder=3)
            axes.annotate(
                f"{one['mean']:.3f}", (one["ci95"][1], y), (5, 0), textcoords="offset points", va="center",
                fontsize=8.5, color=INK, fontweight="bold" if last else "normal",
            )  # fmt: skip
            labels.append((y, system))
        y += 1.6
    _lay_out(axes, title, labels, y - 0.9)
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"{metric_name(PRIMARY)}, mean over tasks, 95% interval")


def _draw_differences(
    axes: "Axes", results: Mapping[str, Any], roles: Sequence[tuple[str, list[str]]], other: str
) -> None:
    tasks, last = results["tasks"], results["systems"][-1]
    labels: list[tuple[float, str]] = []
    y = 0.0
    for role, names in roles:
        axes.annotate(
            ROLE_NAMES[role], (0, y), (-5, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            ha="right", va="center", fontsize=9.5, fontweight="bold", color=INK, annotation_clip=False,
        )  # fmt: skip
        for name in sorted(names, key=lambda name: -tasks[name]["differences"][other]["mean"]):
            y += 1
            one = tasks[name]["differences"][other]
            colour = VERDICT_COLOURS[one["verdict"]]
            axes.axhline(y, color=FAINT, linewidth=0.6, zorder=0)
            axes.plot(one["ci95"], [y, y], color=colour, linewidth=2.2, solid_capstyle="round", zorder=2)
            axes.plot(
                one["mean"], y, "o", color=colour, markersize=6, markeredgecolor="white", markeredgewidth=0.7, zorder=3
            )
            axes.annotate(
                f"{one['mean']:+.3f}", (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=8,
                color=colour, annotation_clip=False,
            )  # fmt: skip
            labels.append((y, name))
        y += 1.6
    axes.axvline(0, color=INK, linewidth=0.9, zorder=1)
    _lay_out(axes, f"{last} minus {other}, by task", labels, y - 0.9)
    axes.set_xlabel(f"paired difference in {metric_name(PRIMARY)}, 95% interval")
    verdicts = [tasks[name]["differences"][other]["verdict"] for _, names in roles for name in names]
    for word, colour in VERDICT_COLOURS.items():
        axes.plot([], [], "o-", color=colour, markersize=5.5, label=f"{word} ({verdicts.count(word)})")
    axes.figure.legend(loc="outside lower right", ncols=3, frameon=False, fontsize=8.5)  # pyright: ignore[reportAttributeAccessIssue]


def _lay_out(axes: "Axes", title: str, labels: Sequence[tuple[float, str]], bottom: float) -> None:
    axes.set_title(title, loc="left", fontweight="bold", fontsize=11.5, color=INK)
    axes.set_ylim(bottom, -0.8)
    axes.set_yticks([y for y, _ in labels], [text for _, text in labels], fontsize=9, color=INK)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
