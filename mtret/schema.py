"""Frozen dataclasses as schemas: fields that carry their meaning and limits, read strictly from nested mappings."""

import ast
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any

from mtret.errors import UserError

LARGEST = 2**62  # no integer has to be beyond
KINDS = {int: "an integer", float: "a number", bool: "True or False", str: "a string"}
NOTHING = object()


@dataclass(frozen=True)
class Limit:
    """What a value must be beyond its type, in words that follow "must be"."""

    words: str
    holds: Callable[[Any], bool]


AT_LEAST_0 = Limit("at least 0", lambda value: 0 <= value < float("inf"))
AT_LEAST_1 = Limit("at least 1", lambda value: value >= 1)
AT_LEAST_1_OR_NONE = Limit("None, or at least 1", lambda value: value is None or value >= 1)
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
    """Raises UserError for the first value that is beyond its limit; it names the key, with `where` before it."""
    for path, each, _ in walk(type(settings)):
        limit = each.metadata.get("limit")
        value = settings
        for name in path.split("."):
            value = getattr(value, name)
        if limit and not limit.holds(value):
            raise UserError(f"{where}{path}: must be {limit.words}, is {value!r}")


class MismatchError(Exception):
    """A value that is not of the schema.

    Attributes:
      path: where it stands, `a.b[0]`; empty for the whole.
      words: what is wrong with it.
      got: the value, where showing it helps; `shown` puts it behind the words.
    """

    def __init__(self, path: str, words: str, got: Any = NOTHING) -> None:
        super().__init__(path, words)
        self.path, self.words, self.got = path, words, got

    def shown(self, most: int | None = None) -> str:
        """The words with the value, as far as its first `most` characters."""
        return self.words if self.got is NOTHING else f"{self.words}, got {repr(self.got)[:most]}"


class MissingKeyError(MismatchError):
    """A key that has no default is not there."""


class UnknownKeyError(MismatchError):
    """A `key` that the dataclass does not have; `known` are those that it has."""

    def __init__(self, path: str, key: str, known: tuple[str, ...]) -> None:
        super().__init__(join(path, key), "is not known")
        self.key, self.known = key, known


@dataclass(frozen=True)
class Reading:
    """What is taken for what."""

    from_text: bool = False  # lists and mappings may be texts, `a,b` and `a:1,b:2`, as on a command line
    more_keys: bool = False  # keys that are not known are left out, else refused
    readers: Mapping[Any, Callable[[Any, str], Any]] = field(default_factory=dict)  # of types, from value and path


STRICT = Reading()


def build(kind: type, values: Any, path: str = "", how: Reading = STRICT) -> Any:
    """A dataclass from nested mappings; what is not given keeps its default.

    Fields may be texts, numbers, booleans, `Literal`, `Any`, optional, tuples, mappings by text, and dataclasses.

    Raises MismatchError, or one of its kinds, for the first value that is not of the type.
    """
    if not isinstance(values, Mapping):
        raise MismatchError(path, "needs keys and values", values)
    wanted, needed = _fields(kind)
    if not how.more_keys:
        for key in map(str, values):
            if key not in wanted:
                raise UnknownKeyError(path, key, tuple(wanted))
    for key in needed:
        if key not in values:
            raise MissingKeyError(join(path, key), "is missing")
    given = {key: _convert(item, wanted[key], join(path, key), how) for key, item in values.items() if key in wanted}
    return kind(**given)


def join(path: str, key: str) -> str:
    """`a.b` of `a` and `b`."""
    return f"{path}.{key}" if path else str(key)


def to_json(value: Any) -> Any:
    """The other way: JSON values of dataclasses, mappings, tuples and what has an `as_json` of its own."""
    if hasattr(value, "as_json"):
        return value.as_json()
    if is_dataclass(value):
        return {each.name: to_json(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    return [to_json(item) for item in value] if isinstance(value, list | tuple) else value


@cache
def _fields(kind: type) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Types by key, and the keys without a default."""
    hints, own = typing.get_type_hints(kind), fields(kind)
    needed = tuple(each.name for each in own if each.default is MISSING and each.default_factory is MISSING)
    return {each.name: hints[each.name] for each in own}, needed


def _convert(value: Any, wanted: Any, path: str, how: Reading) -> Any:
    if wanted in how.readers:
        return how.readers[wanted](value, path)
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _convert(value, next(a for a in arguments if a is not type(None)), path, how)
    if is_dataclass(wanted):
        return build(typing.cast(type, wanted), value, path, how)
    if origin is typing.Literal:
        if value not in arguments:
            raise MismatchError(path, f"must be one of {', '.join(arguments)}", value)
        return value
    if origin is not None and issubclass(origin, Mapping):
        pairs = _mapping(value, path, how)
        return {str(key): _convert(item, arguments[1], join(path, str(key)), how) for key, item in pairs.items()}
    if origin is tuple:
        return _tuple(value, arguments, path, how)
    return value if wanted is Any else _scalar(value, wanted, path)


def _mapping(value: Any, path: str, how: Reading) -> Mapping[Any, Any]:
    if isinstance(value, str) and how.from_text:  # a:1,b:2
        pairs = [item.partition(":") for item in value.split(",") if item.strip()]
        try:
            return {name.strip(): ast.literal_eval(number.strip()) for name, _, number in pairs}
        except (ValueError, SyntaxError, TypeError) as error:
            raise MismatchError(path, f"'{value}' is not of the form name:number,name:number") from error
    if not isinstance(value, Mapping):
        raise MismatchError(path, "needs names and values", value)
    return value


def _tuple(value: Any, arguments: tuple[Any, ...], path: str, how: Reading) -> tuple[Any, ...]:
    if isinstance(value, str) and how.from_text:
        value = [item.strip() for item in value.split(",") if item.strip()]
    if not isinstance(value, list | tuple):
        raise MismatchError(path, "needs a list", value)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        kinds = (arguments[0],) * len(value)
    elif len(value) == len(arguments):
        kinds = arguments
    else:
        raise MismatchError(path, f"needs {len(arguments)} entries", value)
    return tuple(
        _convert(item, kind, f"{path}[{i}]", how) for i, (item, kind) in enumerate(zip(value, kinds, strict=True))
    )


def _scalar(value: Any, wanted: type, path: str) -> Any:
    if isinstance(value, int) and not -LARGEST <= value <= LARGEST:
        raise MismatchError(path, f"must be between -2^62 and 2^62, is {value}")
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, wanted) and not (isinstance(value, bool) and wanted is not bool):
        return value
    raise MismatchError(path, f"needs {KINDS[wanted]}", value)
