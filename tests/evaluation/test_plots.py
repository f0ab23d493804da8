import io
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from mtret.evaluation.plots import LAST, SYSTEM, VERDICT_COLOURS, png, results_figure
from mtret.evaluation.results import parse_results


def texts(axes) -> list[str]:
    return [one.get_text() for one in axes.texts]


def test_every_role_and_system_is_a_bar_of_its_mean(results: dict[str, Any]):
    own, pooled, _ = results_figure(parse_results(results)).axes
    for axes, roles in ((own, results["roles"]), (pooled, results["pooled"]["roles"])):
        means = [roles[role]["systems"][s]["ndcg@10"]["mean"] for role in roles for s in results["systems"]]
        bars = [one for one in axes.patches if isinstance(one, Rectangle)]
        assert [bar.get_width() for bar in bars] == pytest.approx(means)
        assert [to_hex(bar.get_facecolor()).upper() for bar in bars] == [SYSTEM, SYSTEM, SYSTEM, SYSTEM, LAST, LAST] * 2
        assert [one.get_text() for one in axes.get_yticklabels()] == results["systems"] * 2
        assert "In-domain  (2 tasks, 350 queries)" in texts(axes)
        assert "Zero-shot  (1 task, 4 queries)" in texts(axes)


def test_every_task_has_its_difference_in_the_colour_of_its_verdict(results: dict[str, Any]):
    axes = results_figure(parse_results(results)).axes[-1]
    names = [one.get_text() for one in axes.get_yticklabels()]
    assert names == ["alpha", "beta", "gamma"]  # by role, then from best to worst
    for height, name in zip(axes.get_yticks(), names, strict=True):
        one = results["tasks"][name]["differences"]["finetuned_hybrid"]["hybrid"]
        drawn = [(np.asarray(line.get_xdata()), np.asarray(line.get_ydata()), line.get_color()) for line in axes.lines]
        colours = [c for x, y, c in drawn if np.array_equal(x, one["ci95"]) and np.array_equal(y, [height, height])]
        assert colours == [VERDICT_COLOURS[one["verdict"]]]
        assert f"{one['mean']:+.3f}" in texts(axes)
        ring = results["tasks"][name]["differences"]["finetuned"]["base"]["mean"]
        rings = [x for x, y, _ in drawn if len(x) == 1 and y[0] == height]
        assert sorted(rings) == sorted([[one["mean"]], [ring]])


def test_verdicts_are_told_by_a_legend_with_counts(results: dict[str, Any]):
    legend = results_figure(parse_results(results)).legends[0]
    assert [one.get_text() for one in legend.get_texts()] == [
        *("better (1)", "no difference (1)", "WORSE (1)"),
        "finetuned minus base",
    ]


@pytest.mark.parametrize(
    ("options", "panels"),
    [({}, 3), ({"pooled": False}, 2), ({"systems": ("alone",), "pooled": False}, 1), ({"roles": False}, 3)],
)
def test_panels_follow_what_there_is(make, options: dict[str, Any], panels: int):
    assert len(results_figure(parse_results(make(**options))).axes) == panels


@pytest.mark.slow
def test_the_png_is_the_same_bytes_for_the_same_results_and_not_blank(results: dict[str, Any]):
    from matplotlib.image import imread

    first = png(results_figure(parse_results(results)))
    assert png(results_figure(parse_results(results))) == first
    pixels = imread(io.BytesIO(first))[..., :3]
    for colour in (LAST, SYSTEM, VERDICT_COLOURS["WORSE"]):
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        assert (np.abs(pixels - rgb).max(axis=2) < 0.01).sum() > 20
