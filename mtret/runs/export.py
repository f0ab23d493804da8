"""A run's parameters leave it: as a model folder, or as a model in memory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console

from mtret.data.formats import Suite
from mtret.data.roles import training_record
from mtret.data.suites import load_suite
from mtret.data.tasks import Task
from mtret.devices import cache_folder
from mtret.errors import UserError
from mtret.evaluation.report import role_tables
from mtret.evaluation.results import read_results
from mtret.files import AnyPath, check_new, check_writable, locate, read_arrays, read_metadata
from mtret.model_folder.fingerprint import fingerprint, parts_of
from mtret.model_folder.folder import (
    DOCUMENTS,
    RetrievalModel,
    base_of,
    load_model,
    prompts_of,
    refuse_prompts,
    save_model_folder,
)
from mtret.model_folder.towers import Towers
from mtret.models.dual_encoder import ModelConfig
from mtret.models.weights import file_sha256
from mtret.provenance import versions
from mtret.pytrees import unflatten
from mtret.run_config import RunConfig, as_json, build
from mtret.runs.baseline import base_forms
from mtret.runs.identity import UNDRAWN, begun_by_older, claim, identity_of, read_identity
from mtret.runs.setup import start_models, with_templates
from mtret.runs.tasks import mixture_tasks
from mtret.train.loop import KeptWeights

PARAMETERS = ".safetensors"  # a run's best.safetensors, or one of its weights/


def open_model(source: str, config: ModelConfig | None = None) -> RetrievalModel:
    """As `load_model`; or a checkpoint of a run, finished or not: its best.safetensors, or one of its weights/.

    Raises UserError as that does, and where the checkpoint is not a run's or the run's data has changed.
    """
    path = locate(source)
    if path.suffix != PARAMETERS:
        return load_model(source, config)
    workdir = run_of(path)
    arrays = read_arrays(path)
    if arrays is None:
        raise UserError(f"{path}: no such file, or a damaged one; give a run's best.safetensors or one of its weights/")
    run, tasks, model = _begun(workdir)
    if config is not None:
        refuse_prompts(source, config)
        model = start_models(replace(run, model=replace(run.model, matmul_dtype=config.matmul_dtype)), tasks)
    details = _details(model, run, int(read_metadata(path).get("step", -1)))
    prompts = _prompts(run, tasks)
    sha256 = file_sha256(path)
    trained = model.with_params(unflatten(arrays))
    encoder = replace(trained.encoder, weights_sha256=sha256, prompts=prompts)
    documents, images = trained.documents, trained.images
    if documents and run.model.documents == "separate":
        documents = replace(documents, weights_sha256=f"{sha256} documents")
    if images:
        images = replace(images, sha256=f"{sha256} images")
    towers = Towers(encoder, documents, images)
    return RetrievalModel(towers, run.templates.chosen, training_record(tasks), details, remarks=encoder.remarks)


def run_of(path: AnyPath) -> AnyPath:
    """The folder of the run that a file of parameters lies in. Raises UserError for a file of a model folder."""
    if (path.parent / "modules.json").exists():
        raise UserError(f"{path}: is a part of a model folder; give the folder, {path.parent}")
    return path.parent.parent if path.parent.name == "weights" else path.parent


def load_suite_of(model: RetrievalModel, name: str = "") -> Suite:
    """A suite by its name; without one, that of the model's training. Raises UserError as `load_suite` does."""
    trained_on = model.details.get("config", {}).get("suite", "")
    if name or not trained_on:
        return load_suite(name)
    try:
        return load_suite(trained_on)
    except UserError as error:
        raise UserError(f"the suite that the model was trained on: {error} Or name another: --suite=FOLDER") from error


def export(source: AnyPath, out: AnyPath, step: int | None = None, target: str = "", license: str = "") -> AnyPath:
    """Writes the best parameters so far of a run, finished or not, as a model folder; or those that it kept of `step`.
    The card tells what `mtret evaluate` found of the same parameters, if it was asked, and the model's `license`.

    `source` is a run's folder, or a file of parameters in it: its best.safetensors, or one of its weights/.

    Raises UserError where it is neither, has not these parameters, its data has changed, `out` exists, or `target`
    could not serve the model.
    """
    check_writable(out, "--out")
    check_new(out, "--out")
    given = source.suffix == PARAMETERS
    if given and step is not None:
        raise UserError(
            f"--step={step}: {source} is the parameters of one step; give the run's folder to choose another"
        )
    workdir = run_of(source) if given else source
    _check_run(workdir)  # before its parameters are missed
    path, arrays = (source, read_arrays(source)) if given else _parameters(workdir, step)
    if arrays is None:
        raise UserError(f"{path}: no such file, or a damaged one; give a run's best.safetensors or one of its weights/")
    config, tasks, model = _begun(workdir)
    step = int(read_metadata(path).get("step", -1))
    scores = partial(_scores, workdir)
    base = base_of(model.encoder, config.model)
    forms = base_forms(base, tasks, config.dev, config.seed, cache_folder(), Console(quiet=True))
    trained = model.with_params(unflatten(arrays))
    return save_model(out, trained, tasks, config, step, scores, target, license, forms)


def _check_run(workdir: AnyPath) -> None:
    """Raises UserError where there is no run, and says where one is close by."""
    try:
        read_identity(workdir)
    except UserError as error:
        above = workdir.parent
        inside = workdir.name == "model" and (above / "checkpoints").exists()
        if inside or (workdir / "modules.json").exists():
            run = f"give its run, --model={above}, or use" if inside else "there is nothing to export; use"
            raise UserError(f"{workdir}: is a model folder already; {run} the folder as it is") from error
        raise


def _begun(workdir: AnyPath) -> tuple[RunConfig, list[Task], Towers]:
    """A run's configuration, tasks and what it started from. Raises UserError where these are no longer the same."""
    config = build(RunConfig, read_identity(workdir)["config"], "")
    try:
        suite = load_suite(config.suite)
    except UserError as error:
        raise UserError(f"{workdir}: the suite that it was trained on: {error} Put it there again") from error
    tasks = mixture_tasks(suite, config)
    model = start_models(config, tasks)
    config = with_templates(config, model.encoder, begun_by_older(workdir))
    identity = identity_of(config, suite, tasks, model)
    claim(workdir, identity, write=False, remedy="give it back what it was trained on")
    undrawn = read_identity(workdir).get(UNDRAWN, ())
    return config, [task for task in tasks if task.name not in undrawn], model


def _scores(workdir: AnyPath, weights_sha256: str) -> str:
    """Of a run's model by role, in Markdown, where it was evaluated."""
    for split in ("test", "dev"):
        path = workdir / split / "results.json"
        if path.exists() and (results := read_results(path)).protocol["weights_sha256"] == weights_sha256:
            suite, date = results.protocol["suite"], results.protocol["date"]
            about = f"Mean nDCG@10 over tasks, {split} split of {suite}, exact search, 95% intervals; {date}."
            return f"{about}\n\n{role_tables(results.roles, results.systems)}"
    return ""


def _parameters(workdir: AnyPath, step: int | None) -> tuple[AnyPath, dict[str, np.ndarray]]:
    """A file of parameters in a run's folder, and what it holds."""
    path, what = workdir / "best.safetensors", "best parameters"
    remedy = "go on with its training to its next evaluation"
    if step is not None:
        kept = KeptWeights(workdir / "weights", 0)
        path, what, steps = kept.path(step), f"parameters of step {step}", ", ".join(map(str, kept.steps()))
        remedy = f"it has those of steps {steps}" if steps else "it kept those of no step (loop.keep_weights)"
    arrays = read_arrays(path)
    if arrays is None:
        raise UserError(f"{workdir}: has no readable {what}; {remedy}")
    return path, arrays


def save_model(
    folder: AnyPath,
    model: Towers,
    tasks: Sequence[Task],
    config: RunConfig,
    step: int,
    scores: Callable[[str], str] = lambda sha256: "",
    target: str = "",
    license: str = "",
    forms: Mapping[str, Any] | None = None,
) -> AnyPath:
    """Writes a model folder, whole or not at all. `forms`: those of its base, of `base_forms`."""
    prompts, record = _prompts(config, tasks), training_record(tasks)
    details = _details(model, config, step) | ({"license": license} if license else {})
    details |= {"base_forms": forms} if forms else {}
    save_model_folder(folder, model, config.templates.chosen, prompts, record, details, scores, target)
    return folder


def _details(model: Towers, config: RunConfig, step: int) -> dict[str, Any]:
    """For the card, and whoever asks later. `model`: its hash is that of what it started from."""
    frozen, source = "", parts_of(model.encoder)
    if model.documents and config.model.documents == "frozen":
        own = model.documents.folder.name == DOCUMENTS  # the source's, whose queries are read by another
        frozen = f"{config.model.source}/{DOCUMENTS}" if own else config.model.source
    return {
        "mtret": versions()["mtret"],
        "source": config.model.source,
        "source_sha256": fingerprint(source),
        "source_parts": source,
        "frozen_documents": frozen,
        "step": step,
        "config": as_json(config),
    }


def _prompts(config: RunConfig, tasks: Sequence[Task]) -> dict[str, str]:
    return prompts_of(config.templates.chosen, {task.card.name: task.card.instruction for task in tasks})
