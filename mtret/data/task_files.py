"""The files of a task folder, byte for byte: reading and writing them, whatever they say."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from itertools import chain
from pathlib import Path

from mtret.data.tasks import SPLITS, TaskCard
from mtret.errors import UserError, nearest
from mtret.files import AnyPath, folder_draft, inside, replace_folder

CARD = "task.json"
CORPUS = "corpus.jsonl"
QUERIES = "queries.jsonl"
EXCLUDE = "exclude.tsv"
VALIDATION = ("validation.tsv", "valid.tsv", "val.tsv")  # what others call dev.tsv
SCORED = ("query-id", "corpus-id", "score")
UNSCORED = SCORED[:2]


class TaskFiles:
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
            raise unreadable(path, error) from None
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
            raise unreadable(folder, error) from None
        known = [f"{split}.tsv" for split in SPLITS]
        for name in names:
            if name not in known:
                raise UserError(
                    f"{folder / name}: not a split; the files here are {', '.join(known)}."
                    + (" Rename it to dev.tsv." if name in VALIDATION else nearest(name, known))
                )
        return [split for split in SPLITS if f"{split}.tsv" in names]


def unreadable(path: AnyPath, error: OSError) -> UserError:
    """What is said of a file that the system does not give."""
    return UserError(f"{path}: cannot be read ({error.strerror or error}). Check the path and its permissions.")


@dataclass(frozen=True)
class TaskParts:
    """What `write_task` writes: a task as its files hold it, by ids and with titles apart."""

    card: TaskCard
    documents: Sequence[Mapping[str, str]]  # `_id`, `text` and, where there is one, `title` and `parent`
    queries: Mapping[str, str]  # id -> text
    qrels: Mapping[str, Sequence[tuple[str, str, int | float]]]  # split -> (query id, document id, score)
    negatives: Mapping[str, Sequence[tuple[str, str, int | float]]] = field(default_factory=dict)
    exclude: Sequence[tuple[str, str]] = ()


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
    (folder / CARD).write_text(dump_card(parts.card), encoding="utf-8", newline="\n")
    write_lines(folder / CORPUS, parts.documents)
    write_lines(folder / QUERIES, ({"_id": key, "text": text} for key, text in parts.queries.items()))
    for place, splits in (("qrels", parts.qrels), ("negatives", parts.negatives)):
        for split, pairs in splits.items():
            write_table(folder / place / f"{split}.tsv", SCORED, pairs)
    write_table(folder / EXCLUDE, UNSCORED, parts.exclude)


def dump_card(card: TaskCard) -> str:
    """`task.json`, without what is as by default."""
    defaults = {one.name: one.default for one in fields(TaskCard) if one.default is not MISSING}
    values = {key: value for key, value in asdict(card).items() if key not in defaults or value != defaults[key]}
    return json.dumps(values, ensure_ascii=False, indent=2) + "\n"


def write_lines(path: Path, records: Iterable[Mapping[str, str]]) -> None:
    """A JSON object a line."""
    _write(path, (json.dumps(dict(record), ensure_ascii=False) for record in records))


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[str | int | float]]) -> int:
    """Cells between tabs; returns how many rows there are, and writes nothing where there is none."""

    def cell(value: str | int | float) -> str:
        return value if isinstance(value, str) else f"{value:.17g}"

    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return 0
    return _write(path, ("\t".join(map(cell, row)) for row in chain([header, first], rows))) - 1


def _write(path: Path, lines: Iterable[str]) -> int:
    path.parent.mkdir(exist_ok=True)
    written = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for line in lines:
            file.write(f"{line}\n")
            written += 1
    return written
