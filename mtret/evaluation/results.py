"""The results file: schema `mtret.results/1`, checked when read, written atomically. See docs/results.md."""

import json
from collections.abc import Callable, Mapping
from typing import Any, get_args

from mtret.errors import UserError
from mtret.evaluation.retrieval import PRIMARY, ROLES, SCHEMA
from mtret.evaluation.statistics import Verdict
from mtret.files import AnyPath, replace_json

# A check takes a value and its path in the file, and raises `_Mismatch` where the value is not of the schema.
Check = Callable[[Any, str], None]


class _Mismatch(Exception):
    """Where a file leaves the schema, and what stands there."""


def validate(results: Any, source: str = "results") -> None:
    """Raises UserError naming the first path that is not of the schema. `source` is what the message calls the file."""
    try:
        if not isinstance(results, Mapping) or results.get("schema") != SCHEMA:
            raise _Mismatch(f"schema: must be '{SCHEMA}'")
        _RESULTS(results, "")
        _optional(_map_of(_map_of(_NUMBER)))(results.get("dimensions"), "dimensions")  # only where asked for
        _optional(_QUERIES)(results.get("queries"), "queries")  # since queries.jsonl is kept
        _optional(_BASE_FORMS)(results.get("base_forms"), "base_forms")  # since the base has prompts
        _same_systems(results)
    except _Mismatch as mismatch:
        raise UserError(f"{source}: {mismatch}; write it with `mtret evaluate`") from None


def read_results(path: AnyPath) -> dict[str, Any]:
    """A checked results file. Raises UserError where it is missing, not JSON, or not of the schema."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; write it with `mtret evaluate`") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); write it with `mtret evaluate`") from None
    validate(results, str(path))
    return results


def write_results(results: Mapping[str, Any], path: AnyPath) -> None:
    """Checks and writes, all or nothing."""
    validate(results, str(path))
    replace_json(path, results)


def _is(kind: type | tuple[type, ...], called: str) -> Check:
    def check(value: Any, path: str) -> None:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise _Mismatch(f"{path}: must be {called}, got {value!r:.60}")

    return check


def _one_of(words: tuple[str, ...]) -> Check:
    def check(value: Any, path: str) -> None:
        if value not in words:
            raise _Mismatch(f"{path}: must be one of {', '.join(words)}, got {value!r:.60}")

    return check


def _optional(inner: Check) -> Check:
    def check(value: Any, path: str) -> None:
        if value is not None:
            inner(value, path)

    return check


def _list_of(inner: Check, length: int | None = None) -> Check:
    def check(value: Any, path: str) -> None:
        _is(list, "a list")(value, path)
        if length is not None and len(value) != length:
            raise _Mismatch(f"{path}: must have {length} items, has {len(value)}")
        for number, item in enumerate(value):
            inner(item, f"{path}[{number}]")

    return check


def _map_of(inner: Check) -> Check:
    def check(value: Any, path: str) -> None:
        _is(Mapping, "an object")(value, path)
        for key, item in value.items():
            inner(item, f"{path}.{key}" if path else key)

    return check


def _object(keys: Mapping[str, Check]) -> Check:
    def check(value: Any, path: str) -> None:
        _is(Mapping, "an object")(value, path)
        for key, inner in keys.items():
            where = f"{path}.{key}" if path else key
            if key not in value:
                raise _Mismatch(f"{where}: is missing")
            inner(value[key], where)

    return check


_NUMBER = _is((int, float), "a number")
_COUNT = _is(int, "a whole number")
_TEXT = _is(str, "a text")
_OPAQUE = _is(Mapping, "an object")
_INTERVAL = {"mean": _NUMBER, "ci95": _list_of(_NUMBER, 2)}


def _score(value: Any, path: str) -> None:
    """As `_object(_INTERVAL)`, in one call: a file holds thousands of them."""
    ci95 = value.get("ci95") if isinstance(value, Mapping) else None
    numbers = [value.get("mean"), *ci95] if isinstance(ci95, list) else []
    if len(numbers) != 3 or any(not isinstance(one, int | float) or isinstance(one, bool) for one in numbers):
        raise _Mismatch(f"{path}: must be a mean and two bounds ci95, got {value!r:.60}")


_SCORES = {
    "n_queries": _COUNT,
    "systems": _map_of(_map_of(_score)),
    "differences": _map_of(
        _object({"metric": _one_of((PRIMARY,)), **_INTERVAL, "verdict": _one_of(get_args(Verdict))})
    ),
}
_ROLE = _map_of(_object({"tasks": _list_of(_TEXT), **_SCORES}))
_TASK = _object(
    {
        "family": _TEXT,
        "domain": _TEXT,
        "role": _one_of(ROLES),
        "n_documents": _COUNT,
        "n_dropped": _COUNT,
        "dropped_queries": _list_of(_TEXT),
        "seen_document_share": _optional(_NUMBER),
        "cutoffs": _list_of(_COUNT),
        **_SCORES,
        "scann": _optional(_OPAQUE),
    }
)
_POOLED = _object(
    {
        "n_documents": _COUNT,
        "scann": _optional(_OPAQUE),
        "tasks": _map_of(_object({"role": _one_of(ROLES), **_SCORES})),
        "roles": _ROLE,
    }
)
_QUERIES = _object({"file": _TEXT, "sha256": _TEXT, "metrics": _list_of(_TEXT)})
_BASE_FORMS = _object(
    {
        "chosen": _TEXT,
        "why": _TEXT,
        "forms": _map_of(_object({"query_template": _TEXT, "document_template": _TEXT})),
    }
)
_RESULTS = _object(
    {
        "protocol": _OPAQUE,
        "bootstrap": _object({"seed": _COUNT, "resamples": _COUNT, "level": _NUMBER}),
        "systems": _list_of(_TEXT),
        "mixture": _optional(_OPAQUE),
        "tasks": _map_of(_TASK),
        "roles": _ROLE,
        "pooled": _optional(_POOLED),
        "skipped": _map_of(_TEXT),
    }
)


def _same_systems(results: Mapping[str, Any]) -> None:
    """Every entry has the file's systems with the primary metric, and the differences of the last to the others. A task
    of images may have the last alone."""
    pooled = results["pooled"] or {"tasks": {}, "roles": {}}
    groups = {
        "tasks": results["tasks"],
        "roles": results["roles"],
        "pooled.tasks": pooled["tasks"],
        "pooled.roles": pooled["roles"],
    }
    every = results["systems"]
    seen = {name for name, task in results["tasks"].items() if task.get("images")}
    for group, entries in groups.items():
        for name, entry in entries.items():
            systems = every[-1:] if name in seen and len(entry["systems"]) == 1 else every
            if list(entry["systems"]) != systems:
                raise _Mismatch(f"{group}.{name}.systems: must be {', '.join(systems)}")
            if list(entry["differences"]) != systems[:-1]:
                raise _Mismatch(f"{group}.{name}.differences: must be {', '.join(systems[:-1])}")
            for system, metrics in entry["systems"].items():
                if PRIMARY not in metrics:
                    raise _Mismatch(f"{group}.{name}.systems.{system}.{PRIMARY}: is missing")
    for role, entry in results["roles"].items():
        for name in entry["tasks"]:
            if name not in results["tasks"]:
                raise _Mismatch(f"roles.{role}.tasks: '{name}' is no task of the file")
