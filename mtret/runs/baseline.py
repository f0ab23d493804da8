"""The base in one form: which prompts it is given as the baseline, chosen once on the mixture's dev queries."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console

from mtret.console import say
from mtret.data.formats import Suite
from mtret.data.tasks import Task
from mtret.data.templates import Templates
from mtret.errors import UserError
from mtret.evaluation.samples import DevConfig, dev_samples
from mtret.files import AnyPath
from mtret.model_folder.fingerprint import differing, parts_of
from mtret.model_folder.folder import RetrievalModel, load_model
from mtret.model_folder.prompts import Prompts
from mtret.models.dual_encoder import ModelConfig
from mtret.run_config import RunConfig, build
from mtret.runs.embedding import embed_tasks, reads

PUBLISHED, BARE, QUERY_PROMPT, TRAINED = "published", "bare", "query prompt on both sides", "as trained"


def forms_of(base: RetrievalModel) -> dict[str, Templates]:
    """What may be put before a base's texts, by name, without repetitions. Of one without prompts: nothing."""
    own = base.published
    if own is None:
        return {TRAINED: base.templates}
    if not own.query and not own.document:
        return {BARE: base.templates}
    both = Prompts(own.query, own.query)  # for tasks of like against like, as E5's authors advise
    found: dict[str, Templates] = {}
    for name, templates in (
        (PUBLISHED, base.templates),
        (BARE, Prompts().templates()),
        (QUERY_PROMPT, both.templates()),
    ):
        if templates not in found.values():
            found[name] = templates
    return found


def base_forms(
    base: RetrievalModel, tasks: Sequence[Task], dev: DevConfig, seed: int, cache: AnyPath, console: Console
) -> dict[str, Any]:
    """The forms of a base, and the one that is the baseline: `{"chosen": name, "why": words, "forms": {name: ...}}` as
    results.json has it.

    Chosen is the one of the highest nDCG@10 on the dev samples of `tasks`, as a mean over them; of equal ones the
    first, so that published prompts stay. Costs nothing where there is one form. Without dev queries the published
    prompts are chosen.
    """
    forms = forms_of(base)
    found = _as_json(forms)
    first = next(iter(forms))
    samples = dev_samples([task for task in tasks if reads(base, task)], dev, seed)
    if len(forms) == 1:
        return {"chosen": first, "why": "the only form", "forms": found}
    if not samples:
        return {"chosen": first, "why": "no task of the mixture has dev queries here", "forms": found}
    sampled = [(sample.as_task(), sample) for sample in samples.values()]
    for name, templates in forms.items():
        own, asked = replace(base, templates=templates), [(task, task.query_texts) for task, _ in sampled]
        sides = embed_tasks(f"base, {name}", own, asked, cache, console)
        comparable = base.encoder.comparable
        scores = {
            task.name: sample.ndcg_at_10(*map(comparable, vectors))
            for (task, sample), vectors in zip(sampled, sides, strict=True)
        }
        found[name]["dev"] = {"mean": round(float(np.mean([*scores.values()])), 6)} | {
            "tasks": {name: round(score, 6) for name, score in scores.items()}
        }
    chosen = max(forms, key=lambda name: found[name]["dev"]["mean"])
    say(console, in_words(found, chosen))
    return {"chosen": chosen, "why": "the highest mean nDCG@10 on the mixture's dev samples", "forms": found}


def _as_json(forms: Mapping[str, Templates]) -> dict[str, Any]:
    return {name: {"query_template": each.query, "document_template": each.document} for name, each in forms.items()}


def in_words(forms: Mapping[str, Any], chosen: str) -> str:
    """Which form is the baseline, and what all of them score."""
    scores = ", ".join(f"{name} {each['dev']['mean']:.3f}" for name, each in forms.items() if "dev" in each)
    return f"the base is evaluated in the form '{chosen}' (nDCG@10 on the mixture's dev samples: {scores})"


def in_form(base: RetrievalModel, block: Mapping[str, Any], name: str) -> RetrievalModel:
    """The same encoder with the texts of a form before its texts."""
    form = block["forms"][name]
    own = replace(base.templates, query=form["query_template"], document=form["document_template"])
    return replace(base, templates=own)


def base_of_model(model: RetrievalModel, matmul_dtype: str, console: Console) -> RetrievalModel:
    """The encoder that a model was finetuned from; a plain encoder itself. Raises UserError where it is another now."""
    if model.record is None:
        return model
    details = model.details
    source, own = str(details.get("source")), (details.get("config") or {}).get("model") or {}
    prompts = [own.get(name) for name in ("query_prompt", "document_prompt")]
    try:
        base = load_model(source, ModelConfig(source, *prompts, matmul_dtype=matmul_dtype))
    except UserError as error:
        raise UserError(f"the base encoder, to compare with: {error}") from error
    if "source_parts" in details:
        changed = differing(parts_of(base.encoder.to_train()), details["source_parts"])
        if changed:
            raise UserError(f"model '{source}': is not what this model was finetuned from: {changed[0]}")
    elif base.encoder.weights_sha256 != details.get("source_sha256"):
        raise UserError(f"model '{source}': its weights are not those that this model was finetuned from")
    else:
        say(
            console,
            f"model '{source}': has the weights that this model was finetuned from; whether its configuration, "
            "pooling, tokenizer and prompts are still the same was not written down by the mtret that trained it",
            style="yellow",
        )
    return base


def forms_of_model(
    model: RetrievalModel, base: RetrievalModel, suite: Suite, cache: AnyPath, console: Console
) -> dict[str, Any]:
    """The forms of a model's base, see `base_forms`: as chosen when the model was written; of one from before that,
    chosen now, on those tasks of its mixture that are in the suite. A plain encoder is evaluated as it is deployed."""
    if model.record is None:
        own = _as_json(forms_of(base))
        return {"chosen": next(iter(own)), "why": "as it is deployed", "forms": own}
    if "base_forms" in model.details:
        forms: dict[str, Any] = json.loads(json.dumps(model.details["base_forms"]))
        if len(forms["forms"]) > 1:
            say(console, in_words(forms["forms"], forms["chosen"]))
        return forms
    mixture = {task.name for task in model.record.tasks}
    tasks = [task for name, task in suite.tasks.items() if name in mixture]
    config = build(RunConfig, model.details.get("config") or {}, "")
    return base_forms(base, tasks, config.dev, config.seed, cache, console)
