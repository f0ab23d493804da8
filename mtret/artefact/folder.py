"""A model's folder: that of sentence-transformers, with its instructions and what it was trained on."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mtret.artefact import golden
from mtret.artefact.card import card, integrate
from mtret.artefact.targets import check_for_tei, check_target
from mtret.data.roles import RECORD, TrainingRecord, load_record, save_record
from mtret.data.templates import Templates
from mtret.errors import UserError
from mtret.files import AnyPath, folder_draft, locate, reaching, replace_folder, replace_json
from mtret.models import hf
from mtret.models.dual_encoder import ModelConfig
from mtret.models.weights import file_sha256
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
    prompts: Mapping[str, str],
    record: TrainingRecord,
    details: Mapping[str, Any],
    scores: Callable[[str], str] = lambda sha256: "",
    target: str = "",
) -> golden.Agreement:
    """Writes all of it, whole or not at all; an existing folder is replaced.

    Before it is there, it is read again and must answer the golden texts as `params` do: what comes back is how near.

    Args:
      prompts: of the tasks trained on, see `prompts_of`.
      details: as JSON; for the card and whoever asks later.
      scores: of the model whose weights have this hash, in Markdown, for the card; nothing where it was not judged.
      target: one of `targets.TARGETS`, to leave out or refuse what it would get wrong.
    """
    check_target(target, encoder)
    with folder_draft(folder) as draft:
        hf.write(draft, encoder, params, prompts, target)
        replace_json(draft / DETAILS, {"templates": asdict(templates), **details})
        save_record(record, draft)
        sha256 = file_sha256(draft / "model.safetensors")
        (draft / "README.md").write_text(card(record.tasks, prompts, details, sha256, scores(sha256)), encoding="utf-8")
        words = integrate(prompts, encoder.features, encoder.max_length)
        (draft / "INTEGRATE.md").write_text(words, encoding="utf-8")
        golden.write(draft, golden.encoder_of(encoder, params, prompts), list(prompts))
        again = hf.load(str(draft))
        agreement = golden.verify(draft, golden.encoder_of(again, again.params, again.prompts))
        if target == "tei":
            check_for_tei(draft)
        replace_folder(draft, folder, last=hf.LAST)
    return agreement


def prompts_of(templates: Templates, instructions: Mapping[str, str]) -> dict[str, str]:
    """The prompts of a model for these tasks: each task's own, `query` for any other, and `document`."""
    own = {name: templates.query_prefix(instruction) for name, instruction in instructions.items()}
    return {**own, "query": templates.query_prefix(templates.generic), "document": templates.document_prefix}


def check(folder: AnyPath, through_sentence_transformers: bool = False) -> golden.Agreement:
    """Whether a model folder answers as it did when it was written, read by mtret or by sentence-transformers.

    Raises UserError where it does not.
    """
    if through_sentence_transformers:
        if not isinstance(folder, Path):
            raise UserError(f"{folder}: sentence-transformers reads local folders only; copy it first")
        return golden.verify(folder, golden.sentence_transformers_encoder(folder))
    encoder = hf.load(str(folder))
    return golden.verify(folder, golden.encoder_of(encoder, encoder.params, encoder.prompts))
