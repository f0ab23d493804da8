"""Tokens, judgements and weights of the public suite in one small folder, for a machine without network or data.

    python experiments/gpu/pack.py --suite=FOLDER_OF_TASKS --out=.gpu-data               # once, on a CPU: two minutes

Everything that needs texts is done here: tokenising, roles, what was trained on and is dropped. The folder holds
`data.xz` (a pickle of NumPy arrays and of mtret's own classes), `weights.xz` and the small files of the encoder's
folder. Kernels and word embeddings are rounded to float16, biases and norms stay float32, and words that no text of the
suite has are zero. Bytes are sorted by significance before compression: the high ones repeat, the low ones do not.
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
from mtret.index.exact import tie_order
from mtret.model_folder.folder import of_others
from mtret.models import hf, weights
from mtret.models.dual_encoder import ModelConfig
from mtret.run_config import RunConfig, read_config
from mtret.runs.setup import mixture_tasks, with_templates

CONFIG = Path(__file__).parents[2] / "configs" / "public_suite.py"
SPLITS = ("dev", "test")
WORDS = "embeddings.word_embeddings.weight"


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


@dataclass(frozen=True)
class Packed:
    """All of `data.xz`. `training`: without documents, which are those of the evaluated task of that name."""

    config: RunConfig
    tasks: Mapping[str, Evaluated]
    training: tuple[TrainingTask, ...]
    precision: str  # of the weights, in words


def pack(suite_folder: Path, folder: Path) -> dict[str, int]:
    """Writes the folder. Returns the bytes of each file in it."""
    config = read_config(str(CONFIG))
    encoder = hf.load("minilm")
    config = with_templates(config, encoder)
    templates, own = config.templates.chosen, of_others(encoder, "minilm", ModelConfig()).templates
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
        )
        print(name, tasks[name].role, {split: len(each) for split, each in rows.items()}, flush=True)
    training = [training_task(task, tokenizer, templates, config.batch) for task in mixture]
    limits = {length for task in training for length in (task.config.query_length, task.config.document_length)}
    if max(limits) > encoder.max_length:
        raise SystemExit("trained on longer texts than are packed")
    precision = write_weights(folder, encoder, words_of(tasks, training))
    without = [replace(task, documents=no_tokens(task.document_tokens)) for task in training]
    packed = Packed(
        config, {name: narrowed(one) for name, one in tasks.items()}, tuple(map(narrowed, without)), precision
    )
    (folder / "data.xz").write_bytes(lzma.compress(pickle.dumps(packed), preset=6))
    return {path.name: path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}


def truncated(tokens: Tokens, limit: int) -> Tokens:
    """As they are read."""
    every = np.arange(len(tokens))
    ids, skip = tokens.take(every, limit), tokens.skipped(every)
    return Tokens(ids, offsets_of(tokens.lengths(limit)), tokens.suffix, skip, tokens.prefix)


def no_tokens(like: Tokens) -> Tokens:
    return Tokens(np.empty(0, np.int32), np.zeros(1, np.int64), like.suffix, None, like.prefix)


def narrow(tokens: Tokens) -> Tokens:
    """Ids as 16 bits, lengths in place of offsets; nothing is skipped by an encoder that pools its prompts."""
    if tokens.skipped(np.arange(len(tokens))).any():
        raise SystemExit("this encoder leaves prompts out of its vectors, which is not packed")
    lengths = np.diff(tokens.offsets).astype(np.uint32)
    return replace(tokens, ids=tokens.ids.astype(np.uint16), offsets=lengths, skip=None)


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


def words_of(tasks: Mapping[str, Evaluated], training: list[TrainingTask]) -> np.ndarray:
    """Ids that stand in any text."""
    every = [
        tokens for one in tasks.values() for tokens in (one.documents, *one.bare.values(), *one.instructed.values())
    ]
    every += [tokens for task in training for tokens in (task.queries, task.query_tokens(True))]
    return np.unique(concatenate(every).ids)


def write_weights(folder: Path, encoder: hf.Pretrained, words: np.ndarray) -> str:
    """The encoder's folder, its weights apart; returns what was done to them, in words."""
    (folder / "model").mkdir(parents=True, exist_ok=True)
    for path in Path(str(encoder.folder)).rglob("*.json"):
        if path.name != "data_config.json":
            place = folder / "model" / path.relative_to(str(encoder.folder))
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(path.read_bytes())
    tensors = {**encoder.unused, **weights.published(encoder.params, encoder.prefix)}
    planes, listed = {np.dtype(kind): [] for kind in ("float16", "float32", "int64")}, []
    for name, tensor in tensors.items():
        if name.endswith(WORDS):
            unused = np.setdiff1d(np.arange(len(tensor)), words)
            tensor = tensor.copy()
            tensor[unused] = 0
        if tensor.dtype == np.float32 and tensor.ndim == 2:
            tensor = tensor.astype(np.float16)
        planes[tensor.dtype].append(tensor.reshape(-1))
        listed.append((name, tensor.dtype.name, tensor.shape))
    parts = {kind.name: np.concatenate(each) for kind, each in planes.items() if each}
    head = json.dumps({"tensors": listed, "sizes": {kind: len(each) for kind, each in parts.items()}}).encode()
    body = b"".join(each.view(np.uint8).reshape(len(each), -1).T.tobytes() for each in parts.values())
    (folder / "weights.xz").write_bytes(lzma.compress(len(head).to_bytes(8, "little") + head + body, preset=6))
    return f"kernels and embeddings rounded to float16, the others float32; {len(words):,} words, the others zero"


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
    for name, kind, shape in head["tensors"]:
        size = int(np.prod(shape))
        found[name] = parts[kind][done[kind] : done[kind] + size].reshape(shape)
        done[kind] += size
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
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    sizes = pack(arguments.suite, arguments.out)
    print(json.dumps(sizes), f"{sum(sizes.values()) / 2**20:.1f} MiB")


if __name__ == "__main__":
    import pack as itself  # so that what is pickled is found under the name by which sweep.py imports it

    itself.main()
