"""JSON objects of which no value is lost: a key that stands twice is an error, where Python takes the last value; and
half of a surrogate pair, which JSON can write and no text holds, is found."""

from collections import Counter
from typing import Any


class RepeatedKey(ValueError):
    """An object has two values of one key."""


def each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads(..., object_pairs_hook=each_key_once)`. Raises RepeatedKey."""
    record = dict(pairs)
    if len(record) < len(pairs):
        repeated = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise RepeatedKey(f"two values of '{repeated}'")
    return record


def half_a_pair(text: str) -> bool:
    """Whether a text holds half of a surrogate pair, which no UTF-8 file can hold and no tokenizer reads."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
