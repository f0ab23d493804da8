"""Tokens, judgements and weights of the public suite in one small folder, for a machine without network or data.

    python experiments/gpu/pack.py --suite=FOLDER_OF_TASKS --out=.gpu-data               # once, on a CPU: two minutes
    python experiments/gpu/pack.py --suite=FOLDER_OF_TASKS --out=.gpu-e5 --model=FOLDER  # another base than MiniLM

Everything that needs texts is done here: tokenising, BM25, roles, what was trained on and is dropped. The folder holds
`data.xz` (a pickle of NumPy arrays and of mtret's own classes), `weights.xz` and the small files of the encoder's
folder. Kernels and word embeddings are rounded to float16, biases and norms stay float32, and words that no text of the
suite has are zero. Bytes are sorted by significance before compression: the high ones repeat, the low ones do not.

What a base has in 4 bits (blocks of 32 with a scale, Q4_0) is packed so, exactly. Of a vocabulary of more than 65,536
tokens those alone are packed that a text of the suite has, numbered anew; such a folder has no tokenizer.
"""

import argparse
import json
import lzma
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mtret.data.formats import read_suite
from mtret.data.roles import check_leakage, role_of, training_record
from mtret.data.tasks import Task
from mtret.data.tokenize import Tokenizer, Tokens, concatenate, offsets_of
from mtret.data.training_tasks import TrainingTask, training_task
from mtret.devices import cache_folder
from mtret.index.bm25 import BM25Index
from mtret.index.exact import Run, rules_of, tie_order
from mtret.model_folder.folder import of_others
from mtret.models import hf, weights
from mtret.models.dual_encoder import ModelConfig
from mtret.run_config import RunConfig, read_config
from mtret.runs.setup import with_templates
from mtret.runs.tasks import mixture_tasks
from mtret.train.vocabulary import Vocabulary, vocabulary_of

CONFIG = Path(__file__).parents[2] / "configs" / "public_suite.py"
SPLITS = ("dev", "test")
WORDS = "embeddings.word_embeddings.weight"
MOST_WORDS = 2**16
DEPTH = 100  # of BM25's hits
BLOCK = 32  # weights with one scale
FOUR_BITS = "4 bits"


@dataclass(frozen=True, eq=False)
class Evaluated:
    """A task as it is evaluated, without its texts: queries by split, less those that the mixture trains on."""

    task: Task
    role: str
    order: np.ndarray  # of documents with equal scores
    rows: Mapping[str, np.ndarray]  # of the task's queries
    documents: Tokens
    bare: Mapping[str, Tokens]  # queries, for the base
    instructed: Mapping[str, Tokens]  # queries, for a finetuned model
    lexical: Mapping[str, Run]  # BM25's first DEPTH


@dataclass(frozen=True)
class Packed:
    """All of `data.xz`. `training`: without documents, which are those of the evaluated task of that name."""

    config: RunConfig
    tasks: Mapping[str, Evaluated]
    training: tuple[TrainingTask, ...]
    precision: str  # of the weights, in words


def pack(suite_folder: Path, folder: Path, model: str = "minilm") -> dict[str, int]:
    """Writes the folder. Returns the bytes of each file in it."""
    config = read_config(str(CONFIG))
    config = replace(config, model=replace(config.model, source=model))
    encoder = hf.load(model)
    config = with_templates(config, encoder)
    templates, own = config.templates.chosen, of_others(encoder, model, ModelConfig()).templates
    if templates.document_prefix != own.document_prefix:
        raise SystemExit("the base reads its documents otherwise than a finetuned model: they cannot share tokens")
    suite = read_suite(suite_folder)
    mixture = mixture_tasks(suite, config)
    record = training_record(mixture)
    tokenizer = Tokenizer(encoder.folder, cache_folder())
    tasks = {}
    for name, task in suite.tasks.items():
        splits = {split: task.splits[split] for split in SPLITS if split in task.splits}
        if task.images or task.parents is not None or "test" not in splits:
            continue
        rows = {
            split: each.queries[~np.isin(each.queries, check_leakage(task, split, record, True))]
            for split, each in splits.items()
        }

        def tokens(prefix: str, task: Task = task, rows: Mapping[str, np.ndarray] = rows) -> dict[str, Tokens]:
            texts = {split: [task.query_texts[row] for row in each] for split, each in rows.items()}
            return {
                split: truncated(tokenizer.after(prefix, each), encoder.max_length) for split, each in texts.items()
            }

        tasks[name] = Evaluated(
            Task(task.card, (), (), (), (), splits, exclude=task.exclude),
            role_of(task, record),
            tie_order(task.named_ids),
            rows,
            truncated(tokenizer.after(own.document_prefix, task.document_texts), encoder.max_length),
            tokens(own.query_prefix(task.card.instruction)),
            tokens(templates.query_prefix(task.card.instruction)),
            lexical(task, rows),
        )
        print(name, tasks[name].role, {split: len(each) for split, each in rows.items()}, flush=True)
    training = [training_task(task, tokenizer, templates, config.batch) for task in mixture]
    limits = {length for task in training for length in (task.config.query_length, task.config.document_length)}
    if max(limits) > encoder.max_length:
        raise SystemExit("trained on longer texts than are packed")
    used = np.unique(concatenate(texts_of(tasks, training)).ids)
    words = kept_words(used, encoder.tower.config.vocab_size)
    precision = write_weights(folder, encoder, used, words)
    without = [replace(task, documents=no_tokens(task.document_tokens)) for task in training]

    def small(one: Any) -> Any:
        return narrowed(one if words.is_whole else narrowed(one, words.renumbered))

    config = replace(config, model=replace(config.model, source=base_name(model)))
    packed = Packed(config, {name: small(one) for name, one in tasks.items()}, tuple(map(small, without)), precision)
    (folder / "data.xz").write_bytes(lzma.compress(pickle.dumps(packed), preset=6))
    return {path.name: path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}


def base_name(model: str) -> str:
    """Without the folders that it lies in."""
    return Path(model).name


def lexical(task: Task, rows: Mapping[str, np.ndarray]) -> dict[str, Run]:
    """BM25's hits for the queries of these rows, by split, in few bits: scores keep three digits."""
    index, found = BM25Index(task.document_texts), dict[str, Run]()
    for split, each in rows.items():
        run = index.search([task.query_texts[row] for row in each], DEPTH, rules_of(task, each))
        found[split] = Run(run.documents.astype(np.int16), run.scores.astype(np.float16))
    return found


def truncated(tokens: Tokens, limit: int) -> Tokens:
    """As they are read."""
    every = np.arange(len(tokens))
    ids, skip = tokens.take(every, limit), tokens.skipped(every)
    return Tokens(ids, offsets_of(tokens.lengths(limit)), tokens.suffix, skip, tokens.prefix)


def no_tokens(like: Tokens) -> Tokens:
    return Tokens(np.empty(0, np.int32), np.zeros(1, np.int64), like.suffix, None, like.prefix)


def narrow(tokens: Tokens) -> Tokens:
    """Ids as 16 bits where they fit, lengths in place of offsets; nothing is skipped by an encoder that pools its
    prompts."""
    if tokens.skipped(np.arange(len(tokens))).any():
        raise SystemExit("this encoder leaves prompts out of its vectors, which is not packed")
    lengths = np.diff(tokens.offsets).astype(np.uint32)
    fitting = np.uint16 if tokens.ids.max(initial=0) < MOST_WORDS else np.int32
    return replace(tokens, ids=tokens.ids.astype(fitting), offsets=lengths, skip=None)


def widen(tokens: Tokens) -> Tokens:
    """The way back."""
    return replace(tokens, ids=tokens.ids.astype(np.int32), offsets=offsets_of(tokens.offsets.astype(np.int64)))


def narrowed(one: Any, change: Any = narrow) -> Any:
    """A dataclass with `change` applied to all Tokens in it."""
    changed: dict[str, Any] = {}
    for name, value in vars(one).items():
        if isinstance(value, Tokens):
            changed[name] = change(value)
        elif isinstance(value, Mapping) and any(isinstance(each, Tokens) for each in value.values()):
            changed[name] = {key: change(each) for key, each in value.items()}
    return replace(one, **changed)


def texts_of(tasks: Mapping[str, Evaluated], training: list[TrainingTask]) -> list[Tokens]:
    """Every text."""
    every = [
        tokens for one in tasks.values() for tokens in (one.documents, *one.bare.values(), *one.instructed.values())
    ]
    return every + [tokens for task in training for tokens in (task.queries, task.query_tokens(True))]


def kept_words(used: np.ndarray, size: int) -> Vocabulary:
    """All of a vocabulary whose ids have 16 bits, of another those that are used and some that fill it up."""
    if size <= MOST_WORDS:
        return Vocabulary(np.arange(size, dtype=np.int32), size)
    return vocabulary_of([Tokens(used.astype(np.int32), np.array([0, len(used)]), 0)], size)


def write_weights(folder: Path, encoder: hf.Pretrained, used: np.ndarray, words: Vocabulary) -> str:
    """The encoder's folder, its weights apart; returns what was done to them, in words."""
    write_settings(folder / "model", Path(str(encoder.folder)), words)
    tensors = {**encoder.unused, **weights.published(encoder.params, encoder.prefix)}
    planes = {np.dtype(kind): list[np.ndarray]() for kind in ("float16", "float32", "int64", "uint8")}
    listed, unused = list[tuple[str, str, tuple[int, ...]]](), np.setdiff1d(np.arange(words.size), used)
    for name, tensor in tensors.items():
        if name.endswith(WORDS):
            tensor = tensor.copy()
            tensor[unused] = 0
            tensor = tensor[words.ids]
        if (blocks := in_four_bits(tensor)) is not None:
            for part in blocks:
                planes[part.dtype].append(part.reshape(-1))
            listed.append((name, FOUR_BITS, tensor.shape))
            continue
        if tensor.dtype == np.float32 and tensor.ndim == 2:
            tensor = tensor.astype(np.float16)
        planes[tensor.dtype].append(tensor.reshape(-1))
        listed.append((name, tensor.dtype.name, tensor.shape))
    parts = {kind.name: np.concatenate(each) for kind, each in planes.items() if each}
    head = json.dumps({"tensors": listed, "sizes": {kind: len(each) for kind, each in parts.items()}}).encode()
    body = b"".join(each.view(np.uint8).reshape(len(each), -1).T.tobytes() for each in parts.values())
    (folder / "weights.xz").write_bytes(lzma.compress(len(head).to_bytes(8, "little") + head + body, preset=6))
    exact = sum(kind == FOUR_BITS for _, kind, _ in listed)
    how = f"{exact} matrices in 4 bits, as they are published; the other" if exact else ""
    return (
        f"{how} kernels and embeddings rounded to float16, the others float32; {len(used):,} words, the others "
        + ("zero" if words.is_whole else "left out")
    ).strip()


def write_settings(folder: Path, source: Path, words: Vocabulary) -> None:
    """The encoder's small files. With words left out the tokenizer's would be wrong, so there are none."""
    for path in source.rglob("*.json"):
        if path.name == "data_config.json" or (not words.is_whole and path.name.startswith("tokenizer")):
            continue
        place = folder / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    if not words.is_whole:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["vocab_size"] = len(words.ids)
        (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def in_four_bits(tensor: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The scale of every block and two weights a byte, where a float16 of -8 to 7 times its scale is all that a matrix
    holds; None where one weight is otherwise."""
    if tensor.ndim != 2 or tensor.size % BLOCK:
        return None
    blocks = tensor.astype(np.float32).reshape(-1, BLOCK)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)
    scale = (largest / -8).astype(np.float16)  # Q4_0: the largest weight is the lowest number
    numbers = np.rint(blocks / np.where(scale == 0, 1, scale)).clip(-8, 7) + 8
    packed = numbers.astype(np.uint8)
    packed = packed[:, : BLOCK // 2] | packed[:, BLOCK // 2 :] << 4
    return (scale[:, 0], packed) if np.array_equal(of_four_bits(scale[:, 0], packed), blocks) else None


def of_four_bits(scales: np.ndarray, packed: np.ndarray) -> np.ndarray:
    """[blocks, BLOCK] in float32, rounded to float16 as published."""
    numbers = np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32) - 8
    return (numbers * scales.astype(np.float32)[:, None]).astype(np.float16).astype(np.float32)


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """What `write_weights` wrote, by published name."""
    raw = lzma.decompress(path.read_bytes())
    length = int.from_bytes(raw[:8], "little")
    head, place, parts = json.loads(raw[8 : 8 + length]), 8 + length, {}
    for kind, size in head["sizes"].items():
        width = np.dtype(kind).itemsize
        plane = np.frombuffer(raw, np.uint8, size * width, place).reshape(width, size)
        parts[kind] = np.ascontiguousarray(plane.T).view(kind).reshape(-1)
        place += size * width
    found, done = {}, dict.fromkeys(parts, 0)

    def take(kind: str, size: int) -> np.ndarray:
        done[kind] += size
        return parts[kind][done[kind] - size : done[kind]]

    for name, kind, shape in head["tensors"]:
        size = int(np.prod(shape))
        if kind == FOUR_BITS:
            scales, packed = take("float16", size // BLOCK), take("uint8", size // 2)
            found[name] = of_four_bits(scales, packed.reshape(-1, BLOCK // 2)).reshape(shape)
        else:
            found[name] = take(kind, size).reshape(shape)
    return found


def unpack(folder: Path, place: Path) -> tuple[Packed, Path]:
    """The data, and the encoder's folder, which is written to `place`."""
    import shutil

    from safetensors.numpy import save_file

    shutil.copytree(folder / "model", place, dirs_exist_ok=True)
    save_file(read_weights(folder / "weights.xz"), place / weights.SINGLE, {"format": "pt"})
    packed: Packed = pickle.loads(lzma.decompress((folder / "data.xz").read_bytes()))
    tasks = {name: narrowed(one, widen) for name, one in packed.tasks.items()}
    training = tuple(with_documents(narrowed(task, widen), tasks[task.name].documents) for task in packed.training)
    return replace(packed, tasks=tasks, training=training), place


def with_documents(task: TrainingTask, corpus: Tokens) -> TrainingTask:
    assert task.document_rows is not None
    return replace(task, documents=corpus.subset(task.document_rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(".gpu-data"))
    parser.add_argument("--model", default="minilm", help="a name that mtret knows, or an encoder's folder")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    sizes = pack(arguments.suite, arguments.out, arguments.model)
    print(json.dumps(sizes), f"{sum(sizes.values()) / 2**20:.1f} MiB")


if __name__ == "__main__":
    import pack as itself  # so that what is pickled is found under the name by which sweep.py imports it

    itself.main()
