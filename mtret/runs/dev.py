"""Scores of parameters on the dev samples, while they are trained."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import UInt8

from mtret.data.images import Images
from mtret.data.tokenize import Tokenizer
from mtret.errors import UserError
from mtret.evaluation.samples import TaskSample
from mtret.index.encode import Texts
from mtret.index.exact import check_finite, truncate
from mtret.model_folder.towers import Towers
from mtret.models import hf
from mtret.processes import gather
from mtret.pytrees import Tree
from mtret.run_config import RunConfig

Sides = tuple[Texts, Texts | Images]  # queries and documents of a sample


def dev_sides(
    samples: Mapping[str, TaskSample],
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


def watched_by(samples: Mapping[str, TaskSample], others: Collection[str], choose_by: str) -> dict[str, list[str]]:
    """The tasks of each mean: `mean`, by which the best step is chosen; and beside it of those that are trained on and
    of the others, where there are others. Raises UserError where there is nothing to choose by."""
    groups = {"trained": [name for name in samples if name not in others], "others": [*others]}
    chosen = [*samples] if choose_by == "both" else groups[choose_by]
    if samples and not chosen:
        remedy = (
            "'others' chooses by tasks that are not trained on: name some in loop.evaluate_tasks"
            if choose_by == "others"
            else "no task of the mixture has a dev split; 'others' chooses by those of loop.evaluate_tasks"
        )
        raise UserError(f"loop.choose_by: is '{choose_by}', but {remedy}")
    beside = {f"mean of {name}": names for name, names in groups.items() if names and set(names) != set(chosen)}
    return {"mean": chosen, **(beside if others else {})}


@dataclass(frozen=True)
class DevEvaluator:
    """Parameters -> scores by task, and the means of those that are `watched`; of truncated vectors the first mean
    alone is kept (`mean@128`). Processes share out the tasks."""

    samples: Mapping[str, TaskSample]
    watched: Mapping[str, Sequence[str]]  # see `watched_by`
    sides: Sequence[Sides]
    model: Towers
    config: RunConfig

    @property
    def tokens(self) -> int:
        """That are read by all processes together."""
        texts = [side for sides in self.sides for side in sides if isinstance(side, Texts)]
        return int(sum(side.tokens.lengths(side.limit).sum() for side in texts))

    def __call__(self, params: Tree) -> dict[str, float]:
        share = slice(jax.process_index(), None, jax.process_count())
        own, parts = list(self.samples.items())[share], list(self.sides)[share]
        comparable, dimensions = self.model.encoder.comparable, self.config.dev.dimensions
        embedded = [tuple(map(comparable, pair)) for pair in self.model.with_params(params).embedders()(parts)]
        for pair in embedded:
            for name, side in zip(("dev query", "dev document"), pair, strict=True):
                check_finite(side, name, "the training has diverged; give a lower --config.optim.learning_rate")
        mine = {name: sample.ndcg_at_10(*pair) for (name, sample), pair in zip(own, embedded, strict=True)}
        for dimension in dimensions:
            for (name, sample), (queries, documents) in zip(own, embedded, strict=True):
                mine[f"{name}@{dimension}"] = sample.ndcg_at_10(
                    truncate(queries, dimension), truncate(documents, dimension)
                )
        found = {name: score for each in gather("dev", mine) for name, score in each.items()}
        means = {mean: [found[name] for name in names] for mean, names in self.watched.items()}
        means |= {f"mean@{d}": [found[f"{name}@{d}"] for name in self.watched["mean"]] for d in dimensions}
        scores = {name: float(np.mean(each)) for name, each in means.items()}
        return scores | {name: found[name] for name in self.samples}
