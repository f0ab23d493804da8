"""How trainings went: their losses and dev scores by step, from metrics.jsonl alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from mtret.errors import UserError
from mtret.evaluation.plots import MEAN, Line, lines_figure, png
from mtret.evaluation.run_tables import distinct_labels
from mtret.files import AnyPath, check_new, check_writable, locate, replace_bytes
from mtret.runs.report import side_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS, CURVES = "metrics.jsonl", "curves.png"
SMOOTHED = 12  # parts of a training, over one of which its loss is averaged


@dataclass(frozen=True)
class Curves:
    """What one training wrote down."""

    losses: Mapping[str, Line]  # by task
    dev: Mapping[str, Line]  # by task, and their mean; nothing where no task has a dev split
    best: int | None  # the step that was kept


def read_curves(workdir: AnyPath) -> Curves:
    """Of a run, finished or not. Raises UserError where it has no metrics yet."""
    path = workdir / METRICS
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        above = next((folder for folder in workdir.parents if (folder / METRICS).is_file()), None)
        close = f". Did you mean '{above}'?" if above else ""
        raise UserError(f"{path}: no such file; give the workdir of a training that has begun{close}") from None
    losses: dict[str, list[tuple[int, float]]] = {}
    dev: dict[str, list[tuple[int, float]]] = {}
    best = None
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            step = int(entry["step"])
            for name, score in entry.get("dev", {}).items():
                dev.setdefault(name, []).append((step, float(score)))
            best = step if entry.get("best") else best
            if entry.get("loss") is not None:
                losses.setdefault(entry["task"], []).append((step, float(entry["loss"])))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            continue  # the torn last line of a run that was killed
    if not losses and not dev:
        raise UserError(f"{path}: holds no step yet; wait until the training has logged some")
    by_task, scores = ({name: _line(points) for name, points in each.items()} for each in (losses, dev))
    return Curves(by_task, scores, best)


def _line(points: Sequence[tuple[int, float]]) -> Line:
    steps, values = zip(*sorted(points), strict=True)
    return Line(steps, values)


def plot_curves(words: Sequence[str], out: str) -> AnyPath:
    """Workdirs, `NAME=WORKDIR` where one should be called otherwise, with `*` or commas for several, which are then
    `NAME (1)` and so on; returns where the figure is.

    Raises UserError where one is not a training, `out` is there or, of several, not given.
    """
    given = [side_of(word) for word in words]
    workdirs = [locate(place) for _, places in given for place in places]
    found = iter(distinct_labels([workdir.name for workdir in workdirs], [str(workdir) for workdir in workdirs]))
    labels = [
        label if not name else name if len(places) == 1 else f"{name} ({number})"
        for name, places in given
        for number, label in enumerate(islice(found, len(places)), 1)
    ]
    if len(set(labels)) < len(labels):
        raise UserError("two of these runs are called the same; call one otherwise: NAME=WORKDIR")
    path = locate(out) if out else workdirs[0] / CURVES
    if not out and len(workdirs) > 1:
        raise UserError("--out is needed for the curves of several runs: the .png to write")
    if out:
        if path.suffix != ".png":
            raise UserError(f"--out={out}: must end in .png")
        check_new(path, "--out")
    check_writable(path.parent, "--out")
    write_curves({label: read_curves(workdir) for label, workdir in zip(labels, workdirs, strict=True)}, path)
    return path


def write_curves(runs: Mapping[str, Curves], path: AnyPath) -> None:
    """The figure as a PNG, all or nothing."""
    replace_bytes(path, png(curves_figure(runs)))


def curves_figure(runs: Mapping[str, Curves]) -> "Figure":
    """Loss and dev score by step. Of one run: a line for each task, and the mean. Of several: each one's means."""
    if len(runs) == 1:
        ((label, run),) = runs.items()
        losses = {name: _smooth(line) for name, line in run.losses.items()}
        dev = {name: line for name, line in run.dev.items() if name != MEAN}
        return lines_figure(f"{label}, by task", losses, dev, run.dev.get(MEAN), run.best)
    losses = {label: _mean_loss(run.losses) for label, run in runs.items() if run.losses}
    dev = {label: run.dev[MEAN] for label, run in runs.items() if MEAN in run.dev}
    return lines_figure("mean over tasks", losses, dev)


def _mean_loss(by_task: Mapping[str, Line]) -> Line:
    """Over tasks, each counting the same however often it was drawn: a batch is of one task, and some tasks are harder
    than others. Between a task's batches its loss is interpolated."""
    steps = sorted({step for line in by_task.values() for step in line.steps})
    smooth = [np.interp(steps, line.steps, line.values) for line in map(_smooth, by_task.values())]
    return Line(tuple(steps), tuple(np.mean(smooth, axis=0).tolist()))


def _smooth(line: Line) -> Line:
    """A running mean, over fewer values at the beginning."""
    width = max(len(line.steps) // SMOOTHED, 1)
    ends = np.arange(len(line.values))
    sums = np.concatenate([[0.0], np.cumsum(line.values)])
    low, high = np.maximum(ends - width + 1, 0), ends + 1
    return Line(line.steps, tuple(((sums[high] - sums[low]) / (high - low)).tolist()))
