"""A suite as one data set of TensorFlow Datasets, in `array_record` files, written and read without TensorFlow.

Each part of a task is a split, `TASK-PART`, in the order of the task's files: documents, queries, and pairs of ids.
Cards and hashes stand in `metadata.json`. The layout: docs/data.md.
"""

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from mtret.data.formats import Suite
from mtret.data.images import ImageFiles
from mtret.data.suites import content_sha256
from mtret.data.tasks import SPLITS, Judgements, Task, TaskCard
from mtret.errors import UserError, first_line, nearest
from mtret.files import at_home, folder_draft
from mtret.schema import build

PREFIX = "tfds:"
NAME = re.compile(r"[a-z][a-z0-9_]*")
VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
FORMAT = 1  # of the metadata; another one is refused
INFO, METADATA = "dataset_info.json", "metadata.json"
CORPUS, QUERIES, EXCLUDE = "corpus", "queries", "exclude"
RELATIONS = ("qrels", "negatives")  # with a part for each split
SHARD_BYTES = 256 << 20
BLOCK = 4096  # records that are read at a time
# What a record of any part consists of, as it is stored; what a part does not have is as here. A score that was stored
# as a number would be rounded to 32 bits.
Record = dict[str, bytes]
EMPTY: Record = {**dict.fromkeys(("query_id", "corpus_id", "parent_id", "text", "image"), b""), "score": bytes(8)}
Progress = Callable[[int], None]


@dataclass(frozen=True)
class RecordImage:
    """The image of a document that lies in a data set."""

    split: Sequence[bytes]
    row: int
    name: str  # of the data set and the task, for messages

    def read_bytes(self) -> bytes:
        """The image's file as it was."""
        return _parse(self.split[self.row], ["image"])[0]

    def __str__(self) -> str:
        return f"{self.name} record {self.row}"


def dataset_folder(data_dir: Path, name: str, version: str) -> Path:
    """Where a data set is to be written. Raises UserError where its name or version is none, or it is there already."""
    if not NAME.fullmatch(name):
        raise UserError(
            f"--name={name}: a data set's name has small letters, digits and _, a letter first, such as my_tasks; "
            "give another --name"
        )
    if not VERSION.fullmatch(version):
        raise UserError(f"--version={version}: must be three numbers such as 1.0.0")
    folder = data_dir / name / version
    if os.path.lexists(folder):
        raise UserError(f"{folder}: exists already and is never overwritten; give another --version, --name or --out")
    return folder


def count_records(suite: Suite) -> int:
    """How many there are to write."""
    return sum(len(rows) for task in suite.tasks.values() for rows in _parts(task).values())


def write_dataset(suite: Suite, folder: Path, on_records: Progress = lambda count: None) -> None:
    """Writes `folder`, which is `DATA_DIR/NAME/VERSION`, whole or not at all, once it was read again and is the same.

    Raises UserError where the extra is missing, or the folder exists or cannot be written.
    """
    _need_library()
    data_dir, name, version = folder.parents[1], folder.parent.name, folder.name
    dataset_folder(data_dir, name, version)
    try:
        with folder_draft(data_dir / name) as room:
            draft = room / version
            draft.mkdir()
            _write(suite, draft, name, on_records)
            if _contents(suite) != _contents(_read(draft)):
                raise UserError(f"{folder}: was not read again as it was written; check the disk and try again")
            folder.parent.mkdir(exist_ok=True)
            os.rename(draft, folder)  # refused where another process has written it in the meantime
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror or error}). Check the path, its permissions and the disk."
        ) from None


def read_dataset(reference: str) -> Suite:
    """What `write_dataset` wrote, found by `NAME`, `NAME:VERSION` or a path: the same tasks with the same hashes.

    Of several versions the highest is meant. Raises UserError where there is no such data set, it was not written by
    `write_dataset`, or is damaged, or the extra is missing.
    """
    _need_library()
    return _read(_find(reference))


def _need_library() -> None:
    missing = [name for name in ("tensorflow_datasets", "array_record") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"TFDS data sets need {' and '.join(missing)}, not installed here; pip install 'mtret[tfds]'")


def _find(reference: str) -> Path:
    """The folder of one version."""
    if "://" in reference:
        raise UserError(f"{PREFIX}{reference}: array_record files are read from local folders only; copy it to one")
    if "/" in reference or reference.startswith((".", "~")):
        folder = at_home(reference)
        if not folder.is_dir():
            raise UserError(f"{PREFIX}{reference}: no such folder. Check the path.")
        return folder if (folder / INFO).exists() or (folder / METADATA).exists() else _latest(folder, reference)
    from tensorflow_datasets.core import constants

    name, _, version = reference.partition(":")
    data_dir = Path(constants.get_default_data_dir()).expanduser()
    found = sorted(path.name for path in data_dir.iterdir() if _versions(path)) if data_dir.is_dir() else []
    if name not in found:
        there = f"It holds: {', '.join(found)}." if found else "It holds none."
        raise UserError(
            f"{PREFIX}{reference}: no data set '{name}' in {data_dir}.{nearest(name, found)} {there} "
            f"Give {PREFIX}PATH, or set TFDS_DATA_DIR."
        )
    if not version:
        return _latest(data_dir / name, reference)
    if version not in (versions := _versions(data_dir / name)):
        raise UserError(
            f"{PREFIX}{reference}: no version '{version}' in {data_dir / name}, only {', '.join(versions)}."
        )
    return data_dir / name / version


def _versions(folder: Path) -> list[str]:
    """Of a data set, from the lowest to the highest."""
    names = [path.name for path in folder.iterdir() if VERSION.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(names, key=lambda name: [int(number) for number in name.split(".")])


def _latest(folder: Path, reference: str) -> Path:
    versions = _versions(folder)
    if not versions:
        raise UserError(f"{PREFIX}{reference}: {folder} holds no {INFO}, and no version of a data set. Check the path.")
    return folder / versions[-1]


def _parts(task: Task) -> dict[str, Sequence[Any]]:
    """Rows of each part: of documents, queries, pairs."""
    parts: dict[str, Sequence[Any]] = {CORPUS: range(len(task.document_ids)), QUERIES: range(len(task.query_ids))}
    for part, relation in _relations(task).items():
        pairs = (relation.pair_queries().tolist(), relation.documents.tolist(), relation.scores.tolist())
        parts[part] = list(zip(*pairs, strict=True))
    return parts


def _relations(task: Task) -> dict[str, Judgements]:
    of = {"qrels": task.splits, "negatives": task.negatives}
    found = {f"{kind}_{split}": of[kind][split] for kind in RELATIONS for split in SPLITS if split in of[kind]}
    return found | ({EXCLUDE: task.exclude} if task.exclude is not None else {})


def _records(task: Task, part: str, rows: Iterable[Any]) -> Iterator[Record]:
    named = task.named_ids
    queries, documents = ([one.encode() for one in ids] for ids in (task.query_ids, named))
    if part == CORPUS:
        for row in rows:
            own = task.document_ids[row]
            parent = documents[row] if named[row] != own else b""
            image = task.images.paths[row].read_bytes() if task.images else b""
            text = task.document_texts[row].encode()
            yield {"corpus_id": own.encode(), "parent_id": parent, "text": text, "image": image}
    elif part == QUERIES:
        for row in rows:
            yield {"query_id": queries[row], "text": task.query_texts[row].encode()}
    else:
        for query, document, score in rows:
            yield {"query_id": queries[query], "corpus_id": documents[document], "score": np.float64(score).tobytes()}


def _write(suite: Suite, folder: Path, name: str, on_records: Progress) -> None:
    import tensorflow_datasets as tfds

    splits, tasks = [], {}
    for task in suite.tasks.values():
        counts = {}
        for part, rows in _parts(task).items():
            counts[part] = len(rows)
            if counts[part]:  # no split of a data set is empty
                split = _write_split(folder, name, _split(task.name, part), _records(task, part, rows))
                splits.append(split)
                on_records(len(rows))
        tasks[task.name] = {"card": asdict(task.card), "sha256": suite.task_sha256[task.name], "records": counts}
    files = {path.name: _file_sha256(path) for path in sorted(folder.iterdir())}
    metadata = {"mtret_suite": FORMAT, "sha256": suite.sha256, "tasks": tasks, "files": files}
    info = tfds.core.DatasetInfo(
        builder=tfds.core.DatasetIdentity(
            name=name, version=tfds.core.Version(folder.name), data_dir=str(folder), module_name=__name__
        ),
        description=f"{len(tasks)} retrieval tasks as mtret reads them. TASK-corpus holds the documents of a task, "
        "TASK-queries its queries, TASK-qrels_train, _dev and _test which document answers which query; "
        f"{METADATA} holds the cards, with instruction, license and source.",
        features=_features(),
        disable_shuffling=True,
        metadata=tfds.core.MetadataDict(metadata),
    )
    info.set_file_format(tfds.core.FileFormat.ARRAY_RECORD)
    info.set_splits(tfds.core.SplitDict(splits))
    info.write_to_directory(folder)


def _features() -> Any:
    import tensorflow_datasets as tfds

    features = tfds.features
    return features.FeaturesDict(
        {
            "query_id": features.Text(),
            "corpus_id": features.Text(doc="of a document; in pairs that of its parent, where it is a chunk"),
            "parent_id": features.Text(doc="of what a document is a chunk"),
            "text": features.Text(doc="of a query, or of a document with its title before it"),
            "image": features.Tensor(shape=(), dtype=np.object_, doc="an image's file, byte for byte"),
            "score": features.Tensor(shape=(), dtype=np.float64, encoding="bytes", doc="above 0: it answers the query"),
        }
    )


def _split(task: str, part: str) -> str:
    """Its name. No part has a hyphen, so two tasks have never the same."""
    return f"{task}-{part}"


def _write_split(folder: Path, name: str, split: str, records: Iterator[Record]) -> Any:
    """Writes files of about SHARD_BYTES, and returns what the data set notes of them."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    template = tfds.core.ShardedFileTemplate(
        data_dir=epath.Path(folder),
        dataset_name=name,
        split=split,
        filetype_suffix="array_record",
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",
    )
    lengths, size = list[int](), 0
    for first in records:
        path = template.sharded_filepath(shard_index=len(lengths), num_shards=None)
        # Records that are compressed one by one: any of them is read without another.
        writer = ArrayRecordWriter(os.fspath(path), "group_size:1")
        length = written = 0
        for record in chain([first], records):
            raw = _serialize(record)
            writer.write(raw)
            length, written = length + 1, written + len(raw)
            if written >= SHARD_BYTES:
                break
        writer.close()
        lengths.append(length)
        size += written
    return tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=size, filename_template=template)


def _serialize(record: Record) -> bytes:
    """As `tfds.features` would, at a fifth of the time."""
    example, features, feature, values = _messages()
    each = {key: feature(bytes_list=values(value=[value])) for key, value in (EMPTY | record).items()}
    return example(features=features(feature=each)).SerializeToString(deterministic=True)


@cache
def _messages() -> tuple[Any, ...]:
    """Protocol buffers: tf.train's Example, Features, Feature and BytesList, as the library has them without it."""
    from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

    names = ("Features", "Feature", "BytesList")
    return (vars(tf_example_pb2)["Example"], *(vars(tf_feature_pb2)[name] for name in names))


def _parse(raw: bytes, keys: Sequence[str]) -> list[bytes]:
    """Some values of a record, as they are stored."""
    features = _messages()[0].FromString(raw).features.feature
    return [features[key].bytes_list.value[0] for key in keys]


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(folder: Path) -> Suite:
    import tensorflow_datasets as tfds

    metadata = _read_metadata(folder)
    with _reading(folder):
        _check_files(folder, metadata["files"])
        builder = tfds.builder_from_directory(folder)
        label = f"{PREFIX}{builder.name}:{builder.version}"
        tasks = {name: _read_task(builder, f"{label} {name}", name, about) for name, about in metadata["tasks"].items()}
        hashes = {name: about["sha256"] for name, about in metadata["tasks"].items()}
        return Suite(Path(label), tasks, metadata["sha256"], hashes)


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Turns what the library raises for a data set that is not as it should be into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of many kinds, all of which mean the same to the user
        reason = first_line(error)[:200]
        raise UserError(
            f"{folder}: is damaged ({type(error).__name__}: {reason}); write the data set again with mtret data tfds"
        ) from error


def _read_metadata(folder: Path) -> Mapping[str, Any]:
    path = folder / METADATA
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        found = {}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Check the path and its permissions.") from None
    except ValueError:
        raise UserError(f"{path}: is damaged (not valid JSON); write the data set again with mtret data tfds") from None
    version = found.get("mtret_suite") if isinstance(found, dict) else None
    if version is None:
        raise UserError(f"{folder}: is not a suite; only what mtret data tfds wrote holds cards and judgements")
    if version != FORMAT:
        raise UserError(f"{folder}: was written by another mtret (format {version}, not {FORMAT}); write it again")
    return found


def _check_files(folder: Path, files: Mapping[str, str]) -> None:
    for name, sha256 in files.items():
        path = folder / name
        if not path.exists():
            raise UserError(f"{path}: is missing; write the data set again with mtret data tfds, or copy all its files")
        if _file_sha256(path) != sha256:
            raise UserError(f"{path}: is damaged, or not the file that was written; write the data set again")


def _read_task(builder: Any, label: str, name: str, about: Mapping[str, Any]) -> Task:
    counts = about["records"]
    card: TaskCard = build(TaskCard, about["card"])

    def column(part: str, *keys: str) -> list[tuple[bytes, ...]]:
        split = _split(name, part)
        found = [tuple(_parse(raw, keys)) for raw in _raw(_open(builder, split))] if counts[part] else []
        if len(found) != counts[part]:
            raise ValueError(f"{split} has {len(found)} records, not {counts[part]}")
        return found

    documents = column(CORPUS, "corpus_id", "parent_id", "text")
    queries = column(QUERIES, "query_id", "text")
    query_rows = {query: row for row, (query, _) in enumerate(queries)}
    document_rows = dict[bytes, int]()
    for row, (own, parent, _) in enumerate(documents):
        document_rows.setdefault(parent or own, row)  # a parent is named by its first chunk

    def relation(part: str) -> Judgements:
        pairs = column(part, "query_id", "corpus_id", "score")
        return Judgements.from_pairs(
            np.array([query_rows[query] for query, _, _ in pairs], np.int32),
            np.array([document_rows[document] for _, document, _ in pairs], np.int32),
            np.frombuffer(b"".join([score for _, _, score in pairs]), np.float64),
        )

    chunked = any(parent for _, parent, _ in documents)
    splits, negatives = (
        {split: relation(f"{kind}_{split}") for split in SPLITS if f"{kind}_{split}" in counts} for kind in RELATIONS
    )
    return Task(
        card=card,
        query_ids=tuple([query.decode() for query, _ in queries]),
        query_texts=tuple([text.decode() for _, text in queries]),
        document_ids=tuple([own.decode() for own, _, _ in documents]),
        document_texts=tuple([text.decode() for _, _, text in documents]),
        splits=splits,
        negatives=negatives,
        exclude=relation(EXCLUDE) if EXCLUDE in counts else None,
        images=_images(_open(builder, _split(name, CORPUS)), label) if card.modality == "image" else None,
        parent_ids=tuple([(parent or own).decode() for own, parent, _ in documents]) if chunked else (),
    )


def _images(split: Sequence[bytes], label: str) -> ImageFiles:
    hashes = [hashlib.sha256(_parse(raw, ["image"])[0]).hexdigest() for raw in _raw(split)]
    return ImageFiles(tuple([RecordImage(split, row, label) for row in range(len(hashes))]), tuple(hashes))


def _open(builder: Any, split: str) -> Sequence[bytes]:
    import tensorflow_datasets as tfds

    return builder.as_data_source(split=split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)


def _raw(split: Any) -> Iterator[bytes]:
    for first in range(0, len(split), BLOCK):
        yield from split.__getitems__(list(range(first, min(first + BLOCK, len(split)))))


def _contents(suite: Suite) -> list[tuple[str, str, Sequence[str]]]:
    """What two suites have in common that are the same; of images, the hash leaves out the texts."""
    return [(name, content_sha256(task), task.document_texts) for name, task in suite.tasks.items()]
