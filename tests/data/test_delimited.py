"""Lines of CSV and TSV files: what a quote is, and what is asked or named where nobody can know."""

from pathlib import Path

import pytest

from mtret.data.delimited import Cells, read_cells
from mtret.errors import UserError

PATH = Path("rows.tsv")


def cells(text: str, delimiter: str = "\t", quotes: str = "") -> list[list[str]]:
    return [row.cells for row in read_cells(text.splitlines(keepends=True), delimiter, quotes, PATH)]


def refusal(text: str, delimiter: str = "\t", quotes: str = "") -> str:
    with pytest.raises(UserError) as caught:
        cells(text, delimiter, quotes)
    return str(caught.value)


def test_a_quote_within_a_cell_of_tsv_is_a_character() -> None:
    text = 'id\ttext\n1\tsaid "so"\n2\twhat is 5"\n3\n'
    assert cells(text) == [line.split("\t") for line in text.splitlines()]
    assert cells(text, quotes="none") == cells(text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('"id"\t"text"\n1\ta\n', 1),
        ('id\ttext\n1\t"a"\n2\t"b"\n3\t\n', 2),
        ('id\ttext\n1\tplain\n2\t"he said ""so"""\n', 3),
        ('id\ttext\n1\tplain\n2\t"one\ttwo"\n', 3),
        ('text\tid\nplain\t1\n"one\n\ntwo"\t2\n', 3),
    ],
)
def test_a_quote_at_the_beginning_of_a_cell_of_tsv_is_asked_about(text: str, line: int) -> None:
    assert refusal(text) == (
        f"rows.tsv:{line}: a cell begins with a quote; give --quotes=csv if quotes enclose cells, or --quotes=none if "
        "they are characters of the texts"
    )
    assert cells(text, quotes="none") == [line.split("\t") for line in text.splitlines() if line]
    assert all('"' not in cell.replace('"so"', "") for row in cells(text, quotes="csv") for cell in row)


def test_csv_has_quotes_unless_there_are_none() -> None:
    text = 'a,b\n"x, ""y""\nz",1\r\n\n5" nail,2\n'
    assert cells(text, ",") == cells(text, ",", "csv") == [["a", "b"], ['x, "y"\nz', "1"], ['5" nail', "2"]]
    assert cells('a,b\n"x,1\n', ",", "none") == [["a", "b"], ['"x', "1"]]
    rows = list(read_cells(text.splitlines(keepends=True), ",", "", PATH))
    assert [(row.first, row.last) for row in rows] == [(1, 1), (2, 3), (5, 5)]


REMEDY = 'double the quotes that are characters (""), or give --quotes=none if all are'


def test_a_quote_of_csv_that_swallows_lines_is_named() -> None:
    assert refusal('a,b\n"x,1\ny,2\n', ",") == (f"rows.tsv:2: a quote is opened in this row and never closed; {REMEDY}")
    assert refusal('a,b\nw,0\n"x,1\ny 5" z,2\n', ",") == (
        f"rows.tsv:3: a quote is opened in this row and closed on line 4, within a cell; {REMEDY}"
    )
    assert refusal('a\tb\n"x\t1\ny\t2\n', quotes="csv").startswith(
        "rows.tsv:2: a quote is opened in this row and never"
    )


def test_a_quote_that_closes_within_a_cell_costs_its_row_only() -> None:
    text = 'a,b\n"Who" goes,1\n"said \\"so\\"",2\ny,3\n'
    rows = list(read_cells(text.splitlines(keepends=True), ",", "", PATH))
    assert rows == [
        Cells(1, 1, ["a", "b"]),
        Cells(2, 2, [], "a quote closes within a cell"),
        Cells(3, 3, [], "a quote closes within a cell"),
        Cells(4, 4, ["y", "3"]),
    ]


def test_files_put_end_to_end_have_marks_in_their_midst() -> None:
    assert cells("a\tb\n1\t2\n\ufeff3\t\ufeff4\n") == [["a", "b"], ["1", "2"], ["3", "\ufeff4"]]
    assert cells('a,b\n\ufeff"1,5",2\n', ",") == [["a", "b"], ["1,5", "2"]]
