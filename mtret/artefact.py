"""A model as it is deployed: a sentence-transformers folder with its instructions and what it was trained on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mtret.data.roles import RECORD, TrainingRecord, load_record, save_record
from mtret.data.tasks import TaskCard
from mtret.data.templates import Templates
from mtret.errors import UserError
from mtret.files import AnyPath, folder_draft, locate, reaching, replace_folder, replace_json
from mtret.models import hf
from mtret.models.dual_encoder import ModelConfig
from mtret.pytrees import Tree

DETAILS = "mtret.json"
BARE = Templates(query="{query}", document="{document}")


@dataclass(frozen=True)
class Artefact:
    """An encoder, how it wants its texts, and what it knows already. A model that mtret did not train has no record."""

    encoder: hf.Pretrained
    templates: Templates
    record: TrainingRecord | None
    details: Mapping[str, Any]  # mtret.json: source, steps, configuration


def load_artefact(source: str, operands: str = "float32") -> Artefact:
    """From a run's folder, an exported folder, any sentence-transformers folder, a hub id or `minilm`.

    Raises UserError where there is no model, or a damaged one.
    """
    path = locate(source)
    with reaching(path):
        finished = (path / "model" / "modules.json").exists()
        is_run = finished or ((path / "config.json").exists() and (path / "checkpoints").exists())
    if finished:
        source = str(path / "model")
    elif is_run:
        raise UserError(
            f"{path}: this run is not finished; run its training again to go on, or take its best so far with "
            f"mtret export --model={path} --out=FOLDER"
        )
    encoder = hf.load(source, ModelConfig(source, operands=operands))
    details_path = encoder.folder / DETAILS
    if not details_path.exists():
        return Artefact(encoder, BARE, None, {})
    try:
        details = json.loads(details_path.read_text(encoding="utf-8"))
        templates = Templates(**details["templates"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{details_path}: damaged ({error}); export the model again") from error
    record = load_record(encoder.folder) if (encoder.folder / RECORD).exists() else None
    return Artefact(encoder, templates, record, details)


def save_artefact(
    folder: AnyPath,
    encoder: hf.Pretrained,
    params: Tree,
    templates: Templates,
    cards: Sequence[TaskCard],
    record: TrainingRecord,
    details: Mapping[str, Any],
) -> None:
    """Writes all of it, whole or not at all; an existing folder is replaced. `cards`: of the tasks trained on, whose
    instructions become prompts under the tasks' names. `details` must be JSON."""
    prompts = {card.name: templates.query_prefix(card.instruction) for card in cards} | {
        "document": templates.document_prefix
    }
    with folder_draft(folder) as draft:
        hf.write(draft, encoder, params, prompts, _card(cards, prompts, details))
        replace_json(draft / DETAILS, {"templates": asdict(templates), **details})
        save_record(record, draft)
        replace_folder(draft, folder, last=hf.LAST)


def _card(cards: Sequence[TaskCard], prompts: Mapping[str, str], details: Mapping[str, Any]) -> str:
    example = cards[0].name
    rows = "\n".join(f"| {card.name} | {card.family} | {card.domain} | {card.license} |" for card in cards)
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
base_model: {details["source"]}
---

# A retriever for {len(cards)} tasks

Trained by mtret {details["mtret"]} from `{details["source"]}`, {details["step"]} steps. One encoder serves every task:
the prompt before a query says which one. Documents are encoded as they are.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/of/this/folder")
queries = model.encode(["..."], prompt_name="{example}")  # the prompt: {prompts[example]!r}
documents = model.encode(["..."])
```

| task | family | domain | licence of the data |
|---|---|---|---|
{rows}
"""
