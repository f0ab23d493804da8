"""Settings as dataclass fields that carry their meaning and their limits, so that both are stated once."""

import typing
from collections.abc import Callable, Collection, Iterator
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Any

from mtret.errors import UserError


@dataclass(frozen=True)
class Limit:
    """What a value must be beyond its type, in words that follow "must be"."""

    words: str
    holds: Callable[[Any], bool]


AT_LEAST_0 = Limit("at least 0", lambda value: 0 <= value < float("inf"))
AT_LEAST_1 = Limit("at least 1", lambda value: value >= 1)
ABOVE_0 = Limit("above 0", lambda value: 0 < value < float("inf"))
BELOW_1 = Limit("at least 0 and below 1", lambda value: 0 <= value < 1)
BELOW_1_OR_NONE = Limit("None, or at least 0 and below 1", lambda value: value is None or 0 <= value < 1)
SHARE = Limit("at least 0, at most 1", lambda value: 0 <= value <= 1)


def one_of(names: Collection[str]) -> Limit:
    """A limit: one of those."""
    return Limit(f"one of {', '.join(names)}", lambda value: value in names)


def setting(default: Any, meaning: str = "", limit: Limit | None = None) -> Any:
    """A field of a dataclass. A `default` that is a type is called for one (`dict`, another dataclass)."""
    about = {"meaning": meaning, "limit": limit}
    if isinstance(default, type):
        return field(default_factory=default, metadata=about)
    return field(default=default, metadata=about)


def default_of(each: Field[Any]) -> Any:
    """What a field is where nothing is given for it."""
    return each.default if each.default is not MISSING else each.default_factory()  # pyright: ignore[reportCallIssue]


def walk(kind: type, path: str = "") -> Iterator[tuple[str, Field[Any], type | None]]:
    """Every key with its section, its field, and its dataclass where it is a section itself; sections come before what
    they hold."""
    hints = typing.get_type_hints(kind)
    for each in fields(kind):
        section = hints[each.name] if is_dataclass(hints[each.name]) else None
        yield f"{path}{each.name}", each, section  # pyright: ignore[reportReturnType]
        if section is not None:
            yield from walk(section, f"{path}{each.name}.")  # pyright: ignore[reportArgumentType]


def check_limits(settings: Any, where: str) -> None:
    """Raises UserError, naming the key, for the first value that is beyond its limit."""
    for path, each, _ in walk(type(settings)):
        limit = each.metadata.get("limit")
        value = settings
        for name in path.split("."):
            value = getattr(value, name)
        if limit and not limit.holds(value):
            raise UserError(f"{where} {path}: must be {limit.words}, is {value!r}")
