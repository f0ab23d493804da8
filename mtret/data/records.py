"""Rows of other people's files, one after the other: CSV, TSV, JSON Lines and Parquet, as texts by column."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mtret.errors import UserError, nearest
from mtret.files import AnyPath, size_of

KINDS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
DELIMITERS = (",", ";", "\t", "|")
LONGEST_FIELD = 50_000_000  # characters of a CSV field; the csv module's own limit is 131,072
PARQUET_ROWS = 10_000  # read at once

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

    encoding: str = "utf-8-sig"  # of CSV and TSV
    delimiter: str = ""  # likewise; if not given, the one that makes the columns asked for
    separator: str = ""  # between the ids of one cell


def read_rows(
    path: AnyPath,
    columns: Sequence[str],
    on_bytes: Progress = lambda count: None,
    listed: str = "",
    dialect: Dialect = Dialect(),
) -> Iterator[Row]:
    """Every row of a file, in order, with these columns; what is null becomes empty. A row whose column `listed` holds
    several ids, as a list or with the dialect's separator, comes once for each of them.

    Raises UserError for a file of another kind, one that cannot be read, or a column that it does not have.
    """
    kind = path.suffix.lower()
    if kind in (".xlsx", ".xls", ".ods"):
        raise UserError(f"{path}: a spreadsheet; save the sheet as CSV (UTF-8) first")
    if path.suffix.lower() not in KINDS:
        raise UserError(f"{path}: not of a known kind; give {', '.join(KINDS)}, or a folder of BEIR's layout")
    try:
        if kind in (".csv", ".tsv"):
            rows = _read_csv(path, columns, on_bytes, dialect)
        else:
            rows = (_read_parquet if kind == ".parquet" else _read_json_lines)(path, columns, on_bytes, listed)
        if not (listed and dialect.separator):
            yield from rows
            return
        for row in rows:
            ids = [one for one in row.values.get(listed, "").split(dialect.separator) if one.strip()]
            for place, one in enumerate(ids):
                yield replace(row, values={**row.values, listed: one}, again=row.again or place > 0)
            if not ids:
                yield row
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


def _read_csv(path: AnyPath, columns: Sequence[str], on_bytes: Progress, dialect: Dialect) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_FIELD)
    delimiter = dialect.delimiter or _delimiter(path, columns, dialect.encoding)
    with path.open("rb") as binary:
        reader = csv.reader(
            io.TextIOWrapper(io.BufferedReader(_Counted(binary, on_bytes)), encoding=dialect.encoding, newline=""),
            delimiter=delimiter,
        )
        try:
            header = next(reader, None)
            if header is None:
                raise UserError(f"{path}:1: empty; the first line must name the columns")
            places = _places(path, header, columns)
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    yield Row(reader.line_num, {}, f"{len(cells)} columns, the header has {len(header)}")
                else:
                    yield Row(reader.line_num, {name: cells[place] for name, place in places.items()})
        except csv.Error as error:
            raise UserError(f"{path}:{reader.line_num}: {error}; is a quote missing?") from error


def _delimiter(path: AnyPath, columns: Sequence[str], encoding: str) -> str:
    """The usual one, unless another makes the columns that are asked for; else the one that makes most columns, so that
    a complaint names those as a person sees them."""
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open("rb") as binary, io.TextIOWrapper(binary, encoding=encoding, newline="") as text:
        try:
            headers = {}
            for delimiter in dict.fromkeys((usual, *DELIMITERS)):
                text.seek(0)
                headers[delimiter] = next(csv.reader(text, delimiter=delimiter), [])
        except csv.Error:
            return usual  # which meets the same error, and says where
    whole = (delimiter for delimiter, header in headers.items() if {*columns} <= {*header})
    return next(whole, max(headers, key=lambda delimiter: len(headers[delimiter])))


def _places(path: AnyPath, header: Sequence[str], columns: Sequence[str]) -> dict[str, int]:
    for name in columns:
        if name not in header:
            raise UserError(f"{path}:1: no column '{name}'.{nearest(name, header)} It has: {', '.join(header)}")
    repeated = next((name for name in columns if list(header).count(name) > 1), None)
    if repeated:
        raise UserError(f"{path}:1: two columns are named '{repeated}'; rename one")
    return {name: list(header).index(name) for name in columns}


def _read_json_lines(path: AnyPath, columns: Sequence[str], on_bytes: Progress, listed: str) -> Iterator[Row]:
    seen: set[str] = set()
    with path.open("rb") as binary:
        for number, raw in enumerate(binary, start=1):
            on_bytes(len(raw))
            if not raw.strip():
                continue
            try:
                record = json.loads(raw)
            except (ValueError, RecursionError) as error:
                yield Row(number, {}, f"not valid JSON ({error})")
                continue
            if not isinstance(record, dict):
                yield Row(number, {}, "not a JSON object")
                continue
            seen |= record.keys()
            yield from _as_texts(number, {name: record.get(name) for name in columns}, listed)
    missing = next((name for name in columns if name not in seen), None)
    if missing and seen:
        raise UserError(
            f"{path}: no line has '{missing}'.{nearest(missing, seen)} They have: {', '.join(sorted(seen))}"
        )


def _read_parquet(path: AnyPath, columns: Sequence[str], on_bytes: Progress, listed: str) -> Iterator[Row]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError(f"{path}: reading Parquet needs pyarrow ({error}); pip install 'mtret[parquet]'") from error
    try:
        with path.open("rb") as binary:
            file = parquet.ParquetFile(binary)
            _places(path, file.schema_arrow.names, columns)
            number, size = 0, max(file.metadata.num_rows, 1)
            whole = size_of(path)
            for batch in file.iter_batches(PARQUET_ROWS, columns=list(columns)):
                for record in batch.to_pylist():
                    number += 1
                    yield from _as_texts(number, record, listed)
                on_bytes(int(whole * batch.num_rows / size))
    except arrow.ArrowException as error:
        raise UserError(f"{path}: damaged, or no Parquet ({str(error).splitlines()[0]})") from error


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
        if value is None:
            value = ""
        elif isinstance(value, bool | int | float):
            value = json.dumps(value)
        if not isinstance(value, str):
            return Row(line, {}, f"'{name}' is no text but a {type(value).__name__}")
        values[name] = value
    return Row(line, values)


class _Counted(io.RawIOBase):
    """A binary file that tells how many bytes were read of it."""

    def __init__(self, binary: Any, tell: Progress):
        self._binary, self._tell = binary, tell

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        read = self._binary.readinto(buffer)
        if read:
            self._tell(read)
        return read
