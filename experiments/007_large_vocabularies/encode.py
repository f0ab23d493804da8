"""Encoding a corpus with `mtret encode` and with sentence-transformers' `encode`: tokens/s, memory, share of a product.

    .venv-parity/bin/python experiments/007_large_vocabularies/encode.py --suite=FOLDER --model=ENCODER
        [--prompt='passage: '] [--documents=20000] [--rounds=2] --out=FILE

Documents are drawn from all tasks of text, by seed. Each contender is a whole process, from its start to the vectors on
disk, and they take turns, a round at a time; before each a large matrix product is timed. sentence-transformers reads
the same texts, sorts them by length (as it does by itself) and takes the batch size of its documentation, 32. The share
is that of the kernels' products over real tokens in the rate of a large product, measured just before. The vectors of
both are compared.
"""

# pyright: reportMissingImports=false

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SEED = 0
CONTENDERS = ("mtret", "sentence-transformers")


def documents(suite: str, count: int) -> list[str]:
    """Of all tasks whose documents are texts."""
    from mtret.data.suites import load_suite

    tasks = [task for task in load_suite(suite).tasks.values() if task.images is None]
    every = [text for task in tasks for text in task.document_texts]
    chosen = np.random.default_rng(SEED).permutation(len(every))[:count]
    return [every[row] for row in sorted(chosen.tolist())]


def peer(arguments: argparse.Namespace) -> None:
    """sentence-transformers, from a file of texts to one of vectors."""
    from sentence_transformers import SentenceTransformer

    with arguments.texts.open(encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    # In float32 whatever it is stored in: float16 is slow on a CPU.
    model = SentenceTransformer(arguments.model, device="cpu", model_kwargs={"dtype": "float32"})
    np.save(arguments.out, model.encode(texts, prompt=arguments.prompt or None, show_progress_bar=False))


def counted(model: str, prompt: str, texts: list[str]) -> tuple[int, int]:
    """Tokens that the model reads of these texts, and numbers in its kernels."""
    from mtret.data.tokenize import Tokenizer
    from mtret.models import hf
    from mtret.models.dual_encoder import ModelConfig
    from mtret.pytrees import flatten

    encoder = hf.load(model, ModelConfig(model))
    tokens = Tokenizer(encoder.folder, None).after(prompt, texts)
    kernels = sum(leaf.size for path, leaf in flatten(encoder.params).items() if path.endswith("/kernel"))
    return int(tokens.lengths(encoder.max_length).sum()), kernels


def folder_of(model: str) -> str:
    """Of an encoder's name or folder."""
    from mtret.models.hf import resolve

    return str(resolve(model))


def ran(command: list[str]) -> tuple[float, float]:
    """Seconds of a command, and its largest resident set in GiB."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command}: ended with {status}")
    return time.perf_counter() - began, usage.ru_maxrss / 2**20


def vectors_of(name: str, path: Path) -> np.ndarray:
    if name == "sentence-transformers":
        return np.load(path)
    import pyarrow.parquet as parquet

    return np.stack(parquet.read_table(path)["vector"].to_numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--prompt", default="", help="before each document")
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--texts", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.texts:
        peer(arguments)
        return
    from mtret.runs.summary import matrix_rate

    texts = documents(arguments.suite, arguments.documents)
    folder = folder_of(arguments.model)
    tokens, kernels = counted(folder, arguments.prompt, texts)
    found: dict[str, Any] = {"documents": len(texts), "tokens": tokens, "prompt": arguments.prompt}
    found |= {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "texts.jsonl")
        lines = [json.dumps({"_id": str(row), "text": text}) for row, text in enumerate(texts)]
        source.write_text("\n".join(lines) + "\n", encoding="utf-8")
        for number in range(arguments.rounds):
            outs = {
                "mtret": Path(scratch, f"{number}.parquet"),
                "sentence-transformers": Path(scratch, f"{number}.npy"),
            }
            commands = {
                "mtret": ["-m", "mtret", "encode", f"--texts={source}", f"--document_prompt={arguments.prompt}"],
                "sentence-transformers": [__file__, f"--texts={source}", f"--prompt={arguments.prompt}"],
            }
            for name in CONTENDERS:
                rate = matrix_rate("float32")
                of_both = [f"--model={folder}", f"--out={outs[name]}"]
                seconds, peak = ran([sys.executable, *commands[name], *of_both])
                numbers = {"seconds": seconds, "tokens_per_s": tokens / seconds, "peak_gib": peak}
                numbers |= {"product_gflops": rate / 1e9, "share": 2 * kernels * tokens / seconds / rate}
                found[name].append(numbers)
                print(name, numbers, flush=True)
            ours, theirs = (vectors_of(name, outs[name]) for name in CONTENDERS)
            found["largest difference"] = float(np.abs(ours - theirs).max())
    speeds = {name: statistics.median(each["tokens_per_s"] for each in found[name]) for name in CONTENDERS}
    found["times as fast"] = speeds["mtret"] / speeds["sentence-transformers"]
    print({key: value for key, value in found.items() if not isinstance(value, list)})
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
