"""JSON files of a folder that may come from anywhere: known keys only, and nothing outside the folder."""

import json
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mtret.errors import UserError, nearest
from mtret.files import AnyPath, inside

READ = (".json", ".txt", ".model", ".safetensors")  # kinds of files that are read


def read_json(path: AnyPath, optional: bool = False) -> dict[str, Any]:
    """An object. Raises UserError where there is none; `optional`: an empty one where there is no file."""
    value = read_value(path, optional)
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds a {type(value).__name__}, not an object")
    return value


def read_value(path: AnyPath, optional: bool = False) -> Any:
    """As `read_json`, of any kind."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if optional:
            return {}
        raise UserError(f"{path}: missing; a sentence-transformers folder has one") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from error


def check_keys(entries: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Raises UserError for a key that is not known: it might change the vectors."""
    for key in entries:
        if key not in known:
            raise UserError(
                f"{where}: the key '{key}' is not supported; supported: {', '.join(known)}.{nearest(key, known)}"
            )


def check_values(entries: Mapping[str, Any], supported: Mapping[str, Collection[Any]], where: str) -> None:
    """Raises UserError where a key that is there asks for what is not done."""
    for key, values in supported.items():
        if key in entries and entries[key] not in values:
            raise UserError(f"{where}: {key} is {entries[key]!r}; supported: {', '.join(map(repr, values))}")


def typed(entries: Mapping[str, Any], key: str, kind: type, default: Any, where: str) -> Any:
    """The value of a key, or the default. Raises UserError where it is of another type."""
    value = entries.get(key, default)
    if type(value) is not kind and value is not default:  # True is an int, but no number here
        raise UserError(f"{where}: {key} is {value!r}, where {_A[kind]} is needed")
    return value


_A = {bool: "true or false", int: "an integer", str: "a string", dict: "an object", list: "a list"}


def below(folder: AnyPath, path: Any, where: str) -> AnyPath:
    """The place of a relative path in a folder. Raises UserError where it leads out of it."""
    if not isinstance(path, str):
        raise UserError(f"{where}: the path {path!r} is not a string")
    parts = PurePosixPath(path).parts
    if path.startswith("/") or any(part == ".." or "\\" in part or ":" in part for part in parts):
        raise UserError(f"{where}: the path {path!r} leads out of the folder; give one below it")
    return folder.joinpath(*parts)


def check_inside(root: AnyPath, folders: Iterable[AnyPath]) -> None:
    """Raises UserError for a file that is a link to somewhere outside of `root`. The hub's cache keeps the files of a
    snapshot beside it."""
    if not isinstance(root, Path):
        return
    allowed = (root.absolute().parent.parent if root.absolute().parent.name == "snapshots" else root).resolve()
    for folder in folders:
        for path in (folder, *inside(folder)):
            read = path != root and (path == folder or path.suffix in READ)
            if read and os.path.islink(path) and not (target := Path(path).resolve()).is_relative_to(allowed):
                raise UserError(
                    f"{path}: a link that leads out of the model's folder, to {target}; put the file itself there"
                )
