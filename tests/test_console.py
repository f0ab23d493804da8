"""What a person sees: lines as they are, a bar that fits 80 columns, now and then a line where there is no terminal."""

import io
import re

import pytest
from rich.console import Console

from mtret.console import Bar, TrainingBar, duration, say, timed

VALUES = {"loss": 1.2345, "pairs_per_s": 23.4, "tokens_per_s": 5321.0, "fill": 0.934, "wait": 0.002}


def terminal(width: int = 80) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=True, width=width, color_system=None), file


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def test_a_line_is_said_as_it_is() -> None:
    file = io.StringIO()
    line = "pip install 'mtret[cuda]' [/red] /a/[b]/c " + "x" * 200
    say(Console(file=file, width=80), line)
    assert file.getvalue() == line + "\n"


def test_the_training_bar_shows_everything_in_eighty_columns() -> None:
    console, file = terminal()
    bar = TrainingBar(console, "training", 200, done=20)
    with bar:
        for step in (80, 140):
            bar.step({"step": step, **VALUES})
    rows = [row.rstrip() for row in plain(file.getvalue()).replace("\r", "\n").splitlines() if row.strip()]
    assert re.fullmatch(r"training ━+.* +140/200 \d:\d\d:\d\d left (\d:\d\d:\d\d|-:--:--)", rows[-2])
    assert rows[-1] == "  loss 1.234  23 pairs/s  5,321 tokens/s  fill 93%  wait 0.2%"
    assert max(map(len, rows)) <= 80


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("mtret.console.time.monotonic", lambda: now[0])
    file = io.StringIO()
    bar = TrainingBar(Console(file=file, width=80), "training", 200, done=20)
    with bar:
        for seconds, step in ((10, 30), (6, 40), (1, 41), (15, 60), (30, 200)):
            now[0] += seconds
            bar.step({"step": step, **VALUES})
    words = "loss 1.234  23 pairs/s  5,321 tokens/s  fill 93%  wait 0.2%"
    # 20 steps in 16 s leave 160 in 128 s; 40 in 32 s leave 140 in 112 s.
    assert file.getvalue().splitlines() == [
        f"training 40/200, 2 min 08 s left  {words}",
        f"training 60/200, 1 min 52 s left  {words}",
        f"training 200/200  {words}",
    ]


def test_a_dev_score_is_a_line() -> None:
    file = io.StringIO()
    TrainingBar(Console(file=file, width=80), "training", 200).dev(50, {"mean": 0.51234, "a": 0.4, "b": 0.6}, True)
    assert file.getvalue() == "step 50: dev sample nDCG@10 0.5123, mean of 2 tasks  (best so far)\n"


def test_a_count_that_ends_early_is_shown_as_complete() -> None:
    file = io.StringIO()
    with Bar(Console(file=file, width=80), "encoding", 1000) as bar:
        bar.advance(700)
        bar.finish()
        bar.finish()
    assert file.getvalue() == "encoding 1,000/1,000\n"


def test_what_took_time_says_how_much() -> None:
    file = io.StringIO()
    with timed(Console(file=file, width=80), "planning"):
        pass
    assert file.getvalue() == "planning: 0.0 s\n"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3.24, "3.2 s"), (59.94, "59.9 s"), (245.0, "4 min 05 s"), (3599.4, "59 min 59 s"), (7380.0, "2 h 03 min")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
