"""mtret's native task folder, read with errors that name file and line.

The layout, every field and every rule: docs/data.md.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mtret.data.chunks import checked_parents
from mtret.data.images import ImageFiles
from mtret.data.json_objects import RepeatedKey, each_key_once, half_a_pair
from mtret.data.judged_pairs import read_negatives, read_pairs, refuse_positives, rows_of, with_positives
from mtret.data.task_files import CARD, CORPUS, EXCLUDE, QUERIES, SCORED, UNSCORED, TaskFiles, unreadable
from mtret.data.tasks import SPLITS, Judgements, Task, TaskCard, query_key
from mtret.data.templates import render_document
from mtret.errors import UserError, nearest
from mtret.files import AnyPath, inside
from mtret.schema import build

MODALITIES = ("text", "image")
HALF_A_PAIR = "half of a surrogate pair. Remove the \\ud8..-\\udf.. escape."


@dataclass(frozen=True)
class Suite:
    """The tasks of a folder, in name order. The hashes cover the bytes of every file read."""

    folder: AnyPath
    tasks: Mapping[str, Task]
    sha256: str
    task_sha256: Mapping[str, str]


def read_task(folder: AnyPath) -> Task:
    """Reads and validates a task. Raises UserError, naming file and line, for the first mistake."""
    return _read_folder(_existing(folder))[0]


def read_suite(folder: AnyPath) -> Suite:
    """Reads every task of a folder of task folders. Raises UserError for the first mistake."""
    names = suite_names(folder)
    tasks, hashes = {}, {}
    for name, (task, sha256) in zip(names, _read_folders([folder / name for name in names]), strict=True):
        tasks[name], hashes[name] = task, sha256
    return Suite(folder, tasks, _digest(hashes), hashes)


def suite_names(folder: AnyPath) -> list[str]:
    """The names of a suite's task folders, sorted, without opening any file. Loose files beside them are ignored."""
    folder = _existing(folder)
    if (folder / CARD).exists():
        raise UserError(
            f"{folder}: is one task, not a folder of tasks. Give the folder that holds it: {folder.parent}."
        )
    names = []
    try:
        for path in inside(folder):
            if path.name.startswith(".") or not path.is_dir():
                continue
            if (path / CARD).exists():
                names.append(path.name)
            elif any((path / name).exists() for name in (CORPUS, QUERIES, "qrels")):
                raise UserError(f"{path / CARD}: missing, although the folder holds task files. Write the card.")
    except OSError as error:
        raise unreadable(folder, error) from None
    if not names:
        raise UserError(
            f"{folder}: holds no task folder. A task is a folder with {CARD}, {CORPUS}, {QUERIES} and qrels/."
        )
    return names


def _existing(folder: AnyPath) -> AnyPath:
    if not folder.is_dir():
        where = _absolute(folder)
        near = nearest(where.name, [path.name for path in inside(where.parent) if path.is_dir()])
        raise UserError(f"{folder}: no such folder.{near} Check the path.")
    return folder


def _absolute(folder: AnyPath) -> AnyPath:
    """Without `.` and `..`, and with links as they are: a task's name is its link's."""
    return Path(os.path.abspath(folder)) if isinstance(folder, Path) else folder


def _digest(hashes: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes)).encode()).hexdigest()


def _read_folders(folders: Sequence[AnyPath]) -> Iterable[tuple[Task, str]]:
    if all(isinstance(folder, Path) for folder in folders):
        return map(_read_folder, folders)
    with ThreadPoolExecutor(16) as readers:  # a store takes its time for every file, and serves many at once
        return list(readers.map(_read_folder, folders))


def _read_folder(folder: AnyPath) -> tuple[Task, str]:
    """The task and the hash of its files."""
    files = TaskFiles(folder)
    card = _read_card(files)
    document_ids, document_texts, images, parent_ids = _read_documents(files, card.modality)
    query_records, query_ids = _read_records(files, QUERIES)
    query_texts = _column(query_records, "text", files.folder / QUERIES)
    _refuse_empty(query_texts, "text", files.folder / QUERIES)
    if not query_ids:
        raise UserError(f"{folder / QUERIES}: holds no query. Write one JSON object per line.")
    rows = rows_of(query_ids, document_ids, parent_ids)
    qrels = {split: read_pairs(files, f"qrels/{split}.tsv", rows, SCORED) for split in files.splits("qrels")}
    if not qrels:
        raise UserError(f"{folder / 'qrels'}: holds no judgements. Write at least one of {', '.join(SPLITS)} as .tsv.")
    splits = {split: with_positives(pairs) for split, pairs in qrels.items()}
    _refuse_shared_queries(splits, query_ids, query_texts, files.folder / QUERIES)
    positives = np.concatenate([one.codes()[one.scores > 0] for one in qrels.values()])
    negatives = {}
    for split in files.splits("negatives"):
        if split not in qrels:
            raise UserError(
                f"{folder}/negatives/{split}.tsv: there is no qrels/{split}.tsv. Remove it or add the judgements."
            )
        negatives[split] = read_negatives(files, split, rows, qrels[split], splits[split], positives)
    exclude = None
    if (folder / EXCLUDE).exists():
        pairs = read_pairs(files, EXCLUDE, rows, UNSCORED)
        refuse_positives(pairs, positives)
        exclude = Judgements.from_pairs(pairs.queries, pairs.documents, pairs.scores)
    documents = document_ids, document_texts
    task = Task(card, query_ids, query_texts, *documents, splits, negatives, exclude, images, parent_ids)
    return task, _digest(files.hashes)


def _read_card(files: TaskFiles) -> TaskCard:
    path = files.folder / CARD
    text = files.text(CARD)
    try:
        card = json.loads(text, object_pairs_hook=each_key_once)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}:{getattr(error, 'lineno', 1)}: not valid JSON ({_reason(error)}). Correct the card."
        ) from None
    if not isinstance(card, dict):
        raise UserError(f"{path}:1: must be a JSON object, is {_kind(card)}. Write {{...}}.")
    known = {one.name: one.default is MISSING for one in fields(TaskCard)}
    for key in card:
        if key not in known:
            close = nearest(key, known) or f" Known: {', '.join(known)}."
            raise UserError(f"{path}:{_key_line(text, key)}: unknown key '{key}'.{close}")
    for key, required in known.items():
        if required and key not in card:
            raise UserError(f"{path}:1: '{key}' is missing. Add it to the card.")
    for key, value in card.items():
        if half_a_pair(json.dumps(value, ensure_ascii=False)):
            line = _key_line(text, key)
            raise UserError(f"{path}:{line}: '{key}' holds {HALF_A_PAIR}")
        need = _needed(key, value)
        if need:
            raise UserError(
                f"{path}:{_key_line(text, key)}: '{key}' must be {need}, is {json.dumps(value)}. Correct the card."
            )
    folder_name = _absolute(files.folder).name
    if card["name"] != folder_name:
        raise UserError(
            f"{path}:{_key_line(text, 'name')}: the card's name is '{card['name']}', the folder's is '{folder_name}'. "
            "Rename one of them."
        )
    return build(TaskCard, card)


def _needed(key: str, value: object) -> str:
    """What the card's value must be, or the empty string where it is that."""
    if key == "languages":
        good = isinstance(value, list) and value and all(isinstance(one, str) and one.strip() for one in value)
        return "" if good else 'a list of language codes such as ["en"]'
    if key == "cutoffs":
        good = isinstance(value, list) and value and all(type(one) is int and one > 0 for one in value)
        return "" if good else "a list of positive integers such as [1, 5, 10]"
    if key == "modality":
        return "" if value in MODALITIES else f"one of {', '.join(MODALITIES)}"
    if key == "name":
        good = isinstance(value, str) and re.fullmatch(r"[\w-]+", value)
        return "" if good else "a name of letters, digits, _ and -"
    if key == "notes" or (key == "material" and value is None):
        return "" if value is None or isinstance(value, str) else "a string"
    return "" if isinstance(value, str) and value.strip() else "a string that is not empty"


def _key_line(text: str, key: str) -> int:
    found = re.search(rf"{re.escape(json.dumps(key, ensure_ascii=False))}\s*:", text)
    return text.count("\n", 0, found.start()) + 1 if found else 1


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, column {error.colno}"
    if isinstance(error, RepeatedKey):
        return str(error)
    return "nested too deeply" if isinstance(error, RecursionError) else "a number is too long"


def _read_records(files: TaskFiles, name: str) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The objects of a JSON Lines file, with their ids: present, not empty, each once."""
    path = files.folder / name
    records = []
    for number, line in enumerate(files.lines(name), start=1):
        try:
            record = json.loads(line, object_pairs_hook=each_key_once)
        except (ValueError, RecursionError) as error:
            if not line.strip():
                raise UserError(f"{path}:{number}: empty line. Remove it.") from None
            raise UserError(
                f"{path}:{number}: not valid JSON ({_reason(error)}). Write one JSON object per line."
            ) from None
        if type(record) is not dict:
            raise UserError(f"{path}:{number}: must be a JSON object, is {_kind(record)}. Write one {{...}} per line.")
        records.append(record)
    ids = _column(records, "_id", path)
    _refuse_empty(ids, "_id", path)
    if len(set(ids)) < len(ids):
        first: dict[str, int] = {}
        for number, one in enumerate(ids, start=1):
            if first.setdefault(one, number) != number:
                raise UserError(f"{path}:{number}: _id '{one}' stands on line {first[one]} already. Give each its own.")
    if any(mark in "".join(ids) for mark in "\t\r\n"):
        number = next(number for number, one in enumerate(ids, start=1) if set(one) & set("\t\r\n"))
        raise UserError(f"{path}:{number}: the _id holds a tab or a line break, which no .tsv can name. Remove it.")
    return records, ids


def _column(
    records: Sequence[Mapping[str, Any]], key: str, path: AnyPath, default: str | None = None
) -> tuple[str, ...]:
    """One key of every record. Raises UserError where it is missing without a default, or not an encodable string."""
    values = tuple([record.get(key, default) for record in records])
    for number, value in enumerate(values, start=1):
        if type(value) is not str:
            record = records[number - 1]
            if key not in record:
                raise UserError(
                    f"{path}:{number}: '{key}' is missing; the line has {', '.join(record) or 'no key'}. Add it."
                )
            raise UserError(f"{path}:{number}: '{key}' must be a string, is {_kind(value)}. Put it in quotes.")
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        number = next(number for number, value in enumerate(values, start=1) if half_a_pair(value))
        raise UserError(f"{path}:{number}: '{key}' holds {HALF_A_PAIR}") from None
    return values


def _refuse_empty(values: Sequence[str], key: str, path: AnyPath) -> None:
    for number, value in enumerate(values, start=1):
        if not value or value.isspace():
            raise UserError(f"{path}:{number}: '{key}' is empty. Write one or remove the line.")


def _read_documents(
    files: TaskFiles, modality: str
) -> tuple[tuple[str, ...], tuple[str, ...], ImageFiles | None, tuple[str, ...]]:
    """Ids, rendered texts, which an image task need not have, its images, and parents as `Task.parent_ids`."""
    path = files.folder / CORPUS
    records, ids = _read_records(files, CORPUS)
    if not ids:
        raise UserError(f"{path}: holds no document. Write one JSON object per line.")
    titles = _column(records, "title", path, default="")
    texts = _column(records, "text", path, default=None if modality == "text" else "")
    given = _column(records, "parent", path, default="") if any("parent" in each for each in records) else ()
    parents = checked_parents(ids, given, str(path))
    rendered = tuple([render_document(title, text) for title, text in zip(titles, texts, strict=True)])
    if modality == "image":
        images = _column(records, "image", path)
        for number, image in enumerate(images, start=1):
            _check_image(files, image, f"{path}:{number}")
        paths = tuple([files.folder / image for image in images])
        return ids, rendered, ImageFiles(paths, tuple([files.hashes[image] for image in images])), parents
    for number, text in enumerate(rendered, start=1):
        if not text:
            raise UserError(f"{path}:{number}: title and text are both empty. Write one or remove the document.")
    return ids, rendered, None, parents


def _check_image(files: TaskFiles, image: str, where: str) -> None:
    folder, path = files.folder, PurePosixPath(image)
    if isinstance(folder, Path):
        stays = (folder / path).resolve().is_relative_to(folder.resolve())
    else:
        stays = ".." not in path.parts
    if path.is_absolute() or not stays:
        raise UserError(f"{where}: image '{image}' lies outside the task folder. Give a path inside it.")
    if not (folder / image).is_file():
        raise UserError(f"{where}: there is no image '{image}' in the task folder. Add the file or correct the path.")
    files.bytes(image)


def _refuse_shared_queries(
    splits: Mapping[str, Judgements], ids: Sequence[str], texts: Sequence[str], path: AnyPath
) -> None:
    """Raises UserError where two splits hold the same query, by `query_key`."""
    first: dict[str, tuple[str, int]] = {}
    for split, judgements in splits.items():
        for row in map(int, judgements.queries):
            other, other_row = first.setdefault(query_key(texts[row]), (split, row))
            if other != split:
                raise UserError(
                    f"{path}:{row + 1}: query '{ids[row]}' of {split} has the text of '{ids[other_row]}' of {other} "
                    f"(line {other_row + 1}). Keep it in one split."
                )
