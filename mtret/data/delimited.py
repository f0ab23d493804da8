"""Lines of CSV and TSV files as rows of cells: where quotes enclose a cell, and where they are characters of it.

CSV: RFC 4180, https://www.rfc-editor.org/rfc/rfc4180. TSV as the IANA registers it (text/tab-separated-values) has no
quotes at all, while spreadsheets and pandas write some. So a TSV file that looks as if it had them is refused until its
user says which it is.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mtret.errors import UserError
from mtret.files import AnyPath

QUOTES = ("none", "csv")
LONGEST_FIELD = 50_000_000  # characters of a CSV field; the csv module's own limit is 131,072
LONGEST_CELL = 1_000  # lines, of a cell that is looked for in a TSV file
QUOTE = '"'


@dataclass(frozen=True)
class Cells:
    """A row of a table; `problem` says why its cells cannot be told apart."""

    first: int  # line, from 1
    last: int
    cells: list[str]
    problem: str = ""


def read_cells(lines: Iterable[str], delimiter: str, quotes: str, path: AnyPath) -> Iterator[Cells]:
    """The rows of a table, its header among them; empty lines are left out.

    Args:
      lines: with their ends.
      quotes: `none`, `csv`, or empty for what is usual with the delimiter.
      path: of the file, for messages.

    Raises UserError for a quote that swallows lines, and for tabs between what may be quoted cells, unless `quotes`
    says what those are.
    """
    # Files that were put end to end have byte order marks in their midst.
    lines = (line.removeprefix("\ufeff") for line in lines)
    if quotes == "csv" or (not quotes and delimiter != "\t"):
        return _quoted_cells(lines, delimiter, path)
    plain = _plain_cells(lines, delimiter)
    return plain if quotes else _doubted_cells(plain, delimiter, path)


def _quoted_cells(lines: Iterator[str], delimiter: str, path: AnyPath) -> Iterator[Cells]:
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        first = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield _broken(path, first, reader.line_num, str(error))
            continue
        if cells:
            yield Cells(first, reader.line_num, cells)


def _broken(path: AnyPath, first: int, last: int, reason: str) -> Cells:
    """A row whose quotes make no cells. Raises UserError where other lines than its own may be lost with it."""
    remedy = 'double the quotes that are characters (""), or give --quotes=none if all are'
    if reason.startswith("unexpected end"):
        raise UserError(f"{path}:{first}: a quote is opened in this row and never closed; {remedy}")
    if "expected after" not in reason:
        raise UserError(f"{path}:{last}: {reason}; is a quote missing?")
    if last > first:
        raise UserError(
            f"{path}:{first}: a quote is opened in this row and closed on line {last}, within a cell; {remedy}"
        )
    return Cells(first, last, [], "a quote closes within a cell")


def _plain_cells(lines: Iterator[str], delimiter: str) -> Iterator[Cells]:
    for number, line in enumerate(lines, start=1):
        line = line.rstrip("\r\n")
        if line:
            yield Cells(number, number, line.split(delimiter))


def _doubted_cells(rows: Iterator[Cells], delimiter: str, path: AnyPath) -> Iterator[Cells]:
    """The same rows. Raises UserError where quotes seem to enclose cells: the name of a column, all cells of a column,
    a cell with quotes doubled within, or a cell over several lines or with a tab in it."""
    header: list[str] = []
    filled, enclosed = Counter[int](), Counter[int]()
    first = 0  # line with an enclosed cell
    unfinished = _Unfinished(delimiter)
    for row in rows:
        header = header or row.cells
        if unfinished.completes_a_row(row.cells, len(header)):
            raise _asked(path, row.last)
        for place, cell in enumerate(row.cells):
            filled[place] += bool(cell) and row.cells is not header
            if QUOTE in cell and _is_enclosed(cell):
                if row.cells is header or QUOTE * 2 in cell[1:-1]:
                    raise _asked(path, row.last)
                enclosed[place] += 1
                first = first or row.last
        yield row
    if any(count == filled[place] for place, count in enclosed.items()):
        raise _asked(path, first)


class _Unfinished:
    """Lines that would be the begin of a row if quotes enclosed cells."""

    def __init__(self, delimiter: str):
        self._delimiter = delimiter
        self._lines: list[str] = []
        self._ragged = False  # whether one of them has another width than the header

    def completes_a_row(self, cells: list[str], width: int) -> bool:
        """Whether this line, with those before it, is a row of this width as CSV has it, and its lines are not."""
        line, has_quotes = self._delimiter.join(cells), any(QUOTE in cell for cell in cells)
        self._ragged = len(cells) != width or (self._ragged and bool(self._lines))
        if not has_quotes:
            if self._lines:
                self._lines = [*self._lines, line] if len(self._lines) < LONGEST_CELL else []
            return False
        for lines in ([*self._lines, line], [line]) if self._lines else ([line],):
            found = _width(lines, self._delimiter)
            if found == width and self._ragged:
                return True
            if found is None:
                self._lines = lines
                return False
            self._ragged = len(cells) != width
        self._lines = []
        return False


def _width(lines: list[str], delimiter: str) -> int | None:
    """How many cells the row has that the lines are as CSV; None if its end is missing, 0 if they are no row."""
    try:
        rows = list(csv.reader([f"{line}\n" for line in lines], delimiter=delimiter, strict=True))
    except csv.Error as error:
        return None if str(error).startswith("unexpected end") else 0
    return len(rows[0]) if len(rows) == 1 else 0


def _is_enclosed(cell: str) -> bool:
    inner = cell[1:-1]
    return len(cell) > 1 and cell[0] == cell[-1] == QUOTE and QUOTE not in inner.replace(QUOTE * 2, "")


def _asked(path: AnyPath, line: int) -> UserError:
    return UserError(
        f"{path}:{line}: a cell seems to be enclosed in quotes; give --quotes=csv if quotes enclose cells, or "
        "--quotes=none if they are characters of the texts"
    )
