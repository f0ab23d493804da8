"""Lines of CSV and TSV files as rows of cells: where quotes enclose a cell, and where they are characters of it.

CSV: RFC 4180, https://www.rfc-editor.org/rfc/rfc4180. TSV as the IANA registers it (text/tab-separated-values) has no
quotes at all, while spreadsheets and pandas write some. So a TSV file with a cell that begins with a quote is refused
until its user says which it is.
"""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mtret.errors import UserError
from mtret.files import AnyPath

QUOTES = ("none", "csv")
LONGEST_FIELD = 50_000_000  # characters of a CSV field; the csv module's own limit is 131,072
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

    Raises UserError for a quote that swallows lines, and for one at the beginning of a cell between tabs, unless
    `quotes` says what it is.
    """
    # Files that were put end to end have byte order marks in their midst.
    lines = (line.removeprefix("\ufeff") for line in lines)
    if quotes == "csv" or (not quotes and delimiter != "\t"):
        return _quoted_cells(lines, delimiter, path)
    return _plain_cells(lines, delimiter, path, asks=not quotes)


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


def _plain_cells(lines: Iterator[str], delimiter: str, path: AnyPath, asks: bool) -> Iterator[Cells]:
    """`asks`: whether a cell that begins with a quote may be an enclosed one."""
    for number, line in enumerate(lines, start=1):
        line = line.rstrip("\r\n")
        cells = line.split(delimiter)
        if asks and any(cell.startswith(QUOTE) for cell in cells):
            raise UserError(
                f"{path}:{number}: a cell begins with a quote; give --quotes=csv if quotes enclose cells, or "
                "--quotes=none if they are characters of the texts"
            )
        if line:
            yield Cells(number, number, cells)
