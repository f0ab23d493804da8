"""Rows of other people's files, one after the other: CSV, TSV, JSON Lines and Parquet, as texts by column."""

import io
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from mtret.data.delimited import read_cells
from mtret.data.json_objects import each_key_once
from mtret.errors import UserError, first_line, nearest
from mtret.files import AnyPath, size_of

KINDS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
DELIMITERS = (",", ";", "\t", "|")
PARQUET_ROWS = 10_000  # read at once
# What programs write for a missing value, in any case. They are texts unless the user says otherwise.
MISSING_WORDS = frozenset(
    ("nan", "-nan", "none", "null", "(null)", "nil", "na", "<na>", "n/a", "#n/a", "#na", "nat", "undefined")
)
LONGEST_WORD = max(map(len, MISSING_WORDS))

Progress = Callable[[int], None]  # is told how many more bytes are read


@dataclass(frozen=True)
class Row:
    """A row and where it stands; `problem` says why it cannot be read, and its values are empty then."""

    line: int  # from 1; of Parquet, the row's number
    values: Mapping[str, str]
    problem: str = ""
    again: bool = False  # the row before, with the next one of the ids that it lists


@dataclass(frozen=True)
class Dialect:
    """How files of text are written."""

    encoding: str = "utf-8-sig"
    delimiter: str = ""  # of CSV and TSV; if not given, the one that makes the columns asked for
    separator: str = ""  # between the ids of one cell
    quotes: str = ""  # of CSV and TSV: csv, none; if not given, none where tabs part the cells, else csv
    missing: tuple[str, ...] = ()  # texts that stand for no value


@dataclass
class Findings:
    """What a file holds that makes no row unreadable, and that its user should know of."""

    unread: Counter[str] = field(default_factory=Counter)  # column or key that nobody asked for -> rows that have it
    missing_words: Counter[tuple[str, str]] = field(default_factory=Counter)  # (column, text) of MISSING_WORDS
    swallowing: list[int] = field(default_factory=list)  # lines of rows with a cell of several lines with delimiters


def read_rows(
    path: AnyPath,
    columns: Sequence[str],
    on_bytes: Progress = lambda count: None,
    listed: str = "",
    dialect: Dialect = Dialect(),
    optional: Collection[str] = (),
    findings: Findings | None = None,
) -> Iterator[Row]:
    """Every row of a file, in order, with these columns; what is null or not a number becomes empty. A row whose column
    `listed` holds several ids, as a list or with the dialect's separator, comes once for each of them.

    Args:
      optional: those of the columns that the file need not have; they are empty then.
      findings: is filled with what is seen.

    Raises UserError for a file of another kind, one that cannot be read, or a column that it does not have.
    """
    kind = path.suffix.lower()
    if kind in (".xlsx", ".xls", ".ods"):
        raise UserError(f"{path}: a spreadsheet; save the sheet as CSV (UTF-8) first")
    if kind not in KINDS:
        raise UserError(f"{path}: not of a known kind; give {', '.join(KINDS)}, or a folder of BEIR's layout")
    file = _File(path, columns, optional, listed, dialect, on_bytes, Findings() if findings is None else findings)
    try:
        rows = {".csv": file.table, ".tsv": file.table, ".parquet": file.parquet}.get(kind, file.json_lines)()
        for row in _one_id_each(rows, listed, dialect.separator):
            yield _with_missing(row, dialect.missing, file.findings)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}). Check the path") from error
    except UnicodeDecodeError as error:
        encoding = dialect.encoding.removesuffix("-sig").upper()
        raise UserError(
            f"{path}: not {encoding} ({error.reason}); save it as UTF-8, or name what it is, such as --encoding=cp1252 "
            "(of Windows) or utf-16"
        ) from error
    except UnicodeError as error:  # UTF-16 without its mark
        raise UserError(f"{path}: not {dialect.encoding} ({error}); give another --encoding") from error


def _one_id_each(rows: Iterator[Row], listed: str, separator: str) -> Iterator[Row]:
    if not (listed and separator):
        yield from rows
        return
    for row in rows:
        ids = [one for one in row.values.get(listed, "").split(separator) if one.strip()]
        for place, one in enumerate(ids):
            yield replace(row, values={**row.values, listed: one}, again=row.again or place > 0)
        if not ids:
            yield row


def _with_missing(row: Row, missing: Collection[str], findings: Findings) -> Row:
    """The row without the texts that stand for no value; those that only look like it are counted."""
    gone = []
    for name, value in row.values.items():
        word = value.strip()
        if missing and word in missing:
            gone.append(name)
        elif len(word) <= LONGEST_WORD and word.lower() in MISSING_WORDS and not row.again:
            findings.missing_words[name, word] += 1
    return replace(row, values={**row.values, **dict.fromkeys(gone, "")}) if gone else row


# Numbers stay as they are written, since they can be ids: 1.10 is not 1.1.
_DECODER = partial(json.loads, parse_float=str, parse_int=str, object_pairs_hook=each_key_once)


@dataclass(frozen=True)
class _File:
    """A file to be read, with the arguments of `read_rows`."""

    path: AnyPath
    columns: Sequence[str]
    optional: Collection[str]
    listed: str
    dialect: Dialect
    on_bytes: Progress
    findings: Findings

    def table(self) -> Iterator[Row]:
        path, delimiter = self.path, self.dialect.delimiter or self._delimiter()
        rows = read_cells(self._lines(newline=""), delimiter, self.dialect.quotes, path)
        first = next(rows, None)
        if first is None:
            raise UserError(f"{path}:1: empty; the first line must name the columns")
        if first.problem:
            raise UserError(f"{path}:{first.last}: {first.problem}; the first line must name the columns")
        header, number = first.cells, 0
        places = self._places(header)
        for row in rows:
            number += 1
            if row.first < row.last and any(delimiter in cell and {*cell} & {*"\r\n"} for cell in row.cells):
                self.findings.swallowing.append(row.first)
            if row.problem:
                yield Row(row.last, {}, row.problem)
            elif len(row.cells) != len(header):
                yield Row(row.last, {}, f"{len(row.cells)} columns, the header has {len(header)}")
            elif row.cells == header:
                yield Row(row.last, {}, "the header once more")
            else:
                absent = dict.fromkeys(self.optional, "")
                yield Row(row.last, absent | {name: row.cells[place] for name, place in places.items()})
        unread = [name or f"column {place}" for place, name in enumerate(header, start=1) if name not in places]
        self.findings.unread.update(dict.fromkeys(unread, number))

    def _text(self, newline: str) -> io.TextIOWrapper:
        return io.TextIOWrapper(self.path.open("rb"), encoding=self.dialect.encoding, newline=newline)

    def _lines(self, newline: str) -> Iterator[str]:
        """Tells on the way how many bytes are read."""
        told = 0
        with self._text(newline) as text:
            binary: Any = text.buffer
            for line in text:
                yield line
                if (place := binary.tell()) > told:
                    self.on_bytes(place - told)
                    told = place

    def _delimiter(self) -> str:
        """The usual one, unless another makes the columns that are asked for; else the one that makes most columns, so
        that a complaint names those as a person sees them."""
        usual = "\t" if self.path.suffix.lower() == ".tsv" else ","
        headers: dict[str, list[str]] = {}
        with self._text(newline="") as text:
            try:
                for delimiter in dict.fromkeys((usual, *DELIMITERS)):
                    text.seek(0)
                    # As CSV also where tabs part the cells: quotes around a name are then seen by who reads the rows.
                    first = next(read_cells(text, delimiter, self.dialect.quotes or "csv", self.path), None)
                    headers[delimiter] = first.cells if first else []
            except UserError:
                return usual  # which meets the same error, and says where
        whole = (each for each, header in headers.items() if {*self.columns} - {*self.optional} <= {*header})
        return next(whole, max(headers, key=lambda delimiter: len(headers[delimiter])))

    def _places(self, header: Sequence[str]) -> dict[str, int]:
        for name in self.columns:
            if name not in header and name not in self.optional:
                raise UserError(
                    f"{self.path}:1: no column '{name}'.{nearest(name, header)} It has: {', '.join(header)}"
                )
        repeated = next((name for name in self.columns if list(header).count(name) > 1), None)
        if repeated:
            raise UserError(f"{self.path}:1: two columns are named '{repeated}'; rename one")
        return {name: list(header).index(name) for name in self.columns if name in header}

    def json_lines(self) -> Iterator[Row]:
        seen = Counter[str]()
        for number, line in enumerate(self._lines(newline="\n"), start=1):
            line = line.removeprefix("\ufeff")  # where files were put end to end
            if not line.strip():
                continue
            try:
                record = _DECODER(line)
            except (ValueError, RecursionError) as error:
                yield Row(number, {}, f"not valid JSON: {error}")
                continue
            if not isinstance(record, dict):
                yield Row(number, {}, "not a JSON object")
                continue
            seen.update(record.keys())
            yield from _as_texts(number, {name: record.get(name) for name in self.columns}, self.listed)
        missing = next((name for name in self.columns if name not in seen and name not in self.optional), None)
        if missing and seen:
            raise UserError(
                f"{self.path}: no line has '{missing}'.{nearest(missing, seen)} They have: {', '.join(sorted(seen))}"
            )
        self.findings.unread.update({name: count for name, count in seen.items() if name not in self.columns})

    def parquet(self) -> Iterator[Row]:
        try:
            import pyarrow as arrow
            import pyarrow.parquet as parquet
        except ImportError as error:
            raise UserError(
                f"{self.path}: reading Parquet needs pyarrow ({error}); pip install 'mtret[parquet]'"
            ) from error
        try:
            with self.path.open("rb") as binary:
                file = parquet.ParquetFile(binary)
                header = file.schema_arrow.names
                places = self._places(header)
                absent = dict.fromkeys(self.optional, "")
                number, size = 0, max(file.metadata.num_rows, 1)
                whole = size_of(self.path)
                for batch in file.iter_batches(PARQUET_ROWS, columns=list(places)):
                    for record in batch.to_pylist():
                        number += 1
                        yield from _as_texts(number, absent | record, self.listed)
                    self.on_bytes(int(whole * batch.num_rows / size))
                self.findings.unread.update({name: number for name in header if name not in places})
        except arrow.ArrowException as error:
            raise UserError(f"{self.path}: damaged, or no Parquet ({first_line(error)})") from error


def _as_texts(line: int, record: Mapping[str, Any], listed: str) -> Iterator[Row]:
    """Numbers as they are written; nothing that has parts, but for the column `listed`: a row for each."""
    several = record.get(listed)
    if isinstance(several, list) and several:
        for place, one in enumerate(several):
            yield replace(_as_row(line, {**record, listed: one}), again=place > 0)
    else:
        yield _as_row(line, {**record, listed: ""} if isinstance(several, list) else record)


def _as_row(line: int, record: Mapping[str, Any]) -> Row:
    values = {}
    for name, value in record.items():
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            value = ""
        elif isinstance(value, bool | int | float):
            value = json.dumps(value)
        if not isinstance(value, str):
            return Row(line, {}, f"'{name}' is not a text but a {type(value).__name__}")
        values[name] = value
    return Row(line, values)
