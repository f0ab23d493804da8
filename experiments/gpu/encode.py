"""Documents a second from text to vector: mtret and sentence-transformers with MiniLM on one GPU.

    python experiments/gpu/encode.py --data=.gpu-data --out=encode.json --limit-s=92      # on the GPU
    python experiments/gpu/encode.py --data=.gpu-data --out=encode.json --tiny            # on a CPU: does it work

The texts are documents of the public suite, drawn at random and decoded from their tokens, each cut at 256. Both sides
tokenise them, embed them in bfloat16 and return float32 on the host. mtret has embedded all of them once before the
measured pass, so that nothing is compiled in it, the peer two thousand. mtret rounds the operands of products, the peer
its weights as well. The vectors of both are compared. Every contender is a process that has the device for itself.
"""

# pyright: reportMissingImports=false

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

START = time.monotonic()
CONTENDERS = ("mtret", "sentence-transformers", "mtret in batches of 4,096 tokens")
SHOWN = 256  # texts whose vectors are compared
PEER_BATCHES = (128, 512, 32)  # texts; its default is 32


def texts_of(packed: Any, folder: Path, count: int) -> list[str]:
    """Documents drawn from all corpora alike."""
    from tokenizers import Tokenizer

    from mtret.data.tokenize import concatenate

    corpus = concatenate([one.documents for one in packed.tasks.values()])
    chosen = np.random.default_rng(0).permutation(len(corpus))[:count]
    ids = [corpus.ids[corpus.offsets[n] : corpus.offsets[n + 1]].tolist() for n in chosen]
    return Tokenizer.from_file(str(folder / "tokenizer.json")).decode_batch(ids)


def ours(folder: Path, texts: list[str], default: bool) -> list[dict[str, Any]]:
    """`default`: in batches as large as they are on a CPU."""
    from mtret.devices import keep_compilations, prepare_gpu

    prepare_gpu()
    keep_compilations()
    import jax

    from mtret.data.tokenize import Tokenizer
    from mtret.index import encode
    from mtret.model_folder.towers import embedder
    from mtret.models import hf
    from mtret.models.dual_encoder import ModelConfig

    on_gpu = jax.default_backend() == "gpu"
    if not default:
        encode.BATCH_TOKENS = 131_072 if on_gpu else 2048
    model = hf.load(
        str(folder), ModelConfig(str(folder), matmul_dtype="bfloat16", attention="pallas" if on_gpu else None)
    )
    tokenizer, embed = Tokenizer(model.folder), embedder(model)

    def once() -> tuple[float, float, Any, Any]:
        began = time.perf_counter()
        tokens = tokenizer(texts)
        tokenised = time.perf_counter()
        vectors = embed([encode.Texts(tokens, model.max_length)])[0]
        return time.perf_counter() - began, tokenised - began, tokens, vectors

    first, _, tokens, vectors = once()
    seconds, tokenising = once()[:2]
    np.save(folder / "mtret.npy", vectors[:SHOWN])
    facts = {"batch_tokens": encode.BATCH_TOKENS, "seconds": seconds, "seconds of tokenising": tokenising}
    facts |= {"first pass": first, "tokens": int(tokens.lengths(model.max_length).sum())}
    return [facts | {"device": jax.devices()[0].device_kind, "version": jax.__version__}]


def peer(folder: Path, texts: list[str]) -> list[dict[str, Any]]:
    """A pass for each size of batch; texts are sorted by length, as the library does it."""
    import sentence_transformers
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    kwargs = {"dtype": torch.bfloat16, "attn_implementation": "sdpa"}
    model = sentence_transformers.SentenceTransformer(str(folder), device=device, model_kwargs=kwargs)
    vectors = model.encode(texts[:2000], batch_size=PEER_BATCHES[0], show_progress_bar=False)
    found = []
    for size in PEER_BATCHES:
        began = time.perf_counter()
        vectors = model.encode(texts, batch_size=size, show_progress_bar=False)
        found.append({"batch": size, "seconds": time.perf_counter() - began, "attention": "sdpa", "dtype": "bfloat16"})
    np.save(folder / "peer.npy", np.asarray(vectors[:SHOWN], np.float32))
    return [each | {"version": sentence_transformers.__version__} for each in found]


def work(contender: str, folder: Path) -> None:
    """A contender's lines of JSON: the last line of its output."""
    texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    try:
        if contender == "sentence-transformers":
            found = peer(folder, texts)
        else:
            found = ours(folder, texts, contender != "mtret")
    except ImportError as error:
        found = [{"not installed": str(error).splitlines()[0]}]
    print(json.dumps(found))


def in_process(contender: str, folder: Path, seconds: float) -> list[dict[str, Any]]:
    command = [sys.executable, __file__, f"--contender={contender}", f"--data={folder}"]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=max(seconds, 1))
    except subprocess.TimeoutExpired:
        return [{"stopped after": seconds}]
    return json.loads(done.stdout.splitlines()[-1]) if not done.returncode else [{"failed": done.returncode}]


def agreement(folder: Path) -> dict[str, float] | None:
    """Cosines between both sides' vectors of the same texts."""
    if not (folder / "peer.npy").exists() or not (folder / "mtret.npy").exists():
        return None
    pairs = [np.load(folder / name) for name in ("peer.npy", "mtret.npy")]
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in pairs)
    cosines = (a * b).sum(axis=1)
    return {"mean": float(cosines.mean()), "least": float(cosines.min())}


def compare(arguments: argparse.Namespace) -> None:
    """Writes after every contender, so that a cut loses no figure."""
    from pack import unpack

    count = 16 if arguments.tiny else arguments.texts
    with TemporaryDirectory() as place:
        packed, folder = unpack(arguments.data, Path(place))
        texts = texts_of(packed, folder, count)
        (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
        results: dict[str, Any] = {"texts": len(texts), "characters": sum(map(len, texts)), "contenders": {}}
        for contender in CONTENDERS:
            found = in_process(contender, folder, arguments.limit_s - (time.monotonic() - START))
            for each in found:
                if "seconds" in each:
                    each["documents_per_s"] = len(texts) / each["seconds"]
            results["contenders"][contender] = found
            results["cosines between the two"] = agreement(folder)
            arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            print(contender, json.dumps(found), f"after {time.monotonic() - START:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(".gpu-data"), help="what pack.py wrote")
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--limit-s", type=float, default=92)
    parser.add_argument("--tiny", action="store_true", help="16 texts")
    parser.add_argument("--out", type=Path, default=Path("encode.json"))
    parser.add_argument("--contender", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if arguments.contender:
        work(arguments.contender, arguments.data)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
