"""`mtret export`, `verify` and `merge`."""

from typing import Any

from mtret.commands.common import Flags, next_line, required
from mtret.errors import UserError


def define_export(values: Flags) -> None:
    values.text("model", "a run's folder, finished or not, or a checkpoint in it (best.safetensors, weights/...)")
    values.text("out", "the model folder to write; must not exist")
    values.whole("step", "one that loop.keep_weights kept (default: the best)", least=0)
    values.choice("target", "a server that must serve it right: else refused", ["", "tei", "elastic"], "")
    values.text("license", "of the model, for its card: an identifier such as apache-2.0")


def export(values: Flags) -> None:
    from mtret.files import locate

    model, out = locate(required(values, "model")), locate(required(values, "out"))
    from mtret.runs.export import export

    target: Any = values["target"].value
    written = export(model, out, values["step"].value, target, values["license"].value or "")
    print(f"wrote {written}\n{next_line('verify', str(out))}")


def define_verify(values: Flags) -> None:
    values.text("model", "a model folder that mtret wrote")
    values.choice("with", "what loads it and computes the vectors", ["mtret", "sentence-transformers"], "mtret")


def verify(values: Flags) -> None:
    from mtret.files import locate
    from mtret.model_folder.folder import check

    folder = locate(required(values, "model"))
    found = check(folder, through_sentence_transformers=values["with"].value != "mtret")
    print(
        f"{folder}: answers as it did: {found.vectors} golden vectors, cosine at least {found.cosine:.6f}, "
        f"the least with the prompt '{found.prompt}' for '{found.text[:40]}'\n"
        "next: INTEGRATE.md in it says how to call it"
    )


def define_merge(values: Flags) -> None:
    values.places("models", "runs, checkpoints in them, model folders, hub ids or 'minilm'; two or more")
    values.names("weights", "one for each model (default: all the same)")
    values.text("out", "the model folder to write; must not exist")


def merge(values: Flags) -> None:
    from mtret.files import locate

    models, out = list(required(values, "models")), locate(required(values, "out"))
    try:
        weights = [float(weight) for weight in values["weights"].value or ()]
    except ValueError as error:
        raise UserError(f"--weights: {error}") from error
    from mtret.runs.merge import merge

    merge(models, weights, out)
    print(f"wrote {out}\n{next_line('evaluate', f'--model={out}')}")
