"""What is evaluated, how, and what the numbers depend on."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mtret.artefact.folder import Artefact
from mtret.data.formats import Suite
from mtret.devices import device_line
from mtret.files import locate
from mtret.provenance import versions

DEPTH = 100  # results of every search


@dataclass(frozen=True)
class JudgeConfig:
    """What is judged, and how."""

    split: str = "dev"
    tasks: tuple[str, ...] = ()  # empty: all that have the split
    pooled: bool = True  # also over one index of all tasks' documents
    scann: bool = True  # also by ScaNN, with its recall against exact search
    allow_leakage: bool = False
    operands: str = "float32"
    query_prompt: str | None = None  # before a query, of an encoder that mtret did not train; None: as published
    document_prompt: str | None = None
    forms: bool = False  # also the base's other forms (baseline.py) on the judged split
    dimensions: tuple[int, ...] = ()  # also by the first so many features of the judged model's vectors
    seed: int = 0  # of the bootstrap


def mixture_of(artefact: Artefact) -> dict[str, Any] | None:
    """What a model was trained on; None of one that mtret did not train."""
    if artefact.record is None:
        return None
    tasks = artefact.record.tasks
    return {"tasks": [task.name for task in tasks], "families": sorted({task.family for task in tasks})}


def _training(artefact: Artefact) -> dict[str, Any]:
    """What tells runs of one configuration that differ by their seed: the seed, and a hash of all else."""
    config = dict(artefact.details.get("config") or {})
    if "seed" not in config or "merged" in artefact.details:
        return {}
    seed = config.pop("seed")
    config.pop("mesh", None)  # changes nothing but speed
    source = str(artefact.details.get("source_sha256"))
    whole = json.dumps([config, source], sort_keys=True)
    return {"training_seed": seed, "training_sha256": hashlib.sha256(whole.encode()).hexdigest()}


def protocol(
    model: str, suite: Suite, encoders: Mapping[str, Artefact], form: str, config: JudgeConfig, seconds: float
) -> dict[str, Any]:
    """What the numbers depend on, without places of this machine."""
    base, artefact = encoders["untuned"], list(encoders.values())[-1]
    own = artefact.published or base.published
    return {
        "split": config.split,
        "index": "exact",
        "depth": DEPTH,
        "documents of one text": "several in a task's own index, as judged; one in the pooled index",
        "model": locate(model).name,
        "weights_sha256": artefact.model.weights_sha256,
        "fingerprint": artefact.model.fingerprint,
        "source": artefact.details.get("source", locate(model).name),
        "step": artefact.details.get("step"),
        **_training(artefact),
        "query_template": artefact.templates.query,
        "document_template": artefact.templates.document,
        "untuned_query_template": base.templates.query,
        "untuned_document_template": base.templates.document,
        "untuned_form": form,
        "untuned_prompts_from": own.origin if own else "its training",
        "operands": config.operands,
        "attention": artefact.encoder.config.attention,
        "suite": suite.folder.name,
        "suite_sha256": suite.sha256,
        "seed": config.seed,
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": round(seconds, 1),
        "device": device_line(),
        "versions": versions(),
    }
