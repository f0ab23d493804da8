"""One table in every form."""

import pytest
from rich.console import Console

from mtret.tables import Cell, Table, latex_text, to_csv, to_latex, to_lines, to_markdown, to_terminal, to_text

TABLE = Table(
    ["task", "kind", "score"],
    [
        [["a|b", "text", Cell("0.512", "[0.400, 0.600]", "bold")], ["c_d", "image", Cell("0.250", "± 0.010")]],
        [[Cell("others", style="italic")], ["e", "text", 1]],
    ],
    "Scores",
    ("A note.",),
)


def terminal(table: Table, width: int) -> str:
    page = Console(width=width, color_system=None)
    with page.capture() as capture:
        page.print(to_terminal(table))
    return capture.get()


def test_markdown_escapes_bars_and_puts_numbers_to_the_right() -> None:
    assert to_markdown(TABLE).splitlines() == [
        "| task | kind | score |",
        "| --- | --- | ---: |",
        "| a\\|b | text | **0.512 [0.400, 0.600]** |",
        "| c_d | image | 0.250 ± 0.010 |",
        "| others |  |  |",
        "| e | text | 1 |",
        "",
        "Scores.",
        "",
        "A note.",
    ]


def test_latex_has_a_rule_before_each_group_and_a_dash_for_what_is_missing() -> None:
    assert to_latex(TABLE).splitlines() == [
        r"% \usepackage{booktabs}",
        "% Scores.",
        "% A note.",
        r"\begin{tabular}{llr}",
        r"\toprule",
        r"task & kind & score \\",
        r"\midrule",
        r"a\textbar{}b & text & \textbf{0.512} {\scriptsize [0.400, 0.600]} \\",
        r"c\_d & image & 0.250 $\pm$ 0.010 \\",
        r"\midrule",
        r"others & -- & -- \\",
        r"e & text & 1 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_latex_signs_are_written_so_that_they_stand_there() -> None:
    assert latex_text(r"a_b & 50% {x} $ # ~ ^ \ [1]") == (
        r"a\_b \& 50\% \{x\} \$ \# \textasciitilde{} \textasciicircum{} \textbackslash{} {[}1{]}"
    )


def test_csv_has_values_as_they_are() -> None:
    assert to_csv(Table(["a", "b"], [[['x,"y"', 0.1]], [["", 2]]])) == 'a,b\n"x,""y""",0.1\n,2\n'


def test_a_terminal_has_a_line_between_groups_and_no_markup_in_cells() -> None:
    lines = [line.strip() for line in terminal(Table(["x", "n"], [[["[red]", 1]], [["b", 22]]], "T"), 60).splitlines()]
    assert lines[0] == "T" and [line.split() for line in lines[2:8:2]] == [["x", "n"], ["[red]", "1"], ["b", "22"]]
    assert lines[5] == ""


def test_a_narrow_terminal_breaks_cells_and_cuts_no_number() -> None:
    table = Table(["a task", *"abc"], [[["name", *[Cell("0.512", "[0.400, 0.600]")] * 3]]])
    shown = terminal(table, 44)
    assert max(map(len, shown.splitlines())) <= 44 and "…" not in shown
    assert [shown.count(number) for number in ("0.512", "0.400", "0.600")] == [3, 3, 3]
    whole = "".join(terminal(Table(["", "n"], [[["a" * 20, "1234567890"]]]), 16).split())
    assert whole.count("a") == 20 and sum(map(str.isdigit, whole)) == 10


def test_a_log_has_lines_of_one_width() -> None:
    assert to_lines(Table(["", "how", "n"], [[["a", "whole", 1]], [["bcd", "", "10.0"]]])) == [
        "     how       n",
        "a    whole     1",
        "bcd         10.0",
    ]


@pytest.mark.parametrize(
    ("cells", "numeric"),
    [
        (["+0.1", "-2", "4°", ".5", "[1, 2]"], True),
        (["", ""], True),
        (["12", "image", "7"], True),
        (["3d", "table", "article"], False),
        (["better", "WORSE"], False),
    ],
)
def test_columns_of_numbers_are_told_by_most_of_their_cells(cells: list[str], numeric: bool) -> None:
    assert Table(["", "x"], [[["1", cell] for cell in cells]]).numeric == [False, numeric]


def test_transposed_rows_are_columns() -> None:
    table = Table(["", "x", "y"], [[["a", 1, 2]], [["b", 3, 4]]], "T", ("n",)).transposed()
    assert (table.columns, table.rows) == (("", "a", "b"), [["x", 1, 3], ["y", 2, 4]])
    assert (table.title, table.notes, len(table.groups)) == ("T", ("n",), 1)


def test_a_file_ends_with_a_line_and_has_no_blanks_at_line_ends() -> None:
    for form in ("terminal", "markdown", "latex", "csv"):
        text = to_text(TABLE, form)
        assert text.endswith("\n") and not text.endswith("\n\n\n")
        assert all(line == line.rstrip() for line in text.splitlines())
