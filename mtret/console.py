"""What a person sees while waiting: lines, and a bar on a terminal or now and then a line where there is none."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

LINE_EVERY_S = 15.0


def say(console: Console, line: str, style: str | None = None) -> None:
    """Prints a line as it is: brackets in a path are not markup, numbers are not coloured, nothing is broken up."""
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def say_once(console: Console, lines: Iterable[str]) -> None:
    """Prints what a user should know of their files, each line once."""
    for line in dict.fromkeys(lines):
        say(console, line, style="yellow")


class _TwoRows(Progress):
    """The words stand below the bar: beside it, 80 columns would hold neither them nor the time left."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield from (Text(f"  {task.fields['words']}") for task in self.tasks if task.fields["words"])


class Bar:
    """A count towards a total, with a few words about its latest state."""

    def __init__(self, console: Console, title: str, total: int, done: int = 0):
        self._console, self._title, self._total, self._done = console, title, total, done
        self._began, self._first, self._said = time.monotonic(), done, time.monotonic()
        self._live = _TwoRows(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._live.add_task(title, total=total, completed=done, words="")

    def advance(self, count: int, words: str = "") -> None:
        """Moves on by `count`."""
        self._done += count
        if self._console.is_terminal:
            fields: dict[str, Any] = {"words": words} if words else {}
            self._live.update(self._task, completed=self._done, **fields)
            return
        now = time.monotonic()
        if now - self._said >= LINE_EVERY_S or self._done >= self._total:
            self._said = now
            rate = (self._done - self._first) / max(now - self._began, 1e-9)
            left = f", {duration((self._total - self._done) / rate)} left" if rate and self._done < self._total else ""
            say(self._console, f"{self._title} {self._done:,}/{self._total:,}{left}  {words}".rstrip())

    def finish(self) -> None:
        """Shows the total as reached: texts that occur twice are encoded once, so the count may end below it."""
        if self._done < self._total:
            self.advance(self._total - self._done)

    def __enter__(self) -> "Bar":
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()


class TrainingBar(Bar):
    """Shows a training's steps and dev scores."""

    def step(self, values: Mapping[str, Any]) -> None:
        loss = "not finite" if values["loss"] is None else f"{values['loss']:.3f}"
        self.advance(
            values["step"] - self._done,
            f"loss {loss}  {values['pairs_per_s']:.0f} pairs/s  "
            f"{values['tokens_per_s']:,.0f} tokens/s  fill {values['fill']:.0%}  wait {values['wait']:.1%}",
        )

    def dev(self, step: int, scores: Mapping[str, float], best: bool) -> None:
        fewer = {name.removeprefix("mean@"): score for name, score in scores.items() if name.startswith("mean@")}
        words = f"step {step}: dev sample nDCG@10 {scores['mean']:.4f}"
        others = {name: score for name, score in scores.items() if name.startswith("mean of ")}
        words += "".join(f", {name} {score:.4f}" for name, score in others.items())
        words += "" if others else f", mean of {len(scores) - 1 - len(fewer)} tasks"
        if fewer:
            words += f" ({', '.join(f'{score:.4f} by {name} dimensions' for name, score in fewer.items())})"
        say(self._console, f"{words}{'  (best so far)' if best else ''}")


@contextmanager
def timed(console: Console, what: str) -> Iterator[None]:
    """Says what is being done on a terminal, and how long it took everywhere."""
    began = time.monotonic()
    if console.is_terminal:
        with console.status(what):
            yield
    else:
        yield
    say(console, f"{what}: {duration(time.monotonic() - began)}")


def duration(seconds: float) -> str:
    """3.2 s, 4 min 05 s, 2 h 03 min"""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
