"""Texts and queries as users hand them in: what is not a string is refused by its line, before a model is opened."""

import io
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from mtret.errors import UserError
from mtret.runs.encode import read_texts

NAN = float("nan")
HALF = "broken \ud83d"


def refusal(*entries: Any, documents: bool = True) -> str:
    lines = [entry if isinstance(entry, str) else json.dumps(entry) + "\n" for entry in entries]
    with pytest.raises(UserError) as caught:
        list(read_texts(lines, "a.jsonl", documents))
    message = str(caught.value)
    message.encode()  # it can be printed
    assert "\n" not in message
    return message


@pytest.mark.parametrize("documents", [True, False])
@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"_id": "a", "text": HALF}, "'text' holds half of a surrogate pair"),
        ({"_id": HALF, "text": "fine"}, "'id' holds half of a surrogate pair"),
        ({"_id": "a", "text": NAN}, "'text' is NaN, not a string"),
        ({"_id": "a", "text": None}, "'text' is null, not a string"),
        ({"_id": "a", "text": 5}, "'text' is 5, not a string"),
        ({"_id": "a", "text": ["b"]}, "'text' is [\"b\"], not a string"),
        ({"_id": None, "text": "fine"}, "the id is null"),
        ({"_id": NAN, "text": "fine"}, "the id is NaN"),
        ({"_id": 1.5, "text": "fine"}, "the id is 1.5"),
        ({"_id": True, "text": "fine"}, "the id is true"),
        ({"_id": "", "text": "fine"}, 'the id is ""'),
        ('{"_id": "a", "text": "one", "text": "two"}\n', "two values of 'text'"),
        ("[" * 100_000 + "\n", "must be a JSON object"),
    ],
)
def test_an_object_that_is_no_text_is_refused_by_its_line(entry: Any, named: str, documents: bool) -> None:
    message = refusal({"_id": "first", "text": "sound"}, entry, documents=documents)
    assert message.startswith("a.jsonl:2: ") and named in message


@pytest.mark.parametrize("title", [HALF, 5, ["b"]])
def test_a_title_that_is_no_text_is_refused_where_it_is_read(title: Any) -> None:
    entry = {"_id": "a", "title": title, "text": "fine"}
    assert refusal(entry).startswith("a.jsonl:1: 'title' ")
    assert list(read_texts([json.dumps(entry)], "a.jsonl", documents=False)) == [("a", "fine")]


@pytest.mark.parametrize("again", ["7", 7])
def test_an_id_stands_once(again: Any) -> None:
    message = refusal({"_id": "7", "text": "one"}, "\n", {"id": again, "text": "two"})
    assert message == "a.jsonl:3: the id '7' stands on line 1 already; give each its own"


def test_a_byte_order_mark_is_no_part_of_the_first_text() -> None:
    assert list(read_texts(["\ufeffone\n", "two\n"], "a.txt", documents=True)) == [("1", "one"), ("2", "two")]
    assert list(read_texts(['\ufeff{"_id": "a", "text": "b"}\n'], "a.jsonl", documents=True)) == [("a", "b")]


def test_a_line_that_was_read_byte_by_byte_is_refused() -> None:
    """Standard input, where the system's locale is not UTF-8."""
    with pytest.raises(UserError, match=r"^standard input:2: not UTF-8"):
        list(read_texts(["one\n", "two \udc8f\n"], "standard input", documents=True))


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ({"text": HALF}, "half of a surrogate pair"),
        ({"text": NAN}, "is NaN, not a string"),
        ({"query": ["a"]}, 'is ["a"], not a string'),
        ({"_id": "a"}, "is null, not a string"),
        ("broken \udc8f", "half of a surrogate pair"),
    ],
)
def test_a_query_that_is_no_text_is_refused_by_its_line(
    mtret: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, line: Any, named: str
) -> None:
    shown = line if isinstance(line, str) else json.dumps(line)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"fine\n{shown}\n"))
    code, _, said = mtret("search", "nowhere", "alpha")
    assert code == 2 and said.startswith("mtret: standard input:2: ") and named in said


@pytest.mark.parametrize("words", [["   "], ["\t", ""]])
def test_a_query_of_spaces_is_none(mtret: Callable[..., tuple[int, str, str]], words: list[str]) -> None:
    assert mtret("search", "nowhere", "alpha", *words)[::2] == (
        2,
        "mtret: search: no query; give one after the task, or lines on standard input\n",
    )
