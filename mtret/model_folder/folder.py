"""A model's folder: that of sentence-transformers, with its instructions and what it was trained on."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from mtret.data.roles import RECORD, TrainingRecord, load_record, save_record
from mtret.data.templates import Templates
from mtret.data.tokenize import Tokenizer
from mtret.errors import UserError, nearest
from mtret.files import AnyPath, folder_draft, locate, reaching, replace_folder, replace_json
from mtret.model_folder import golden, manifest
from mtret.model_folder.card import Others, OwnDocuments, card, integrate
from mtret.model_folder.prompts import CONFIG, Prompts, published, remarks
from mtret.model_folder.targets import check_for_tei, check_target
from mtret.model_folder.towers import Towers
from mtret.models import hf, hf_images
from mtret.models.dual_encoder import ModelConfig
from mtret.models.weights import file_sha256

DETAILS = "mtret.json"
DOCUMENTS, VISION = "documents", "vision"  # folders of towers beside that of the queries


@dataclass(frozen=True)
class RetrievalModel:
    """A model, how it wants its texts, and what it knows already. One that mtret did not train has no record."""

    towers: Towers
    templates: Templates
    record: TrainingRecord | None
    details: Mapping[str, Any]  # mtret.json: source, steps, configuration
    published: Prompts | None = None  # of one that mtret did not train: what is put before its texts
    remarks: tuple[str, ...] = ()  # what a user should know of how it was read; a line each

    @property
    def encoder(self) -> hf.Pretrained:
        """Of queries."""
        return self.towers.encoder

    @property
    def prompts(self) -> dict[str, str]:
        """Of all its text towers, by name. Where there are any, `query` and `document` are what is deployed."""
        documents = self.towers.documents
        found = {**self.encoder.prompts, **(documents.prompts if documents else {})}
        own = self.published
        if own is None or not (found or own.query or own.document):
            return found
        return {**found, "query": own.query, "document": own.document}

    def embed(self, texts: Sequence[str], prompt: str = "query") -> Float32[np.ndarray, "n D"]:
        """Vectors of texts as they are deployed: after the prompt of that name, cut at the encoder's limit. They have
        length 1, unless the encoder's modules end otherwise. A model without prompts takes texts bare.

        A call costs a batch of the encoder however few the texts: give all at once.

        Raises UserError for a prompt that the model does not have or that leaves no room for a text, and for a text in
        place of a list of them.
        """
        if isinstance(texts, str):
            raise UserError("embed takes a list of texts; write embed([text])")
        if self.prompts and prompt not in self.prompts:
            raise UserError(f"no prompt '{prompt}', only {', '.join(self.prompts)}.{nearest(prompt, self.prompts)}")
        reader = self.towers.documents if prompt == "document" and self.towers.documents else self.encoder
        prompts = {prompt: self.prompts.get(prompt, "")}
        if reason := Tokenizer(reader.folder).no_room(prompts[prompt], reader.max_length):
            raise UserError(f"nothing can be embedded as '{prompt}': {reason}")
        return golden.encoder_of(reader, prompts)(texts, [prompt])[0]


def load_model(source: str, config: ModelConfig | None = None) -> RetrievalModel:
    """From a run's folder, an exported folder, any sentence-transformers folder, a hub id or `minilm`; run as `config`
    says (default: no dropout, float32).

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
            f"{path}: this run is not finished; run its training again to go on, or take its best so far: "
            f"{path}/best.safetensors, or mtret export --model={path} --out=FOLDER"
        )
    config = config or ModelConfig(source)
    encoder = hf.load(source, config)
    if not is_trained(encoder):
        return of_others(encoder, source, config)
    details, templates = _read_details(encoder)
    refuse_prompts(source, config)
    towers = list(details.get("towers", []))
    record = load_record(encoder.folder) if (encoder.folder / RECORD).exists() else None
    for name in towers:
        if not (encoder.folder / name / "config.json").exists():
            raise UserError(f"{encoder.folder / name}: missing, a part of this model; copy the whole folder")
    documents, images = encoder.folder / DOCUMENTS, encoder.folder / VISION
    model = Towers(
        encoder,
        hf.load(str(documents), config) if DOCUMENTS in towers else None,
        hf_images.load(images, config.matmul_dtype) if VISION in towers else None,
    )
    _check_prompts(model, templates)
    return RetrievalModel(model, templates, record, details, remarks=encoder.remarks)


def of_others(encoder: hf.Pretrained, source: str, config: ModelConfig) -> RetrievalModel:
    """An encoder that mtret did not train, as it is deployed: with its published prompts, or those of `config`."""
    prompts = published(encoder, source, config.query_prompt, config.document_prompt)
    lines = (*encoder.remarks, *remarks(encoder, source, prompts))
    return RetrievalModel(Towers(encoder), prompts.templates(), None, {}, prompts, lines)


def refuse_prompts(source: str, config: ModelConfig) -> None:
    """Raises UserError where other prompts are wanted of a model that has its own."""
    if config.query_prompt is not None or config.document_prompt is not None:
        raise UserError(
            f"{source}: was trained by mtret and has prompts of its own, by task; a query_prompt or document_prompt is "
            "for other encoders: leave it out"
        )


def is_trained(encoder: hf.Pretrained) -> bool:
    """Whether mtret trained it."""
    return (encoder.folder / DETAILS).exists()


def base_of(encoder: hf.Pretrained, config: ModelConfig) -> RetrievalModel:
    """The encoder that a training starts from, as it is deployed by itself."""
    if is_trained(encoder):
        return RetrievalModel(Towers(encoder), _read_details(encoder)[1], None, {}, remarks=encoder.remarks)
    return of_others(encoder, config.source, config)


def starting_templates(encoder: hf.Pretrained, config: ModelConfig) -> Templates:
    """What a training from this encoder puts before texts, unless it is told otherwise: the encoder's own document
    prompt, and the instruction behind its query prompt; of an encoder that mtret trained, its templates."""
    if is_trained(encoder):
        return _read_details(encoder)[1]
    return published(encoder, config.source, config.query_prompt, config.document_prompt).before_instructions()


def _read_details(encoder: hf.Pretrained) -> tuple[dict[str, Any], Templates]:
    path = encoder.folder / DETAILS
    try:
        details = json.loads(path.read_text(encoding="utf-8"))
        return details, Templates(**details["templates"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); export the model again") from error


def _check_prompts(model: Towers, templates: Templates) -> None:
    """One text must not get two vectors: texts of no task are read after the prompts that sentence-transformers finds,
    those of a task after the templates. Raises UserError where somebody changed one of them."""
    wanted = {"query": templates.query_prefix(templates.generic), "document": templates.document_prefix}
    for encoder in (model.encoder, model.documents):
        prompts = encoder.prompts if encoder else {}
        for name in wanted.keys() & prompts.keys():
            if encoder and prompts[name] != wanted[name]:
                raise UserError(
                    f"{encoder.folder / CONFIG}: the prompt '{name}' is {prompts[name]!r}, but {DETAILS} says "
                    f"{wanted[name]!r}; they are written together, so export the model again"
                )


def save_model_folder(
    folder: AnyPath,
    model: Towers,
    templates: Templates,
    prompts: Mapping[str, str],
    record: TrainingRecord,
    details: Mapping[str, Any],
    scores: Callable[[str], str] = lambda sha256: "",
    target: str = "",
) -> golden.Agreement:
    """Writes all of it, whole or not at all; an existing folder is replaced.

    Before it is there, it is read again and must answer the golden texts as `model` does: what comes back is how near.

    Args:
      prompts: of the tasks trained on, see `prompts_of`.
      details: as JSON; for the card and whoever asks later.
      scores: of the model whose weights have this hash, in Markdown, for the card; nothing where it was not evaluated.
      target: one of `targets.TARGETS`, to leave out or refuse what it would get wrong.
    """
    encoder = model.encoder
    check_target(target, encoder)
    of_documents = {"document": prompts["document"]} if model.documents else {}
    prompts = {name: text for name, text in prompts.items() if name not in of_documents}
    with folder_draft(folder) as draft:
        hf.write(draft, encoder, encoder.params, prompts, target)
        towers = [name for name, there in ((DOCUMENTS, model.documents), (VISION, model.images)) if there]
        replace_json(draft / DETAILS, {"templates": asdict(templates), "towers": towers, **details})
        save_record(record, draft)
        golden.write(draft, golden.encoder_of(encoder, prompts), list(prompts))
        if model.documents:
            hf.write(draft / DOCUMENTS, model.documents, model.documents.params, of_documents, target)
            golden.write(draft / DOCUMENTS, golden.encoder_of(model.documents, of_documents), list(of_documents))
        if model.images:
            hf_images.write(draft / VISION, model.images, model.images.params)
            golden.write_pictures(draft / VISION, model.images)
        others = _others(draft, model, templates, details)
        sha256 = file_sha256(draft / "model.safetensors")
        evaluated = scores(load_model(str(draft)).towers.weights_sha256)
        words = card(record.tasks, prompts, details, sha256, evaluated, others)
        (draft / "README.md").write_text(words, encoding="utf-8")
        words = integrate(prompts, encoder.dimension, encoder.max_length, others)
        (draft / "INTEGRATE.md").write_text(words, encoding="utf-8")
        agreement = check(draft)
        if target == "tei":
            check_for_tei(draft)
        manifest.write(draft)
        replace_folder(draft, folder, last=hf.LAST)
    return agreement


def _others(folder: Path, model: Towers, templates: Templates, details: Mapping[str, Any]) -> Others:
    """What the pages of a model say of its other towers."""
    documents = None
    if model.documents:
        sha256 = file_sha256(folder / DOCUMENTS / "model.safetensors")
        documents = OwnDocuments(sha256, str(details.get("frozen_documents", "")), templates.document_prefix)
    image_size = model.images.config.image_size if model.images else None
    return Others(documents, image_size, model.encoder.pools_prompt, model.encoder.normalises)


def prompts_of(templates: Templates, instructions: Mapping[str, str]) -> dict[str, str]:
    """The prompts of a model for these tasks: each task's own, `query` for any other, and `document`."""
    own = {name: templates.query_prefix(instruction) for name, instruction in instructions.items()}
    return {**own, "query": templates.query_prefix(templates.generic), "document": templates.document_prefix}


def check(folder: AnyPath, through_sentence_transformers: bool = False) -> golden.Agreement:
    """Whether a model folder, or a run's, is whole and answers as it did when it was written, read by mtret or by
    sentence-transformers.

    Raises UserError where it does not.
    """
    if (folder / "model" / "modules.json").exists():  # a run's folder
        folder = folder / "model"
    manifest.verify(folder)
    model = load_model(str(folder)).towers
    found = []
    for each, encoder in ((folder, model.encoder), (folder / DOCUMENTS, model.documents)):
        if encoder is None:
            continue
        if not through_sentence_transformers:
            encode = golden.encoder_of(encoder, encoder.prompts)
        elif isinstance(each, Path):
            encode = golden.sentence_transformers_encoder(each)
        else:
            raise UserError(f"{folder}: sentence-transformers reads local folders only; copy it first")
        found.append(golden.verify(each, encode))
    if model.images and not through_sentence_transformers:  # which reads no image towers of this form
        found.append(golden.verify(folder / VISION, golden.picture_encoder(model.images), of_pictures=True))
    worst = min(found, key=lambda each: each.cosine)
    return replace(worst, vectors=sum(each.vectors for each in found))
