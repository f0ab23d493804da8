"""ConfigDict to frozen dataclasses, strictly. The only reader of configurations.

The dataclasses live beside what they configure; here they are put together, and a key that none of them has is refused.
"""

import ast
import re
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

from mtret.data.mixture import MixtureConfig
from mtret.data.templates import TemplateConfig
from mtret.data.training_tasks import BatchConfig
from mtret.errors import UserError, nearest
from mtret.evaluation.samples import DevConfig
from mtret.losses import LossConfig
from mtret.models.dual_encoder import ModelConfig
from mtret.names import config_now, old_keys, override_now, renamed
from mtret.schema import (
    AT_LEAST_0,
    MismatchError,
    MissingKeyError,
    Reading,
    UnknownKeyError,
    check_limits,
    join,
    setting,
    to_json,
    walk,
)
from mtret.schema import build as build_strictly
from mtret.train.loop import LoopConfig
from mtret.train.optim import OptimConfig
from mtret.train.sharding import MeshConfig

FROM_FLAGS = Reading(from_text=True)


@dataclass(frozen=True)
class RunConfig:
    """All of a training run. Batches and shares are checked where they are planned, templates where they are made.

    Raises UserError for a value that makes no sense, naming its key.
    """

    suite: str = setting("", 'a folder of task folders, "enterprise" or "tfds:NAME"; --suite overrides it')
    seed: int = setting(0, "of everything: order, samples, dropout, dev sample", AT_LEAST_0)
    model: ModelConfig = setting(ModelConfig)
    mixture: MixtureConfig = setting(MixtureConfig)
    templates: TemplateConfig = setting(TemplateConfig)
    batch: BatchConfig = setting(BatchConfig)
    loss: LossConfig = setting(LossConfig)
    optim: OptimConfig = setting(OptimConfig)
    mesh: MeshConfig = setting(MeshConfig)
    loop: LoopConfig = setting(LoopConfig)
    dev: DevConfig = setting(DevConfig)

    def __post_init__(self) -> None:
        check_limits(self, "config ")
        if self.model.lora.rank and self.model.documents == "separate":
            raise UserError(
                "config model.lora: adapts the tower of the queries, and model.documents='separate' trains another; "
                "model.documents='frozen' leaves documents as they are"
            )
        for path, rate in self.optim.learning_rate_scales:
            if not 0 <= rate < float("inf"):
                raise UserError(
                    f"config optim.learning_rate_scales: the rate of '{path}' must be at least 0, is {rate!r}"
                )
        rules = [
            (f"optim.{name}", getattr(self.optim, name)) for name in ("decay_mask", "trainable", "learning_rate_scales")
        ]
        rules.append(("mesh.partition_rules", self.mesh.partition_rules))
        expressions = [(path, expression) for path, each in rules for expression, _ in each]
        for path, expression in [*expressions, ("model.lora.targets", self.model.lora.targets)]:
            try:
                re.compile(expression)
            except re.error as error:
                raise UserError(f"config {path}: '{expression}' is not a regular expression ({error})") from error


def read_config(source: str, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration of a file `path.py` or `path.py:argument`, with `overrides` such as `batch.queries=128` put in.

    The file defines `get_config()` (or `get_config(argument)`), which returns a ConfigDict or a dict. Raises UserError,
    naming the key, for one that is unknown or of the wrong type.
    """
    values = _as_dict(called(source, "get_config", "--config"))
    if not isinstance(values, dict):
        raise UserError(f"{source}: get_config() must return a ConfigDict or a dict, got {values!r}")
    if old := old_keys(values):
        print(f"mtret: {source}: {renamed(old)}", file=sys.stderr)
    return build(RunConfig, with_overrides(values, overrides), "")


def with_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of nested values with `a.b=value` put in, one after the other. A value is a Python literal where it can be
    read as one, else a text (`x:1,y:2`)."""
    changed = config_now(values)
    for override in overrides:
        _put(changed, override_now(override))
    return changed


def called(source: str, function: str, what: str) -> Any:
    """What a function of a Python file returns, given as `path.py` or `path.py:argument`. `what`: a file is needed for.

    Raises UserError, with the line of the file, for whatever goes wrong in it.
    """
    path, _, argument = source.partition(":")
    file = Path(path)
    if not file.is_file():
        siblings = [str(p) for p in file.parent.glob("*.py")] if file.parent.is_dir() else []
        raise UserError(f"{what}: no file '{path}'.{nearest(path, siblings)}")
    if file.suffix != ".py":
        raise UserError(f"{what}: {file} is not a Python file (.py){_to_imitate(function)}")
    module = types.ModuleType(f"mtret_config_{file.stem}")
    module.__file__ = str(file)
    try:
        # Not imported, which would leave a __pycache__ beside the user's file.
        exec(compile(file.read_bytes(), str(file), "exec", dont_inherit=True), module.__dict__)
        if (found := module.__dict__.get(function)) is not None:
            return found(argument) if argument else found()
    except Exception as error:  # whatever the user's file raises is the user's to fix
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        raise UserError(f"{file}{_line_in(error, str(file))}: {kind}{error}") from error
    raise UserError(f"{file}: defines no {function}(){_to_imitate(function)}")


def _to_imitate(function: str) -> str:
    return "; `mtret init` writes one to imitate" if function == "get_config" else "; see docs/sweeps.md"


def _line_in(error: Exception, file: str) -> str:
    import traceback

    if isinstance(error, SyntaxError) and str(error.filename).endswith(file):
        return f":{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(file)]
    return f":{lines[-1]}" if lines else ""


def _as_dict(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    return {key: _as_dict(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def _put(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"--config.{path}: give it a value, --config.{path}=...")
    *parents, name = path.split(".")
    node = values
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise UserError(f"--config.{path}: '{parent}' is a value, it has no keys")
    try:
        node[name] = _meant(ast.literal_eval(text), text, _wanted(path))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        node[name] = {"true": True, "false": False}.get(text, text)


def _wanted(path: str) -> Any:
    """The type of a key; None where no such key is known."""
    kind: Any = RunConfig
    for name in path.split("."):
        if not is_dataclass(kind):
            return None
        kind = typing.get_type_hints(kind).get(name)
    return kind


def _meant(value: Any, text: str, wanted: Any) -> Any:
    """The text that was given, where text is wanted: a folder may be called 2024, a family 404."""
    if wanted is str and not isinstance(value, str):
        return text
    if wanted == tuple[str, ...] and isinstance(value, tuple | list) and text[0] in "([":
        return tuple(map(str, value))
    return text if wanted == tuple[str, ...] and not isinstance(value, str) else value


def build(kind: type, values: Any, path: str) -> Any:
    """A dataclass from nested mappings; what is not given keeps its default. Raises UserError, naming the key."""
    if kind is RunConfig and isinstance(values, Mapping):
        values = config_now(values)
    try:
        return build_strictly(kind, values, path, FROM_FLAGS)
    except UnknownKeyError as error:
        elsewhere = [where for where, _, _ in walk(RunConfig) if where.rpartition(".")[2] == error.key]
        close = f" Did you mean '{elsewhere[0]}'?" if elsewhere else nearest(error.key, error.known)
        raise UserError(f"config: unknown key '{error.path}'.{close} Known: {', '.join(error.known)}") from None
    except MissingKeyError as error:
        raise UserError(f"config: '{error.path}' is missing") from None
    except MismatchError as error:
        raise UserError(f"config {error.path or 'file'}: {error.shown()}") from None


def as_json(config: RunConfig) -> dict[str, Any]:
    """The configuration as JSON values, to be written with a run and compared with it."""
    return to_json(config)


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], path: str = "") -> list[str]:
    """`key: ours, theirs` for every key in which two configurations differ."""
    found = []
    for key in sorted({*ours, *theirs}):
        a, b = ours.get(key), theirs.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, join(path, key))
        elif a != b:
            found.append(f"{join(path, key)}: {a!r}, there {b!r}")
    return found
