"""mtret's native task folder, read with errors that name file and line, and written atomically.

The layout, every field and every rule: docs/data.md.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float64, Int32, Int64

from mtret.data.chunks import checked_parents
from mtret.data.images import ImageFiles
from mtret.data.json_objects import RepeatedKey, each_key_once, half_a_pair
from mtret.data.tasks import SPLITS, Judgements, Task, TaskCard, query_key
from mtret.data.templates import render_document
from mtret.errors import UserError, nearest
from mtret.files import AnyPath, folder_draft, inside, replace_folder

CARD = "task.json"
CORPUS = "corpus.jsonl"
QUERIES = "queries.jsonl"
EXCLUDE = "exclude.tsv"
VALIDATION = ("validation.tsv", "valid.tsv", "val.tsv")  # what others call dev.tsv
MODALITIES = ("text", "image")
SCORED = ("query-id", "corpus-id", "score")
UNSCORED = SCORED[:2]
HALF_A_PAIR = "half of a surrogate pair. Remove the \\ud8..-\\udf.. escape."


@dataclass(frozen=True)
class Suite:
    """The tasks of a folder, in name order. The hashes cover the bytes of every file read."""

    folder: AnyPath
    tasks: Mapping[str, Task]
    sha256: str
    task_sha256: Mapping[str, str]


@dataclass(frozen=True)
class TaskParts:
    """What `write_task` writes: a task as its files hold it, by ids and with titles apart."""

    card: TaskCard
    documents: Sequence[Mapping[str, str]]  # `_id`, `text` and, where there is one, `title` and `parent`
    queries: Mapping[str, str]  # id -> text
    qrels: Mapping[str, Sequence[tuple[str, str, int | float]]]  # split -> (query id, document id, score)
    negatives: Mapping[str, Sequence[tuple[str, str, int | float]]] = field(default_factory=dict)
    exclude: Sequence[tuple[str, str]] = ()


def read_task(folder: AnyPath) -> Task:
    """Reads and validates a task. Raises UserError, naming file and line, for the first mistake."""
    return _read_folder(_existing(folder))[0]


def read_suite(folder: AnyPath, names: Collection[str] | None = None) -> Suite:
    """Reads every task of a folder of task folders, or those named. Raises UserError for the first mistake."""
    found = suite_names(folder)
    for name in names or ():
        if name not in found:
            raise UserError(f"{folder}: no task '{name}'.{nearest(name, found)} It holds: {', '.join(found)}.")
    tasks, hashes = {}, {}
    chosen = found if names is None else sorted(set(names))
    for name, (task, sha256) in zip(chosen, _read_folders([folder / name for name in chosen]), strict=True):
        tasks[name], hashes[name] = task, sha256
    return Suite(folder, tasks, _digest(hashes), hashes)


def read_cards(folder: AnyPath) -> dict[str, TaskCard]:
    """The validated cards of a suite, by name, without its data."""
    return {name: _read_card(_Files(folder / name)) for name in suite_names(folder)}


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
        raise _unreadable(folder, error) from None
    if not names:
        raise UserError(
            f"{folder}: holds no task folder. A task is a folder with {CARD}, {CORPUS}, {QUERIES} and qrels/."
        )
    return names


def write_task(parts: TaskParts, folder: AnyPath) -> None:
    """Writes the native layout in one step, into a folder that must not exist yet and is named as the card is.

    Raises UserError where the folder exists, is named otherwise, or cannot be written.
    """
    if folder.name != parts.card.name:
        raise UserError(f"{folder}: the folder must be named as the card is, '{parts.card.name}'. Rename one of them.")
    if folder.exists():
        raise UserError(f"{folder}: exists already and is never overwritten. Remove it or choose another folder.")
    try:
        with folder_draft(folder) as draft:
            _write_files(parts, draft)
            replace_folder(draft, folder, last=(CARD,))
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror or error}). Check the path and its permissions."
        ) from None


def _write_files(parts: TaskParts, folder: Path) -> None:
    _write(folder / CARD, dump_card(parts.card))
    _write(folder / CORPUS, _dump_lines(parts.documents))
    _write(folder / QUERIES, _dump_lines({"_id": key, "text": text} for key, text in parts.queries.items()))
    for place, header, splits in (("qrels", SCORED, parts.qrels), ("negatives", SCORED, parts.negatives)):
        for split, pairs in splits.items():
            _write(folder / place / f"{split}.tsv", _dump_table(header, pairs))
    if parts.exclude:
        _write(folder / EXCLUDE, _dump_table(UNSCORED, parts.exclude))


def dump_card(card: TaskCard) -> str:
    """`task.json`, without what is as by default."""
    defaults = {one.name: one.default for one in fields(TaskCard) if one.default is not MISSING}
    values = {key: value for key, value in asdict(card).items() if key not in defaults or value != defaults[key]}
    return json.dumps(values, ensure_ascii=False, indent=2) + "\n"


def _dump_lines(records: Any) -> str:
    return "".join(json.dumps(dict(record), ensure_ascii=False) + "\n" for record in records)


def _dump_table(header: tuple[str, ...], rows: Any) -> str:
    def cell(value: str | int | float) -> str:
        return value if isinstance(value, str) else f"{value:.17g}"

    return "".join("\t".join(map(cell, row)) + "\n" for row in (header, *rows))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


class _Files:
    """Reads a task's files and keeps their hashes, so that the task's hash covers exactly what was read."""

    def __init__(self, folder: AnyPath) -> None:
        self.folder = folder
        self.hashes: dict[str, str] = {}

    def bytes(self, name: str) -> bytes:
        path = self.folder / name
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            raise UserError(f"{path}: missing. Every task folder needs it.") from None
        except OSError as error:
            raise _unreadable(path, error) from None
        self.hashes[name] = hashlib.sha256(raw).hexdigest()
        return raw

    def text(self, name: str) -> str:
        raw = self.bytes(name)
        path = self.folder / name
        if raw.startswith(b"\xef\xbb\xbf"):
            raise UserError(f"{path}:1: begins with a byte order mark. Save the file as UTF-8 without one.")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            raise UserError(
                f"{path}:{line}: byte {error.start} of the file is not UTF-8. Save the file as UTF-8."
            ) from None

    def lines(self, name: str) -> list[str]:
        """Lines end in LF or CRLF; empty ones at the end of the file are left out."""
        lines = self.text(name).replace("\r\n", "\n").split("\n")
        while lines and not lines[-1].strip():
            lines.pop()
        return lines

    def splits(self, place: str) -> list[str]:
        """The splits that have a file in this folder. Any other file there would be silently unused: an error."""
        folder = self.folder / place
        if not folder.exists():
            return []
        try:
            names = [path.name for path in inside(folder) if not path.name.startswith(".")]
        except OSError as error:
            raise _unreadable(folder, error) from None
        known = [f"{split}.tsv" for split in SPLITS]
        for name in names:
            if name not in known:
                raise UserError(
                    f"{folder / name}: not a split; the files here are {', '.join(known)}."
                    + (" Rename it to dev.tsv." if name in VALIDATION else nearest(name, known))
                )
        return [split for split in SPLITS if f"{split}.tsv" in names]


def _unreadable(path: AnyPath, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be read ({error.strerror or error}). Check the path and its permissions.")


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
    files = _Files(folder)
    card = _read_card(files)
    document_ids, document_texts, images, parent_ids = _read_documents(files, card.modality)
    query_records, query_ids = _read_records(files, QUERIES)
    query_texts = _column(query_records, "text", files.folder / QUERIES)
    _refuse_empty(query_texts, "text", files.folder / QUERIES)
    if not query_ids:
        raise UserError(f"{folder / QUERIES}: holds no query. Write one JSON object per line.")
    rows = _rows(query_ids, document_ids, parent_ids)
    qrels = {split: _read_pairs(files, f"qrels/{split}.tsv", rows, SCORED) for split in files.splits("qrels")}
    if not qrels:
        raise UserError(f"{folder / 'qrels'}: holds no judgements. Write at least one of {', '.join(SPLITS)} as .tsv.")
    splits = {split: _with_positives(pairs) for split, pairs in qrels.items()}
    _refuse_shared_queries(splits, query_ids, query_texts, files.folder / QUERIES)
    positives = np.concatenate([one.codes()[one.scores > 0] for one in qrels.values()])
    negatives = {}
    for split in files.splits("negatives"):
        if split not in qrels:
            raise UserError(
                f"{folder}/negatives/{split}.tsv: there is no qrels/{split}.tsv. Remove it or add the judgements."
            )
        negatives[split] = _read_negatives(files, split, rows, qrels[split], splits[split], positives)
    exclude = None
    if (folder / EXCLUDE).exists():
        pairs = _read_pairs(files, EXCLUDE, rows, UNSCORED)
        _refuse_positives(pairs, positives)
        exclude = Judgements.from_pairs(pairs.queries, pairs.documents, pairs.scores)
    documents = document_ids, document_texts
    task = Task(card, query_ids, query_texts, *documents, splits, negatives, exclude, images, parent_ids)
    return task, _digest(files.hashes)


def _read_card(files: _Files) -> TaskCard:
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
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in card.items()}
    return TaskCard(**values)


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


def _read_records(files: _Files, name: str) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
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
    """One key of every record. Raises UserError where it is missing and has no default, or is no encodable string."""
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
    files: _Files, modality: str
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


def _check_image(files: _Files, image: str, where: str) -> None:
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


@dataclass(frozen=True)
class _Rows:
    """The row of every query id and of every document id that judgements may name."""

    queries: Mapping[str, int]
    documents: Mapping[str, int]
    chunks: Mapping[str, str]  # id -> parent


def _rows(query_ids: Sequence[str], document_ids: Sequence[str], parent_ids: Sequence[str]) -> _Rows:
    documents: dict[str, int] = {}
    for row, one in enumerate(parent_ids or document_ids):
        documents.setdefault(one, row)
    chunks = {one: parent for one, parent in zip(document_ids, parent_ids, strict=False) if one != parent}
    return _Rows({one: row for row, one in enumerate(query_ids)}, documents, chunks)


@dataclass(frozen=True, eq=False)
class _Pairs:
    """The pairs of one .tsv file, in its order: pair i stands on line i + 2."""

    path: AnyPath
    queries: Int32[np.ndarray, "n"]
    documents: Int32[np.ndarray, "n"]
    scores: Float64[np.ndarray, "n"]

    def codes(self) -> Int64[np.ndarray, "n"]:
        """A pair as one number."""
        return self.queries.astype(np.int64) << 32 | self.documents

    def select(self, keep: np.ndarray) -> "_Pairs":
        return _Pairs(self.path, self.queries[keep], self.documents[keep], self.scores[keep])

    def refuse(self, wrong: np.ndarray, what: Callable[[int], str]) -> None:
        """Raises UserError for the first pair that is wrong, said by `what(pair)`."""
        if wrong.any():
            pair = int(np.argmax(wrong))
            raise UserError(f"{self.path}:{pair + 2}: {what(pair)}")


def _read_pairs(files: _Files, name: str, rows: _Rows, header: tuple[str, ...], optional: int = 0) -> _Pairs:
    """A .tsv file with this header, the last `optional` columns of which may be left out. A left-out score is 0."""
    path = files.folder / name
    lines = files.lines(name)
    need = " <tab> ".join(header)
    found = tuple(lines[0].split("\t")) if lines else ()
    if found not in {header, header[: len(header) - optional]}:
        raise UserError(f"{path}:1: the first line must be the header {need}, is {' <tab> '.join(found)!r}. Add it.")
    cells = [line.split("\t") for line in lines[1:]]
    if not cells:
        raise UserError(f"{path}:1: holds a header and nothing else. Add pairs or remove the file.")
    for number, row in enumerate(cells, start=2):
        if len(row) != len(found):
            hint = "Separate columns by one tab, not by spaces." if len(row) < len(found) else "Remove the others."
            raise UserError(f"{path}:{number}: {len(row)} columns, need {len(found)}: {' <tab> '.join(found)}. {hint}")
    columns = list(zip(*cells, strict=True))
    queries = np.array([rows.queries.get(one, -1) for one in columns[0]], dtype=np.int32)
    documents = np.array([rows.documents.get(one, -1) for one in columns[1]], dtype=np.int32)
    scored = len(columns) > 2
    scores = np.array([_number(one) for one in columns[2]] if scored else np.zeros(len(cells)), dtype=np.float64)
    pairs = _Pairs(path, queries, documents, scores)
    pairs.refuse(queries < 0, lambda pair: _unknown("query", columns[0][pair], rows.queries, QUERIES))
    pairs.refuse(documents < 0, lambda pair: _unknown_document(columns[1][pair], rows))
    pairs.refuse(
        ~np.isfinite(scores), lambda pair: f"score '{columns[2][pair]}' is not a finite number. Write one such as 1."
    )
    order = np.argsort(pairs.codes(), kind="stable")
    repeated = np.zeros(len(cells), dtype=bool)
    repeated[order[1:]] = pairs.codes()[order[1:]] == pairs.codes()[order[:-1]]
    pairs.refuse(
        repeated,
        lambda pair: f"query '{columns[0][pair]}' with document '{columns[1][pair]}' stands there twice. Remove one.",
    )
    return pairs


def _unknown(kind: str, one: str, known: Mapping[str, int], name: str) -> str:
    return f"{kind} '{one}' is not in {name}.{nearest(one, known)} Correct the id or remove the line."


def _unknown_document(one: str, rows: _Rows) -> str:
    if one in rows.chunks:
        return f"document '{one}' is a chunk of '{rows.chunks[one]}'. Name the parent, once; its best chunk counts."
    return _unknown("document", one, rows.documents, CORPUS)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _with_positives(pairs: _Pairs) -> Judgements:
    """The judgements of the queries that have a score above 0. Raises UserError where none has."""
    positive = np.unique(pairs.queries[pairs.scores > 0])
    if not len(positive):
        raise UserError(
            f"{pairs.path}: no score is above 0, so no query has a positive. Add positives or remove the file."
        )
    kept = pairs.select(np.isin(pairs.queries, positive))
    return Judgements.from_pairs(kept.queries, kept.documents, kept.scores)


def _read_negatives(
    files: _Files, split: str, rows: _Rows, judged: _Pairs, kept: Judgements, positives: Int64[np.ndarray, "p"]
) -> Judgements:
    pairs = _read_pairs(files, f"negatives/{split}.tsv", rows, SCORED, optional=1)
    names = list(rows.queries)
    pairs.refuse(
        ~np.isin(pairs.queries, judged.queries),
        lambda pair: f"query '{names[pairs.queries[pair]]}' is not judged in qrels/{split}.tsv. Remove the line.",
    )
    _refuse_positives(pairs, positives)
    pairs = pairs.select(np.isin(pairs.queries, kept.queries))
    return Judgements.from_pairs(pairs.queries, pairs.documents, pairs.scores)


def _refuse_positives(pairs: _Pairs, positives: Int64[np.ndarray, "p"]) -> None:
    pairs.refuse(
        np.isin(pairs.codes(), positives),
        lambda _: "the document is a positive of this query in qrels/. Remove the line here or the judgement there.",
    )


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
