"""Dataclasses from nested mappings: what is read, and what is refused by its path."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import pytest

from mtret.schema import MismatchError, MissingKeyError, Reading, UnknownKeyError, build, to_json


class Pair(NamedTuple):
    one: int
    two: int

    def as_json(self) -> list[int]:
        return [self.two, self.one]


@dataclass(frozen=True)
class Inner:
    word: Literal["a", "b"]
    numbers: tuple[float, ...] = ()


@dataclass(frozen=True)
class Outer:
    n: int
    inner: Mapping[str, Inner] = field(default_factory=dict)
    maybe: Inner | None = None
    anything: Any = None
    pair: Pair | None = None


def test_values_become_dataclasses_and_json_again() -> None:
    values = {"n": 1, "inner": {"x": {"word": "a", "numbers": [1, 2.5]}}, "maybe": {"word": "b"}, "anything": [{}]}
    outer = build(Outer, values)
    assert outer == Outer(1, {"x": Inner("a", (1.0, 2.5))}, Inner("b"), [{}])
    assert to_json(outer) == {
        "n": 1,
        "inner": {"x": {"word": "a", "numbers": [1.0, 2.5]}},
        "maybe": {"word": "b", "numbers": []},
        "anything": [{}],
        "pair": None,
    }


@pytest.mark.parametrize(
    ("values", "path", "words"),
    [
        ({"n": True}, "n", "needs an integer, got True"),
        ({"n": 2**70}, "n", "must be between"),
        ({"n": 1, "inner": {"x": 3}}, "inner.x", "needs keys and values, got 3"),
        ({"n": 1, "inner": "x:1"}, "inner", "needs names and values, got 'x:1'"),
        ({"n": 1, "maybe": {"word": "c"}}, "maybe.word", "must be one of a, b, got 'c'"),
        ({"n": 1, "maybe": {"word": "a", "numbers": [1, "x"]}}, "maybe.numbers[1]", "needs a number, got 'x'"),
        ({"n": 1, "maybe": {"word": "a", "numbers": "1,2"}}, "maybe.numbers", "needs a list, got '1,2'"),
        ([], "", "needs keys and values, got []"),
    ],
)
def test_the_first_wrong_value_is_named_by_its_path(values: Any, path: str, words: str) -> None:
    with pytest.raises(MismatchError) as found:
        build(Outer, values)
    assert found.value.path == path and found.value.shown().startswith(words)


def test_missing_and_unknown_keys() -> None:
    with pytest.raises(MissingKeyError) as missing:
        build(Outer, {"n": 1, "maybe": {}})
    assert missing.value.path == "maybe.word"
    with pytest.raises(UnknownKeyError) as unknown:
        build(Outer, {"n": 1, "maybe": {"word": "a", "x.y": 1}})
    assert (unknown.value.path, unknown.value.key, unknown.value.known) == ("maybe.x.y", "x.y", ("word", "numbers"))
    assert build(Outer, {"n": 1, "x": 2}, how=Reading(more_keys=True)) == Outer(1)


def test_a_type_may_have_a_reader_of_its_own() -> None:
    def read(value: Any, path: str) -> Pair:
        raise MismatchError(path, "is odd", value) if value == "odd" else AssertionError

    with pytest.raises(MismatchError) as odd:
        build(Outer, {"n": 1, "pair": "odd"}, "top", Reading(readers={Pair: read}))
    assert (odd.value.path, odd.value.shown(4)) == ("top.pair", "is odd, got 'odd")
    swapped = Reading(readers={Pair: lambda value, path: Pair(value[1], value[0])})
    outer = build(Outer, {"n": 1, "pair": [1, 2]}, how=swapped)
    assert outer.pair == Pair(2, 1) and to_json(outer)["pair"] == [1, 2]
