"""Figures: systems by role and every task's difference to the reference, of results; lines by step, of trainings;
differences to one setting by role, of sweeps."""

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

from mtret.evaluation.findings import rivals, tasks_by_role
from mtret.evaluation.results import Results, RoleResults
from mtret.evaluation.retrieval import PRIMARY, ROLES
from mtret.evaluation.statistics import Difference
from mtret.evaluation.wording import ROLE_NAMES, count, metric_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# Told apart by readers with any colour vision (Okabe and Ito), and by word and place besides.
VERDICT_COLOURS = {"better": "#0072B2", "no difference": "#8A8A8A", "WORSE": "#D55E00"}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A8A8A")
DASHES = ("-", "--", ":")  # of lines: every colour with the first, then with the second
INK, FAINT, SYSTEM, LAST = "#222222", "#DDDDDD", "#B8BCC0", "#0072B2"
ROW_INCHES = 0.27
LEGEND_ROW_INCHES = 0.21
MEAN = "mean"


@dataclass(frozen=True)
class Line:
    """Values by step, in order."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


def png(figure: "Figure") -> bytes:
    """The same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def results_figure(results: Results) -> "Figure":
    """Bars of every system by role, and dots of every task's differences to `rivals`, with intervals."""
    systems, pooled = results.systems, results.pooled
    pairs = [pair for pair in rivals(systems) if any(one.difference(*pair) for one in results.tasks.values())]
    by_role = tasks_by_role(results.tasks)
    panels = [("By role, each task over its own documents", results.roles)]
    if pooled is not None:
        panels.append((f"By role, one index of all {pooled.n_documents:,} documents", pooled.roles))
    bars = len(panels) * (len(by_role) * (len(systems) + 1.6) + 2)
    rows = max(sum(len(names) + 1.6 for _, names in by_role), bars, 4)
    figure = _figure(13.0 if pairs else 6.0, rows * ROW_INCHES + 1.6)
    grid = figure.add_gridspec(len(panels), 2 if pairs else 1, width_ratios=(1, 1.3) if pairs else None)
    first = None
    for number, (title, entries) in enumerate(panels):
        first = figure.add_subplot(grid[number, 0], sharex=first)
        _draw_roles(first, title, entries, systems, {system for system, _ in pairs})
    if pairs:
        _draw_differences(figure.add_subplot(grid[:, 1]), results, by_role, pairs)
    return figure


def lines_figure(
    title: str, losses: Mapping[str, Line], dev: Mapping[str, Line], mean: Line | None = None, best: int | None = None
) -> "Figure":
    """Loss and dev score by step, a line for each name, in one colour on both sides.

    Args:
      title: what the lines are of.
      mean: of the dev scores, drawn bold.
      best: its step that is marked.
    """
    colours = _colours({*losses, *dev})
    figure = _figure(13.0, max(4.8, LEGEND_ROW_INCHES * len(colours) + 1.0))
    left, right = figure.subplots(1, 2)
    drawn = _draw_lines(left, f"Loss of the batches: {_plain(title)}", losses, colours)
    drawn |= _draw_lines(right, f"{metric_name(PRIMARY)} on the dev samples: {_plain(title)}", dev, colours)
    if mean is not None:
        drawn[MEAN] = _draw_mean(right, mean, best)
    names = sorted(drawn, key=lambda name: (name != MEAN, name))
    if len(names) > 1:
        # Matplotlib leaves lines out of a legend that are called _something.
        lines = [drawn[name] for name in names]
        shown = [_plain(name) if name[0] != "_" else f" {_plain(name)}" for name in names]
        figure.legend(lines, shown, loc="outside right upper", frameon=False, fontsize=8.5)
    return figure


def sweep_figure(baseline: str, found: Mapping[str, Mapping[str, Difference]]) -> "Figure":
    """Differences of settings to the baseline, with intervals: by setting, then by role; a panel a role."""
    roles = list(dict.fromkeys(role for each in found.values() for role in each))
    labels = [(float(y), name) for y, name in enumerate(found)]
    figure = _figure(2.5 + 3.6 * len(roles), ROW_INCHES * len(found) + 1.9)
    panels = figure.subplots(1, len(roles), sharey=True, squeeze=False)[0]
    for axes, role in zip(panels, roles, strict=True):
        axes.axvline(0, color=INK, linewidth=0.9, zorder=1)
        for y, name in labels:
            axes.axhline(y, color=FAINT, linewidth=0.6, zorder=0)
            if (one := found[name].get(role)) is not None:
                axes.plot((one.low, one.high), [y, y], color=LAST, linewidth=2.2, solid_capstyle="round", zorder=2)
                axes.plot(one.mean, y, "o", color=LAST, markersize=6, markeredgecolor="white", zorder=3)
        _lay_out(axes, role, labels, len(labels) - 0.2)
        axes.set_xlabel(f"{metric_name(PRIMARY)} less that of\n{_plain(baseline)}, 95% interval")
    return figure


def search_figure(scores: Mapping[int, float], importances: Mapping[str, float]) -> "Figure":
    """Scores by trial with the best so far, and the share of each key in what makes trials differ."""
    figure = _figure(11.0 if importances else 6.0, max(3.6, ROW_INCHES * len(importances) + 1.9))
    panels = figure.subplots(1, 2 if importances else 1, squeeze=False)[0]
    best = [*accumulate(scores.values(), max)]
    panels[0].plot([*scores], [*scores.values()], "o", color=LAST, markersize=5, markeredgecolor="white")
    panels[0].step([*scores], best, where="post", color=INK, linewidth=1.2)
    panels[0].set_xlabel("trial")
    panels[0].set_title(f"{metric_name(PRIMARY)} on the dev samples; line: the best so far", loc="left", fontsize=9.5)
    if importances:
        labels = [(float(y), name) for y, name in enumerate(importances)]
        panels[1].barh([y for y, _ in labels], [*importances.values()], color=LAST, height=0.6)
        _lay_out(panels[1], "What makes trials differ (PED-ANOVA)", labels, len(labels) - 0.2)
    return figure


def _figure(width: float, height: float) -> "Figure":
    """An empty one, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def _plain(name: str) -> str:
    """Matplotlib takes $ for mathematics."""
    return name.replace("$", r"\$")


def _colours(names: Collection[str]) -> dict[str, tuple[str, str]]:
    """Colour and dash of each."""
    looks = [(colour, dash) for dash in DASHES for colour in COLOURS]
    return {name: looks[place % len(looks)] for place, name in enumerate(sorted(names))}


def _draw_roles(
    axes: "Axes", title: str, entries: Mapping[str, RoleResults], systems: Sequence[str], own: Collection[str]
) -> None:
    """`own`: the systems that the results are about."""
    labels: list[tuple[float, str]] = []
    y = 0.0
    for role in (role for role in ROLES if role in entries):
        entry = entries[role]
        about = f"{count(len(entry.tasks), 'task')}, {entry.n_queries:,} queries"
        axes.text(0, y, f"{ROLE_NAMES[role]}  ({about})", va="center", fontsize=9.5, fontweight="bold", color=INK)
        for system in systems:
            y += 1
            one, is_own = entry.primary(system), system in own
            axes.barh(y, one.mean, height=0.72, color=LAST if is_own else SYSTEM, zorder=2)
            axes.plot((one.low, one.high), [y, y], color=INK, linewidth=1.3, zorder=3)
            axes.annotate(
                f"{one.mean:.3f}", (one.high, y), (5, 0), textcoords="offset points", va="center",
                fontsize=8.5, color=INK, fontweight="bold" if is_own else "normal",
            )  # fmt: skip
            labels.append((y, system))
        y += 1.6
    _lay_out(axes, title, labels, y - 0.9)
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"{metric_name(PRIMARY)}, mean over tasks, 95% interval")


def _draw_differences(
    axes: "Axes", results: Results, roles: Sequence[tuple[str, list[str]]], pairs: Sequence[tuple[str, str]]
) -> None:
    """The first pair in the colours of its verdicts, with intervals; of others a ring."""
    tasks, (first, *others) = results.tasks, pairs
    labels: list[tuple[float, str]] = []
    verdicts = []
    y = 0.0
    for role, names in roles:
        axes.annotate(
            ROLE_NAMES[role], (0, y), (-5, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            ha="right", va="center", fontsize=9.5, fontweight="bold", color=INK, annotation_clip=False,
        )  # fmt: skip
        found = {name: one for name in names if (one := tasks[name].difference(*first))}
        for name in sorted(found, key=lambda name: -found[name].mean):
            y += 1
            one = found[name]
            verdicts.append(one.verdict)
            colour = VERDICT_COLOURS[one.verdict]
            axes.axhline(y, color=FAINT, linewidth=0.6, zorder=0)
            axes.plot((one.low, one.high), [y, y], color=colour, linewidth=2.2, solid_capstyle="round", zorder=2)
            axes.plot(
                one.mean, y, "o", color=colour, markersize=6, markeredgecolor="white", markeredgewidth=0.7, zorder=4
            )
            for other in (each for pair in others if (each := tasks[name].difference(*pair))):
                axes.plot(other.mean, y, "o", markersize=5, markerfacecolor="none", markeredgecolor=INK, zorder=3)
            axes.annotate(
                f"{one.mean:+.3f}", (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=8,
                color=colour, annotation_clip=False,
            )  # fmt: skip
            labels.append((y, name))
        y += 1.6
    axes.axvline(0, color=INK, linewidth=0.9, zorder=1)
    _lay_out(axes, f"{first[0]} minus {first[1]}, by task", labels, y - 0.9)
    axes.set_xlabel(f"paired difference in {metric_name(PRIMARY)}, 95% interval")
    for word, colour in VERDICT_COLOURS.items():
        axes.plot([], [], "o-", color=colour, markersize=5.5, label=f"{word} ({verdicts.count(word)})")
    for system, other in others:
        ring = f"{system} minus {other}"
        axes.plot([], [], "o", markersize=5, markerfacecolor="none", markeredgecolor=INK, label=ring)
    axes.figure.legend(loc="outside lower right", ncols=2 if others else 3, frameon=False, fontsize=8.5)  # pyright: ignore[reportAttributeAccessIssue]


def _lay_out(axes: "Axes", title: str, labels: Sequence[tuple[float, str]], bottom: float) -> None:
    _style(axes, title, grid="x")
    axes.set_ylim(bottom, -0.8)
    axes.set_yticks([y for y, _ in labels], [text for _, text in labels], fontsize=9, color=INK)


def _draw_lines(
    axes: "Axes", title: str, lines: Mapping[str, Line], colours: Mapping[str, tuple[str, str]]
) -> dict[str, "Line2D"]:
    drawn = {}
    for name, line in lines.items():
        colour, dash = colours[name]
        marker = "o" if len(line.steps) == 1 else ""
        (drawn[name],) = axes.plot(
            line.steps, line.values, dash, marker=marker, color=colour, linewidth=1.5, label=name
        )
    if not lines:
        axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", color=INK)
    axes.set_xlabel("step")
    _style(axes, title, grid="both")
    return drawn


def _draw_mean(axes: "Axes", mean: Line, best: int | None) -> "Line2D":
    (drawn,) = axes.plot(mean.steps, mean.values, color=INK, linewidth=2.6, label=MEAN, zorder=4)
    if best not in mean.steps:
        return drawn
    score = mean.values[mean.steps.index(best)]
    axes.plot(best, score, "o", color=INK, markersize=8, zorder=5)
    axes.annotate(
        f"best, step {best}: {score:.3f}", (best, score), (0, 9), textcoords="offset points",
        ha="right" if best > 0.6 * mean.steps[-1] else "left", fontsize=9, color=INK, zorder=6,
    )  # fmt: skip
    return drawn


def _style(axes: "Axes", title: str, grid: Literal["x", "both"]) -> None:
    """No box and no ticks, a faint grid behind what is drawn."""
    axes.set_title(title, loc="left", fontweight="bold", fontsize=11.5, color=INK)
    axes.grid(axis=grid, color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
