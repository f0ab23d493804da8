"""A tiny encoder, suite and configuration, so that whole commands run in seconds."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file

ROOT = Path(__file__).parents[2]
SYLLABLES = [
    a + b for a in ("ba", "de", "fi", "go", "ku", "la", "mo", "ne") for b in ("ran", "sil", "ter", "vop", "xim")
]
WORDS = [a + b for a in SYLLABLES[::4] for b in SYLLABLES]
LAYERS, HIDDEN, WIDE, POSITIONS = 1, 32, 64, 64
# Family, splits and longest document of each task: with the default mixture (what can be trained on) every role occurs,
# and in short rows the two trained tasks need batches of different shapes.
TASKS = {
    "alpha": ("article", ("train", "dev", "test"), 28),
    "beta": ("table", ("train", "dev", "test"), 10),
    "delta": ("code", ("dev", "test"), 28),
    "gamma": ("article", ("dev", "test"), 28),
}
SIZES = {"train": 40, "dev": 6, "test": 10}
CONFIG = """
def get_config():
    return {{
        "suite": {suite!r},
        "model": {{"source": {model!r}}},
        "batch": {{"queries": 16, "query_length": 24, "document_length": 32, "row_length": 128, "shards": 8}},
        # A constant rate: runs of any length share their executables, which are most of a test's time.
        "optim": {{"learning_rate": 3e-3, "warmup_steps": 2, "schedule": "constant"}},
        "loop": {{"steps": 6, "evaluate_every": 3, "checkpoint_every": 2}},
        "dev": {{"queries": 4, "distractors": 10}},
    }}
"""


def write_model(folder: Path, seed: int = 0) -> Path:
    """A BERT with random weights, in the layout of sentence-transformers."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing

    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: i for i, word in enumerate([*specials, "instruct", "query", ":", *WORDS])}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    config = {
        "model_type": "bert",
        "vocab_size": len(vocabulary),
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "intermediate_size": WIDE,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
    }
    (folder / "1_Pooling").mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file(_tensors(len(vocabulary), seed), folder / "model.safetensors", metadata={"format": "pt"})
    files: dict[str, Any] = {
        "config.json": config,
        "modules.json": [
            {
                "idx": i,
                "name": str(i),
                "path": path,
                "type": f"sentence_transformers.models.{path[2:] or 'Transformer'}",
            }
            for i, path in enumerate(("", "1_Pooling", "2_Normalize"))
        ],
        "sentence_bert_config.json": {"max_seq_length": POSITIONS},
        "1_Pooling/config.json": {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True},
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value), encoding="utf-8")
    return folder


def _tensors(vocabulary: int, seed: int) -> dict[str, np.ndarray]:
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (vocabulary, HIDDEN),
        "embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
    }
    norms = ["embeddings.LayerNorm"]
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}"
        names = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
        for name in names:
            shapes |= {f"{layer}.{name}.weight": (HIDDEN, HIDDEN), f"{layer}.{name}.bias": (HIDDEN,)}
        shapes |= {f"{layer}.intermediate.dense.weight": (WIDE, HIDDEN), f"{layer}.intermediate.dense.bias": (WIDE,)}
        shapes |= {f"{layer}.output.dense.weight": (HIDDEN, WIDE), f"{layer}.output.dense.bias": (HIDDEN,)}
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    random = np.random.default_rng((seed, 7))
    tensors = {name: random.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    for name in norms:
        tensors |= {f"{name}.weight": np.ones(HIDDEN, np.float32), f"{name}.bias": np.zeros(HIDDEN, np.float32)}
    return tensors


def write_task(folder: Path, family: str, splits: tuple[str, ...], longest: int = 28) -> Path:
    """Sixty documents of random words; a query is some words of its document and one of another."""
    name = folder.name
    random = np.random.default_rng([7, *name.encode()])
    documents = [" ".join(random.choice(WORDS, random.integers(6, longest))) for _ in range(60)]
    queries, qrels, lines = [], dict[str, str](), random.permutation(60)
    for split in splits:
        rows = []
        for _ in range(SIZES[split]):
            document = int(lines[len(queries) % 50])  # so that some of the test queries' documents were trained on
            words = random.permutation([*random.choice(documents[document].split(), 4), str(random.choice(WORDS))])
            rows.append(f"q{len(queries)}\td{document}\t1")
            queries.append(" ".join(words))
        qrels[f"qrels/{split}.tsv"] = "\n".join(["query-id\tcorpus-id\tscore", *rows, ""])
    values = {
        "name": name,
        "family": family,
        "domain": "made up",
        "languages": ["en"],
        "instruction": f"{WORDS[0]} {WORDS[1]} {name}",
        "license": "CC0-1.0",
        "source": "made for this test",
    }
    files = {
        "task.json": json.dumps(values, indent=1),
        "corpus.jsonl": "".join(json.dumps({"_id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(documents)),
        "queries.jsonl": "".join(json.dumps({"_id": f"q{i}", "text": text}) + "\n" for i, text in enumerate(queries)),
        **qrels,
    }
    for place, text in files.items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def write_suite(folder: Path) -> Path:
    for name, (family, splits, longest) in TASKS.items():
        write_task(folder / name, family, splits, longest)
    return folder


def quiet() -> Console:
    """A console that keeps what is printed (`export_text`) and shows none of it."""
    return Console(record=True, file=io.StringIO(), width=200)


Environment = Mapping[str, str]
Command = Callable[..., subprocess.CompletedProcess[str]]
Tree = dict[str, bytes]


@pytest.fixture(scope="session")
def environment() -> Environment:
    """Of a command in a process of its own: one device, as on a user's machine."""
    return {**os.environ, "XLA_FLAGS": os.environ["MTRET_TESTS_QUICK"], "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="session")
def command(environment: Environment) -> Command:
    """`mtret ...` in a process of its own, to its end."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "mtret.cli", *map(str, arguments)]
        return subprocess.run(line, capture_output=True, text=True, env=environment, timeout=300)

    return run


@pytest.fixture(scope="session")
def tree() -> Callable[[Path], Tree]:
    """Every file below a folder with its content, and every folder."""

    def read(folder: Path) -> Tree:
        found = sorted(folder.rglob("*"))
        return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in found}

    return read


@pytest.fixture(scope="session")
def scalars() -> Callable[[Path], dict[str, list[tuple[int, float]]]]:
    """What TensorBoard would read from a workdir: (step, value) by tag, from every event file, oldest first."""

    def read(workdir: Path) -> dict[str, list[tuple[int, float]]]:
        from tensorboardX.proto.event_pb2 import Event  # type: ignore[attr-defined]

        found: dict[str, list[tuple[int, float]]] = {}
        for path in sorted((workdir / "events").iterdir()):
            raw, start = path.read_bytes(), 0
            while start < len(raw):  # a record: its length, a checksum, the event, a checksum
                size = int.from_bytes(raw[start : start + 8], "little")
                if start + 16 + size > len(raw):
                    break  # the torn last record of a killed run, where TensorBoard stops as well
                event = Event.FromString(raw[start + 12 : start + 12 + size])
                for value in event.summary.value:
                    found.setdefault(value.tag, []).append((event.step, value.simple_value))
                start += 16 + size
        return found

    return read


Answer = tuple[int, str, str]


@pytest.fixture
def mtret(capfd: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """`mtret ...` in this process: exit code, standard output, standard error."""

    def run(*arguments: object) -> Answer:
        from mtret.cli import main

        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        said = capfd.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def console() -> Console:
    return quiet()


@pytest.fixture(scope="session")
def words() -> list[str]:
    """What the tiny model's tokenizer knows."""
    return WORDS


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture(scope="session")
def tiny_suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_suite(tmp_path_factory.mktemp("suites") / "tiny")


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_suite: Path) -> Path:
    """A configuration file of six steps on both. Not to be changed, as all of these."""
    path = tmp_path_factory.mktemp("configs") / "tiny.py"
    path.write_text(CONFIG.format(suite=str(tiny_suite), model=str(tiny_model)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_config: Path) -> Path:
    """The workdir of a finished run. Copy it before changing anything."""
    from mtret.run_config import read_config
    from mtret.runs.train import train

    workdir = tmp_path_factory.mktemp("runs") / "finished"
    train(read_config(str(tiny_config)), workdir, quiet())
    return workdir


@pytest.fixture
def own_suite(tmp_path: Path, tiny_suite: Path) -> Path:
    """A copy of the suite, to be spoiled."""
    return Path(shutil.copytree(tiny_suite, tmp_path / "suite"))


@pytest.fixture
def own_model(tmp_path: Path, tiny_model: Path) -> Path:
    """A copy of the encoder, to be spoiled."""
    return Path(shutil.copytree(tiny_model, tmp_path / "encoder"))


@pytest.fixture
def unfinished(tmp_path: Path, finished: Path) -> Path:
    """A copy of the same run as it was after its last step, before its model was written."""
    workdir = tmp_path / "unfinished"
    shutil.copytree(finished, workdir)
    shutil.rmtree(workdir / "model")
    return workdir
