"""mtret against sentence-transformers: the same embeddings, the same loss at every step, a folder that both read alike.

    python experiments/parity/run.py --suite=FOLDER --out=experiments/parity/results.json

Needs the environment of `make parity`. The tests in tests/parity run the same functions on a few texts.
"""

# pyright: reportMissingImports=false
# PyTorch and sentence-transformers are only where `make parity` installs them.

import argparse
import importlib.metadata
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Float32, Int

from mtret.data.formats import read_suite
from mtret.data.mixture import MixtureConfig
from mtret.data.packing import Packing, fill, token_weights
from mtret.data.planning import Planner
from mtret.data.roles import training_record
from mtret.data.tasks import Judgements, Task
from mtret.data.templates import Templates
from mtret.data.tokenize import Tokenizer, Tokens
from mtret.data.training_tasks import BatchConfig, Relation, TrainingTask, training_task
from mtret.files import replace_json
from mtret.index.encode import Embedder, Texts
from mtret.losses import LossConfig
from mtret.model_folder.folder import load_model, prompts_of, save_model_folder
from mtret.model_folder.towers import Towers
from mtret.models import hf
from mtret.models.dual_encoder import ModelConfig, encode
from mtret.models.weights import published_name
from mtret.provenance import versions
from mtret.pytrees import Tree, flatten, match_rules
from mtret.train.optim import OptimConfig, learning_rate, optimizer
from mtret.train.sharding import MeshConfig, make_mesh, param_specs
from mtret.train.step import StepConfig, create_state, initial_params, train_step
from mtret.types import TokenBatch

SEED = 0
N_TEXTS = 1000
STEPS = 20
TASK = "tldr_kb"  # of the loss curve
PAIRS = 32  # in a batch of the loss curve
MIN_COSINE = 0.99999
MAX_LOSS_DIFFERENCE = 1e-3
THEIR_VERSIONS = ("torch", "transformers", "sentence-transformers")

Vectors = Float32[np.ndarray, "n D"]

_embed = jax.jit(encode, static_argnums=(0, 3))


def agreement(ours: Vectors, theirs: Vectors) -> dict[str, float]:
    """The worst cosine of any text, and the largest difference of any element."""
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return {"min_cosine": float(cosine.min()), "max_difference": float(np.abs(a - b).max())}


# The embeddings.


def sample_texts(tasks: Sequence[Task], n: int, seed: int) -> list[str]:
    """`n` texts in equal parts over the tasks and, within a task, over documents, bare queries and queries with their
    instruction."""
    random = np.random.default_rng((seed, n))
    templates = Templates()
    sources = []
    for task in tasks:
        instructed = [templates.query_prefix(task.card.instruction) + text for text in task.query_texts]
        sources += [task.document_texts, task.query_texts, instructed]
    counts = np.full(len(sources), n // len(sources))
    counts[: n - counts.sum()] += 1
    return [
        source[i]
        for source, count in zip(sources, counts, strict=True)
        for i in random.choice(len(source), count, replace=False)
    ]


def reference(folder: Path, texts: Sequence[str], max_length: int, prompt_name: str | None = None) -> Vectors:
    """What sentence-transformers makes of them."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = max_length
    return model.encode(list(texts), prompt_name=prompt_name, normalize_embeddings=True)


def alone(encoder: hf.Pretrained, tokens: Tokens) -> Vectors:
    """One text a row, each row as long as its text: no padding, no neighbour."""
    lengths = tokens.lengths(encoder.max_length)
    vectors = np.full((len(tokens), encoder.dimension), np.nan, np.float32)
    for length in np.unique(lengths):
        texts = np.flatnonzero(lengths == length)
        vectors[texts] = _one_a_row(encoder, tokens, texts, int(length))
    return vectors


def padded(encoder: hf.Pretrained, tokens: Tokens) -> Vectors:
    """One text a row, every row as long as the longest text may be."""
    blocks = np.array_split(np.arange(len(tokens)), -(-len(tokens) // 20))
    return np.concatenate([_one_a_row(encoder, tokens, texts, encoder.max_length) for texts in blocks])


def _one_a_row(encoder: hf.Pretrained, tokens: Tokens, texts: Int[np.ndarray, "n"], row_length: int) -> Vectors:
    limit, n = encoder.max_length, len(texts)
    lengths = tokens.lengths(limit)[texts]
    packing = Packing(np.arange(n), np.zeros(n, np.int64), n)
    weights = token_weights(lengths, encoder.pooling)
    rows = fill(tokens.take(texts, limit), weights, lengths, np.arange(n), packing, (n, row_length), n)
    batch = TokenBatch(*(getattr(rows, name)[None, None] for name in TokenBatch._fields))
    return np.asarray(_embed(encoder.tower, encoder.params, batch, n))[0]


def packed(encoder: hf.Pretrained, tokens: Tokens) -> Vectors:
    """Several texts a row, as the index encodes a corpus."""
    embedder = Embedder(encoder.tower, encoder.params, encoder.pooling, encoder.dimension)
    return embedder([Texts(tokens, encoder.max_length)])[0]


def planned(encoder: hf.Pretrained, tokens: Tokens, batches: int) -> Vectors:
    """Several texts a row, as training packs them: half of the texts are queries, each with one of the other half.

    Twice `batches` must divide the number of texts.
    """
    half, limit = len(tokens) // 2, encoder.max_length
    pairs = Relation(np.arange(half + 1), np.arange(half, dtype=np.int32))
    config = BatchConfig(queries=half // batches, query_length=limit, document_length=limit, row_length=limit, shards=2)
    queries, documents = tokens.subset(np.arange(half)), tokens.subset(np.arange(half, 2 * half))
    task = TrainingTask("texts", queries, documents, pairs, pairs, None, config)
    planner = Planner([task], MixtureConfig(generic_share=0.0), config, encoder.pooling, SEED, batches)
    vectors = np.full((len(tokens), encoder.dimension), np.nan, np.float32)
    for step in range(batches):
        plan = planner.plan(step)
        found = np.asarray(_embed(encoder.tower, encoder.params, planner.fill(plan).texts, planner.shard_texts))
        there = plan.queries >= 0
        vectors[plan.queries[there]] = found[:, : planner.shard_queries][there]
        there = plan.documents >= 0
        vectors[half + plan.documents[there]] = found[:, planner.shard_queries :][there]
    return vectors


# The loss curve.


@dataclass(frozen=True)
class Curve:
    """A short training that both sides can do: batches, and the texts behind the rows of their plans."""

    task: Task
    planner: Planner
    queries: Sequence[str]
    documents: Sequence[str]  # of the same row as their query
    max_length: int


def unshared(task: Task, tokenizer: Tokenizer, templates: Templates, limit: int) -> Task:
    """The task with those training pairs only whose query and document stand in no other pair.

    sentence-transformers takes every other document of a batch for a negative; so here that is true. Texts that are
    equal once they are cut to `limit` tokens count as one.
    """
    train = task.split("train").positives()
    rows = train.pair_queries()
    rendered = [templates.query_prefix(task.card.instruction) + task.query_texts[i] for i in rows]
    documents = [templates.document_prefix + task.document_texts[i] for i in train.documents]
    single = np.ones(len(rows), bool)
    for texts in (rendered, documents):
        _, identity = tokenizer(texts).distinct(limit)
        single &= np.bincount(identity)[identity] == 1
    kept = Judgements.from_pairs(rows[single], train.documents[single], train.scores[single])
    return replace(task, splits={"train": kept}, negatives={})


def make_curve(task: Task, encoder: hf.Pretrained, pairs: int, steps: int, seed: int) -> Curve:
    """Batches of `pairs` unshared training pairs, planned as any training is."""
    limit, templates, tokenizer = encoder.max_length, Templates(), Tokenizer(encoder.folder)
    task = unshared(task, tokenizer, templates, limit)
    config = BatchConfig(queries=pairs, query_length=limit, document_length=limit, row_length=limit)
    training = training_task(task, tokenizer, templates, config)
    train = task.split("train")
    # No two texts are equal, so none were merged: the rows of the plans are those of the judgements.
    assert len(training.queries) == len(training.documents) == len(train)
    of_query = np.unique(train.documents)[training.positives.documents]
    return Curve(
        task,
        Planner([training], MixtureConfig(generic_share=0.0), config, encoder.pooling, seed, steps),
        [templates.query_prefix(task.card.instruction) + task.query_texts[i] for i in train.queries],
        [templates.document_prefix + task.document_texts[i] for i in of_query],
        limit,
    )


def our_losses(
    curve: Curve, encoder: hf.Pretrained, loss: LossConfig, optim: OptimConfig
) -> tuple[Float[np.ndarray, "steps"], Tree]:
    """The loss of every step before its update, and the tower's parameters after the last."""
    planner = curve.planner
    params = initial_params(encoder.params, loss)
    rule = optimizer(optim, params, planner.steps)
    config = StepConfig(
        encoder.tower,
        rule,
        loss,
        planner.shard_queries,
        planner.shard_texts,
        chunked=False,
        dropout=False,
        seed=SEED,
    )
    mesh = make_mesh(1, devices=jax.devices()[:1])
    specs = param_specs(params, MeshConfig())
    step = jax.jit(partial(train_step, config=config, mesh=mesh, specs=specs))
    state = create_state(params, rule, mesh, specs)
    losses = []
    for i in range(planner.steps):
        state, metrics = step(state, planner.fill(planner.plan(i)))
        losses.append(float(metrics[0]))
    return np.array(losses), jax.device_get(state.params["tower"])


def their_losses(
    curve: Curve, encoder: hf.Pretrained, loss: LossConfig, optim: OptimConfig
) -> Float[np.ndarray, "steps"]:
    """As `our_losses`, in PyTorch: their model, tokeniser, padding, loss and optimiser."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    model = SentenceTransformer(
        str(encoder.folder), device="cpu"
    ).eval()  # without dropout; gradients flow all the same
    model.max_seq_length = curve.max_length
    symmetric: dict[str, Any] = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    objective = MultipleNegativesRankingLoss(model, scale=1 / loss.temperature, **(symmetric if loss.symmetric else {}))
    decays = flatten(match_rules({"tower": encoder.params}, optim.decay_mask, "optim.decay_mask"))
    decayed = {published_name(path.removeprefix("tower/")) for path, decays_it in decays.items() if decays_it}
    weights = {name.removeprefix("0.model."): value for name, value in model.named_parameters()}
    assert decayed < set(weights), sorted(decayed - set(weights))
    groups = [
        {"params": [w for name, w in weights.items() if name in decayed], "weight_decay": optim.weight_decay},
        {"params": [w for name, w in weights.items() if name not in decayed], "weight_decay": 0.0},
    ]
    betas = (optim.beta1, optim.beta2)
    rule = torch.optim.AdamW(groups, lr=optim.learning_rate, betas=betas, eps=optim.epsilon)
    rate = learning_rate(optim, curve.planner.steps)
    losses = []
    for i in range(curve.planner.steps):
        rows = curve.planner.plan(i).queries
        rows = rows[rows >= 0]
        columns = [model.preprocess([texts[row] for row in rows]) for texts in (curve.queries, curve.documents)]
        value = objective(columns, torch.empty(0))
        rule.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), optim.clip_norm)
        for group in rule.param_groups:
            group["lr"] = np.asarray(rate(i)).item()
        rule.step()
        losses.append(value.item())
    return np.array(losses)


# The exported folder.


def export(folder: Path, curve: Curve, encoder: hf.Pretrained, params: Tree) -> None:
    """The model that the curve ended with, as a run leaves it."""
    details = {"mtret": versions()["mtret"], "source": "minilm", "step": curve.planner.steps}
    record = training_record([curve.task])
    card = curve.task.card
    prompts = prompts_of(Templates(), {card.name: card.instruction})
    save_model_folder(folder, Towers(encoder).with_params({"tower": params}), Templates(), prompts, record, details)


def exported_agreement(folder: Path, task: Task, texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Both sides read the folder: on bare texts, and on the task's queries under the prompt of its name."""
    model = load_model(str(folder))
    encoder, tokenizer = model.encoder, Tokenizer(model.encoder.folder)
    queries = [task.query_texts[i] for i in task.split("train").queries][: len(texts)]
    rendered = [model.templates.query_prefix(task.card.instruction) + text for text in queries]
    limit = encoder.max_length
    return {
        "exported, bare texts": agreement(packed(encoder, tokenizer(texts)), reference(folder, texts, limit)),
        "exported, prompt by task name": agreement(
            packed(encoder, tokenizer(rendered)), reference(folder, queries, limit, prompt_name=task.name)
        ),
    }


# The study.


def compare_embeddings(texts: Sequence[str]) -> dict[str, Any]:
    """The published MiniLM in every way that texts can lie in rows."""
    encoder, narrow = hf.load("minilm"), hf.load("minilm", ModelConfig(matmul_dtype="bfloat16"))
    tokens = Tokenizer(encoder.folder)(texts)
    theirs = reference(Path(encoder.folder), texts, encoder.max_length)
    ways = {
        "alone": lambda: alone(encoder, tokens),
        "padded": lambda: padded(encoder, tokens),
        "packed for the index": lambda: packed(encoder, tokens),
        "packed for training": lambda: planned(encoder, tokens, batches=10),
        "packed, bfloat16 operands": lambda: packed(narrow, tokens),
    }
    found = {}
    for name, way in ways.items():
        began = time.monotonic()
        found[name] = agreement(way(), theirs)
        print(f"{name:32} {_shown(found[name])}  ({time.monotonic() - began:.0f} s)", flush=True)
    return found


def compare_curves(task: Task, texts: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The loss curves, and the folder that the first of them leaves."""
    encoder = hf.load("minilm")
    curve = make_curve(task, encoder, PAIRS, STEPS, SEED)
    optim = OptimConfig()
    curves: dict[str, Any] = {}
    exported: dict[str, Any] = {}
    for name, symmetric in (("queries to documents", False), ("symmetric", True)):
        loss = LossConfig(symmetric=symmetric)
        ours, params = our_losses(curve, encoder, loss, optim)
        theirs = their_losses(curve, encoder, loss, optim)
        curves[name] = {
            "ours": ours.round(6).tolist(),
            "theirs": theirs.round(6).tolist(),
            "max_difference": float(np.abs(ours - theirs).max()),
        }
        print(f"loss, {name}: {ours[0]:.4f} to {ours[-1]:.4f}, max difference {curves[name]['max_difference']:.1e}")
        if not symmetric:
            with tempfile.TemporaryDirectory() as room:
                export(Path(room) / "model", curve, encoder, params)
                exported = exported_agreement(Path(room) / "model", curve.task, texts)
            for which, values in exported.items():
                print(f"{which:32} {_shown(values)}", flush=True)
    curves["unshared_pairs"] = len(curve.queries)
    return curves, exported


def failures(results: Mapping[str, Any]) -> list[str]:
    """What misses its bar; bfloat16 has none."""
    exact = {**results["embeddings"], **results["exported"]}
    exact = {name: values for name, values in exact.items() if "bfloat16" not in name}
    curves = {name: values for name, values in results["curves"].items() if isinstance(values, dict)}
    return [name for name, values in exact.items() if values["min_cosine"] < MIN_COSINE] + [
        name for name, values in curves.items() if values["max_difference"] > MAX_LOSS_DIFFERENCE
    ]


def _shown(values: Mapping[str, float]) -> str:
    return f"min cosine {values['min_cosine']:.8f}, max difference {values['max_difference']:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", type=Path, required=True, help="a folder of task folders")
    parser.add_argument("--out", type=Path, required=True, help="the results, as JSON")
    arguments = parser.parse_args()
    suite = read_suite(arguments.suite)
    tasks = list(suite.tasks.values())
    texts = sample_texts(tasks, N_TEXTS, SEED)
    encoder = hf.load("minilm")
    whole = np.diff(Tokenizer(encoder.folder)(texts).offsets)
    embeddings = compare_embeddings(texts)
    curves, exported = compare_curves(suite.tasks[TASK], texts)
    results = {
        "seed": SEED,
        "suite_sha256": suite.sha256,
        "weights_sha256": encoder.weights_sha256,
        "texts": {
            "count": len(texts),
            "tasks": len(tasks),
            "languages": sorted({language for task in tasks for language in task.card.languages}),
            "tokens_min_median_max": [int(whole.min()), int(np.median(whole)), int(whole.max())],
            "truncated": int((whole > encoder.max_length).sum()),
        },
        "embeddings": embeddings,
        "curve_setting": {
            "task": TASK,
            "pairs_per_batch": PAIRS,
            "steps": STEPS,
            "temperature": LossConfig().temperature,
        },
        "curves": curves,
        "exported": exported,
        "versions": {**versions(), **{name: importlib.metadata.version(name) for name in THEIR_VERSIONS}},
    }
    replace_json(arguments.out, results)
    missed = failures(results)
    print(f"missed: {', '.join(missed)}" if missed else "every bar is met")
    raise SystemExit(bool(missed))


if __name__ == "__main__":
    main()
