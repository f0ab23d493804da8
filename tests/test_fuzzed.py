"""Whatever stands in a file or on the command line: a result or one line, never a traceback, never half an output.

Each of six kinds of input is tried MTRET_FUZZ_CASES times (60 if that is not set; `make fuzz` tries 2,000, 12,000 in
all), from the seed in MTRET_FUZZ_SEED (0). A case that fails is shown whole, and as small as it can be made.
"""

import contextlib
import csv
import functools
import io
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from rich.console import Console

from mtret.cli import COMMANDS, main
from mtret.data.formats import read_suite
from mtret.data.importing import Columns
from mtret.data.tokenize import Tokenizer
from mtret.errors import UserError
from mtret.runs.data_import import ImportConfig, run_import

pytestmark = pytest.mark.system

CASES = int(os.environ.get("MTRET_FUZZ_CASES", "60"))
SEED = int(os.environ.get("MTRET_FUZZ_SEED", "0"))

ODD = st.sampled_from(
    [
        "",
        " ",
        "\t",
        "\n",
        "\r",
        '"',
        "'",
        "\0",
        "\x85",
        "\u2028",
        "\ufeff",
        "\ud800",
        "null",
        "NaN",
        "-0",
        "1e999",
        "9" * 400,
    ]
)
WORD = st.text(st.characters(codec="utf-8"), max_size=6) | st.sampled_from(["reset", "card", "a b", "é", "票"])
IDS = st.sampled_from(["a", "b", "c", "d1", "d2", "q1", "q2"])
VALUE: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORD | ODD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORD, inner, max_size=3),
    max_leaves=5,
)


def fuzzed(test: Callable[..., None]) -> Callable[..., None]:
    """As many cases as are asked for, of the seed that is asked for; none is remembered from an earlier run."""
    quiet = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    chosen = settings(max_examples=CASES, deadline=None, database=None, suppress_health_check=quiet, print_blob=True)
    return seed(SEED)(chosen(test))


def answer(*arguments: str) -> tuple[int, str]:
    """Exit code and standard error of a command that must answer in one line where it fails."""
    said, error = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(error), mock.patch("sys.stdin", io.StringIO("a query\n")):
        code = main(arguments)
    assert code in (0, 2), (code, error.getvalue())
    assert "Traceback" not in said.getvalue() + error.getvalue()
    if code == 2:
        assert error.getvalue().startswith("mtret: ")
        assert error.getvalue().count("\n") == 1, error.getvalue()
    return code, error.getvalue()


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture(scope="module", autouse=True)
def one_tokenizer() -> Iterator[None]:
    """Read once: an import reads it again to count long documents, which is most of a small import's time."""
    with mock.patch("mtret.runs.data_import.Tokenizer", functools.cache(Tokenizer)):
        yield


# A cell, a row, a table: mostly sound, so that what is behind the first check is reached as well.
CELL = st.one_of(IDS, WORD, IDS, ODD)
ROW = st.lists(CELL, min_size=2, max_size=4)


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """A CSV file as people's programs write it, or broken."""
    rows = draw(st.lists(ROW, max_size=8))
    header = draw(
        st.sampled_from([["query", "text", "id"], ["query", "text"], ["query"], ["text", "query", "query"], []])
    )
    out = io.StringIO()
    csv.writer(out, lineterminator=draw(st.sampled_from(["\n", "\r\n"]))).writerows([header, *rows])
    raw = out.getvalue().encode("utf-8", "surrogatepass")
    return draw(st.sampled_from([raw, raw, raw, raw[: len(raw) // 2], b"\xef\xbb\xbf" + raw])) + draw(
        st.sampled_from([b"", b"", b"", b'"', b"\xff", b"\0", b'x,"y\n'])
    )


@st.composite
def json_lines(draw: st.DrawFn) -> bytes:
    keys = st.sampled_from(["query", "text", "_id", "title", "image", "parent"])
    record = st.dictionaries(keys, IDS | WORD | VALUE, max_size=5) | st.fixed_dictionaries({"query": IDS, "text": WORD})
    lines = draw(st.lists(st.one_of(record, record, record, VALUE), max_size=8))
    text = "\n".join(json.dumps(line, ensure_ascii=draw(st.booleans())) for line in lines)
    raw = text.encode("utf-8", "surrogatepass")
    return draw(st.sampled_from([raw, raw, raw, raw[:-3], raw + b"\n{", raw + b"\xc3"]))


def imported(name: str, content: bytes, flags: Sequence[str]) -> None:
    """An import leaves a task that is read without complaint, or nothing at all."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / name).write_bytes(content)
        words = ("--query=query", "--text=text", "--family=kind", "--instruction=Find it.", f"--out={folder}/tasks/one")
        code, _ = answer("data", "import", f"{folder}/{name}", *words, *flags)
        left = [path for path in listing(folder) if path not in (name, "tasks")]
        if code:
            assert left == []
        else:
            assert read_suite(folder / "tasks").tasks["one"].query_texts
            assert {path.split("/")[1] for path in left} == {"one"}


IMPORT_FLAGS = st.lists(
    st.sampled_from(
        [
            "--split=80/10/10",
            "--split=1/1/1",
            "--split=0/0/1",
            "--query_id=id",
            "--group_by=text",
            "--score=id",
            "--seed=7",
            "--title=id",
            "--quotes=none",
            "--quotes=csv",
            "--missing=NaN,null",
        ]
    ),
    max_size=3,
)


@fuzzed
@given(content=tables(), flags=IMPORT_FLAGS)
def test_tables(content: bytes, flags: list[str]) -> None:
    imported("rows.csv", content, flags)


@fuzzed
@given(content=json_lines(), flags=IMPORT_FLAGS)
def test_json_lines(content: bytes, flags: list[str]) -> None:
    imported("rows.jsonl", content, flags)


# Judged pairs: tables of few ids and texts, so that many are the same, and some that lead nowhere.
ID = st.sampled_from(["a", "a", "a", "b", "b", "c", "1", "01", " a", "nowhere", "", "NaN"])
TEXT = st.sampled_from(["one", "One?", "two", "two words", 'a "quoted", one', "x\ny", "", "None"]) | WORD
SCORE = st.sampled_from(["1", "1", "2", "0", "-1", "0.5", "", "much", "nan"])
TABLE_KINDS = ("csv", "tsv", "jsonl", "parquet")


def table(kind: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    if kind == "parquet":
        import pyarrow
        from pyarrow import parquet

        out = io.BytesIO()
        columns = zip(*rows, strict=True) if rows else [[] for _ in header]
        parquet.write_table(
            pyarrow.table([pyarrow.array(each, pyarrow.string()) for each in columns], list(header)), out
        )
        return out.getvalue()
    if kind == "jsonl":
        return "".join(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows).encode()
    if kind == "tsv":  # which has no quotes
        return "".join("\t".join(map(" ".join, map(str.split, row))) + "\n" for row in [header, *rows]).encode()
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    return text.getvalue().encode()


def pairs_of(path: Path, listed: str = "") -> int:
    """Judged pairs of a file, counted without mtret: a row each, or one for every id in its column `listed`."""
    if path.suffix == ".parquet":
        from pyarrow import parquet

        rows = parquet.read_table(path).to_pylist()
    elif path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    elif path.suffix == ".tsv":
        lines = path.read_text(encoding="utf-8").split("\n")
        rows = [dict(zip(lines[0].split("\t"), line.split("\t"), strict=True)) for line in lines[1:] if line]
    else:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    if not listed:
        return len(rows)
    cells = [row[listed] for row in rows]
    ids = [[one for one in cell.split("|") if one.strip()] if isinstance(cell, str) else cell for cell in cells]
    return sum(max(len(each), 1) for each in ids)


Case = tuple[dict[str, bytes], dict[str, Any], list[str]]


@st.composite
def judged(draw: st.DrawFn) -> Case:
    """Files of one of the layouts that are imported, how the import is told of them, and which of them judge."""

    def rows(*cells: st.SearchStrategy[Any]) -> list[list[Any]]:
        return draw(st.lists(st.tuples(*cells).map(list), min_size=1, max_size=8))

    def of_its_kind(name: str, header: Sequence[str], cells: Sequence[Sequence[Any]]) -> dict[str, bytes]:
        return {name: table(name.rpartition(".")[2], header, cells)}

    splits = draw(st.sampled_from([("",), ("train", "test"), ("dev",), ("test", "train", "dev")]))
    layout, kind = draw(st.sampled_from(["pairs", "lists", "labels", "beir"])), draw(st.sampled_from(TABLE_KINDS))
    docs, asked = [["a", "T", "one"], *rows(ID, TEXT, TEXT)], [["a", "how"], *rows(ID, TEXT)]
    if layout == "beir":
        names = [f"qrels/{split or 'validation'}.tsv" for split in splits]
        files = of_its_kind("corpus.jsonl", ["_id", "title", "text"], docs)
        files |= of_its_kind("queries.jsonl", ["_id", "text"], asked)
        for name in names:
            files |= of_its_kind(name, ["query-id", "corpus-id", "score"], rows(ID, ID, SCORE))
        return files, {"rows": ["."]}, names
    names = [f"{split or 'all'}.{kind}" for split in splits]
    given = [f"{split}={name}" if split else name for split, name in zip(splits, names, strict=True)]
    words: dict[str, Any] = {"quotes": "none"} if kind == "tsv" else {}
    if layout == "pairs":
        columns = Columns("q", "a", title="t", query_id="qid", doc_id="did", score="s")
        files = {}
        for name in names:
            files |= of_its_kind(name, ["q", "a", "t", "qid", "did", "s"], rows(TEXT, TEXT, TEXT, ID, ID, SCORE))
        return files, words | {"rows": given, "columns": columns}, names
    files = of_its_kind(f"docs.{kind}", ["did", "t", "a"], docs)
    words["docs"] = f"docs.{kind}"
    if layout == "lists":
        ids = st.lists(ID, max_size=3)
        for name in names:
            files |= of_its_kind(name, ["q", "did"], rows(TEXT, ids if kind == "jsonl" else ids.map("|".join)))
        columns = Columns("q", "a", title="t", doc_id="did")
        return files, words | {"rows": given, "columns": columns, "separator": "|"}, names
    files |= of_its_kind(f"queries.{kind}", ["qid", "q"], asked)
    for name in names:
        files |= of_its_kind(name, ["qid", "did", "s"], rows(ID, ID, SCORE))
    columns = Columns("q", "a", title="t", query_id="qid", doc_id="did", score="s")
    return files, words | {"rows": [f"queries.{kind}"], "labels": given, "columns": columns}, names


def ledger(said: str) -> tuple[int, Counter[str]]:
    """What the import says of judged pairs: how many, and what became of them."""
    whole, parts = next(line for line in said.split("\n") if " judged pairs: " in line).split(" judged pairs: ")
    return int(whole), Counter({what: int(count) for count, what in (one.split(" ", 1) for one in parts.split(", "))})


@fuzzed
@given(case=judged())
def test_every_judged_pair_is_somewhere(case: Case) -> None:
    """Pairs in = in the task + rejected + repeated + of queries without a positive."""
    files, words, judging = case
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        for name, content in files.items():
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_bytes(content)
        total = sum(pairs_of(Path(name), "did" if "separator" in words else "") for name in judging)
        out = Path("tasks", "one")
        try:
            config = ImportConfig(family="kind", instruction="Find it.", **words)
            run_import(config, out, Console(file=said, width=200))
        except UserError as error:
            assert "no query with a positive document is left" in str(error), error
            assert not out.exists()
            return
        inside = sum(len(path.read_text().split("\n")) - 2 for path in (out / "qrels").iterdir())
        rejected = (out / "rejected.jsonl").read_text(encoding="utf-8") if (out / "rejected.jsonl").exists() else ""
        names = [json.loads(line)["file"] for line in rejected.split("\n") if line]
        refused = sum(name in [Path(one).name for one in judging] for name in names)
        read, became = ledger(said.getvalue())
        assert total == read == inside + refused + became["repeated"] + became["of queries without a positive"]
        assert (became["in the task"], became["rejected"]) == (inside, refused)
        assert read_suite(out.parent).tasks["one"].query_texts


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small suite without a mistake, with all the files that a task can have."""
    task = tmp_path_factory.mktemp("fuzzed") / "suite" / "one"
    pair = "query-id\tcorpus-id\tscore\n"
    card = {
        "name": "one",
        "family": "kind",
        "domain": "x",
        "languages": ["en"],
        "instruction": "Find it.",
        "license": "CC0-1.0",
    }
    files = {
        "task.json": json.dumps(card | {"source": "made up", "cutoffs": [1, 10]}),
        "corpus.jsonl": "".join(
            json.dumps({"_id": f"d{i}", "text": f"document {i}", "title": "t"}) + "\n" for i in range(4)
        ),
        "queries.jsonl": "".join(json.dumps({"_id": f"q{i}", "text": f"query {i}"}) + "\n" for i in range(4)),
        "qrels/train.tsv": f"{pair}q0\td0\t1\nq1\td1\t2\n",
        "qrels/test.tsv": f"{pair}q2\td2\t1\nq3\td3\t0.5\n",
        "negatives/train.tsv": f"{pair}q0\td3\t0\n",
        "exclude.tsv": "query-id\tcorpus-id\nq2\td0\n",
    }
    for name, text in files.items():
        (task / name).parent.mkdir(parents=True, exist_ok=True)
        (task / name).write_text(text, encoding="utf-8")
    assert answer("data", "check", f"--suite={task.parent}")[0] == 0
    return task.parent


def checked(sound: Path, name: str, content: bytes) -> None:
    """The suite with one file replaced: read, or refused by a line that names a file of the task."""
    with tempfile.TemporaryDirectory() as place:
        suite = Path(shutil.copytree(sound, Path(place) / "suite"))
        (suite / "one" / name).write_bytes(content)
        before = listing(Path(place))
        code, error = answer("data", "check", f"--suite={suite}")
        if code:
            assert str(suite / "one") in error, error
        assert listing(Path(place)) == before


@st.composite
def pairs(draw: st.DrawFn) -> bytes:
    """A TSV file of judgements, sound or not."""
    names = st.sampled_from([*(f"q{i}" for i in range(5)), *(f"d{i}" for i in range(5))])
    score = st.sampled_from(["1", "0", "-1", "0.5", "nan", "inf", "1e400", "x", "", "\uff11", "0x1", " 1"])
    fields = st.tuples(names, names, score).map(list) | st.lists(CELL, max_size=4)
    header = draw(st.sampled_from(["query-id\tcorpus-id\tscore", "query-id\tcorpus-id", "", "query\tdoc\tscore"]))
    lines = [header, *("\t".join(each) for each in draw(st.lists(fields, max_size=6)))]
    return draw(st.sampled_from(["\n", "\r\n", "\r"])).join(lines).encode("utf-8", "surrogatepass")


@fuzzed
@given(
    name=st.sampled_from(["qrels/train.tsv", "qrels/test.tsv", "qrels/dev.tsv", "negatives/train.tsv", "exclude.tsv"]),
    content=pairs(),
)
def test_judgements(sound: Path, name: str, content: bytes) -> None:
    checked(sound, name, content)


@st.composite
def cards(draw: st.DrawFn) -> bytes:
    """A card with some values replaced, added or taken away; or anything at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=30)) or json.dumps(draw(VALUE)).encode()
    card: dict[str, Any] = {
        "name": "one", "family": "kind", "domain": "x", "languages": ["en"], "instruction": "Find it.",
        "license": "CC0-1.0", "source": "made up",
    }  # fmt: skip
    for _ in range(draw(st.integers(0, 3))):
        key = draw(st.sampled_from([*card, "material", "modality", "cutoffs", "notes", "nmae"]) | WORD)
        if draw(st.booleans()):
            card.pop(key, None)
        else:
            card[key] = draw(VALUE | st.sampled_from(["text", "image", [1, 5], [0], [True], ["en", "en"], "one"]))
    return json.dumps(card, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


@fuzzed
@given(content=cards())
def test_cards(sound: Path, content: bytes) -> None:
    checked(sound, "task.json", content)


FLAGS = {name: tuple(command.flags()) for name, command in COMMANDS.items()}


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command, or nearly one, with flags of it and of others, of every type. No value names data or a model, so that
    only `data enterprise` can come to an end with something to write."""
    name = draw(st.sampled_from([*COMMANDS, *COMMANDS, "trian", "data", "help", ""]))
    known = FLAGS.get(name, ())
    value = (
        st.sampled_from(
            ["", "0", "-1", "x", "1,2", "true", "none", "nowhere/at/all", "a=b", "s4://x", "~nobody/x", "é", "=", "\0"]
        )
        | WORD
    )
    flag = st.sampled_from([*known, "suit", "modle", "config", "config.seed", "config.batch.queries", "-", ""])
    written = (
        st.builds("--{}={}".format, flag, value)
        | st.builds("--{}".format, flag)
        | st.builds("--no{}".format, flag)
        | value
    )
    return [*name.split(), *draw(st.lists(written, max_size=4))]


@fuzzed
@given(line=command_lines())
def test_command_lines(line: list[str]) -> None:
    with tempfile.TemporaryDirectory() as place:
        here = os.getcwd()
        os.chdir(place)
        try:
            code, _ = answer(*line)
            left = listing(Path(place))
            if left:
                assert code == 0 and line[:2] == ["data", "enterprise"]
                assert len({Path(path).parts[0] for path in left}) == 1  # what --out names, and nothing beside it
        finally:
            os.chdir(here)
