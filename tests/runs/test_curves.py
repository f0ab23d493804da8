"""`mtret curves`: what a training wrote down, as lines; of a run that was killed too."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtret.runs.curves import Line, curves_figure, read_curves

Mtret = Callable[..., tuple[int, str, str]]


def run(folder: Path, plus: float = 0.0, steps: int = 6) -> Path:
    """Metrics as a training writes them: two tasks in turn, and a dev score every second step."""
    lines: list[dict[str, Any]] = [{"step": 0, "dev": {"mean": 0.3 + plus, "a": 0.4, "b": 0.2}, "best": True}]
    for step in range(1, steps + 1):
        lines.append({"step": step, "task": "ab"[step % 2], "loss": 2.0 / step + plus})
        if step % 2 == 0:
            scores = {"mean": 0.3 + plus + step / 20, "a": 0.5, "b": 0.3}
            lines.append({"step": step, "dev": scores, "best": step == 4})
    folder.mkdir(parents=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_lines_are_read_and_a_torn_one_is_left_out(tmp_path: Path) -> None:
    folder = run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 7, "task": "a", "lo')
    found = read_curves(folder)
    assert found.losses["b"] == Line((1, 3, 5), (2.0, 2 / 3, 0.4))
    assert found.dev["mean"].steps == (0, 2, 4, 6) and found.best == 4


def test_a_step_that_was_left_out_has_no_loss(tmp_path: Path) -> None:
    folder = run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 7, "task": "b", "loss": null}\n')
    assert read_curves(folder).losses["b"].steps == (1, 3, 5)


def test_one_run_has_a_line_for_each_task_and_the_mean(tmp_path: Path) -> None:
    figure = curves_figure({"mine": read_curves(run(tmp_path / "run"))})
    losses, dev = figure.axes
    of_loss = {line.get_label(): line for line in losses.lines}
    assert of_loss.keys() == {"a", "b"} and "mine, by task" in losses.get_title(loc="left")
    by_name = {line.get_label(): line for line in dev.lines}
    assert {"a", "b", "mean"} <= by_name.keys()
    assert by_name["mean"].get_ydata() == pytest.approx([0.3, 0.4, 0.5, 0.6])
    assert [text.get_text() for text in dev.texts] == ["best, step 4: 0.500"]
    assert by_name["a"].get_color() == of_loss["a"].get_color() != of_loss["b"].get_color()


def test_several_runs_have_a_line_each(tmp_path: Path, mtret: Mtret) -> None:
    runs = {name: read_curves(run(tmp_path / name, plus)) for name, plus in {"x-0": 0.0, "x-1": 0.1}.items()}
    losses, dev = curves_figure(runs).axes
    assert [line.get_label() for line in losses.lines] == [line.get_label() for line in dev.lines] == ["x-0", "x-1"]
    assert np.asarray(losses.lines[1].get_xdata()).tolist() == [1, 2, 3, 4, 5, 6]
    # b has 2, 2/3, 2/5 at 1, 3, 5 and a 1, 1/2, 1/3 at 2, 4, 6, all of them .1 more; between them straight lines.
    means = [(2 + 1) / 2, (4 / 3 + 1) / 2, (2 / 3 + 3 / 4) / 2, (8 / 15 + 1 / 2) / 2, (2 / 5 + 5 / 12) / 2, 11 / 30]
    assert losses.lines[1].get_ydata() == pytest.approx(np.array(means) + 0.1)
    assert dev.lines[1].get_ydata() == pytest.approx([0.4, 0.5, 0.6, 0.7])
    out = tmp_path / "curves.png"
    code, said, _ = mtret("curves", f"{tmp_path}/x-*", f"--out={out}")
    assert (code, said) == (0, f"wrote {out}\n") and out.read_bytes().startswith(b"\x89PNG")
    code, said, _ = mtret("curves", tmp_path / "x-0")
    assert (code, said) == (0, f"wrote {tmp_path}/x-0/curves.png\n")


def test_odd_names_have_a_legend_and_no_mathematics(tmp_path: Path) -> None:
    runs = {name: read_curves(run(tmp_path / str(number))) for number, name in enumerate(("_u", "x$a_$b"))}
    figure = curves_figure(runs)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [" _u", r"x\$a_\$b"]
    figure.savefig(tmp_path / "x.png")
    curves_figure({"x$a_$b": runs["x$a_$b"]}).savefig(tmp_path / "y.png")


def test_what_is_no_line_of_metrics_is_left_out(tmp_path: Path) -> None:
    folder = run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b'\xff\xfe\n{"step": Infinity, "task": "a", "loss": 1.0}\n[]\n')
    assert read_curves(folder).losses["b"] == Line((1, 3, 5), (2.0, 2 / 3, 0.4))


def test_a_group_is_called_by_its_name(tmp_path: Path, mtret: Mtret) -> None:
    one, two, three = (run(tmp_path / name) for name in "abc")
    out = tmp_path / "curves.png"
    assert mtret("curves", f"g={one},{two}", three, f"--out={out}") == (0, f"wrote {out}\n", "")


def test_mistakes_are_one_line(tmp_path: Path, mtret: Mtret) -> None:
    one, two, empty = run(tmp_path / "a"), run(tmp_path / "b"), tmp_path / "empty"
    empty.mkdir()
    (empty / "metrics.jsonl").write_text("", encoding="utf-8")
    (tmp_path / "there.png").write_text("mine", encoding="utf-8")
    for arguments, message in (
        ((), "--runs is needed"),
        ((one, two), "--out is needed for the curves of several runs"),
        ((one, f"--out={tmp_path}/x.pdf"), "x.pdf: must end in .png"),
        ((one, f"--out={tmp_path}/there.png"), "there.png: exists already and is never overwritten"),
        ((tmp_path / "none",), "none/metrics.jsonl: no such file; give the workdir of a training that has begun\n"),
        ((one / "test",), f"that has begun. Did you mean '{one}'?\n"),
        ((empty,), "metrics.jsonl: holds no step yet"),
        ((f"x={one}", f"x={two}", f"--out={tmp_path}/y.png"), "two of these runs are called the same"),
    ):
        code, _, said = mtret("curves", *arguments)
        assert code == 2 and message in said and said.count("\n") == 1
    assert not (tmp_path / "y.png").exists()
