"""A table, said once, and how it is written: for a terminal, in Markdown, LaTeX and CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

Form = Literal["terminal", "markdown", "latex", "csv"]
FILE_WIDTH = 200  # columns of a terminal's table in a file
NUMERIC = "+-°*.[0123456789"  # what a cell of numbers begins with
LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "]": "{]}", '"': r"\textquotedbl{}", "±": r"$\pm$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A cell that is more than its value."""

    text: str
    detail: str = ""  # behind it: an interval, which LaTeX sets in small print, or a spread
    style: str = ""  # as rich names it; Markdown and LaTeX know bold

    def __str__(self) -> str:
        return f"{self.text} {self.detail}" if self.detail else self.text


Row = Sequence[Any]  # cells, or values that are shown as `str` shows them; a row may be shorter than the header


@dataclass(frozen=True)
class Table:
    """Rows in groups, between which the forms that have rules draw one."""

    columns: Sequence[Any]
    groups: Sequence[Sequence[Row]]
    title: str = ""
    notes: Sequence[str] = ()  # sentences below it

    @property
    def rows(self) -> list[list[Any]]:
        """Those of all groups, each as long as the header."""
        return [self.filled(row) for group in self.groups for row in group]

    def filled(self, row: Row) -> list[Any]:
        """With empty cells to the end of the header."""
        return [*row, *[""] * (len(self.columns) - len(row))]

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers, and stand to the right: never the first, and of the others those of whose filled
        cells at least half begin as numbers do."""
        columns = [[row[place] for row in self.rows] for place in range(len(self.columns))]
        filled = [[text for text in map(str, column) if text] for column in columns]
        return [place > 0 and 2 * sum(t[0] in NUMERIC for t in own) >= len(own) for place, own in enumerate(filled)]

    def transposed(self) -> "Table":
        """Its columns as rows, of one group."""
        header, *rows = zip(self.columns, *self.rows, strict=True)
        return Table(header, [rows], self.title, self.notes)


def to_text(table: Table, form: Form) -> str:
    """What a file holds."""
    if form == "terminal":
        from rich.console import Console

        page = Console(file=io.StringIO(), width=FILE_WIDTH)
        page.print(to_terminal(table))
        return "".join(f"{line.rstrip()}\n" for line in page.file.getvalue().splitlines())  # type: ignore[attr-defined]
    if form == "csv":
        return to_csv(table)
    return (to_markdown(table) if form == "markdown" else to_latex(table)) + "\n"


def to_terminal(table: Table, close: bool = False) -> "RenderableType":
    """For a rich console. Where that is narrow, cells break: no digit is cut off. `close`: many columns, without rules
    and a single blank apart."""
    from rich import box
    from rich.console import Group
    from rich.table import Table as Drawn
    from rich.text import Text

    drawn = Drawn(box=None if close else box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=not close)
    for name, right in zip(table.columns, table.numeric, strict=True):
        drawn.add_column(_styled(name), justify="right" if right else "left", overflow="fold")
    for group in table.groups:
        for row in group:
            drawn.add_row(*map(_styled, row))
        drawn.add_section()
    title = [Text(table.title, style="bold")] if table.title else []
    return Group(*title, drawn, *map(Text, table.notes))


def _styled(cell: Any) -> "Text":
    from rich.text import Text

    return Text(str(cell), style=cell.style if isinstance(cell, Cell) else "")


def to_lines(table: Table) -> list[str]:
    """The header and every row as lines of one width, for a log."""
    rows = [[str(cell) for cell in row] for row in (table.columns, *table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = [f"{'>' if right else '<'}{width}" for right, width in zip(table.numeric, widths, strict=True)]
    return ["  ".join(f"{cell:{how}}" for cell, how in zip(row, aligned, strict=True)) for row in rows]


def to_markdown(table: Table) -> str:
    """The table, then title and notes as paragraphs. Cells may hold Markdown, but for bars, which are escaped."""

    def cell(one: Any) -> str:
        bold = isinstance(one, Cell) and one.style == "bold"
        return (f"**{one}**" if bold else str(one)).replace("|", "\\|")

    rule = ["---:" if right else "---" for right in table.numeric]
    lines = [map(cell, table.columns), rule, *(map(cell, row) for row in table.rows)]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n\n".join([body, *([f"{table.title}."] if table.title else []), *table.notes])


def to_latex(table: Table) -> str:
    """A `tabular` with rules of the package booktabs, title and notes as comments; what is missing is a dash."""
    about = [f"{table.title}.", *table.notes] if table.title else table.notes
    lines = [
        r"% \usepackage{booktabs}",
        *(f"% {' '.join(line.split())}" for line in about),
        rf"\begin{{tabular}}{{{''.join('r' if right else 'l' for right in table.numeric)}}}",
        r"\toprule",
        " & ".join(map(latex_text, map(str, table.columns))).strip() + r" \\",
    ]
    for group in table.groups:
        lines.append(r"\midrule")
        lines += [" & ".join(_latex(cell) or "--" for cell in table.filled(row)) + r" \\" for row in group]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _latex(cell: Any) -> str:
    if not isinstance(cell, Cell):
        return latex_text(str(cell))
    text = rf"\textbf{{{latex_text(cell.text)}}}" if cell.style == "bold" else latex_text(cell.text)
    if not cell.detail:
        return text
    small = cell.detail.startswith("[")
    return f"{text} {{\\scriptsize {cell.detail}}}" if small else f"{text} {latex_text(cell.detail)}"


def latex_text(text: str) -> str:
    """With every sign that LaTeX takes for its own written so that it stands there."""
    return "".join(LATEX.get(sign, sign) for sign in " ".join(text.split()))


def to_csv(table: Table) -> str:
    """The header and every row, with values as they are."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([table.columns, *table.rows])
    return out.getvalue()
