"""What is evaluated, how, and what the numbers depend on."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mtret.data.formats import Suite
from mtret.devices import device_line
from mtret.files import locate
from mtret.index.fusion import DEPTH as FUSED_DEPTH
from mtret.index.fusion import WEIGHT
from mtret.model_folder.folder import RetrievalModel
from mtret.names import config_before
from mtret.provenance import git_state, versions

DEPTH = 100  # results of every search


@dataclass(frozen=True)
class EvaluationConfig:
    """What is evaluated, and how."""

    split: str = "dev"
    tasks: tuple[str, ...] = ()  # empty: all that have the split
    pooled: bool = True  # also over one index of all tasks' documents
    scann: bool = True  # also by ScaNN, with its recall against exact search
    allow_leakage: bool = False
    matmul_dtype: str = "float32"
    query_prompt: str | None = None  # before a query, of an encoder that mtret did not train; None: as published
    document_prompt: str | None = None
    sample: str = ""  # at most so many queries of a task over few documents, or a file that says which (sampling.py)
    pool: tuple[str, ...] = ()  # encoders whose first results are among these documents; empty: the model's base
    forms: bool = False  # also the base's other forms (baseline.py) on the evaluated split
    dimensions: tuple[int, ...] = ()  # also by the evaluated model's vectors truncated to these
    seed: int = 0  # of the bootstrap


def mixture_of(loaded: RetrievalModel) -> dict[str, Any] | None:
    """What a model was trained on; None of one that mtret did not train."""
    if loaded.record is None:
        return None
    tasks = loaded.record.tasks
    return {"tasks": [task.name for task in tasks], "families": sorted({task.family for task in tasks})}


def _training(loaded: RetrievalModel) -> dict[str, Any]:
    """What tells runs of one configuration that differ by their seed: the seed, and a hash of all else."""
    config = dict(loaded.details.get("config") or {})
    if "seed" not in config or "merged" in loaded.details:
        return {}
    seed = config.pop("seed")
    config.pop("mesh", None)  # changes nothing but speed
    source = str(loaded.details.get("source_sha256"))
    whole = json.dumps([config_before(config), source], sort_keys=True)
    return {"training_seed": seed, "training_sha256": hashlib.sha256(whole.encode()).hexdigest()}


def protocol(
    model: str,
    suite: Suite,
    encoders: Mapping[str, RetrievalModel],
    form: str,
    config: EvaluationConfig,
    seconds: float,
) -> dict[str, Any]:
    """What the numbers depend on, without places of this machine."""
    base, loaded = encoders["base"], list(encoders.values())[-1]
    own = loaded.published or base.published
    return {
        "split": config.split,
        "index": "exact",
        "depth": DEPTH,
        "fusion": f"union of both first {FUSED_DEPTH}, z-scores by query, {WEIGHT} x dense + {1 - WEIGHT:.2g} x BM25",
        "duplicate_texts": "several in a task's own index, as judged; one in the pooled index",
        "model": locate(model).name,
        "weights_sha256": loaded.towers.weights_sha256,
        "fingerprint": loaded.towers.fingerprint,
        "source": loaded.details.get("source", locate(model).name),
        "step": loaded.details.get("step"),
        **_training(loaded),
        "query_template": loaded.templates.query,
        "document_template": loaded.templates.document,
        "base_query_template": base.templates.query,
        "base_document_template": base.templates.document,
        "base_form": form,
        "base_prompts_from": own.origin if own else "its training",
        "matmul_dtype": config.matmul_dtype,
        "attention": loaded.encoder.config.attention,
        "suite": suite.folder.name,
        "suite_sha256": suite.sha256,
        "seed": config.seed,
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": round(seconds, 1),
        "device": device_line(),
        "versions": versions(),
        "git": git_state(),
    }
