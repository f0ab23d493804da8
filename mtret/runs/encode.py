"""Texts or a task's side to a file of ids and vectors, for any store. The vectors are those that `search` uses."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from rich.console import Console

from mtret.console import Bar, say_once
from mtret.data.json_objects import each_key_once, half_a_pair
from mtret.data.templates import render_document
from mtret.data.tokenize import Tokenizer, Tokens
from mtret.errors import UserError, nearest
from mtret.files import AnyPath, check_new, check_writable, folder_draft, locate, replace_bytes
from mtret.index.encode import Texts
from mtret.index.exact import check_finite, truncate
from mtret.model_folder.folder import RetrievalModel
from mtret.model_folder.towers import embedder
from mtret.models.dual_encoder import ModelConfig
from mtret.models.hf import Pretrained
from mtret.runs import session
from mtret.runs.embedding import NEEDS_TOWER, embed_tasks, reads, unreadable
from mtret.runs.export import load_suite_of, open_model

BLOCK = 4096  # texts embedded between two writes
SUFFIXES = (".parquet", ".jsonl")


@dataclass(frozen=True)
class EncodeConfig:
    """What is encoded, and how."""

    model: str
    suite: str = ""  # for `task`; that of the training if not given
    task: str = ""
    side: str = "documents"  # or queries
    prompt: str = ""  # of `texts`: one of the model's prompts; without it, documents' or the generic query's, by side
    dimensions: int | None = None  # each vector is truncated to its first dimensions, of length 1 again
    query_prompt: str | None = None  # of an encoder that mtret did not train, in place of its published one
    document_prompt: str | None = None


@dataclass(frozen=True)
class Encoded:
    """What was written."""

    count: int
    dimension: int
    prompt: str  # before each text
    truncated: int = 0  # longer than the model reads
    empty: int = 0  # left out
    length: str = "length 1"  # of each vector, in words


Seen = Counter[str]  # "truncated", "empty": what `Encoded` tells of texts, counted as they pass
Write = Callable[[Sequence[str], np.ndarray], None]
Blocks = Iterator[tuple[Sequence[str], Float32[np.ndarray, "n D"]]]


def encode_to_file(
    config: EncodeConfig, texts: Iterator[tuple[str, str]] | None, out: AnyPath, console: Console, total: int = 0
) -> Encoded:
    """Encodes a task's side, or `texts` as they come: pairs of id and text, `total` of them if that is known.

    Raises UserError where model, suite, task or prompt is not there, the task cannot be read, `out` is, or its kind is
    not one of `SUFFIXES`.
    """
    check_out(out)
    cache = session.begin().cache
    prompts = config.query_prompt, config.document_prompt
    model = open_model(config.model, ModelConfig(config.model, *prompts) if prompts != (None, None) else None)
    say_once(console, model.remarks)
    whole = model.encoder.dimension
    dimension = config.dimensions or whole
    if dimension > whole:
        raise UserError(f"--dimensions={dimension}: this model's vectors have {whole} dimensions")
    seen = Seen()
    if texts is None:
        prompt, blocks = _task_blocks(model, config, cache, console, seen)
    else:
        prompt, blocks = _text_blocks(model, config, texts, total, console, seen)
    about = {"model": locate(config.model).name, "weights_sha256": model.towers.weights_sha256, "prompt": prompt}
    about |= {"fingerprint": model.towers.fingerprint}
    count = 0
    with _writer(out, dimension, about) as write:
        for ids, vectors in blocks:
            check_finite(vectors, "text", ids=ids)
            write(ids, truncate(vectors, dimension, model.encoder.similarity) if dimension < whole else vectors)
            count += len(ids)
        if not count:
            raise UserError("nothing to encode: there is no text")
    encoder = model.encoder
    ones = encoder.normalises or (dimension < whole and encoder.similarity == "cosine")
    length = "length 1" if ones else f"not of length 1, to be compared by {encoder.similarity}"
    return Encoded(count, dimension, prompt, seen["truncated"], seen["empty"], length)


def check_out(out: AnyPath) -> None:
    """Raises UserError for a file that cannot or must not be written."""
    if out.suffix not in SUFFIXES:
        raise UserError(f"--out={out}: must end in {', '.join(SUFFIXES)}, which says how it is written")
    if out.suffix == ".parquet":
        _import_pyarrow()
    check_writable(out.parent, "--out")
    check_new(out, "--out")


def _task_blocks(
    model: RetrievalModel, config: EncodeConfig, cache: AnyPath, console: Console, seen: Seen
) -> tuple[str, Blocks]:
    """By the same function as `search` and `evaluate`, through the same cache."""
    suite = load_suite_of(model, config.suite)
    if config.task not in suite.tasks:
        raise UserError(f"no task '{config.task}' in {suite.folder}.{nearest(config.task, suite.tasks)}")
    task = suite.tasks[config.task]
    if config.side == "queries" and (reasons := unreadable(model, [task])):
        raise UserError(f"'{config.task}' cannot be encoded: {reasons[config.task]}")
    if not reads(model, task):
        raise UserError(f"'{config.task}' cannot be encoded: {NEEDS_TOWER}")
    if config.prompt:
        raise UserError("--prompt: a task has its own; it is for --texts")
    encoder, prompt, texts = model.encoder, model.templates.query_prefix(task.card.instruction), task.query_texts
    if config.side == "documents":
        encoder, prompt, texts = model.towers.documents or encoder, model.templates.document_prefix, task.document_texts
    tokens = Tokenizer(encoder.folder, cache, encoder.pools_prompt).after(prompt, texts)
    if config.side == "queries":
        return prompt, _embedded(encoder, [(task.query_ids, tokens)], len(task.query_ids), console, seen)
    seen["truncated"] = 0 if task.images else _longer(tokens, encoder)
    vectors = embed_tasks("documents", model, [(task, ())], cache, console)[0][1]
    return prompt, iter([(task.document_ids, vectors)])


def _text_blocks(
    model: RetrievalModel,
    config: EncodeConfig,
    texts: Iterator[tuple[str, str]],
    total: int,
    console: Console,
    seen: Seen,
) -> tuple[str, Blocks]:
    """Block by block, so that memory holds one block of texts."""
    encoder = model.encoder
    if model.towers.documents and reads_documents(config):
        encoder = model.towers.documents
    prompt = _prompt(model, config)
    tokenizer = Tokenizer(encoder.folder, None, encoder.pools_prompt)
    if reason := tokenizer.no_room(prompt, encoder.max_length):
        raise UserError(f"--texts cannot be encoded as {config.prompt or config.side}: {reason}; give another --prompt")

    def tokenised() -> Iterator[tuple[Sequence[str], Tokens]]:
        while block := list(islice(texts, BLOCK)):
            filled = [(name, text) for name, text in block if text.strip()]
            seen["empty"] += len(block) - len(filled)
            yield tuple(name for name, _ in filled), tokenizer.after(prompt, [text for _, text in filled])

    return prompt, _embedded(encoder, tokenised(), total, console, seen)


def reads_documents(config: EncodeConfig) -> bool:
    """Whether texts are documents: as `side` says, or as the prompt that is named."""
    return config.prompt == "document" or (config.side == "documents" and not config.prompt)


def _prompt(model: RetrievalModel, config: EncodeConfig) -> str:
    """By name; else what the model wants before a document, or before a query of no task that it knows."""
    if config.prompt:
        if config.prompt not in model.prompts:
            known = ", ".join(model.prompts) or "none"
            raise UserError(
                f"--prompt={config.prompt}: the model has no such prompt, only {known}."
                f"{nearest(config.prompt, model.prompts)}"
            )
        return model.prompts[config.prompt]
    return model.prompts.get("document" if config.side == "documents" else "query", "")


def _longer(tokens: Tokens, encoder: Pretrained) -> int:
    """How many texts are longer than the encoder reads."""
    return int((np.diff(tokens.offsets) > encoder.max_length).sum())


def _embedded(
    encoder: Pretrained,
    blocks: Iterable[tuple[Sequence[str], Tokens]],
    total: int,
    console: Console,
    seen: Seen,
) -> Blocks:
    """One block after the other; a bar where the total is known."""
    embed = embedder(encoder)
    with Bar(console if total else Console(quiet=True), "encoding, texts", total) as bar:
        for ids, tokens in blocks:
            seen["truncated"] += _longer(tokens, encoder)
            yield ids, embed([Texts(tokens, encoder.max_length)])[0]
            bar.advance(len(ids))
        bar.finish()


def read_texts(lines: Iterable[str], source: str, documents: bool) -> Iterator[tuple[str, str]]:
    """Pairs of id and text: of JSON objects with `_id` and `text` (and a `title`, of documents), where the source ends
    in .jsonl; else a line is a text, and its number, from 1, is the id. Empty lines are left out.

    Raises UserError for a line that is not such an object, or not UTF-8, an id that stands twice, and for a table.
    """
    if source.endswith((".csv", ".tsv", ".parquet", ".xlsx")):
        raise UserError(f"{source}: a table; give .jsonl with _id and text, or import it (mtret data import)")
    first: dict[str, int] = {}  # the line of each id
    for number, line in enumerate(_decoded(lines, source), start=1):
        where = f"{source}:{number}"
        text = (line.removeprefix("\ufeff") if number == 1 else line).strip()  # which programs of Windows put there
        if not text:
            continue
        name = str(number)
        if source.endswith(".jsonl"):
            name, text = _entry(text, where, documents)
            if first.setdefault(name, number) != number:
                raise UserError(f"{where}: the id '{name}' stands on line {first[name]} already; give each its own")
        elif half_a_pair(text):
            raise UserError(f"{where}: not UTF-8, or half of a surrogate pair; convert the text")
        yield name, text


def _entry(line: str, where: str, documents: bool) -> tuple[str, str]:
    """Id and text of a JSON object."""
    try:
        entry = json.loads(line, object_pairs_hook=each_key_once)
        name = entry["_id"] if "_id" in entry else entry["id"]
        text, title = entry["text"], (entry.get("title") or "") if documents else ""
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{where}: must be a JSON object with '_id' and 'text' ({type(error).__name__}: {error})"
        ) from error
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        raise UserError(f"{where}: the id is {json.dumps(name)[:60]}, which is neither a string nor an integer")
    for field, value in (("text", text), ("title", title)):
        if not isinstance(value, str):
            raise UserError(f"{where}: '{field}' is {json.dumps(value)[:60]}, not a string; put it in quotes")
    for field, value in (("id", str(name)), ("text", text), ("title", title)):
        if half_a_pair(value):
            raise UserError(f"{where}: '{field}' holds half of a surrogate pair; remove the \\ud8..-\\udf.. escape")
    return str(name), render_document(title, text) if documents else text


def _decoded(lines: Iterable[str], source: str) -> Iterator[str]:
    try:
        yield from lines
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: not UTF-8 ({error.reason}); convert it") from error


def count_lines(path: AnyPath) -> int:
    """That are not empty, for a bar."""
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


@contextmanager
def _writer(out: AnyPath, dimension: int, about: Mapping[str, Any]) -> Iterator[Write]:
    """A function that takes ids and vectors, block by block; the file is there in the end, or nothing of it."""
    with folder_draft(out) as draft:
        path = draft / out.name
        with _parquet(path, dimension, about) if out.suffix == ".parquet" else _jsonl(path) as write:
            yield write
        check_out(out)  # somebody else may have written it meanwhile
        if isinstance(out, Path):
            os.replace(path, out)
        else:
            replace_bytes(out, path.read_bytes())


@contextmanager
def _parquet(path: Path, dimension: int, about: Mapping[str, Any]) -> Iterator[Write]:
    """Columns `id` and `vector`, a list of float32 of fixed size; a group of rows for each block."""
    arrow, parquet = _import_pyarrow()
    fields = [arrow.field("id", arrow.string()), arrow.field("vector", arrow.list_(arrow.float32(), dimension))]
    schema = arrow.schema(fields, metadata={"mtret": json.dumps(about)})
    with parquet.ParquetWriter(path, schema) as writer:

        def write(ids: Sequence[str], vectors: np.ndarray) -> None:
            flat = arrow.array(np.ascontiguousarray(vectors, np.float32).ravel())
            columns = [arrow.array(list(ids), arrow.string()), arrow.FixedSizeListArray.from_arrays(flat, dimension)]
            writer.write_table(arrow.Table.from_arrays(columns, schema=schema))

        yield write


@contextmanager
def _jsonl(path: Path) -> Iterator[Write]:
    """`{"id": ..., "vector": [...]}` a line, with as many digits as float32 needs."""
    with path.open("w", encoding="utf-8") as file:

        def write(ids: Sequence[str], vectors: np.ndarray) -> None:
            for name, vector in zip(ids, vectors, strict=True):
                numbers = ", ".join(map(str, vector))
                file.write(f'{{"id": {json.dumps(name, ensure_ascii=False)}, "vector": [{numbers}]}}\n')

        yield write


def _import_pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(
            "--out: .parquet needs pyarrow, which is not installed; pip install 'mtret[parquet]', or write .jsonl"
        ) from error
    return pyarrow, parquet
