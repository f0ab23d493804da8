"""A whole training from the shell to the exported folder, by `mtret train` and by a script of sentence-transformers.

    .venv-parity/bin/python experiments/007_large_vocabularies/whole_job.py --suite=FOLDER [--model=ENCODER]
        [--steps=150] [--only=NUMBER,...] --out=FILE

Both train the tasks of configs/public_suite.py, drawn by size (`mixture.alpha=1`, the peer's `PROPORTIONAL`), with 64
queries a batch, at most 256 tokens, AdamW and in-batch negatives, evaluate nDCG@10 on dev samples of the same size
before, in the middle and at the end, keep the best and write the model's folder. mtret's verdict at the end is left out
(`--noevaluate`); the peer has none. Each is a process of its own, one after the other: wall time and largest resident
set. Grouped by length: within twenty batches of a task its pairs are sorted by length. Before each contender a large
matrix product is timed. `of_steps`: the seconds of the steps alone, so that the time of a longer job follows.

The peer needs `datasets` and `accelerate`: pip install datasets accelerate.
"""

# pyright: reportMissingImports=false

import argparse
import json
import os
import random
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CONFIG = Path(__file__).parents[2] / "configs" / "public_suite.py"
CONTENDERS = ("mtret", "sentence-transformers", "sentence-transformers, grouped by length")
BATCH, LENGTH, MEGABATCH = 64, 256, 20


def read_lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:  # splitlines would take U+2028 for the end of a line
        return [json.loads(line) for line in file]


def read_judged(path: Path) -> list[tuple[str, str]]:
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    return [(query, document) for query, document, score in rows if int(score) > 0]


def peer_tasks(suite: Path) -> tuple[dict[str, Any], list[Any]]:
    """Pairs to train on by task, and an evaluator of each with a dev split, of 50 queries and 200 distractors."""
    from datasets import Dataset
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    training, evaluators = {}, []
    for name in runpy.run_path(str(CONFIG))["MIXTURE"]:
        folder = suite / name
        prompt = f"Instruct: {json.loads((folder / 'task.json').read_text(encoding='utf-8'))['instruction']}\nQuery: "
        documents = {
            each["_id"]: f"{each.get('title', '')} {each['text']}".strip()
            for each in read_lines(folder / "corpus.jsonl")
        }
        queries = {each["_id"]: prompt + each["text"] for each in read_lines(folder / "queries.jsonl")}
        pairs = read_judged(folder / "qrels" / "train.tsv")
        columns = {"anchor": [queries[q] for q, _ in pairs], "positive": [documents[d] for _, d in pairs]}
        training[name] = Dataset.from_dict(columns)
        if not (folder / "qrels" / "dev.tsv").exists():
            continue
        judged = read_judged(folder / "qrels" / "dev.tsv")
        draw = random.Random(0)
        asked = {q: {d for other, d in judged if other == q} for q in list(dict.fromkeys(q for q, _ in judged))[:50]}
        gold = set().union(*asked.values())
        others = sorted(documents.keys() - gold)
        corpus = gold | set(draw.sample(others, min(200, len(others))))
        evaluators.append(
            InformationRetrievalEvaluator(
                {q: queries[q] for q in asked}, {d: documents[d] for d in corpus}, asked, name=name, batch_size=BATCH
            )
        )
    return training, evaluators


def grouped(*arguments: Any, **named: Any) -> Any:
    """A sampler for sentence-transformers. Not a class: its trainer pickles what it is given."""
    import numpy as np
    from sentence_transformers.base.sampler import DefaultBatchSampler

    class Grouped(DefaultBatchSampler):
        """Batches of pairs of like length, in random order."""

        def __iter__(self) -> Any:
            texts: Any = self.sampler  # the data set, whatever its name says
            lengths = np.array([len(a) + len(p) for a, p in zip(texts["anchor"], texts["positive"], strict=True)])
            draw = np.random.default_rng(self.seed + self.epoch)
            order = draw.permutation(len(lengths))
            size = self.batch_size * MEGABATCH
            batches = []
            for start in range(0, len(order), size):
                own = order[start : start + size]
                own = own[np.argsort(lengths[own], kind="stable")]
                batches += [own[i : i + self.batch_size].tolist() for i in range(0, len(own), self.batch_size)]
            yield from (batches[i] for i in draw.permutation(len(batches)))

    return Grouped(*arguments, **named)


def peer(arguments: argparse.Namespace) -> None:
    """The script that a user of sentence-transformers would write."""
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.evaluation import SequentialEvaluator
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from transformers import TrainerCallback

    # In float32 whatever it is stored in: float16 is slow on a CPU.
    model = SentenceTransformer(arguments.model, device="cpu", model_kwargs={"dtype": "float32"})
    model.max_seq_length = LENGTH
    training, evaluators = peer_tasks(Path(arguments.suite))
    sampler: dict[str, Any] = {"batch_sampler": grouped} if arguments.grouped else {}
    settings = SentenceTransformerTrainingArguments(
        output_dir=str(arguments.out / "run"),
        per_device_train_batch_size=BATCH,
        max_steps=arguments.steps,
        learning_rate=2e-5,
        eval_strategy="steps",
        eval_steps=arguments.steps // 2,
        eval_on_start=True,
        save_strategy="steps",
        save_steps=arguments.steps // 2,
        save_total_limit=2,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **sampler,
    )

    class Clock(TrainerCallback):
        """Seconds of the steps alone, evaluation left out."""

        def __init__(self) -> None:
            self.seconds, self.began = 0.0, 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.seconds += time.perf_counter() - self.began

    clock = Clock()
    scores: Any = {"main_score_function": lambda found: sum(found) / len(found)}
    trainer = SentenceTransformerTrainer(
        model=model,
        args=settings,
        train_dataset=training,
        loss=MultipleNegativesRankingLoss(model),
        evaluator=SequentialEvaluator(evaluators, **scores),
        callbacks=[clock],
    )
    trainer.train()
    model.save_pretrained(str(arguments.out / "model"))
    (arguments.out / "summary.json").write_text(json.dumps({"seconds": clock.seconds}), encoding="utf-8")


def ran(command: list[str], log: Path) -> tuple[float, float]:
    """Seconds of a command, and its largest resident set in GiB."""
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command}: ended with {status}\n{log.read_text(encoding='utf-8')[-3000:]}")
    return time.perf_counter() - began, usage.ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", required=True)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--only", default="", help="numbers of contenders, from 0, with commas")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--grouped", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        peer(arguments)
        return
    from mtret.models.hf import resolve
    from mtret.runs.summary import matrix_rate

    folder, steps = str(resolve(arguments.model)), arguments.steps
    found: dict[str, Any] = {"steps": steps}
    chosen = [CONTENDERS[int(number)] for number in arguments.only.split(",")] if arguments.only else CONTENDERS
    for name in chosen:
        rate = matrix_rate("float32")
        with tempfile.TemporaryDirectory() as scratch:
            if name == "mtret":
                command = ["-m", "mtret", "train", f"--config={CONFIG}", f"--workdir={scratch}/run", "--noevaluate"]
                command += [
                    f"--suite={arguments.suite}",
                    f"--config.model.source={folder}",
                    "--config.mixture.alpha=1.0",
                ]
                command += [f"--config.loop.steps={steps}", f"--config.loop.evaluate_every={steps // 2}"]
                command += [f"--config.batch.query_length={LENGTH}", f"--config.loop.checkpoint_every={steps // 2}"]
            else:
                command = [__file__, "--peer", f"--suite={arguments.suite}", f"--model={folder}", f"--steps={steps}"]
                command += [f"--out={scratch}", *(["--grouped"] if "grouped" in name else [])]
            seconds, peak = ran([sys.executable, *command], Path(scratch, "log"))
            written = Path(scratch, "run" if name == "mtret" else "", "summary.json")
            in_steps = json.loads(written.read_text(encoding="utf-8"))["seconds"]
        found[name] = {"seconds": seconds, "of_steps": in_steps, "peak_gib": peak, "product_gflops": rate / 1e9}
        print(name, found[name], flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
