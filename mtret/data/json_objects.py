"""JSON objects of which no value is lost: a key that stands twice is an error, where Python takes the last value."""

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
