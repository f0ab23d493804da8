"""Scores of parameters on the dev samples, while they are trained."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jaxtyping import UInt8

from mtret.data.images import Images
from mtret.data.tokenize import Tokenizer
from mtret.evaluation.dev_sample import DevSample
from mtret.index.encode import Texts
from mtret.index.exact import check_finite, truncate
from mtret.model_folder.towers import Towers
from mtret.models import hf
from mtret.processes import gather
from mtret.pytrees import Tree
from mtret.run_config import RunConfig
from mtret.train.loop import Evaluate

Sides = tuple[Texts, Texts | Images]  # queries and documents of a sample


def dev_sides(
    samples: Mapping[str, DevSample],
    encoder: hf.Pretrained,
    tokenizer: Tokenizer,
    pixels: Mapping[str, UInt8[np.ndarray, "_ H H 3"]],
    config: RunConfig,
) -> list[Sides]:
    """Of each sample what is embedded."""
    sides: list[Sides] = []
    templates, limit = config.templates.chosen, encoder.max_length
    for sample in samples.values():
        task = sample.task
        prompt = templates.query_prefix(task.card.instruction)
        queries = tokenizer.after(prompt, [task.query_texts[i] for i in sample.queries])
        documents: Texts | Images
        if task.images:
            documents = Images(pixels[task.name], sample.documents.astype(np.int64))
        else:
            texts = [task.document_texts[i] for i in sample.documents]
            documents = Texts(tokenizer.after(templates.document_prefix, texts), limit)
        sides.append((Texts(queries, limit), documents))
    return sides


def dev_evaluator(
    samples: Mapping[str, DevSample], sides: Sequence[Sides], model: Towers, config: RunConfig
) -> Evaluate:
    """Scores by task, and their mean, which of truncated vectors alone is kept (`mean@128`). Processes share out the
    tasks."""
    share = slice(jax.process_index(), None, jax.process_count())
    own, parts = list(samples.items())[share], list(sides)[share]

    def evaluate(params: Tree) -> dict[str, float]:
        comparable = model.encoder.comparable
        embedded = [tuple(map(comparable, pair)) for pair in model.with_params(params).embedders()(parts)]
        for pair in embedded:
            for name, side in zip(("dev query", "dev document"), pair, strict=True):
                check_finite(side, name, "the training has diverged; give a lower --config.optim.learning_rate")
        mine = {name: sample.ndcg_at_10(*pair) for (name, sample), pair in zip(own, embedded, strict=True)}
        for dimension in config.dev.dimensions:
            for (name, sample), (queries, documents) in zip(own, embedded, strict=True):
                mine[f"{name}@{dimension}"] = sample.ndcg_at_10(
                    truncate(queries, dimension), truncate(documents, dimension)
                )
        found = {name: score for each in gather("dev", mine) for name, score in each.items()}
        means = {"mean": [found[name] for name in samples]}
        means |= {f"mean@{d}": [found[f"{name}@{d}"] for name in samples] for d in config.dev.dimensions}
        return {name: float(np.mean(each)) for name, each in means.items()} | {name: found[name] for name in samples}

    return evaluate
