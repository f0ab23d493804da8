"""Several models made one: their parameters' weighted mean (Wortsman et al., 2203.05482), whatever each was trained on.

Two runs of one mixture (a soup), a model and the encoder that it came from (an interpolation), or models of different
mixtures that started from the same encoder.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mtret.data.roles import joined
from mtret.errors import UserError
from mtret.files import AnyPath, check_new, check_writable
from mtret.model_folder.folder import RetrievalModel, save_model_folder
from mtret.model_folder.golden import Agreement
from mtret.models import hf
from mtret.models.weights import read_json
from mtret.provenance import versions
from mtret.pytrees import Tree
from mtret.runs.export import open_model


def merge(sources: Sequence[str], weights: Sequence[float], out: AnyPath) -> Agreement:
    """Writes the weighted mean of models as a model folder, with the prompts and training records of all.

    Args:
      sources: two or more, each as `open_model` takes it; mtret must have trained one of them.
      weights: as many, or none: then all count the same. They are made to sum to 1.

    Raises UserError where the models do not fit together, or `out` exists.
    """
    check_writable(out, "--out")
    check_new(out, "--out")
    if len(sources) < 2:
        raise UserError("--models: name two models or more, with commas between them")
    if weights and len(weights) != len(sources):
        raise UserError(f"--weights: {len(weights)} for {len(sources)} models; give each one")
    shares = np.array(weights or [1.0] * len(sources))
    if not (np.isfinite(shares).all() and shares.sum() > 0):
        raise UserError(f"--weights: {', '.join(map(str, weights))} do not add up to a positive number")
    shares = shares / shares.sum()
    models = dict(zip(sources, map(open_model, sources), strict=True))
    if len(models) < len(sources):
        raise UserError("--models: one is named twice; give it a larger weight instead")
    trained = {name: model for name, model in models.items() if model.record is not None}
    if not trained:
        raise UserError("--models: none of them was trained by mtret, so there are no prompts to write")
    _check_alike(models)
    first = next(iter(trained.values()))
    params = _mean([model.towers.params for model in models.values()], shares)
    merged = [
        {"model": name, "weight": float(share), "weights_sha256": model.encoder.weights_sha256}
        for (name, model), share in zip(models.items(), shares, strict=True)
    ]
    steps = max(int(model.details.get("step", 0)) for model in trained.values())
    of_base = ("source", "source_sha256", "source_parts", "base_forms", "config")
    kept = {key: first.details[key] for key in of_base if key in first.details}
    frozen = {model.towers.documents.weights_sha256 for model in models.values() if model.towers.documents}
    if len(frozen) == 1:  # else their mean is none of them
        kept["frozen_documents"] = first.details.get("frozen_documents", "")
    details = {"mtret": versions()["mtret"], **kept, "step": steps, "merged": merged}
    merged_model = first.towers.with_params(params)
    record = joined([model.record for model in trained.values() if model.record is not None])
    return save_model_folder(out, merged_model, first.templates, _prompts(trained), record, details)


def _check_alike(models: Mapping[str, RetrievalModel]) -> None:
    """That their parameters mean the same: one architecture, one vocabulary, one way to read a text."""
    (name, first), *others = models.items()
    for other, model in others:
        ours, theirs = first.encoder, model.encoder
        for what, same in (
            ("pooling", (ours.pooling, ours.pools_prompt) == (theirs.pooling, theirs.pools_prompt)),
            ("modules behind the pooling", ours.config.head == theirs.config.head),
            # Not by model_type: GTE is published under one name and exported under another.
            ("architecture", ours.config == theirs.config),
            ("do_lower_case", ours.settings.do_lower_case == theirs.settings.do_lower_case),
            ("tokenizer", _vocabulary(ours) == _vocabulary(theirs)),
            ("towers of documents or images", _others(first) == _others(model)),
        ):
            if not same:
                raise UserError(f"--models: '{name}' and '{other}' differ in their {what}; merge models of one encoder")
    trained = [(name, model) for name, model in models.items() if model.record is not None]
    for name, model in trained[1:]:
        if model.templates != trained[0][1].templates:
            raise UserError(f"--models: '{trained[0][0]}' and '{name}' differ in their templates")


def _others(model: RetrievalModel) -> Any:
    documents, images = model.towers.documents, model.towers.images
    return documents and documents.config, images and images.config


def _vocabulary(encoder: hf.Pretrained) -> Any:
    return read_json(encoder.transformer / "tokenizer.json", optional=True).get("model")


def _mean(trees: Sequence[Tree], shares: np.ndarray) -> Tree:
    def mean(*leaves: Any) -> np.ndarray:
        return np.tensordot(shares, np.stack([np.asarray(each, np.float64) for each in leaves]), 1).astype(np.float32)

    return jax.tree.map(mean, *trees)


def _prompts(models: Mapping[str, RetrievalModel]) -> dict[str, str]:
    """Of all; `query` and `document` last."""
    found: dict[str, str] = {}
    for name, model in models.items():
        for task, prompt in model.prompts.items():
            if found.setdefault(task, prompt) != prompt:
                raise UserError(f"--models: the task '{task}' has another instruction in '{name}'")
    last = {name: found.pop(name) for name in ("query", "document") if name in found}
    return {**found, **last}
