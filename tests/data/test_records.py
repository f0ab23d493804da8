"""Rows of files of every kind: values as texts, problems with their line."""

from pathlib import Path

import pytest

from mtret.data.records import Dialect, Findings, Row, read_rows
from mtret.errors import UserError


def rows(path: Path, *columns: str) -> list[Row]:
    return list(read_rows(path, columns))


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes('\ufeffx,y,z\r\n1,"a, b",\r\n\r\n"two\r\nlines",ü,3\r\n4\r\n'.encode())
    assert rows(path, "x", "y") == [
        Row(2, {"x": "1", "y": "a, b"}),
        Row(5, {"x": "two\r\nlines", "y": "ü"}),
        Row(6, {}, "1 columns, the header has 3"),
    ]
    long = tmp_path / "long.csv"
    long.write_text("x\n" + "word " * 40_000 + "\n")
    assert len(rows(long, "x")[0].values["x"]) == 200_000


@pytest.mark.slow
def test_bytes_are_counted(tmp_path: Path) -> None:
    for name, content in (("a.csv", "x\n" + "1\n" * 50_000), ("a.jsonl", '{"x": "1"}\n' * 20_000)):
        (tmp_path / name).write_text(content)
        told: list[int] = []
        for _ in read_rows(tmp_path / name, ["x"], told.append):
            pass
        assert sum(told) == len(content) and len(told) > 5


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"x": "t", "n": 1.5, "more": {}}\n\n{"x": null, "n": true}\n[]\n{"x\n{"x": ["a"], "n": 1}\n{"n": 2}\n'
    )
    found = rows(path, "x", "n")
    assert found[:3] == [
        Row(1, {"x": "t", "n": "1.5"}),
        Row(3, {"x": "", "n": "true"}),
        Row(4, {}, "not a JSON object"),
    ]
    assert found[3].line == 5 and found[3].problem.startswith("not valid JSON: ")
    assert found[4:] == [Row(6, {}, "'x' is not a text but a list"), Row(7, {"x": "", "n": "2"})]
    with pytest.raises(UserError, match=r"a.jsonl: no line has 'y'\. They have: more, n, x"):
        rows(path, "y")


def test_parquet(tmp_path: Path) -> None:
    import pyarrow as arrow
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"x": ["a", None, "c"], "n": [1, 2, 3], "l": [[1], [2], [3]]}), path)
    assert rows(path, "x", "n") == [
        Row(1, {"x": "a", "n": "1"}),
        Row(2, {"x": "", "n": "2"}),
        Row(3, {"x": "c", "n": "3"}),
    ]
    assert rows(path, "l")[0].problem == "'l' is not a text but a list"
    with pytest.raises(UserError, match=r"a.parquet:1: no column 'y'\. It has: x, n, l"):
        rows(path, "y")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match=r"a.parquet: damaged, or no Parquet"):
        rows(path, "x")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xlsx", b"x", r"a.xlsx: a spreadsheet; save the sheet as CSV"),
        ("a.doc", b"x", r"a.doc: not of a known kind; give .csv, .tsv, .jsonl, .ndjson, .parquet, or a folder"),
        (
            "a.csv",
            b"x\n\xff\xfe\n",
            r"a.csv: not UTF-8 \(invalid start byte\); save it as UTF-8, or .* --encoding=cp1252",
        ),
        ("a.csv", b'x\n"' + b"a" * 60_000_000, r"a.csv:2: field larger than field limit"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        rows(tmp_path / name, "x")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.csv: cannot be read \(No such file or directory\)"):
        rows(tmp_path / "none.csv", "x")


@pytest.mark.parametrize(
    ("suffix", "delimiter"), [("csv", ";"), ("csv", "\t"), ("csv", "|"), ("tsv", ";"), ("tsv", ",")]
)
def test_the_header_shows_the_delimiter(tmp_path: Path, suffix: str, delimiter: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_text(f'x y{delimiter}z\n"a{delimiter} b"{delimiter}1\n', encoding="utf-8-sig")
    wanted = [Row(2, {"x y": f"a{delimiter} b", "z": "1"})]
    assert list(read_rows(path, ["x y", "z"], dialect=Dialect(quotes="csv"))) == wanted
    with pytest.raises(UserError, match=r"a....:1: no column 'w'. It has: x y, z$"):
        rows(path, "w")
    assert list(read_rows(path, ["x y", "z"], dialect=Dialect(delimiter=delimiter, quotes="csv"))) == wanted


def test_the_usual_delimiter_wins_where_it_makes_the_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y;z\n1,2;3\n")
    assert rows(path, "x", "y;z") == [Row(2, {"x": "1", "y;z": "2;3"})]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le"])
def test_other_encodings_are_named(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("x;y\nMüller;€\n".encode(encoding))
    assert list(read_rows(path, ["y", "x"], dialect=Dialect(encoding))) == [Row(2, {"y": "€", "x": "Müller"})]
    with pytest.raises(UserError):
        rows(path, "x")


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le"])
def test_json_lines_of_another_encoding_are_refused_or_read(tmp_path: Path, encoding: str) -> None:
    """Not line by line: a file of Windows would lose the lines with umlauts, one in UTF-16 every other."""
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"x": "Müller"}\n{"x": "b"}\n{"x": "€"}\n'.encode(encoding))
    found = list(read_rows(path, ["x"], dialect=Dialect(encoding)))
    assert [row.values for row in found] == [{"x": "Müller"}, {"x": "b"}, {"x": "€"}]
    with pytest.raises(UserError, match=r"a.jsonl: not UTF-8 \(.*\); save it as UTF-8, or .* --encoding=cp1252"):
        rows(path, "x")


def test_a_row_comes_once_for_each_id_that_it_lists(tmp_path: Path) -> None:
    json_lines, table = tmp_path / "a.jsonl", tmp_path / "a.csv"
    json_lines.write_text('{"q": "one", "ids": ["a", 7]}\n{"q": "two", "ids": "b"}\n{"q": "three", "ids": []}\n')
    expected = [
        Row(1, {"q": "one", "ids": "a"}),
        Row(1, {"q": "one", "ids": "7"}, again=True),
        Row(2, {"q": "two", "ids": "b"}),
        Row(3, {"q": "three", "ids": ""}),
    ]
    assert list(read_rows(json_lines, ["q", "ids"], listed="ids")) == expected
    assert rows(json_lines, "q", "ids")[0].problem == "'ids' is not a text but a list"
    table.write_text("q,ids\none,a|7\ntwo,b\nthree,|\n")
    found = list(read_rows(table, ["q", "ids"], listed="ids", dialect=Dialect(separator="|")))
    assert [(row.values["ids"], row.again) for row in found] == [("a", False), ("7", True), ("b", False), ("|", False)]


def test_numbers_stay_as_they_are_written_and_nan_is_no_value(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"x": 1.10, "n": 1e3}\n{"x": NaN, "n": -Infinity}\n{"x": "NaN", "n": 007}\n{"x": "a", "x": "b"}\n'
        '{"x": -0, "n": ' + "9" * 5000 + "}\n"
    )
    found = rows(path, "x", "n")
    assert found[:2] == [Row(1, {"x": "1.10", "n": "1e3"}), Row(2, {"x": "", "n": ""})]
    assert found[2].problem.startswith("not valid JSON: ")  # a number has no leading zero
    assert found[3] == Row(4, {}, "not valid JSON: two values of 'x'")
    assert found[4] == Row(5, {"x": "-0", "n": "9" * 5000})


def test_parquet_has_null_and_nan(tmp_path: Path) -> None:
    import pyarrow as arrow
    from pyarrow import parquet

    table = arrow.table({"x": ["a", None], "n": [float("nan"), 1.5], "i": [None, 7], "more": [1, 2]})
    parquet.write_table(table, tmp_path / "a.parquet")
    findings = Findings()
    found = list(read_rows(tmp_path / "a.parquet", ["x", "n", "i"], findings=findings))
    assert found == [Row(1, {"x": "a", "n": "", "i": ""}), Row(2, {"x": "", "n": "1.5", "i": "7"})]
    assert findings.unread == {"more": 2}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "x,y\nNaN,a\n N/A ,b\nnone of it,None\nNaN,c\n"),
        ("a.jsonl", '{"x": "NaN", "y": "a"}\n{"x": " N/A ", "y": "b"}\n{"x": "none of it", "y": "None"}\n'
         '{"x": "NaN", "y": "c"}\n'),
    ],
)  # fmt: skip
def test_words_for_nothing_are_texts_that_are_counted_unless_they_are_named(
    tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    findings = Findings()
    found = list(read_rows(tmp_path / name, ["x", "y"], findings=findings))
    assert [row.values["x"] for row in found] == ["NaN", " N/A ", "none of it", "NaN"]
    assert findings.missing_words == {("x", "NaN"): 2, ("x", "N/A"): 1, ("y", "None"): 1}
    findings, dialect = Findings(), Dialect(missing=("NaN", "None"))
    found = list(read_rows(tmp_path / name, ["x", "y"], dialect=dialect, findings=findings))
    assert [row.values["x"] for row in found] == ["", " N/A ", "none of it", ""]
    assert [row.values["y"] for row in found] == ["a", "b", "", "c"]
    assert findings.missing_words == {("x", "N/A"): 1}


def test_a_word_of_a_row_with_several_ids_counts_once(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,ids\nNaN,a|b|c\n")
    findings = Findings()
    found = list(
        read_rows(tmp_path / "a.csv", ["x", "ids"], listed="ids", dialect=Dialect(separator="|"), findings=findings)
    )
    assert len(found) == 3 and findings.missing_words == {("x", "NaN"): 1}


def test_a_column_that_need_not_be_there_is_empty(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x\n1\n")
    (tmp_path / "a.jsonl").write_text('{"x": "1"}\n')
    for name in ("a.csv", "a.jsonl"):
        found = list(read_rows(tmp_path / name, ["x", "title"], optional=("title",)))
        assert [dict(row.values) for row in found] == [{"x": "1", "title": ""}]


def test_what_is_not_read_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(',x,y,z\n0,1,2,"3\n4, 5"\n')
    (tmp_path / "a.jsonl").write_text('{"x": "1", "Title": "T"}\n{"x": "2", "meta": {"x": 1}}\n{"x": "3", "meta": 0}\n')
    found = {}
    for name in ("a.csv", "a.jsonl"):
        found[name] = Findings()
        list(read_rows(tmp_path / name, ["x"], findings=found[name]))
    assert found["a.csv"].unread == {"column 1": 1, "y": 1, "z": 1}  # pandas writes its index without a name
    assert found["a.csv"].swallowing == [2]  # though nobody asks for z
    assert found["a.jsonl"].unread == {"Title": 1, "meta": 2}


def test_a_header_in_the_midst_is_no_row(tmp_path: Path) -> None:
    """Files put end to end, the second with its header and byte order mark."""
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfx,y\n1,2\n\xef\xbb\xbfx,y\n3,4\n")
    assert rows(tmp_path / "a.csv", "x") == [Row(2, {"x": "1"}), Row(3, {}, "the header once more"), Row(4, {"x": "3"})]
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"x": "1"}\n\xef\xbb\xbf{"x": "2"}\n')
    assert [row.values for row in rows(tmp_path / "a.jsonl", "x")] == [{"x": "1"}, {"x": "2"}]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n"])
def test_line_ends_of_every_program(tmp_path: Path, end: str) -> None:
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        lines = [f"x{delimiter}y", f"1{delimiter}a\u2028b\x85c\x0bd", f"2{delimiter}e"]
        (tmp_path / name).write_bytes(end.join(lines).encode())
        assert [row.values["y"] for row in rows(tmp_path / name, "x", "y")] == ["a\u2028b\x85c\x0bd", "e"]
